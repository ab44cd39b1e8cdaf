//! `check`, `edges` and `identity` where there is no cluster, no permission, or nothing to see.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::support::Hawser;
use crate::support::api::{Api, refusal};

const COMMANDS: [&str; 3] = ["check", "edges", "identity"];

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn against(api: &Api, args: &[&str]) -> Hawser {
    Hawser::new(args).env("KUBECONFIG", api.kubeconfig())
}

#[test]
fn without_a_kubeconfig_the_error_says_how_to_name_one() {
    for command in COMMANDS {
        let error = Hawser::new([command]).fails(2);
        assert!(error.starts_with("error: cannot find a kubeconfig\nhint: name one with `--kubeconfig"), "{error}");
    }
}

#[test]
fn an_unknown_context_is_refused_with_those_there_are() {
    let api = Api::start(|_| None);
    let error = against(&api, &["edges", "--context", "prod"]).fails(2);
    assert_eq!(error, "error: the kubeconfig has no context `prod`\nhint: it has `fake`\n");
}

#[test]
fn a_kubeconfig_that_cannot_be_read_or_understood_is_named() {
    let error = Hawser::new(["check", "--kubeconfig", "/nowhere/kubeconfig"]).fails(2);
    assert!(error.starts_with("error: cannot read the kubeconfig /nowhere/kubeconfig\n"), "{error}");
    let broken = file("clusters: [");
    let error = Hawser::new(["check"]).env("KUBECONFIG", broken.path()).fails(2);
    assert!(error.starts_with("error: cannot use the kubeconfig\n") && error.contains("hint:"), "{error}");
}

#[test]
fn a_cluster_that_is_down_is_named_by_its_address() {
    // Port 1 is nobody's.
    let config = r#"{"clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a"}"#;
    let config = file(config);
    for command in COMMANDS {
        let error = Hawser::new([command]).env("KUBECONFIG", config.path()).fails(2);
        assert!(error.starts_with("error: cannot reach the Kubernetes API at https://127.0.0.1:1\n"), "{error}");
        assert!(error.contains("Connection refused") && error.contains("\nhint: is the cluster up"), "{error}");
        assert!(!error.contains("ServiceError"), "{error}");
    }
    let output = Hawser::new(["check", "-o", "json"]).env("KUBECONFIG", config.path()).output();
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = &report["categories"][0]["checks"][0];
    assert_eq!(
        (&report["success"], &check["id"], &check["result"]),
        (&json!(false), &json!("api-reachable"), &json!("error"))
    );
    assert_eq!(check["evidence"][0], "cannot reach the Kubernetes API at https://127.0.0.1:1");
}

#[test]
fn a_cluster_that_is_not_up_yet_is_waited_for() {
    let asked = AtomicU32::new(0);
    let allowed = json!({"spec": {}, "status": {"allowed": true}});
    let api = Api::start(move |path| match path {
        "/version" if asked.fetch_add(1, Ordering::Relaxed) < 2 => refusal(503, "starting"),
        path if path.contains("selfsubjectaccessreviews") => Some((201, allowed.clone())),
        _ => None,
    });
    against(&api, &["check", "--pre"]).fails(2);
    against(&api, &["check", "--pre", "--wait", "1m"]).succeeds();
}

#[test]
fn credentials_that_are_not_accepted_are_told_from_a_cluster_that_is_down() {
    let api = Api::start(|_| refusal(401, "Unauthorized"));
    let error = against(&api, &["identity"]).fails(2);
    assert!(error.contains("does not accept your credentials") && error.contains("hint: log in"), "{error}");
}

#[test]
fn a_missing_permission_is_told_in_the_words_of_the_api_server() {
    let api = Api::start(|path| path.ends_with("/pods").then(|| refusal(403, "pods is forbidden: no")).flatten());
    let error = against(&api, &["identity", "-n", "shop"]).fails(2);
    let expected = "error: cannot list the pods of namespace `shop`\n  caused by: pods is forbidden: no\nhint: ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_cluster_without_hawser_is_not_healthy_and_the_hint_says_how_to_install_it() {
    let api = Api::start(|_| None);
    let output = against(&api, &["check", "-o", "short"]).output();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("there is no namespace `hawser`") && text.contains("hawser install --apply"), "{text}");
}

#[test]
fn a_cluster_without_hawser_can_have_it() {
    let allowed = json!({"spec": {}, "status": {"allowed": true}});
    let api = Api::start(move |path| path.contains("selfsubjectaccessreviews").then(|| (201, allowed.clone())));
    let text = against(&api, &["check", "--pre"]).succeeds();
    assert!(text.contains("√ may create what `hawser install` creates"), "{text}");
}

#[test]
fn what_one_may_not_see_is_unknown_and_exits_with_2() {
    let api = Api::start(|path| if path == "/version" { None } else { refusal(403, "forbidden") });
    let output = against(&api, &["check", "-o", "json"]).output();
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["success"], false);
    let checks = report["categories"].as_array().unwrap().iter().flat_map(|one| one["checks"].as_array().unwrap());
    let namespace = checks.clone().find(|check| check["id"] == "namespace").unwrap();
    assert_eq!(namespace["result"], "unknown");
    assert_eq!(checks.filter(|check| check["result"] == "error").count(), 0);
}

#[test]
fn no_edges_are_no_error() {
    let api = Api::start(|_| None);
    let output = against(&api, &["edges", "-A"]).output();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (b"".as_slice(), b"no edges found; 0 proxies answered\n".as_slice())
    );
}

#[test]
fn a_pod_that_does_not_answer_is_named_on_standard_error() {
    let pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {"linkerd.io/control-plane-ns": "hawser"}},
        "spec": {"containers": []}, "status": {"phase": "Running"}});
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [pod]});
    let api = Api::start(move |path| path.ends_with("/pods").then(|| (200, list.clone())));
    let error = against(&api, &["edges"]).fails(2);
    assert!(error.contains("shop/web-1") && error.contains("linkerd-proxy"), "{error}");
    let output = against(&api, &["identity"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stdout).unwrap().contains("‼ cannot tell: it is marked as meshed"));
}

#[test]
fn only_the_pods_that_are_meant_are_asked_for() {
    let asked = |args: &[&str]| {
        let api = Api::start(|_| None);
        against(&api, args).output();
        let of_pods = api.asked().into_iter().filter(|head| head.contains("/pods?"));
        of_pods.map(|head| head.lines().next().unwrap().to_owned()).collect::<String>()
    };
    let selected = asked(&["identity", "--all-namespaces", "--selector", "app=web"]);
    assert!(selected.starts_with("GET /api/v1/pods?") && selected.contains("labelSelector=app%3Dweb"), "{selected}");
    assert!(asked(&["identity"]).starts_with("GET /api/v1/namespaces/shop/pods?"), "that of the context");
    assert!(asked(&["identity", "-n", "other"]).starts_with("GET /api/v1/namespaces/other/pods?"));
}

#[test]
fn everything_is_asked_as_the_one_who_is_named() {
    let api = Api::start(|_| None);
    let groups = ["--as-group", "viewers", "--as-group", "shop"];
    against(&api, &[&["edges", "--all-namespaces", "--as", "jane"], &groups[..]].concat()).succeeds();
    let asked = api.asked();
    assert!(!asked.is_empty());
    for head in asked.iter().map(|head| head.to_ascii_lowercase()) {
        for header in ["impersonate-user: jane\r\n", "impersonate-group: viewers\r\n", "impersonate-group: shop\r\n"] {
            assert!(head.contains(header), "{head}");
        }
    }
    against(&api, &["edges"]).succeeds();
    assert!(!api.asked().last().unwrap().to_ascii_lowercase().contains("impersonate"));
}

#[test]
fn verbose_tells_what_is_asked_and_without_it_nothing_is_told() {
    let api = Api::start(|_| None);
    let output = against(&api, &["edges", "--verbose"]).output();
    assert!(String::from_utf8(output.stderr).unwrap().contains("/version"), "the first question");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    let quiet = String::from_utf8(against(&api, &["edges"]).output().stderr).unwrap();
    assert_eq!(quiet, "no edges found; 0 proxies answered\n");
}

#[test]
fn wrong_types_and_times_are_usage_errors() {
    assert!(Hawser::new(["edges", "services"]).fails(2).contains("expected one of deploy"));
    assert!(Hawser::new(["check", "--wait", "soon"]).fails(2).contains("not a time"));
}

#[test]
fn a_closed_pipe_is_not_worth_a_word() {
    let api = Api::start(|_| None);
    let mut child = std::process::Command::new(crate::support::binary())
        .args(["check", "--kubeconfig"])
        .arg(api.kubeconfig())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
