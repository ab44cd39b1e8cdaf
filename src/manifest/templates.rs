//! The embedded manifests: real YAML with `${name}` where a value goes. A part that is there only sometimes is a file of its own.

pub const NAMESPACE: &str = include_str!("../../templates/namespace.yaml");
pub const CONFIG: &str = include_str!("../../templates/config.yaml");
pub const IDENTITY: &str = include_str!("../../templates/identity.yaml");
pub const DESTINATION: &str = include_str!("../../templates/destination.yaml");
pub const INJECTOR: &str = include_str!("../../templates/injector.yaml");
pub const DISRUPTION_BUDGET: &str = include_str!("../../templates/disruption-budget.yaml");
pub const ANTI_AFFINITY: &str = include_str!("../../templates/anti-affinity.yaml");
