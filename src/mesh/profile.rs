//! What a ServiceProfile says of requests and responses: which route a request falls under, and which of its responses are failures.
//!
//! In: a request's method and path, or a response's status. Out: whether it is meant. Routes are tried in their order, and the first that
//! matches counts; so are the classes of responses, which therefore are worked out once, as ranges of statuses.
//!
//! Start at [`Condition::matches`] and [`Classes::new`].

use std::ops::RangeInclusive;

use http::Method;
use regex::Regex;

use super::limits::Statuses;

/// The statuses that a response can have.
const STATUSES: RangeInclusive<u16> = 100..=999;

/// What a request must be to fall under a route.
#[derive(Clone, Debug)]
pub enum Condition {
    /// None are met by every request.
    All(Vec<Self>),
    /// None are met by no request.
    Any(Vec<Self>),
    Method(Method),
    Not(Box<Self>),
    /// The whole path.
    Path(Regex),
}

/// What a response must be to fall into a class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResponseCondition {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Status(RangeInclusive<u16>),
}

/// Which statuses are failures and which are not, as far as a route says so.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Classes {
    failures: Statuses,
    successes: Statuses,
}

impl Condition {
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.matches(method, path)),
            Self::Any(any) => any.iter().any(|one| one.matches(method, path)),
            Self::Method(wanted) => wanted == method,
            Self::Not(not) => !not.matches(method, path),
            Self::Path(pattern) => pattern.is_match(path),
        }
    }
}

impl ResponseCondition {
    fn matches(&self, status: u16) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.matches(status)),
            Self::Any(any) => any.iter().any(|one| one.matches(status)),
            Self::Not(not) => !not.matches(status),
            Self::Status(range) => range.contains(&status),
        }
    }
}

impl Classes {
    /// Of classes in their order, each with whether it is one of failures.
    pub fn new(classes: &[(ResponseCondition, bool)]) -> Self {
        let is_failure = |status| classes.iter().find(|(class, _)| class.matches(status)).map(|(_, failure)| *failure);
        Self {
            failures: statuses(|status| is_failure(status) == Some(true)),
            successes: statuses(|status| is_failure(status) == Some(false)),
        }
    }

    /// What is said of a status; none where nothing is.
    pub fn is_failure(&self, status: u16) -> Option<bool> {
        let failure = self.failures.contains(status);
        (failure || self.successes.contains(status)).then_some(failure)
    }

    /// All statuses that are failures: those that are said to be, and servers' errors that are not said to be none.
    pub fn failing(&self) -> Statuses {
        statuses(|status| self.is_failure(status).unwrap_or(status >= 500))
    }
}

/// The statuses that are `meant`, in as few ranges as there can be.
fn statuses(meant: impl Fn(u16) -> bool) -> Statuses {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for status in STATUSES.filter(|status| meant(*status)) {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == status => *last = *last.start()..=status,
            _ => ranges.push(status..=status),
        }
    }
    Statuses(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::route;

    fn path(pattern: &str) -> Condition {
        Condition::Path(route::whole(pattern).unwrap())
    }

    #[test]
    fn a_condition_is_made_of_others() {
        let books = Condition::All(vec![Condition::Method(Method::GET), path("/books/[^/]+")]);
        assert!(books.matches(&Method::GET, "/books/7"));
        assert!(!books.matches(&Method::POST, "/books/7") && !books.matches(&Method::GET, "/books/7/pages"));
        let other = Condition::Not(Box::new(Condition::Any(vec![books, path("/health")])));
        assert!(other.matches(&Method::GET, "/authors") && !other.matches(&Method::GET, "/health"));
    }

    #[test]
    fn all_of_nothing_is_everything_and_any_of_nothing_is_none() {
        assert!(Condition::All(Vec::new()).matches(&Method::GET, "/"));
        assert!(!Condition::Any(Vec::new()).matches(&Method::GET, "/"));
    }

    #[test]
    fn a_path_is_matched_as_a_whole() {
        assert!(!path("/a|/b").matches(&Method::GET, "/a/b"));
        assert!(path("^/a$").matches(&Method::GET, "/a"), "who anchors it means the same");
    }

    #[test]
    fn the_first_class_of_a_status_decides_and_without_one_it_is_as_usual() {
        let status = ResponseCondition::Status;
        let classes = Classes::new(&[
            (status(503..=503), false),
            (
                ResponseCondition::All(vec![status(500..=599), ResponseCondition::Not(Box::new(status(501..=501)))]),
                true,
            ),
            (ResponseCondition::Any(vec![status(429..=429), status(404..=404)]), true),
        ]);
        let said = [503, 500, 501, 429, 404, 200].map(|status| classes.is_failure(status));
        assert_eq!(said, [Some(false), Some(true), None, Some(true), Some(true), None]);
        let failing = classes.failing();
        assert_eq!(failing, Statuses(vec![404..=404, 429..=429, 500..=502, 504..=999]));
        assert_eq!(Classes::default().failing(), Statuses(vec![500..=999]));
    }
}
