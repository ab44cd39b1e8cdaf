//! The image, in the hands of other engines than the cluster's. (Docker takes the same archive, and the same manifest in it as podman.)

use std::path::Path;
use std::process::Command;

use crate::support::cluster::{mesh, run};
use crate::support::{Hawser, both, text};

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn podman_loads_the_archive_and_runs_it_as_nobody_in_particular() {
    let image = &mesh().image;
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    Hawser::new(["image".as_ref(), "--output".as_ref(), archive.as_os_str()]).succeeds();
    let loaded = run(podman(folder.path(), &["load", "--input", archive.to_str().unwrap()])).unwrap();
    assert!(loaded.contains(image.as_str()), "{loaded}");
    // Limits as they are: raising them, as podman does by default, is not allowed everywhere.
    let rest = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", image];
    let ran = run(podman(folder.path(), &[&["run", "--rm"], &rest[..], &["version", "--client", "--short"]].concat()));
    assert_eq!(format!("hawser:{}", ran.unwrap().trim_end()), *image);
    let user = run(podman(folder.path(), &["image", "inspect", "--format", "{{.Config.User}}", image])).unwrap();
    assert!(user.trim_end().parse::<u32>().is_ok_and(|user| user > 0), "{user}");
    // What is no image is refused, so that the above means something.
    std::fs::write(&archive, "no image").unwrap();
    let output = podman(folder.path(), &["load", "--input", archive.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success(), "{}", both(&output));
    let left = podman(folder.path(), &["rmi", "--force", image]).output().unwrap();
    assert!(left.status.success(), "{}", text(&left.stderr));
}

/// podman with storage of its own, which needs no more of the kernel than files.
fn podman(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
    command.args(["--storage-driver", "vfs"]).args(args);
    command
}
