//! The gRPC contract with proxies: the types of crate `linkerd2-proxy-api`, as the roles use them, and one API of our own.

pub mod trust;

pub use linkerd2_proxy_api::{
    destination, grpc_route, http_route, http_types, identity, inbound, meta, net, opaque_route, outbound, tls_route,
};
