//! Manifests: the embedded templates, how values fill them, and how a pod becomes a meshed pod.
//!
//! [`installation`] is all of `hawser install`; [`inject`] is the one implementation of meshing, for install, inject and the webhook.

pub mod documents;
pub mod fill;
pub mod inject;
pub mod installation;
pub mod names;
mod near;
pub mod templates;
pub mod values;
pub mod yaml;
