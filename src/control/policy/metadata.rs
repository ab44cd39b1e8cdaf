//! Names of what no resource made.

use crate::wire::meta::{Metadata, metadata::Kind};

/// The name of a default, as metrics show it.
pub(super) fn default(name: &str) -> Metadata {
    Metadata { kind: Some(Kind::Default(name.into())) }
}
