//! The access log: one line for each HTTP request from the network, on standard output. The proxy's own log is on standard error.
//!
//! In: a request, its answer, and the bytes of that as they pass. Out: a line when all of it has passed, in the words of Apache or as JSON.
//! A thread of its own writes, so that a reader of the log that stops reading stops nobody else; what it does not keep up with is left out,
//! and counted in `hawser_access_log_dropped_total`.
//!
//! Start at [`AccessLog::begin`]. Who logs nothing pays nothing: there is no [`Entry`] then.

use std::io::Write as _;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::metrics::Metrics;
use crate::mesh::policy::{Client, ClientTls};
use crate::telemetry::series::Counter;

/// Lines that wait to be written: a second or two of a busy server, and a few megabytes at most.
const LINES_MAX: usize = 4_096;
/// What one value of a request takes of a line. Clients choose them.
const VALUE_BYTES_MAX: usize = 1_024;

/// How lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    Apache,
    Json,
}

/// What a text should have been.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither apache nor json")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "apache" => Ok(Self::Apache),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.into())),
        }
    }
}

/// Where requests are logged. Clones are the same log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: Format,
    lines: SyncSender<String>,
    dropped: Counter,
}

impl AccessLog {
    /// Starts the thread that writes, for as long as anybody logs.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub fn start(format: Format, metrics: &Metrics) -> std::io::Result<Self> {
        let (log, lines) = Self::new(format, metrics);
        std::thread::Builder::new().name("access log".into()).spawn(move || write(&lines))?;
        Ok(log)
    }

    /// A log, and its lines.
    pub fn new(format: Format, metrics: &Metrics) -> (Self, Receiver<String>) {
        let (lines, written) = sync_channel(LINES_MAX);
        let dropped = metrics.registered_counter("hawser_access_log_dropped", "Requests that the access log left out");
        (Self { format, lines, dropped }, written)
    }

    /// Begins the line of a request, which is written when the entry is dropped.
    pub fn begin<B>(&self, client: &Client, request: &Request<B>) -> Box<Entry> {
        let headers = request.headers();
        let identity = match &client.tls {
            ClientTls::Terminated(Some(identity)) => identity.to_string(),
            _ => "-".into(),
        };
        Box::new(Entry {
            log: self.clone(),
            began_at: Instant::now(),
            at: SystemTime::now(),
            client: client.address.to_string(),
            identity,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: text(headers, HOST.as_str()),
            user_agent: text(headers, USER_AGENT.as_str()),
            request_bytes: text(headers, "content-length"),
            trace_id: trace_id(headers),
            answered: None,
            response_bytes: 0,
        })
    }
}

fn write(lines: &Receiver<String>) {
    while let Ok(line) = lines.recv() {
        let mut all = line;
        // Whatever waits is written at once.
        for line in lines.try_iter().take(LINES_MAX) {
            all.push_str(&line);
        }
        let mut output = std::io::stdout().lock();
        if output.write_all(all.as_bytes()).and_then(|()| output.flush()).is_err() {
            // Nobody reads any more.
            return;
        }
    }
}

/// A request on its way into the log.
#[derive(Debug)]
pub struct Entry {
    log: AccessLog,
    began_at: Instant,
    at: SystemTime,
    client: String,
    identity: String,
    method: Method,
    uri: Uri,
    version: Version,
    host: String,
    user_agent: String,
    request_bytes: String,
    trace_id: String,
    /// With what, and how long that took.
    answered: Option<(StatusCode, Duration)>,
    response_bytes: u64,
}

/// A line of JSON, with the names that readers of such logs know.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "client.addr")]
    client: &'a str,
    #[serde(rename = "client.id")]
    identity: &'a str,
    host: &'a str,
    method: &'a str,
    processing_ns: String,
    request_bytes: &'a str,
    response_bytes: String,
    status: u16,
    timestamp: &'a str,
    total_ns: String,
    trace_id: &'a str,
    uri: &'a str,
    user_agent: &'a str,
    version: String,
}

impl Entry {
    pub fn answered(&mut self, status: StatusCode) {
        self.answered = Some((status, self.began_at.elapsed()));
    }

    pub fn add_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    fn line(&self) -> String {
        let timestamp = OffsetDateTime::from(self.at).format(&Rfc3339).unwrap_or_default();
        // 0 for a request that was broken off.
        let (status, processing) = self.answered.map_or((0, Duration::ZERO), |(status, took)| (status.as_u16(), took));
        let uri = cut(&self.uri.to_string());
        match self.log.format {
            Format::Apache => format!(
                "{} {} - [{timestamp}] \"{} {uri} {:?}\" {status} {}\n",
                self.client, self.identity, self.method, self.version, self.response_bytes
            ),
            Format::Json => {
                let line = Line {
                    client: &self.client,
                    identity: &self.identity,
                    host: &self.host,
                    method: self.method.as_str(),
                    processing_ns: processing.as_nanos().to_string(),
                    request_bytes: &self.request_bytes,
                    response_bytes: self.response_bytes.to_string(),
                    status,
                    timestamp: &timestamp,
                    total_ns: self.began_at.elapsed().as_nanos().to_string(),
                    trace_id: &self.trace_id,
                    uri: &uri,
                    user_agent: &self.user_agent,
                    version: format!("{:?}", self.version),
                };
                serde_json::to_string(&line).unwrap_or_default() + "\n"
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.log.lines.try_send(self.line()).is_err() {
            self.log.dropped.inc();
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| cut(&String::from_utf8_lossy(value.as_bytes()))).unwrap_or_default()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Of W3C's `traceparent`, or of B3 in either form.
fn trace_id(headers: &HeaderMap) -> String {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let w3c = of("traceparent").and_then(|parent| parent.split('-').nth(1));
    let b3 = || of("b3").and_then(|b3| b3.split('-').next());
    w3c.or_else(b3).or_else(|| of("x-b3-traceid")).map(cut).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let tls = ClientTls::Terminated(Some("cart.shop".parse().unwrap()));
        Client { address: "10.1.2.3:4567".parse().unwrap(), tls }
    }

    fn logged(format: Format) -> String {
        let (log, lines) = AccessLog::new(format, &Metrics::new());
        let request = Request::get("/cart?id=1")
            .header("host", "web.shop")
            .header("user-agent", "a \"quoted\" one")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body(())
            .unwrap();
        let mut entry = log.begin(&client(), &request);
        entry.answered(StatusCode::NOT_FOUND);
        entry.add_bytes(12);
        assert!(lines.try_recv().is_err(), "the line comes at the end");
        drop(entry);
        lines.try_recv().unwrap()
    }

    #[test]
    fn a_line_of_apache_says_who_asked_for_what_and_what_came_of_it() {
        let line = logged(Format::Apache);
        let (who, rest) = line.split_once(" - [").unwrap();
        assert_eq!(who, "10.1.2.3:4567 cart.shop");
        assert!(rest.ends_with("Z] \"GET /cart?id=1 HTTP/1.1\" 404 12\n"), "{line}");
    }

    #[test]
    fn a_line_of_json_is_json_whatever_clients_say() {
        let line: serde_json::Value = serde_json::from_str(&logged(Format::Json)).unwrap();
        assert_eq!(line["client.id"], "cart.shop");
        assert_eq!((&line["status"], &line["uri"]), (&404.into(), &"/cart?id=1".into()));
        assert_eq!(line["user_agent"], "a \"quoted\" one");
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(line["response_bytes"], "12");
    }

    #[test]
    fn values_of_clients_are_cut_and_lines_that_nobody_reads_are_counted() {
        assert_eq!(cut(&"é".repeat(VALUE_BYTES_MAX)).len(), VALUE_BYTES_MAX);
        let metrics = Metrics::new();
        let (log, _lines) = AccessLog::new(Format::Json, &metrics);
        let request = Request::get("/").body(()).unwrap();
        for _ in 0..LINES_MAX + 3 {
            drop(log.begin(&client(), &request));
        }
        assert!(metrics.encode().unwrap().contains("hawser_access_log_dropped_total 3\n"));
    }
}
