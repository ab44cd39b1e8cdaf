//! What pods send to the identity service: the request, and the CSR within it.
#![no_main]

use hawser::mesh::Identity;
use hawser::pki::{Asked, Csr};
use hawser::wire::identity::CertifyRequest;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let _csr = Csr::parse_der(bytes);
    let Ok(request) = CertifyRequest::decode(bytes) else { return };
    let _identity = request.identity.parse::<Identity>();
    if let Ok(asked) = Asked::parse_der(&request.certificate_signing_request) {
        let _answer = asked.asks_for(&request.identity);
        let _csr = asked.prove();
    }
});
