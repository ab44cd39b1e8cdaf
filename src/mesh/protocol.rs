//! What a connection speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a connection speaks, as detected or as both ends agreed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Protocol {
    #[serde(rename = "http/1")]
    Http1,
    #[serde(rename = "http/2")]
    Http2,
    /// Any bytes: carried without being looked at.
    #[serde(rename = "opaque")]
    Opaque,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::Opaque => "opaque",
        })
    }
}
