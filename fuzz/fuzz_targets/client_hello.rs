//! A TLS ClientHello, from its first byte on: the lengths within lengths that a fuzzer would not find from nothing.
#![no_main]

use std::time::Duration;

use futures_util::FutureExt as _;
use hawser::proxy::detect::{Patience, Spoken, detect_client};
use libfuzzer_sys::fuzz_target;

const PATIENCE: Patience = Patience { unfinished: Duration::from_secs(10), silent: None };

/// Puts a length before what it is the length of.
fn block(length_bytes: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - length_bytes..], bytes].concat()
}

fuzz_target!(|given: (u8, Vec<u8>, Vec<u8>)| {
    let (kind, first, second) = given;
    // All lengths right, or only the outer ones, or none.
    let extensions = match kind % 3 {
        0 => [&[0, 0][..], &block(2, &block(2, &[&[0][..], &block(2, &first)].concat())), &second].concat(),
        1 => [&[0, 0][..], &block(2, &first), &second].concat(),
        _ => [first, second].concat(),
    };
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &block(2, &extensions)].concat();
    let record = [&[0x16, 3, 1][..], &block(2, &[&[1][..], &block(3, &hello)].concat())].concat();
    let (spoken, client) = detect_client(record.as_slice(), PATIENCE).now_or_never().expect("waited").expect("failed");
    let (heard, rest) = client.into_parts();
    assert_eq!([&heard, rest].concat(), record);
    if let Spoken::Tls { sni: Some(sni) } = spoken {
        assert!(sni.is_ascii());
    }
});
