//! The proofs: an installed mesh on a real Kubernetes.
