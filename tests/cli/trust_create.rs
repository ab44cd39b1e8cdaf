//! `hawser trust create`: what it writes, and what it does not write over.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use hawser::pki::{Anchor, Bundle, Issuer, encrypted};

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
fn keys_are_encrypted_where_there_is_a_passphrase_and_nothing_is_written_where_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let made = folder.path().join("made");
    let told = create(&made, &["--key-passphrase-file", secret.to_str().unwrap()]).succeeds();
    assert!(!told.contains("correct horse"), "{told}");
    for (certificate, key) in [("ca.crt", "ca.key"), ("issuer.crt", "issuer.key")] {
        let key = read(&made, key);
        assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n") && encrypted::is_encrypted(&key));
        let key = encrypted::decrypt(&key, "correct horse").unwrap();
        assert!(Anchor::parse_pem(&read(&made, certificate), &key).is_ok());
    }
    std::fs::write(&secret, "\nnot on the first line\n").unwrap();
    let none = folder.path().join("none");
    for (file, reason) in
        [(secret.as_path(), "the passphrase is empty"), (none.as_path(), "cannot read the passphrase from")]
    {
        let refused = create(&none, &["--key-passphrase-file", file.to_str().unwrap()]).output();
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(reason), "{}", text(&refused.stderr));
        assert!(!none.exists());
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
        (&["--anchor-lifetime", "1h30m", "--issuer-lifetime", "91m"], "for at least as long"),
        (&["--anchor-lifetime", "9999999d"], "cannot say when the certificate should end"),
        (&["--identity-trust-domain", "Not A Domain"], "is no trust domain"),
    ] {
        let refused = create(folder.path(), flags).output();
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        assert!(text(&refused.stderr).contains(reason), "{flags:?}: {}", text(&refused.stderr));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
