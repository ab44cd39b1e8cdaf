//! What made a rule, as policy and metrics name it.

/// What something is called in metrics: the group, kind and name of the resource that made it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Meta {
    pub group: String,
    pub kind: String,
    pub name: String,
}

impl Meta {
    /// What no resource made.
    pub fn default_policy(name: &str) -> Self {
        Self { group: String::new(), kind: "default".into(), name: name.into() }
    }
}
