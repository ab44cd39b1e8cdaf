//! Logs of the roles: levels by an env-filter, plain or JSON.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

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
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("cannot parse the log filter {filter:?}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => lines.json().try_init(),
        LogFormat::Plain => lines.with_ansi(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
