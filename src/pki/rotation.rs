//! Where the replacement of the trust anchor stands, and what people can ask of it: values that are kept in the cluster beside the bundle.
//!
//! ```text
//!   publish ── every proxy believes both ──> switch ── the new anchor's issuer signs ──> expire ── no leaf under the old lives ──> (done)
//!      │ abort: the new goes                    └──────────── abort: the same way back ────────────┘
//! ```

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A new anchor is believed by those who watch at once, but a pod may be created meanwhile with the bundle as it was. Those are there, and asked,
/// after this.
pub const PUBLISH_MIN: Duration = Duration::from_secs(30);
/// Replicas that have not seen the new issuer yet sign with the old one; they read it again every 15 s.
pub const EXPIRE_MARGIN: Duration = Duration::from_secs(30);

/// The end of the year 9999.
const SINCE_MAX: u64 = 253_402_300_799;

/// A rotation under way. None is kept when there is none.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rotation {
    pub phase: Phase,
    /// The fingerprints of the anchor that goes, and of the one that comes.
    pub old: String,
    pub new: String,
    /// Whether the anchor that goes had ended before, and may sign all the same until every proxy believes the one that comes.
    #[serde(default)]
    pub recovers: bool,
    /// When the phase began, in seconds since 1970.
    pub since: u64,
    /// Who holds the switch, and why: the first of them.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// How many there are of them.
    #[serde(default)]
    pub waiting_for_count: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The new anchor is in the bundle; not every proxy is known to believe it.
    Publish,
    /// An issuer under the new anchor is being made.
    Switch,
    /// It signs; leaves of the old one live on for a while.
    Expire,
}

impl Rotation {
    /// A time that nobody could have written stands for one that has not come: then nothing is over, and a person has to look.
    pub fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.since.min(SINCE_MAX))
    }
}

/// What a person asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    Abort,
    /// Bring back a mesh whose anchor has ended.
    Recover,
    RotateAnchor,
    RotateIssuer,
}

impl Request {
    const ALL: [Self; 4] = [Self::Abort, Self::Recover, Self::RotateAnchor, Self::RotateIssuer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Recover => "recover",
            Self::RotateAnchor => "rotate-anchor",
            Self::RotateIssuer => "rotate-issuer",
        }
    }
}

impl FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_nobody_could_have_written_has_not_come() {
        let text = format!(r#"{{"phase":"expire","old":"a","new":"b","since":{}}}"#, u64::MAX);
        let rotation: Rotation = serde_json::from_str(&text).unwrap();
        assert!(rotation.since() > SystemTime::now());
    }
}
