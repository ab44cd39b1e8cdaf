//! The words of the domain: who (identity), what was measured of a connection, what it speaks, who may (policy, by route).

pub mod budget;
pub mod clock;
pub mod connection;
pub mod edges;
pub mod endpoint;
pub mod forwarded;
pub mod identity;
pub mod limits;
pub mod log_filter;
pub mod meta;
pub mod name;
pub mod places;
pub mod policy;
pub mod ports;
pub mod profile;
pub mod protocol;
pub mod rate_limit;
pub mod redirect;
pub mod route;
pub mod workload;

pub use endpoint::Endpoint;
pub use identity::Identity;
pub use name::Name;
pub use protocol::Protocol;
