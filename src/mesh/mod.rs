//! The words of the domain: who (identity), what was measured of a connection, what it speaks.

pub mod connection;
pub mod identity;
pub mod ports;
pub mod protocol;

pub use identity::Identity;
pub use protocol::Protocol;
