//! `hawser image`: what it refuses. The image itself is loaded into a real cluster by all of tests/cluster.

use crate::support::{Hawser, binary};

/// Whether the binary under test is started by a loader of shared libraries, as one that `cargo build` makes usually is.
fn is_dynamic() -> bool {
    let bytes = std::fs::read(binary()).unwrap();
    bytes.windows(10).take(4096).any(|window| window == b"/ld-linux-" || window == b"/ld-musl-x")
}

#[test]
fn a_binary_that_needs_shared_libraries_makes_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.tar");
    let image = Hawser::new(["image".as_ref(), "-o".as_ref(), file.as_os_str()]);
    if is_dynamic() {
        let error = image.fails(2);
        assert!(error.contains("shared libraries") && error.contains("hint: "), "{error}");
        assert!(!file.exists());
    } else {
        image.succeeds();
        let again = folder.path().join("again.tar");
        Hawser::new(["image".as_ref(), "-o".as_ref(), again.as_os_str()]).succeeds();
        assert!(std::fs::read(file).unwrap() == std::fs::read(again).unwrap(), "images of one binary differ");
    }
}

#[test]
fn a_name_that_no_engine_would_take_is_refused() {
    let error = Hawser::new(["image", "--tag", "Not A Name"]).fails(2);
    assert!(error.contains("--tag") && error.contains("not the name of an image"), "{error}");
}

#[test]
fn answers_to_the_names_of_stock_entry_points() {
    let folder = tempfile::tempdir().unwrap();
    for (name, help) in [
        ("linkerd-await", "The admin port of the proxy"),
        ("linkerd2-proxy-init", "--incoming-proxy-port"),
        ("linkerd2-proxy-identity", "LINKERD2_PROXY_INBOUND_LISTEN_ADDR"),
    ] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(binary(), &link).unwrap();
        let output = std::process::Command::new(&link).arg("--help").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(help), "{name}");
    }
}
