//! The gRPC contract with proxies: the types of crate `linkerd2-proxy-api`, as the roles use them.

pub use linkerd2_proxy_api::{destination, identity, inbound, meta, net, outbound};
