//! The proxy's metrics, under the names that dashboards and `viz` know (wire-spec §9).
//!
//! In: labels, resolved once per connection or route into handles that cost an atomic addition per event. Out: Prometheus text.
//! The number of label sets of each family is bounded: peers choose some of the values ([`crate::telemetry::series`]).
//!
//! Start at [`Metrics`].

mod labels;
mod process;
mod profiles;
mod requests;
mod routes;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use self::labels::Labels;
pub use self::profiles::ProfileRequests;
pub use self::requests::{Outcome, Requests, Started};
pub use self::routes::{Counted, Measured, Scope, Tally};

use crate::net::counted::Totals;
use crate::telemetry::series::{Counter, Family, Gauge, Series};

/// All metrics of the proxy. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    requests: requests::Families,
    control_requests: requests::Families,
    profiles: profiles::Families,
    routes: routes::Families,
    tcp_open_total: Family<Labels, Counter>,
    tcp_open_connections: Family<Labels, Gauge>,
    tcp_close_total: Family<Labels, Counter>,
    tcp_read_bytes: Family<Labels, Counter>,
    tcp_write_bytes: Family<Labels, Counter>,
    events: HashMap<Event, Family<Labels, Counter>>,
}

/// Things that are only counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    InboundHttpAllowed,
    InboundHttpDenied,
    InboundHttpErrors,
    InboundHttpRateLimited,
    InboundHttpRouteNotFound,
    InboundTcpAllowed,
    InboundTcpDenied,
    InboundTcpDetected,
    InboundTcpErrors,
    InboundTcpTerminated,
    InboundTransportHeaders,
    OutboundGrpcRetries,
    OutboundGrpcRetriesEnded,
    OutboundGrpcRetriesOverflowed,
    OutboundGrpcRetriesSucceeded,
    OutboundHttpErrors,
    OutboundHttpRetries,
    OutboundHttpRetriesEnded,
    OutboundHttpRetriesOverflowed,
    OutboundHttpRetriesSucceeded,
    OutboundTcpDetected,
    OutboundTcpErrors,
    OutboundTcpProtocols,
    OutboundTcpRouteClosed,
    OutboundTcpRouteOpened,
    OutboundTlsRouteClosed,
    OutboundTlsRouteOpened,
    ProfileRetryable,
}

/// The name and help of each [`Event`]; `_total` is added by the encoder.
const EVENTS: [(Event, &str, &str); 28] = [
    (Event::InboundHttpAllowed, "inbound_http_authz_allow", "HTTP requests that policy let through"),
    (Event::InboundHttpDenied, "inbound_http_authz_deny", "HTTP requests that policy refused"),
    (Event::InboundHttpErrors, "inbound_http_errors", "HTTP requests that failed in the proxy"),
    (Event::InboundHttpRateLimited, "inbound_http_local_ratelimit", "HTTP requests past a rate limit"),
    (Event::InboundHttpRouteNotFound, "inbound_http_route_not_found", "HTTP requests that no route matches"),
    (Event::InboundTcpAllowed, "inbound_tcp_authz_allow", "Connections that policy let through"),
    (Event::InboundTcpDenied, "inbound_tcp_authz_deny", "Connections that policy refused"),
    (Event::InboundTcpDetected, "inbound_tcp_detect_http_results", "Connections whose protocol was looked for"),
    (Event::InboundTcpErrors, "inbound_tcp_errors", "Inbound connections that failed in the proxy"),
    (Event::InboundTcpTerminated, "inbound_tcp_authz_terminate", "Connections ended because policy changed"),
    (
        Event::InboundTransportHeaders,
        "inbound_tcp_transport_header_connections",
        "Connections that began with a transport header",
    ),
    (Event::OutboundGrpcRetries, "outbound_grpc_route_retry_requests", "Calls asked again"),
    (
        Event::OutboundGrpcRetriesEnded,
        "outbound_grpc_route_retry_limit_exceeded",
        "Calls asked as often as they may be",
    ),
    (Event::OutboundGrpcRetriesOverflowed, "outbound_grpc_route_retry_overflow", "Calls too long to be asked again"),
    (Event::OutboundGrpcRetriesSucceeded, "outbound_grpc_route_retry_successes", "Calls that asking again helped"),
    (Event::OutboundHttpRetries, "outbound_http_route_retry_requests", "Requests asked again"),
    (
        Event::OutboundHttpRetriesEnded,
        "outbound_http_route_retry_limit_exceeded",
        "Requests asked as often as they may be",
    ),
    (Event::OutboundHttpRetriesOverflowed, "outbound_http_route_retry_overflow", "Requests too long to be asked again"),
    (Event::OutboundHttpRetriesSucceeded, "outbound_http_route_retry_successes", "Requests that asking again helped"),
    (Event::OutboundHttpErrors, "outbound_http_errors", "HTTP requests that failed in the proxy"),
    (Event::OutboundTcpDetected, "outbound_tcp_detect_http_results", "Connections whose protocol was looked for"),
    (Event::OutboundTcpErrors, "outbound_tcp_errors", "Outbound connections that failed in the proxy"),
    (Event::OutboundTcpProtocols, "outbound_tcp_protocol_connections", "Connections, by what they speak"),
    (Event::OutboundTcpRouteClosed, "outbound_tcp_route_close", "Connections of a route that have ended"),
    (Event::OutboundTcpRouteOpened, "outbound_tcp_route_open", "Connections of a route"),
    (Event::OutboundTlsRouteClosed, "outbound_tls_route_close", "Connections of a route for TLS that have ended"),
    (Event::OutboundTlsRouteOpened, "outbound_tls_route_open", "Connections of a route for TLS"),
    (Event::ProfileRetryable, "route_retryable", "Responses for which a profile's route has a request asked again"),
];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let events = EVENTS.into_iter().map(|(event, name, help)| (event, family(&mut registry, name, help))).collect();
        let inner = Inner {
            requests: requests::Families::registered(&mut registry, "", "of apps"),
            control_requests: requests::Families::registered(&mut registry, "control_", "to the control plane"),
            profiles: profiles::Families::registered(&mut registry),
            routes: routes::Families::registered(&mut registry),
            tcp_open_total: family(&mut registry, "tcp_open", "Connections opened"),
            tcp_open_connections: family(&mut registry, "tcp_open_connections", "Connections open now"),
            tcp_close_total: family(&mut registry, "tcp_close", "Connections closed"),
            tcp_read_bytes: family(&mut registry, "tcp_read_bytes", "Bytes read from peers"),
            tcp_write_bytes: family(&mut registry, "tcp_write_bytes", "Bytes written to peers"),
            events,
            registry: Mutex::default(),
        };
        registry.register(
            "proxy_build",
            "What this proxy is",
            Info::new(Labels::new([("version", env!("CARGO_PKG_VERSION")), ("vendor", "hawser")])),
        );
        registry.register_collector(Box::new(process::Process));
        Self(Arc::new(Inner { registry: Mutex::new(registry), ..inner }))
    }

    /// Where other rooms of the proxy add metrics of their own, at start.
    pub fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, as Prometheus text.
    ///
    /// # Errors
    /// Where a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry())?;
        Ok(text)
    }

    /// Counts one `event`.
    pub fn count(&self, event: Event, labels: &Labels) {
        self.counter(event, labels).inc();
    }

    /// The counter of `event` with `labels`, for those who count often.
    pub fn counter(&self, event: Event, labels: &Labels) -> Counter {
        self.0.events[&event].with(labels)
    }

    /// Opens a connection in the metrics; it closes with the value returned.
    pub fn transport(&self, labels: &Labels) -> Transport {
        let inner = &self.0;
        // Its labels stay with it, and connections are many.
        let (labels, open) = inner.tcp_open_connections.shared(labels);
        open.inc();
        inner.tcp_open_total.with(&labels).inc();
        let read = inner.tcp_read_bytes.with(&labels);
        let written = inner.tcp_write_bytes.with(&labels);
        Transport { metrics: self.clone(), labels, open, totals: Totals { read, written }, errno: OnceLock::new() }
    }

    /// The metrics of apps' requests with these labels.
    pub fn requests(&self, labels: Labels) -> Requests {
        self.0.requests.with(labels)
    }

    /// The metrics of the proxy's own requests to the control plane with these labels.
    pub fn control_requests(&self, labels: Labels) -> Requests {
        self.0.control_requests.with(labels)
    }

    /// A counter without labels, of another room of the proxy. Made once.
    pub fn registered_counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.registry().register(name, help, counter.clone());
        counter
    }

    fn profiles(&self) -> &profiles::Families {
        &self.0.profiles
    }

    fn routes(&self) -> &routes::Families {
        &self.0.routes
    }
}

fn family<S: Series + Default>(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, S> {
    let family = Family::new(S::default, Labels::overflow());
    registry.register(name, help, family.clone());
    family
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// An open connection, as the metrics see it.
#[derive(Debug)]
pub struct Transport {
    metrics: Metrics,
    labels: Labels,
    open: Gauge,
    totals: Totals,
    errno: OnceLock<&'static str>,
}

impl Transport {
    /// Counts bytes that were read.
    pub fn read(&self, bytes: u64) {
        self.totals.read.inc_by(bytes);
    }

    /// Counts bytes that were written.
    pub fn wrote(&self, bytes: u64) {
        self.totals.written.inc_by(bytes);
    }

    /// What [`crate::net::counted::Counted`] adds to.
    pub fn totals(&self) -> Totals {
        self.totals.clone()
    }

    /// Notes why the connection is about to end; without a word it ended well.
    pub fn failed(&self, error: &std::io::Error) {
        self.errno.get_or_init(|| errno(error.kind()));
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.open.dec();
        let labels = self.labels.and(&Labels::new([("errno", self.errno.get().copied().unwrap_or_default())]));
        self.metrics.0.tcp_close_total.with(&labels).inc();
    }
}

/// The symbols that dashboards know.
fn errno(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::BrokenPipe => "EPIPE",
        ErrorKind::ConnectionAborted => "ECONNABORTED",
        ErrorKind::ConnectionRefused => "ECONNREFUSED",
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::NotConnected => "ENOTCONN",
        ErrorKind::TimedOut => "ETIMEDOUT",
        _ => "EIO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::connection::Direction;

    fn labels() -> Labels {
        Labels::direction(Direction::Inbound).and(&Labels::target("10.0.0.1:80".parse().unwrap()))
    }

    #[test]
    fn shows_requests_under_the_names_dashboards_know() {
        let metrics = Metrics::new();
        let requests = metrics.requests(labels());
        requests.start().end(&Outcome { status: 200, grpc_status: Some(14), error: "".into() });
        requests.start().end(&Outcome { status: 404, grpc_status: None, error: "".into() });
        drop(requests.start());
        let text = metrics.encode().unwrap();
        let prefix = r#"direction="inbound",target_addr="10.0.0.1:80",target_ip="10.0.0.1",target_port="80""#;
        for line in [
            format!("request_total{{{prefix}}} 3"),
            format!(
                r#"response_total{{{prefix},status_code="200",classification="failure",grpc_status="14",error=""}} 1"#
            ),
            format!(
                r#"response_total{{{prefix},status_code="404",classification="success",grpc_status="",error=""}} 1"#
            ),
            format!(r#"response_latency_ms_count{{{prefix},status_code="404"}} 1"#),
        ] {
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
        assert!(text.contains("process_cpu_seconds_total ") && text.contains("proxy_build_info{"), "{text}");
    }

    #[test]
    fn a_transport_is_open_until_dropped() {
        let metrics = Metrics::new();
        let transport = metrics.transport(&labels());
        transport.totals().read.inc_by(3);
        assert!(metrics.encode().unwrap().contains(r#"target_port="80"} 1"#));
        transport.failed(&std::io::ErrorKind::ConnectionReset.into());
        drop(transport);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"errno="ECONNRESET"} 1"#), "{text}");
        assert!(text.contains("tcp_read_bytes_total{direction"), "{text}");
    }
}
