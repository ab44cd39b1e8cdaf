//! Bad input: every command says what is wrong and what to do next, changes nothing, prints no data, and exits with 2.

use std::io::Read as _;
use std::process::Stdio;

use crate::support::{Hawser, both, text};

/// The error of a command that must not have printed any data.
#[track_caller]
fn refused<const N: usize>(args: [&str; N], stdin: &str) -> String {
    let output = Hawser::new(args).stdin(stdin).output();
    assert_eq!(output.status.code(), Some(2), "{args:?}\n{}", both(&output));
    assert_eq!(text(&output.stdout), "", "{args:?} printed data beside its error");
    let error = text(&output.stderr);
    assert!(error.starts_with("error: "), "{args:?}: {error}");
    error
}

#[test]
fn without_a_cluster_every_command_that_needs_one_says_so() {
    let commands: [&[&str]; 6] =
        [&["check"], &["check", "--pre"], &["edges"], &["identity"], &["uninstall"], &["install", "--apply"]];
    for args in commands {
        let output = Hawser::new(args.iter().copied()).output();
        assert_eq!(output.status.code(), Some(2), "{args:?}\n{}", both(&output));
        let said = both(&output);
        assert!(said.contains("kubeconfig"), "{args:?}: {said}");
        assert!(said.contains("hint: "), "{args:?} names no next step: {said}");
    }
}

#[test]
fn a_kubeconfig_that_is_not_there_is_named() {
    let error = refused(["edges", "--kubeconfig", "/nowhere/config"], "");
    assert!(error.contains("/nowhere/config"), "{error}");
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    // Port 1 of this machine: nobody listens there.
    let config = "
apiVersion: v1
kind: Config
current-context: gone
contexts: [{name: gone, context: {cluster: gone, user: gone}}]
clusters: [{name: gone, cluster: {server: \"http://127.0.0.1:1\"}}]
users: [{name: gone, user: {}}]
";
    std::fs::write(&kubeconfig, config).unwrap();
    let error = refused(["edges", "--kubeconfig", kubeconfig.to_str().unwrap()], "");
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn yaml_that_does_not_parse_is_refused_with_its_place() {
    for command in ["inject", "uninject"] {
        let error = refused([command, "-"], "kind: Pod\nmetadata: {name: [\n");
        assert!(error.contains("line"), "{command}: {error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let commands: [&[&str]; 3] =
        [&["inject", "/nowhere.yaml"], &["uninject", "/nowhere.yaml"], &["install", "--values", "/nowhere.yaml"]];
    for args in commands {
        let error = Hawser::new(args.iter().copied()).fails(2);
        assert!(error.contains("/nowhere.yaml"), "{args:?}: {error}");
    }
}

#[test]
fn a_value_nobody_knows_is_refused_and_the_nearest_is_named() {
    let error = refused(["install", "--set", "proxy.logLevle=debug"], "");
    assert!(error.contains("logLevle") && error.contains("logLevel"), "{error}");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    let error = refused(["install", "--set", "controllerReplicas=many"], "");
    assert!(error.contains("controllerReplicas"), "{error}");
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    for command in
        ["check", "edges", "identity", "install", "inject", "uninject", "uninstall", "image", "version", "completion"]
    {
        let error = Hawser::new([command, "--no-such-flag"]).fails(2);
        assert!(error.contains("--no-such-flag"), "{command}: {error}");
    }
}

#[test]
fn a_closed_pipe_is_not_worth_a_word() {
    for args in [&["install"][..], &["completion", "bash"]] {
        let mut child = std::process::Command::new(crate::support::binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(said, "", "{args:?}");
    }
}
