//! Manifests: the embedded templates, how values fill them, and how a pod becomes a meshed pod.

pub mod fill;
pub mod names;
pub mod values;
pub mod yaml;
