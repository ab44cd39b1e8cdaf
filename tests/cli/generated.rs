//! What is made from clap's description of the command line; completions/ and docs/cli.md are kept in git.

use std::path::Path;

use crate::support::{Hawser, text};

fn kept(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

#[test]
fn completions_are_current_or_else_run_make_completions() {
    for (shell, file) in [("bash", "hawser.bash"), ("zsh", "_hawser"), ("fish", "hawser.fish")] {
        let made = Hawser::new(["completion", shell]).succeeds();
        assert!(made == kept(&format!("completions/{file}")), "completions/{file} is stale: run `make completions`");
    }
}

#[test]
fn the_reference_is_current_or_else_run_make_docs() {
    assert!(Hawser::new(["docs"]).succeeds() == kept("docs/cli.md"), "docs/cli.md is stale: run `make docs`");
}

#[test]
fn bash_takes_its_completions_and_offers_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hawser.bash");
    std::fs::write(&file, Hawser::new(["completion", "bash"]).succeeds()).unwrap();
    let script =
        r#"source "$1"; COMP_WORDS=(hawser ins); COMP_CWORD=1; _hawser hawser ins hawser; echo "${COMPREPLY[@]}""#;
    let output = std::process::Command::new("bash").args(["-c", script, "bash"]).arg(&file).output().unwrap();
    assert_eq!(text(&output.stdout), "install\n", "{}", text(&output.stderr));
}

#[test]
fn an_unknown_shell_is_refused_with_those_there_are() {
    let error = Hawser::new(["completion", "tcsh"]).fails(2);
    assert!(error.contains("bash, fish, zsh"), "{error}");
}

#[test]
fn manual_pages_are_written_for_packages() {
    let folder = tempfile::tempdir().unwrap();
    let man = folder.path().join("man");
    Hawser::new(["docs".as_ref(), "--man".as_ref(), man.as_os_str()]).succeeds();
    let page = std::fs::read_to_string(man.join("hawser-install.1")).unwrap();
    assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Hawser::new(["docs".as_ref(), "--man".as_ref(), file.as_os_str()]).fails(2);
    assert!(error.contains("cannot write manual pages into"), "{error}");
}
