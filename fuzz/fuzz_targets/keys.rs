//! Anchors, issuers and their keys as people bring them: PEM of every kind, encrypted or not.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use hawser::pki::{Anchor, Issuer, Offer, encrypted, judge};
use libfuzzer_sys::fuzz_target;

/// The certificate and key of an anchor that are good.
static GOOD: LazyLock<(String, String)> = LazyLock::new(|| {
    let anchor = Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap();
    (anchor.certificate().to_pem(), anchor.key_pem())
});

/// Bytes in the armour that a fuzzer would hardly find by itself.
fn armoured(label: &str, bytes: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, bytes))
}

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (certificates, key, bytes) = input;
    let (good_certificate, good_key) = &*GOOD;
    let now = SystemTime::UNIX_EPOCH;
    for (certificates, key) in [
        (certificates.to_owned(), key.to_owned()),
        (armoured("CERTIFICATE", bytes), good_key.clone()),
        (good_certificate.clone(), armoured("PRIVATE KEY", bytes)),
        (good_certificate.clone(), armoured("EC PRIVATE KEY", bytes)),
        (good_certificate.clone(), armoured("RSA PRIVATE KEY", bytes)),
    ] {
        let _anchor = Anchor::parse_pem(&certificates, &key);
        let _issuer = Issuer::parse_pem(&certificates, &key);
        let issuer = Some((certificates.as_str(), key.as_str()));
        let offers = [
            Offer { anchors: &certificates, anchor_key: Some(&key), issuer: None },
            Offer { anchors: good_certificate, anchor_key: None, issuer },
        ];
        for offer in offers {
            let _judged = judge(offer, "cluster.local", now);
        }
    }
    for key in [key.to_owned(), armoured("ENCRYPTED PRIVATE KEY", bytes)] {
        if encrypted::is_encrypted(&key) {
            let _key = encrypted::decrypt(&key, "passphrase");
        }
    }
});
