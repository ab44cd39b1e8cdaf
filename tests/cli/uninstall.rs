//! `hawser uninstall` without a cluster; with one, see tests/cluster.

use crate::support::{Hawser, text};

#[test]
fn says_when_there_is_no_cluster() {
    let output = Hawser::new(["uninstall", "--kubeconfig", "/no/such/kubeconfig"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("/no/such/kubeconfig"));
}
