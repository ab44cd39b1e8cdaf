//! What hawser can judge of a mesh: facts in, verdicts out.

pub mod leaf;
pub mod proxy_pod;
