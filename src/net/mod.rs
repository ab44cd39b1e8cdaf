//! Sockets: listening, the accept loop, the shutdown, and the question where the app meant to go.

pub mod backoff;
pub mod counted;
pub mod drain;
pub mod fair;
pub mod listen;
pub mod newcomers;
pub mod own;
pub mod prefixed;
pub mod readiness;
pub mod seldom;
pub mod serve;
pub mod sockets;
pub mod stream;
pub mod target;
