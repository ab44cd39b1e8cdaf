//! What a control plane tells the proxy: endpoints, policies, bundles.
#![no_main]

use hawser::proxy::discovery::endpoints::Endpoints;
use hawser::proxy::policy::convert::server_policy;
use hawser::wire::destination::Update;
use hawser::wire::inbound::Server;
use hawser::wire::trust::Bundle;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|messages: Vec<&[u8]>| {
    let mut endpoints = Endpoints::default();
    for bytes in messages {
        if let Ok(update) = Update::decode(bytes) {
            let change = endpoints.apply(update);
            assert!(change.set.iter().all(|endpoint| endpoint.address.port() != 0));
        }
        if let Ok(server) = Server::decode(bytes) {
            let _policy = server_policy(server);
        }
        if let Ok(bundle) = Bundle::decode(bytes) {
            let _bundle = hawser::pki::Bundle::parse_pem(&bundle.pem);
        }
    }
});
