//! `hawser trust create`: what it writes, and what it does not write over.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use hawser::pki::{Anchor, Bundle, Issuer};

use crate::support::{Hawser, text};

fn create(folder: &Path, flags: &[&str]) -> Hawser {
    let folder = folder.to_str().unwrap();
    Hawser::new([&["trust", "create", "-o", folder], flags].concat())
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn writes_an_anchor_and_an_issuer_that_sign_with_keys_for_their_owner_only() {
    for flags in [&[][..], &["--key", "p384", "--identity-trust-domain", "example.com"]] {
        let folder = tempfile::tempdir().unwrap();
        let told = create(&folder.path().join("new"), flags).succeeds();
        let folder = folder.path().join("new");
        assert!(told.contains("ca.crt  the trust anchor, until ") && !told.contains("PRIVATE"), "{told}");
        let anchor = Anchor::parse_pem(&read(&folder, "ca.crt"), &read(&folder, "ca.key")).unwrap();
        let issuer = Issuer::parse_pem(&read(&folder, "issuer.crt"), &read(&folder, "issuer.key")).unwrap();
        let bundle = Bundle::parse_pem(&read(&folder, "ca.crt")).unwrap();
        assert_eq!(issuer.validate(&bundle, SystemTime::now()), Ok(()));
        assert!(anchor.signed(&issuer));
        for (name, mode) in [("ca.key", 0o600), ("issuer.key", 0o600)] {
            let found = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{name}");
        }
    }
}

#[test]
fn writes_over_nothing_unless_told_to_and_then_not_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("issuer.key")).unwrap();
    let refused = create(folder.path(), &[]).output();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("issuer.key` is there already; --force writes over it"));
    assert!(!folder.path().join("ca.key").exists(), "wrote a part of it");
    create(folder.path(), &["--force"]).succeeds();
    assert_eq!(std::fs::read_to_string(elsewhere.path()).unwrap(), "", "wrote a key through a link");
    let first = read(folder.path(), "ca.key");
    create(folder.path(), &["--force"]).succeeds();
    assert_ne!(read(folder.path(), "ca.key"), first);
}

#[test]
fn refuses_what_makes_no_authority() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, reason) in [
        (&["--key", "rsa"][..], "expected p256 or p384"),
        (&["--anchor-lifetime", "soon"], "expected a duration"),
        (&["--anchor-lifetime", "30d", "--issuer-lifetime", "31d"], "for at least as long"),
        (&["--issuer-lifetime", "0h"], "must be valid for a while"),
        (&["--anchor-lifetime", "9999999d"], "cannot say when the certificate should end"),
        (&["--identity-trust-domain", "Not A Domain"], "is no trust domain"),
    ] {
        let refused = create(folder.path(), flags).output();
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        assert!(text(&refused.stderr).contains(reason), "{flags:?}: {}", text(&refused.stderr));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
