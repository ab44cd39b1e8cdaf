//! Judges the cluster itself: reachable, recent, and with a clock like ours.

use std::time::Duration;

use super::{Snapshot, Verdict, judge};

/// Native sidecars are on by default from here on (Kubernetes enhancement 753).
const MINOR_MIN: u32 = 29;
/// Leaves are made valid 20 s before their time. What one sees here is in whole seconds, and a round trip old.
const SKEW_MAX: Duration = Duration::from_secs(10);

/// A snapshot exists only where the API server has answered.
pub(super) fn is_reachable(_snapshot: &Snapshot) -> Verdict {
    Verdict::Passed
}

pub(super) fn clocks_agree(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let theirs = *snapshot.server_now.as_ref()?;
        let (skew, which) = match snapshot.now.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let verdict = if skew <= SKEW_MAX {
            Verdict::Passed
        } else {
            Verdict::failed(format!("the clock here is {} s {which} the API server's", skew.as_secs()))
        };
        Ok(verdict.with(skew.as_secs()))
    })
}

pub(super) fn is_recent(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let version = snapshot.kubernetes_version.as_ref()?;
        let mut parts = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Ok(Verdict::Unknown(format!("cannot read the version {version:?}")));
        };
        let verdict = if (major, minor) >= (1, MINOR_MIN) {
            Verdict::Passed
        } else {
            Verdict::failed(format!("it runs {version}"))
        };
        Ok(verdict.with(version.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Unread;
    use crate::checks::tests::{fails, healthy, passes};

    #[test]
    fn clocks_may_be_a_little_apart_and_no_more() {
        let mut snapshot = healthy();
        assert!(passes(clocks_agree, &snapshot));
        snapshot.server_now = Ok(snapshot.now + Duration::from_secs(60));
        assert_eq!(fails(clocks_agree, &snapshot), ["the clock here is 60 s behind the API server's"]);
        snapshot.server_now = Ok(snapshot.now - Duration::from_secs(60));
        assert_eq!(fails(clocks_agree, &snapshot), ["the clock here is 60 s ahead of the API server's"]);
    }

    #[test]
    fn versions_with_native_sidecars_will_do_and_older_ones_will_not() {
        let mut snapshot = healthy();
        for (version, will_do) in [("v1.36.1", true), ("v1.29.0-gke.1", true), ("v1.28.9", false), ("v2.0", true)] {
            snapshot.kubernetes_version = Ok(version.into());
            assert_eq!(passes(is_recent, &snapshot), will_do, "{version}");
        }
    }

    #[test]
    fn a_version_that_is_hidden_or_unreadable_is_unknown() {
        let mut snapshot = healthy();
        for version in [Ok("edge".into()), Err(Unread("forbidden".into()))] {
            snapshot.kubernetes_version = version;
            assert!(matches!(is_recent(&snapshot), Verdict::Unknown(_)));
        }
    }

    #[test]
    fn a_cluster_that_answered_is_reachable() {
        assert!(passes(is_reachable, &healthy()));
    }
}
