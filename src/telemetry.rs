//! Logs of the roles: levels by an env-filter, plain or JSON. [`series`] are the numbers that are scraped.

pub mod series;

use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::mesh::log_filter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    Json,
    #[default]
    Plain,
}

/// Starts logging to standard error, once per process.
///
/// `filter` is an env-filter directive list, such as `warn,hawser=info`.
///
/// # Errors
/// Where the filter does not parse, or logging has been started before.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<Filter> {
    let current = Mutex::new(filter.to_owned());
    let lines = tracing_subscriber::fmt().with_env_filter(parse(filter)?).with_writer(std::io::stderr);
    let (reload, started): (Box<Reload>, _) = match format {
        LogFormat::Json => {
            let lines = lines.json().with_filter_reloading();
            let handle = lines.reload_handle();
            (Box::new(move |filter| handle.reload(filter)), lines.try_init())
        }
        LogFormat::Plain => {
            let lines = lines.with_ansi(false).with_filter_reloading();
            let handle = lines.reload_handle();
            (Box::new(move |filter| handle.reload(filter)), lines.try_init())
        }
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    Ok(Filter { current, reload })
}

type Reload = dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync;

/// What is logged, to be looked at and changed while the process runs.
pub struct Filter {
    current: Mutex<String>,
    reload: Box<Reload>,
}

impl Filter {
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by `filter` from now on.
    ///
    /// # Errors
    /// Where that is no filter that somebody can have meant; then all stays as it is.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        log_filter::check(filter).with_context(|| format!("cannot log by {filter:?}"))?;
        (self.reload)(parse(filter)?).context("cannot change the log filter")?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = filter.to_owned();
        Ok(())
    }
}

/// kube's client calls every request that fails an error of its own; whoever asked says what it means, and when it matters.
const QUIET: &str = "kube_client::client::builder";

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    let asked = EnvFilter::try_new(filter).with_context(|| format!("cannot parse the log filter {filter:?}"))?;
    if filter.contains("kube_client") {
        return Ok(asked);
    }
    Ok(asked.add_directive(format!("{QUIET}=off").parse().context("cannot parse our own log filter")?))
}

/// The error with its causes, on one line: logs and answers have no room for more.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn are_logged(filter: &str) -> (bool, bool) {
        let subscriber = tracing_subscriber::registry().with(parse(filter).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            let clients = tracing::enabled!(target: "kube_client::client::builder", tracing::Level::ERROR);
            (clients, tracing::enabled!(target: "kube_client::api", tracing::Level::ERROR))
        })
    }

    #[test]
    fn the_clients_own_errors_are_logged_for_those_who_ask_for_them_only() {
        assert_eq!(are_logged("debug"), (false, true));
        assert_eq!(are_logged("warn,hawser=info"), (false, true));
        assert_eq!(are_logged("warn,kube_client=debug"), (true, true));
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        assert!(parse("hawser=loud").unwrap_err().to_string().contains("hawser=loud"));
    }
}
