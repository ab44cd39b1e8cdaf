//! The integration tests, in one binary: one link step, one set of helpers.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

/// The binary as users run it: arguments in; stdout, stderr and exit code out.
mod cli;
/// The proofs: an installed mesh on a real Kubernetes.
mod cluster;
/// What is linked into the binary.
mod dependencies;
/// Roles and proxies on real sockets, without a cluster.
mod mesh;
/// What the tests share.
#[allow(dead_code, reason = "a helper may be there before its second user")]
mod support;
