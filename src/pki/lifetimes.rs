//! How long what the mesh signs lives, and when its successor is made: values that bound each other.
//!
//! ```text
//!   anchor  ├───────────────────────────────────┬──── rotate before ────┤
//!   issuer                ├──────────┬─ renew before ─┤        an issuer lives out its life under its anchor,
//!   leaf                             ├─ leaf ─┤                a leaf under its issuer
//! ```
//!
//! Start at [`Lifetimes::check`].

use std::time::Duration;

use super::rotation::{EXPIRE_MARGIN, PUBLISH_MIN};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How far clocks of nodes may be behind the one that made an anchor or issuer.
pub(super) const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Of leaf, issuer and anchor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    pub leaf: Duration,
    /// How far clocks may differ.
    pub skew: Duration,
    pub issuer: Duration,
    /// A new issuer is made when less than this is left of the present one.
    pub issuer_renew_before: Duration,
    pub anchor: Duration,
    /// A rotation of the anchor begins when less than this is left of the present one.
    pub anchor_rotate_before: Duration,
}

/// Why lifetimes do not go together: which of them is wrong, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidLifetimes {
    #[error("less than a second")]
    LeafTooShort,
    #[error("more than a day, which is more than clocks of one cluster differ")]
    SkewTooLong,
    #[error(
        "a certificate of a pod lives up to {0:?}, and must be able to live out its life under the issuer that signed it"
    )]
    IssuerRenewedTooLate(Duration),
    #[error("at least twice the {0:?} before its end at which it is replaced, or it would be replaced all the time")]
    IssuerTooShort(Duration),
    #[error("an issuer lives up to {0:?}, and must be able to live out its life under the anchor that signed it")]
    AnchorRotatedTooLate(Duration),
    #[error("a rotation takes {0:?} at least, for certificates under the old anchor must have ended")]
    AnchorRotatedInHaste(Duration),
    #[error("at least twice the {0:?} before its end at which it is replaced, or it would be replaced all the time")]
    AnchorTooShort(Duration),
    #[error("it is beyond what a certificate can say")]
    TooLong,
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifetime {
    Leaf,
    Skew,
    Issuer,
    IssuerRenewBefore,
    Anchor,
    AnchorRotateBefore,
}

impl Default for Lifetimes {
    /// A leaf for a day; an issuer for 90 days, replaced when 30 are left, so that a control plane may be down for a month; an anchor for ten
    /// years, replaced when two are left.
    fn default() -> Self {
        Self {
            leaf: DAY,
            skew: Duration::from_secs(20),
            issuer: 90 * DAY,
            issuer_renew_before: 30 * DAY,
            anchor: 3652 * DAY,
            anchor_rotate_before: 730 * DAY,
        }
    }
}

impl Lifetimes {
    /// How long a leaf can live after it was signed, by any clock.
    pub fn leaf_life(&self) -> Duration {
        self.leaf + 2 * self.skew
    }

    /// Whether each can live out its life under the one above it.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), (Lifetime, InvalidLifetimes)> {
        use InvalidLifetimes as Why;
        // A thousand years: past that dates of certificates have five digits.
        let too_long = 365_250 * DAY;
        let all = [
            (Lifetime::Leaf, self.leaf),
            (Lifetime::Issuer, self.issuer),
            (Lifetime::IssuerRenewBefore, self.issuer_renew_before),
            (Lifetime::Anchor, self.anchor),
            (Lifetime::AnchorRotateBefore, self.anchor_rotate_before),
        ];
        if let Some((which, _)) = all.into_iter().find(|(_, lifetime)| *lifetime > too_long) {
            return Err((which, Why::TooLong));
        }
        let skew_max = DAY;
        if self.skew > skew_max {
            return Err((Lifetime::Skew, Why::SkewTooLong));
        }
        let leaf_life = self.leaf_life();
        let rotation = PUBLISH_MIN + leaf_life + EXPIRE_MARGIN;
        let rules = [
            (self.leaf >= Duration::from_secs(1), Lifetime::Leaf, Why::LeafTooShort),
            (self.issuer_renew_before >= leaf_life, Lifetime::IssuerRenewBefore, Why::IssuerRenewedTooLate(leaf_life)),
            (
                self.issuer >= 2 * self.issuer_renew_before,
                Lifetime::Issuer,
                Why::IssuerTooShort(self.issuer_renew_before),
            ),
            (
                self.anchor_rotate_before >= self.issuer,
                Lifetime::AnchorRotateBefore,
                Why::AnchorRotatedTooLate(self.issuer),
            ),
            (self.anchor_rotate_before >= rotation, Lifetime::AnchorRotateBefore, Why::AnchorRotatedInHaste(rotation)),
            (
                self.anchor >= 2 * self.anchor_rotate_before,
                Lifetime::Anchor,
                Why::AnchorTooShort(self.anchor_rotate_before),
            ),
        ];
        rules.into_iter().find(|(holds, ..)| !holds).map_or(Ok(()), |(_, which, why)| Err((which, why)))
    }
}

/// A duration as values files have it: numbers with units, such as `24h`, `90d`, `1m30s` or `24h0m0s`.
///
/// # Errors
/// Where it is none, or more than can be counted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || "expected a duration such as 90d, 24h, 90s or 1h30m".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
            "d" => number.checked_mul(24 * 60 * 60).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = after;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// As short as tests on a cluster want them.
    fn short() -> Lifetimes {
        Lifetimes {
            leaf: 20 * SECOND,
            skew: SECOND,
            issuer: 60 * SECOND,
            issuer_renew_before: 25 * SECOND,
            anchor: 200 * SECOND,
            anchor_rotate_before: 90 * SECOND,
        }
    }

    #[test]
    fn the_default_goes_together_and_so_do_minutes() {
        assert_eq!(Lifetimes::default().check(), Ok(()));
        assert_eq!(short().check(), Ok(()));
    }

    #[test]
    fn each_must_live_out_its_life_under_the_one_above() {
        let refused = |lifetimes: Lifetimes| lifetimes.check().unwrap_err().0;
        assert_eq!(refused(Lifetimes { leaf: Duration::ZERO, ..short() }), Lifetime::Leaf);
        assert_eq!(refused(Lifetimes { skew: 25 * 3600 * SECOND, ..short() }), Lifetime::Skew);
        assert_eq!(refused(Lifetimes { leaf: 24 * SECOND, ..short() }), Lifetime::IssuerRenewBefore);
        assert_eq!(refused(Lifetimes { issuer: 49 * SECOND, ..short() }), Lifetime::Issuer);
        assert_eq!(refused(Lifetimes { issuer: 91 * SECOND, ..short() }), Lifetime::AnchorRotateBefore);
        assert_eq!(refused(Lifetimes { anchor_rotate_before: 80 * SECOND, ..short() }), Lifetime::AnchorRotateBefore);
        assert_eq!(refused(Lifetimes { anchor: 179 * SECOND, ..short() }), Lifetime::Anchor);
        assert_eq!(refused(Lifetimes { anchor: Duration::MAX, ..short() }), Lifetime::Anchor);
        assert_eq!(refused(Lifetimes { leaf: Duration::MAX, ..short() }), Lifetime::Leaf);
    }

    #[test]
    fn reads_durations_as_values_files_have_them() {
        assert_eq!(parse_duration("24h"), Ok(DAY));
        assert_eq!(parse_duration("90d"), Ok(90 * DAY));
        assert_eq!(parse_duration("24h0m0s"), Ok(DAY));
        assert_eq!(parse_duration("1m30s"), Ok(90 * SECOND));
        assert_eq!(parse_duration("500ms"), Ok(SECOND / 2));
    }

    #[test]
    fn refuses_durations_without_unit_and_beyond_reason() {
        for text in ["", "24", "h", "-1s", "1 s", "1y", "99999999999999999999s", "999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
