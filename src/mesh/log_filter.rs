//! Says whether a text is a log filter that somebody can have meant.
//!
//! In: a list of directives such as `warn,hawser=debug`. Out: nothing, or what is wrong with it. The library that reads filters takes any
//! lone word for the name of a module, so that `verbose` logs nothing at all, silently. Where a person sets a filter, a lone word is a level.
//!
//! Start at [`check`].

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a text is no log filter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidLogFilter {
    #[error("it is empty; `off` logs nothing")]
    Empty,
    #[error("{0:?} is no level: there are {levels}", levels = LEVELS.join(", "))]
    Level(String),
    #[error("it is no list of levels such as warn,hawser=debug ({0})")]
    Syntax(String),
}

/// Checks the directives of `filter`.
///
/// # Errors
/// Where it does not parse, is empty, or names something that is no level.
pub fn check(filter: &str) -> Result<(), InvalidLogFilter> {
    if filter.trim().is_empty() {
        return Err(InvalidLogFilter::Empty);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    for directive in filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
            || matches!(level, "0" | "1" | "2" | "3" | "4" | "5");
        // A path or a span without a level is all of it, and meant so.
        if !is_level && (directive.contains('=') || level.chars().all(is_name)) {
            return Err(InvalidLogFilter::Level(level.into()));
        }
    }
    EnvFilter::try_new(filter).map(drop).map_err(|error| InvalidLogFilter::Syntax(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_people_and_injectors_write() {
        for filter in [
            "debug",
            "WARN",
            "warn,hawser=info",
            "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off",
            "hawser::proxy=trace,off",
            "hawser::proxy::outbound",
        ] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
    }

    #[test]
    fn refuses_what_would_log_nothing_or_not_start() {
        for (filter, named) in [
            ("verbose", "verbose"),
            ("warn,hawser=loud", "loud"),
            ("inof,hawser=debug", "inof"),
            ("hawser=", "\"\""),
            ("hawser=6", "6"),
            ("warn,[{", "no list"),
            ("", "empty"),
            (" ", "empty"),
        ] {
            let refused = check(filter).unwrap_err().to_string();
            assert!(refused.contains(named), "{filter}: {refused}");
        }
    }
}
