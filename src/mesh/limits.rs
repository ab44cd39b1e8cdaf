//! How long a request may take, how often it is asked again, and when an endpoint that fails is given a rest.
//!
//! In: what policy says, or an annotation, or a header of the request. Out: values that the proxy acts by. They are the same words in all
//! three places: `5xx,429`, `unavailable`, `500ms`.
//!
//! Start at [`Limits`].

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Ranges in one list of statuses: there are not that many that mean anything.
const RANGES_MAX: usize = 64;

/// What is set for the requests of one rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
}

/// How long the parts of a request may take; none for as long as it takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// All of it, with every retry.
    pub request: Option<Duration>,
    /// The response, from when the request has been sent in full.
    pub response: Option<Duration>,
    /// Between two parts of the response.
    pub idle: Option<Duration>,
}

/// When a request is asked again that a server has answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// How often, at most.
    pub max: u32,
    pub statuses: Statuses,
    pub codes: Codes,
    /// How much of its body may have been sent, in bytes.
    pub body_max: usize,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    pub pauses: Pauses,
}

/// The waits before one attempt and the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pauses {
    pub shortest: Duration,
    pub longest: Duration,
    /// Which part of a wait may be added to it at random.
    pub jitter: f64,
}

/// When an endpoint is given a rest for what it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accrual {
    /// That many failures in a row; none where only the rate counts.
    pub failures_max: Option<u32>,
    pub rate: Option<Rate>,
    /// How long the first rest and later ones take.
    pub pauses: Pauses,
    /// So many endpoints are left in, however they fail.
    pub ready_min: usize,
    /// Whether a first rest is as long as the endpoint asks for, within the bounds of rests.
    pub respects_hints: bool,
}

impl Default for Penalty {
    fn default() -> Self {
        Self { by: Duration::from_secs(5), decay: Duration::from_secs(10), hint_max: Duration::from_secs(300) }
    }
}

/// What an endpoint that fails, or that has too much to do, is held to be slower by when the next is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Penalty {
    pub by: Duration,
    /// How fast it is forgotten.
    pub decay: Duration,
    /// How long an endpoint can ask to be spared, at most.
    pub hint_max: Duration,
}

/// The share of successes below which an endpoint is given a rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub successes_min: f64,
    /// How fast old answers are forgotten.
    pub decay: Duration,
    /// Answers that must have come before any is held against the endpoint.
    pub requests_min: u32,
}

/// HTTP statuses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

/// Statuses of gRPC, one bit each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Codes(u32);

/// The codes that may pass by themselves, in the words of annotations and headers.
const CODES: [(&str, u16); 5] =
    [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)];

/// What a text should have been.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    #[error("{0:?} is not a duration: a whole number with ms, s, m, h or d")]
    Duration(String),
    #[error("{0:?} is neither a status, a range such as 502-504, 5xx nor gateway-error")]
    Status(String),
    #[error("{0:?} is none of cancelled, deadline-exceeded, internal, resource-exhausted, unavailable")]
    Code(String),
}

impl Limits {
    /// Whether nothing is set, so that nothing need be watched.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Retry {
    /// A retry as annotations and headers mean it where they say no more than when.
    pub fn once(statuses: Statuses, codes: Codes) -> Self {
        Self { max: 1, statuses, codes, body_max: usize::MAX, timeout: None, pauses: Pauses::OF_RETRIES }
    }

    /// Whether an answer of `status` is asked for again; with gRPC it is the call's own that counts.
    pub fn is_wanted(&self, status: u16, grpc_status: Option<u16>) -> bool {
        self.statuses.contains(status) || grpc_status.is_some_and(|code| self.codes.contains(code))
    }
}

impl Pauses {
    /// Long enough for a server to draw breath, short enough for whoever waits.
    pub const OF_RETRIES: Self =
        Self { shortest: Duration::from_millis(25), longest: Duration::from_millis(250), jitter: 1.0 };

    /// The wait after so many earlier ones. `random` is drawn evenly from 0 to 1.
    pub fn after(&self, earlier: u32, random: f64) -> Duration {
        let doubled = self.shortest.saturating_mul(2_u32.saturating_pow(earlier.min(30)));
        let wait = doubled.min(self.longest.max(self.shortest));
        // What is no number is no jitter.
        let jitter = if self.jitter.is_nan() { 0.0 } else { self.jitter.clamp(0.0, 10.0) };
        wait.mul_f64(1.0 + jitter * random.clamp(0.0, 1.0))
    }
}

impl Statuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl FromStr for Statuses {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let range = |item: &str| {
            let invalid = || Invalid::Status(item.into());
            let status = |text: &str| text.trim().parse().ok().filter(|status| (100..600).contains(status));
            match item {
                "5xx" => Ok(500..=599),
                "gateway-error" => Ok(502..=504),
                _ => {
                    let (first, last) = item.split_once('-').unwrap_or((item, item));
                    let (first, last) = (status(first).ok_or_else(invalid)?, status(last).ok_or_else(invalid)?);
                    if first <= last { Ok(first..=last) } else { Err(invalid()) }
                }
            }
        };
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).take(RANGES_MAX);
        items.map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl Codes {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn contains(self, code: u16) -> bool {
        code < 32 && self.0 & (1 << code) != 0
    }

    /// These codes and `code`, if it is one.
    #[must_use]
    pub fn with(self, code: u16) -> Self {
        if code < 32 { Self(self.0 | (1 << code)) } else { self }
    }
}

impl FromStr for Codes {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.try_fold(Self::default(), |codes, item| {
            let (_, code) = CODES.iter().find(|(word, _)| *word == item).ok_or_else(|| Invalid::Code(item.into()))?;
            Ok(codes.with(*code))
        })
    }
}

/// As it is parsed; codes that no word is for are left out.
impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = CODES.iter().filter(|(_, code)| self.contains(*code)).map(|(word, _)| *word).collect();
        f.write_str(&words.join(","))
    }
}

/// Parses a duration as injectors, annotations and headers write it: a whole number and one unit, or a bare 0.
///
/// # Errors
/// Where it is none.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    let invalid = || Invalid::Duration(text.into());
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        "" if number == 0 => 0,
        _ => return Err(invalid()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_that_is_no_number_is_none() {
        for (jitter, most) in [(f64::NAN, 1), (f64::INFINITY, 11), (f64::NEG_INFINITY, 1), (1.0, 2)] {
            let pauses = Pauses { shortest: Duration::from_secs(1), longest: Duration::from_secs(1), jitter };
            assert_eq!(pauses.after(0, 1.0), Duration::from_secs(most), "{jitter}");
        }
    }

    #[test]
    fn statuses_are_codes_ranges_and_the_two_names() {
        let statuses: Statuses = "gateway-error, 429,500-501".parse().unwrap();
        for (status, is_in) in
            [(429, true), (428, false), (500, true), (501, true), (502, true), (504, true), (505, false)]
        {
            assert_eq!(statuses.contains(status), is_in, "{status}");
        }
        assert_eq!("5xx".parse(), Ok(Statuses(vec![500..=599])));
        for wrong in ["4xx", "99", "600", "504-502", "500-", "five"] {
            assert!(wrong.parse::<Statuses>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn codes_are_those_that_may_pass_by_themselves() {
        let codes: Codes = "unavailable,cancelled".parse().unwrap();
        assert!(codes.contains(14) && codes.contains(1) && !codes.contains(13) && !codes.contains(200));
        assert_eq!("not-found".parse::<Codes>(), Err(Invalid::Code("not-found".into())));
        assert_eq!(codes.with(5).to_string(), "cancelled,unavailable");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_upwards() {
        let pauses = Pauses { shortest: Duration::from_millis(25), longest: Duration::from_millis(250), jitter: 1.0 };
        let waits: Vec<u128> = (0..6).map(|earlier| pauses.after(earlier, 0.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pauses.after(0, 1.0), Duration::from_millis(50));
        assert_eq!(pauses.after(u32::MAX, 0.0), Duration::from_millis(250));
    }

    #[test]
    fn a_duration_is_a_whole_number_with_one_unit() {
        assert_eq!(duration(" 100ms "), Ok(Duration::from_millis(100)));
        assert_eq!((duration("2m"), duration("0")), (Ok(Duration::from_secs(120)), Ok(Duration::ZERO)));
        for wrong in ["1", "1.5s", "-1s", "s", "", "1h30m", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
