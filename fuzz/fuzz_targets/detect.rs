//! What a connection speaks, from its first bytes: whatever they are, an answer, and every byte is there for the next reader.
#![no_main]

use std::time::Duration;

use futures_util::FutureExt as _;
use hawser::proxy::detect::{Patience, Spoken, detect_client};
use libfuzzer_sys::fuzz_target;

const PATIENCE: Patience = Patience { unfinished: Duration::from_secs(10), silent: None };

fuzz_target!(|bytes: &[u8]| {
    // What reads a slice never waits.
    let (spoken, client) = detect_client(bytes, PATIENCE).now_or_never().expect("waited").expect("failed");
    let (heard, rest) = client.into_parts();
    assert_eq!([&heard, rest].concat(), bytes);
    if let Spoken::Tls { sni: Some(sni) } = spoken {
        assert!(sni.is_ascii() && !sni.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
});
