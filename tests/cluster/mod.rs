//! The proofs: an installed mesh on a real Kubernetes, and real pods in it.
//!
//! `make test-cluster` starts the cluster, loads the image, installs the mesh and runs these.

mod anchor;
mod bad_input;
mod brought;
mod certify;
mod encryption;
mod engines;
mod lifecycle;
mod mixed;
mod outage;
mod peers;
mod pods;
mod renewal;
mod replicas;
mod stored;
mod trust;
mod webhook;
