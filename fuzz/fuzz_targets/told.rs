//! What pods say of whom they believe, and what the config map says of a rotation: read by the identity role and by `hawser trust`.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use hawser::pki::{Anchor, Bundle, IdentityTold, ProxyTold, Request, Rotation};
use libfuzzer_sys::fuzz_target;

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let anchor = Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap();
    Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(told) = serde_json::from_slice::<ProxyTold>(bytes) {
        assert!(!told.believes(&BUNDLE), "nobody knows that anchor");
    }
    let _told = serde_json::from_slice::<IdentityTold>(bytes);
    if let Ok(rotation) = serde_json::from_slice::<Rotation>(bytes) {
        let _since = rotation.since();
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _request = text.parse::<Request>();
    }
});
