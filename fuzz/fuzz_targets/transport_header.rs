//! The transport header: what is read of one is what would be written for it, and what follows it is left.
#![no_main]

use futures_util::FutureExt as _;
use hawser::proxy::transport_header::Header;
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";

fuzz_target!(|given: (bool, Vec<u8>)| {
    let (has_length, bytes) = given;
    let bytes = if has_length {
        [PREFACE, &u32::try_from(bytes.len()).unwrap_or_default().to_be_bytes(), &bytes].concat()
    } else {
        [PREFACE, &bytes].concat()
    };
    let mut stream = bytes.as_slice();
    let read = Header::read(&mut stream).now_or_never().expect("waited");
    if let Ok(header) = read {
        assert_ne!(header.port, 0);
        assert!(bytes.ends_with(stream));
        let written = header.encode();
        let again = Header::read(&mut written.as_slice()).now_or_never().expect("waited").expect("cannot be read again");
        assert_eq!(again, header);
    }
});
