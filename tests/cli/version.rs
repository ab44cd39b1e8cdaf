//! `hawser version` without a cluster: the client is told in any case.

use crate::support::{Hawser, text};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn the_client_alone_needs_no_cluster() {
    assert_eq!(Hawser::new(["version", "--client"]).succeeds(), format!("Client version: {VERSION}\n"));
    assert_eq!(Hawser::new(["version", "--client", "--short"]).succeeds(), format!("{VERSION}\n"));
    let json = Hawser::new(["version", "--client", "-o", "json"]).succeeds();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), serde_json::json!({ "client": VERSION }));
}

#[test]
fn without_a_cluster_the_client_is_told_and_the_reason_why_no_more() {
    let output = Hawser::new(["version"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), format!("Client version: {VERSION}\nServer version: unavailable\n"));
    let error = text(&output.stderr);
    assert!(error.contains("cannot tell the versions in the cluster") && error.contains("hint: "), "{error}");
}
