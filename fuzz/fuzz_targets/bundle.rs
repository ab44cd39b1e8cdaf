//! A trust bundle: what is taken of one is written so that it is read as the same.
#![no_main]

use hawser::pki::{Bundle, Certificate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _certificate = Certificate::from_der(bytes.to_vec());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(bundle) = Bundle::parse_pem(text) {
        assert!(!bundle.anchors().is_empty());
        let again = Bundle::parse_pem(&bundle.to_pem()).expect("cannot be read again");
        assert_eq!(again.sha256_hex(), bundle.sha256_hex());
    }
});
