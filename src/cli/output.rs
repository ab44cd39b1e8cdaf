//! What people see: tables on standard output; errors with their hints, and progress, on standard error.
//!
//! Data goes to standard output, through the `out` each command is given. The rest goes here, and only here is
//! anything printed to standard error.
//!
//! Start at [`report`]. The hint of an error is found by its type, so that the errors below know nothing of the command line.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::{image, run};
use crate::cluster::client;
pub use crate::cluster::words::causes;

/// A person notices motion from here on; faster only costs.
const TICK: Duration = Duration::from_millis(100);
/// What stands between two columns of a table.
const COLUMN_GAP: u16 = 2;

/// Prints the error, its causes (one a line), and what to do about it.
pub fn report(error: &anyhow::Error) {
    // A closed pipe (`hawser edges | head`) is not worth a word.
    if error.chain().any(is_broken_pipe) {
        return;
    }
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(describe(error).as_bytes());
}

/// Says something on standard error that is no error, such as which pods did not answer.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Asks a person for what nobody should see.
pub fn ask_secret(what: &str) -> std::io::Result<String> {
    let terminal = console::Term::stderr();
    write!(std::io::stderr().lock(), "{what}: ")?;
    terminal.read_secure_line()
}

fn is_broken_pipe(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for line in causes(error.as_ref()) {
        text += if text.is_empty() { "error: " } else { "  caused by: " };
        text += &line;
        text.push('\n');
    }
    if let Some(hint) = error.chain().find_map(hint) {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// What to do about an error, if its type says enough.
fn hint(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<client::Error>() {
        return hint_of_connecting(error);
    }
    if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
        return match status.code {
            403 => {
                Some("your account lacks this permission: ask for it, or use another with `--context` or `--as`".into())
            }
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<image::Unfit>() {
        return Some(error.hint().into());
    }
    run::hint(cause).map(str::to_owned)
}

fn hint_of_connecting(error: &client::Error) -> Option<String> {
    let known = |known: &[String]| match known {
        [] => "it has none; is this the right file? `--kubeconfig FILE` names another".to_owned(),
        known => format!("it has {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Some(match error {
        client::Error::NoKubeconfig => {
            "name one with `--kubeconfig FILE` or the variable KUBECONFIG; usually it is ~/.kube/config".into()
        }
        client::Error::Kubeconfig(_) | client::Error::Unreadable { .. } => "`--kubeconfig FILE` or the variable KUBECONFIG name another".into(),
        client::Error::NoSuchContext { known: contexts, .. } => known(contexts),
        client::Error::NoCurrentContext { known: contexts } => {
            format!("choose one with `--context NAME`; {}", known(contexts))
        }
        client::Error::Client { .. } => return None,
        client::Error::Unreachable { .. } | client::Error::NoAnswer { .. } => {
            "is the cluster up, and is this its context? `kubectl cluster-info` asks the same; `--context NAME` names another".into()
        }
        client::Error::Unauthorized { .. } => "log in to the cluster again, or name another context with `--context`".into(),
    })
}

/// A table without borders: the columns are two spaces apart, and what is wider than the terminal is not wrapped, so
/// that `grep` and `awk` work.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// The text of a table: no space at either end of a line.
pub fn text(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, COLUMN_GAP));
    }
    let mut text = String::new();
    for line in table.lines() {
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// How something went, as it is drawn in front of a line or in a cell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glyph {
    Good,
    Warning,
    Bad,
}

impl Glyph {
    /// The glyph, in its colour where standard output is a terminal that may have colours.
    pub fn paint(self, colours: bool) -> String {
        let (glyph, colour) = match self {
            Self::Good => ("√", 32),
            Self::Warning => ("‼", 33),
            Self::Bad => ("×", 31),
        };
        if colours { format!("\x1b[{colour}m{glyph}\x1b[0m") } else { glyph.to_owned() }
    }
}

/// The value as JSON, indented by two.
pub fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    // Through a buffer: serde_json writes a few bytes at a time, and hides a closed pipe in an error of its own.
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    out.write_all(&text)?;
    Ok(())
}

/// An instant as RFC 3339, in UTC and whole seconds.
pub fn instant(at: SystemTime) -> String {
    let seconds = seconds_until(at, SystemTime::UNIX_EPOCH);
    k8s_openapi::jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |at| at.to_string())
}

/// Whole seconds from `now` to `at`, negative where that is over.
pub fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}

/// A length of time by its two largest units, such as `23h59m` or `-2d3h`.
pub fn duration(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let length = seconds.unsigned_abs();
    let (days, hours, minutes) = (length / 86_400, length / 3600 % 24, length / 60 % 60);
    let text = match (days, hours, minutes) {
        (0, 0, 0) => format!("{length}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", length % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    };
    format!("{sign}{text}")
}

/// A number of bytes to three digits or so, such as `1.2MiB`.
pub fn bytes(count: u64) -> String {
    const STEP: u64 = 1024;
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < STEP {
        return format!("{count}B");
    }
    // The largest unit that leaves at least one; in tenths, so that no float is needed.
    let power = (count.ilog2() / STEP.ilog2()) as usize;
    let tenths = (u128::from(count) * 10) >> (10 * power);
    format!("{}.{}{}", tenths / 10, tenths % 10, units[power - 1])
}

/// Whether standard output may have colours: a terminal, and neither `NO_COLOR` nor a dumb one.
pub fn colours() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A bar over `total` pieces of work, on standard error; nothing where that is no terminal. Gone once dropped.
pub fn bar(total: usize, what: &str) -> Progress {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    start(bar, what)
}

/// A spinner for work of unknown length, on standard error; nothing where that is no terminal. Gone once dropped.
pub fn spinner(what: &str) -> Progress {
    start(ProgressBar::new_spinner(), what)
}

fn start(bar: ProgressBar, what: &str) -> Progress {
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    Progress(bar)
}

/// Shows that work goes on, for as long as it lives.
pub struct Progress(ProgressBar);

impl Progress {
    /// One more piece is done.
    pub fn advance(&self) {
        self.0.inc(1);
    }

    /// What is being done now.
    pub fn set_message(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::Error::from(Repeating(std::io::Error::other("no such luck"))).context("cannot begin");
        assert_eq!(describe(&error), "error: cannot begin\n  caused by: cannot open it\n  caused by: no such luck\n");
    }

    #[test]
    fn a_refusal_of_the_api_server_is_told_in_its_own_words_with_a_hint() {
        let status = kube::core::Status { code: 403, ..kube::core::Status::failure("pods is forbidden", "Forbidden") };
        let error = Err::<(), _>(kube::Error::Api(status.boxed())).context("cannot list pods").unwrap_err();
        let text = describe(&error);
        assert!(text.starts_with("error: cannot list pods\n  caused by: pods is forbidden\nhint: "), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_wrong_context_hints_at_those_there_are() {
        let error = client::Error::NoSuchContext { name: "prod".into(), known: vec!["dev".into(), "test".into()] };
        let text = describe(&error.into());
        assert_eq!(text, "error: the kubeconfig has no context `prod`\nhint: it has `dev`, `test`\n");
    }

    #[test]
    fn an_error_of_no_known_type_has_no_hint() {
        assert_eq!(describe(&anyhow::anyhow!("no")), "error: no\n");
    }

    #[test]
    fn tables_have_neither_borders_nor_trailing_space() {
        let mut table = table(&["SRC", "DST"]);
        table.add_row(["web", "cart"]).add_row(["a-longer-name", "x"]);
        assert_eq!(text(&mut table), "SRC            DST\nweb            cart\na-longer-name  x\n");
    }

    #[test]
    fn lengths_of_time_are_said_by_two_units() {
        let said = [0, 59, 61, 3_661, 90_000, -90_000].map(duration);
        assert_eq!(said, ["0s", "59s", "1m1s", "1h1m", "1d1h", "-1d1h"]);
    }

    #[test]
    fn numbers_of_bytes_are_rounded_down() {
        let said = [0, 1023, 1024, 1_300_000, u64::MAX].map(bytes);
        assert_eq!(said, ["0B", "1023B", "1.0KiB", "1.2MiB", "15.9EiB"]);
    }

    #[test]
    fn instants_are_rfc_3339() {
        assert_eq!(instant(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)), "2001-09-09T01:46:40Z");
    }

    #[test]
    fn glyphs_are_coloured_only_when_asked() {
        assert_eq!(Glyph::Good.paint(false), "√");
        assert_eq!(Glyph::Bad.paint(true), "\x1b[31m×\x1b[0m");
    }
}
