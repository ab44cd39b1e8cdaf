//! The Kubernetes client: what the roles and the command line ask of a cluster.

pub mod apply;
pub mod client;
pub mod port_forward;
pub mod snapshot;
pub mod token_review;
pub mod watch;
pub mod words;
