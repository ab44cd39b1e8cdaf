//! Sockets: the accept loop, the shutdown, and the question where the app meant to go.

pub mod drain;
pub mod readiness;
pub mod serve;
pub mod target;
