//! What pods send to the identity service: the request, and the CSR within it.
#![no_main]

use hawser::mesh::Identity;
use hawser::pki::Csr;
use hawser::wire::identity::CertifyRequest;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let _csr = Csr::parse_der(bytes);
    let Ok(request) = CertifyRequest::decode(bytes) else { return };
    let _identity = request.identity.parse::<Identity>();
    if let Ok(csr) = Csr::parse_der(&request.certificate_signing_request) {
        let _asked = csr.asks_for(&request.identity);
    }
});
