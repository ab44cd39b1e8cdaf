//! What is made from clap's description of the command line; completions/ and docs/cli.md are kept in git.

use std::path::Path;

use crate::support::{Hawser, binary, both, text};

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
fn fish_takes_its_completions_and_offers_commands_and_values() {
    let script = r#"hawser completion fish | source; complete -C "hawser ins"; complete -C "hawser check -o ""#;
    let offered = shell("fish", &["--no-config", "-c", script]);
    assert!(offered.starts_with("install\tPrint the installation"), "{offered}");
    assert!(offered.contains("\njson\n") && offered.contains("\nshort\tOnly what is not well\n"), "{offered}");
}

/// As a person meets them: in an interactive shell, by the tab key.
#[test]
fn zsh_takes_its_completions_and_offers_commands_and_values() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("_hawser"), Hawser::new(["completion", "zsh"]).succeeds()).unwrap();
    let script = r#"
        zmodload zsh/zpty
        zpty -b shell zsh -f -i
        zpty -w shell "PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; echo rea''dy"
        zpty -r shell out '*ready*'
        zpty -w -n shell "hawser ins"$'\t'
        zpty -r shell out '*hawser install*' && print completed
        zpty -w -n shell $'\x15hawser check -o '$'\t'$'\t'
        zpty -r shell out '*Only what is not well*' && print offered"#;
    let said = shell("zsh", &["-f", "-c", script, "zsh", folder.path().to_str().unwrap()]);
    assert_eq!(said, "completed\noffered\n");
}

/// What a shell prints that has the binary in its path; a shell that waits for ever is stopped.
fn shell(shell: &str, args: &[&str]) -> String {
    let path = std::env::var_os("PATH").unwrap();
    let folders = std::iter::once(binary().parent().unwrap().to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).unwrap();
    let mut command = std::process::Command::new("timeout");
    let output = command.arg("60").arg(shell).args(args).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "is {shell} installed? `make deps` does it\n{}", both(&output));
    text(&output.stdout)
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
