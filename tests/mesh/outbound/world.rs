//! A small world on loopback: peers with real certificates, and the outbound proxy of one pod, whose app the test is. Its control plane
//! is [`crate::support::control`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hawser::mesh::Identity;
use hawser::mesh::connection::Connections;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Csr, Issuer, LeafKey, Validity};
use hawser::proxy::backend::{Queue, Queues};
use hawser::proxy::client::{Connector, Options};
use hawser::proxy::connections::Table;
use hawser::proxy::control::Channel;
use hawser::proxy::credentials::Credentials;
use hawser::proxy::discovery::{self, Discovery};
use hawser::proxy::metrics::Metrics;
use hawser::proxy::outbound::{self, Outbound};
use hawser::proxy::settings::{ControlAddr, Networks};
use hawser::proxy::streams::Framed;
use hawser::proxy::subscription::Limits;
use hawser::proxy::tls::{Alpn, Tls};
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::WeightedAddr;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::support::control::{Control, meshed};

pub(crate) const CLIENT: &str = "client.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const THIEF: &str = "thief.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const AUTHORITY: &str = "web.shop.svc.cluster.local:80";
/// How long an unused target stays known.
pub(crate) const IDLE: Duration = Duration::from_millis(500);
pub(crate) const FAILFAST: Duration = Duration::from_millis(400);
/// Names that requests may choose at a time.
const NAMES_MAX: usize = 100;
/// Nobody listens on the addresses of services; only their endpoints are dialled.
pub(crate) const SERVICE: &str = "10.96.0.1:80";

/// Certificates of one mesh.
pub(crate) struct Pki {
    issuer: Issuer,
    bundle: Arc<Bundle>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now();
        let anchor = Anchor::create("cluster.local", now).unwrap();
        let issuer = anchor.create_issuer("cluster.local", now).unwrap();
        let bundle = Arc::new(Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap());
        Self { issuer, bundle }
    }

    pub(crate) fn tls(&self, identity: &str) -> Tls {
        self.tls_until(identity, None)
    }

    /// Whose certificate is thought to end then; it is valid for longer, so that a handshake that comes late is no failure.
    pub(crate) fn tls_until(&self, identity: &str, end: Option<SystemTime>) -> Tls {
        let identity: Identity = identity.parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: Duration::from_secs(3600), skew: Duration::from_secs(20) };
        let leaf = self.issuer.sign(&csr, &identity, SystemTime::now(), validity).unwrap();
        let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates.clone()).collect();
        let certified_key = Arc::new(CertifiedKey::new(chain, any_ecdsa_type(&key.private_key()).unwrap()));
        let not_after = end.unwrap_or(leaf.not_after());
        let credentials = Credentials { identity, certified_key, leaf: leaf.certificate, not_after };
        let bundle = watch::Sender::new(self.bundle.clone()).subscribe();
        Tls::new(bundle, watch::Sender::new(Some(Arc::new(credentials))).subscribe())
    }
}

/// The proxy of the test's pod.
pub(crate) struct Pod {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) connections: Table,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
}

impl Pod {
    pub(crate) fn start(pki: &Pki, control: &Control) -> Self {
        Self::start_patient(pki, control, FAILFAST)
    }

    pub(crate) fn start_patient(pki: &Pki, control: &Control, failfast: Duration) -> Self {
        Self::start_with(pki, control, failfast, Duration::from_secs(10))
    }

    pub(crate) fn start_with(pki: &Pki, control: &Control, failfast: Duration, detect_timeout: Duration) -> Self {
        let queue = Queue { capacity: 10_000, failfast };
        Self::start_as(pki, control, queue, |options| options.detect_timeout = detect_timeout)
    }

    pub(crate) fn start_queued(pki: &Pki, control: &Control, queue: Queue) -> Self {
        Self::start_as(pki, control, queue, |_| ())
    }

    /// A pod whose settings are other than usual.
    pub(crate) fn changed(pki: &Pki, control: &Control, change: impl FnOnce(&mut outbound::Options)) -> Self {
        Self::start_as(pki, control, Queue { capacity: 10_000, failfast: FAILFAST }, change)
    }

    /// One whose certificate ends then, and its connections with it.
    pub(crate) fn ending(pki: &Pki, control: &Control, end: SystemTime) -> Self {
        let tls = pki.tls_until(CLIENT, Some(end)).bounding_connections(true);
        Self::start_of(tls, control, Queue { capacity: 10_000, failfast: FAILFAST }, NAMES_MAX, |_| ())
    }

    /// A pod whose app is an ingress.
    pub(crate) fn ingress(pki: &Pki, control: &Control) -> Self {
        Self::changed(pki, control, |options| options.is_ingress = true)
    }

    /// The way out of a pod with this identity and these certificates, whose clients may name so many targets.
    pub(crate) fn of(tls: Tls, control: &Control, names_max: usize) -> Self {
        Self::start_of(tls, control, Queue { capacity: 10_000, failfast: FAILFAST }, names_max, |_| ())
    }

    fn start_as(pki: &Pki, control: &Control, queue: Queue, change: impl FnOnce(&mut outbound::Options)) -> Self {
        Self::start_of(pki.tls(CLIENT), control, queue, NAMES_MAX, change)
    }

    fn start_of(
        tls: Tls,
        control: &Control,
        queue: Queue,
        names_max: usize,
        change: impl FnOnce(&mut outbound::Options),
    ) -> Self {
        let (drain, metrics, connections) = (Drain::new(), Metrics::new(), Table::default());
        let address: ControlAddr = control.address.to_string().parse().unwrap();
        let channel = Channel::new(address, None, &tls, drain.clone()).unwrap().counted(&metrics);
        let connector = Arc::new(Connector {
            options: Options {
                connect_timeout: Duration::from_secs(2),
                keepalive: Some(Duration::from_secs(10)),
                user_timeout: Some(Duration::from_secs(30)),
                http1_idle_timeout: Duration::from_secs(3),
                local_ips: vec!["127.0.0.9".parse().unwrap()],
                own_ports: Vec::new(),
                may_dial_loopback: true,
            },
            tls,
            connections: connections.clone(),
            metrics: metrics.clone(),
            drain: drain.clone(),
        });
        let settings = discovery::Settings {
            context: "{\"ns\":\"shop\"}\n".into(),
            workload: "{\"ns\":\"shop\",\"pod\":\"client-1\"}\n".into(),
            networks: Networks(vec!["10.0.0.0/8".parse().unwrap()]),
            idle_timeout: IDLE,
            queues: Queues { http: queue, tcp: queue },
            limits: Limits::default(),
            cluster_patience: Duration::from_secs(2),
            names_max,
        };
        let discovery = Discovery::new(channel.clone(), channel, settings, connector);
        let mut options = outbound::Options {
            detect_timeout: Duration::from_secs(10),
            requests_max: 100,
            keep_alive: (Duration::ZERO, Duration::ZERO),
            tells_why: true,
            is_ingress: false,
        };
        change(&mut options);
        let outbound = Arc::new(Outbound::new(discovery, metrics.clone(), drain.clone(), options));
        Self { outbound, connections, metrics, drain }
    }

    /// A connection of the app's to `target`, as redirection would bring it to the proxy.
    pub(crate) async fn connect(&self, target: &str) -> TcpStream {
        self.try_connect(target).await.unwrap()
    }

    /// The same, where the proxy may reset it before it is there for its client.
    pub(crate) async fn try_connect(&self, target: &str) -> std::io::Result<TcpStream> {
        let target = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = self.outbound.clone().serve(listener, move |_| Ok(target));
        self.drain.spawn(serving);
        TcpStream::connect(address).await
    }

    /// One HTTP/1.1 request on a connection of its own; the whole response as text.
    pub(crate) async fn get(&self, target: &str, headers: &str) -> String {
        let request = format!("GET /hello HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
        self.ask(target, &request).await
    }

    /// One POST, whose body comes back where the app is content.
    pub(crate) async fn post(&self) -> String {
        let request = "POST /buy HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 4\r\n\r\nshoe";
        self.ask(SERVICE, request).await
    }

    async fn ask(&self, target: &str, request: &str) -> String {
        let mut stream = self.connect(target).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    /// What the proxy has recorded of its connections, live and recent.
    pub(crate) fn recorded(&self) -> Connections {
        self.connections.snapshot(None)
    }

    /// The sum of all samples of a metric whose line has all of `parts`.
    pub(crate) fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.metrics.encode().unwrap();
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// What a peer's app did with a connection or request, for the test to see.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The header that a connection began with, and who sent it.
    Header(Header, Option<Identity>),
    Request {
        version: http::Version,
        headers: HeaderMap,
        uri: http::Uri,
    },
}

/// How a peer's app behaves.
#[derive(Clone, Copy)]
pub(crate) enum App {
    Echo,
    /// Says this before anything is heard, then echoes.
    SpeaksFirst(&'static str),
    Http(&'static str),
    Grpc,
    /// Has not served the request, as its proxy says in this word.
    Unserved(&'static str),
    /// Answers this to so many requests, then 200 with what it was sent.
    Failing(u16, usize),
    /// Ends so many calls with this code, after a message; then it is as [`App::Grpc`], and content.
    FailingCalls(u16, usize),
    /// Hears a request and says nothing.
    Silent,
    /// Begins a response and does not go on.
    Stalling,
}

/// A meshed peer: its proxy's inbound port on loopback, and an app behind it that needs no port.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "servers of tests are not drained")]
impl Peer {
    pub(crate) async fn start(tls: Tls, app: App) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, app)
    }

    pub(crate) fn start_on(listener: TcpListener, tls: Tls, app: App) -> Self {
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let failed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, tell, failed) = (tls.clone(), tell.clone(), failed.clone());
                tokio::spawn(async move {
                    let Ok(accepted) = tls.accept(stream, Alpn::TransportHeader).await else { return };
                    assert!(accepted.transport_header, "the client should offer a transport header");
                    let client = match accepted.security {
                        hawser::mesh::connection::Security::Mutual(tls) => tls.client_identity,
                        _ => None,
                    };
                    let mut stream = accepted.stream;
                    let Ok(header) = Header::read(&mut stream).await else { return };
                    // What comes blindly reaches the app as it is: one that takes calls speaks HTTP/2, and so speaks first.
                    let is_http1 = match header.protocol {
                        hawser::mesh::Protocol::Http1 => true,
                        hawser::mesh::Protocol::Http2 => false,
                        hawser::mesh::Protocol::Opaque => !matches!(app, App::Grpc | App::FailingCalls(..)),
                    };
                    let _ = tell.send(Seen::Header(header, client));
                    serve(failed, stream, app, is_http1, tell).await;
                });
            }
        });
        Self { address, seen, task }
    }

    /// A peer whose proxy is a hawser too, and its app an echo. It carries so many streams per connection, then hangs up.
    pub(crate) async fn start_hawser(tls: Tls, streams_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, tell) = (tls.clone(), tell.clone());
                tokio::spawn(async move {
                    let mut connection = tls.accept(stream, Alpn::Streams).await.unwrap().stream;
                    for at in 0..streams_max {
                        let Ok(header) = Header::read(&mut connection).await else { return };
                        let _ = tell.send(Seen::Header(header, None));
                        let mut stream = match at {
                            0 => Framed::first(connection, &[]),
                            _ => Framed::accepted(connection).await.unwrap(),
                        };
                        let mut bytes = Vec::new();
                        stream.read_to_end(&mut bytes).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                        stream.shutdown().await.unwrap();
                        connection = stream.into_connection().unwrap();
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    /// An app without a mesh proxy.
    pub(crate) async fn start_unmeshed(app: App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let failed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(failed.clone(), stream, app, true, tell.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// What discovery says of it: its app listens on `port`, its proxy takes headers.
    pub(crate) fn endpoint(&self, port: u16, identity: &str) -> WeightedAddr {
        let metric_labels = HashMap::from([("pod".to_owned(), format!("web-{port}"))]);
        let address = SocketAddr::new(self.address.ip(), port);
        WeightedAddr { metric_labels, ..meshed(address, self.address.port(), identity) }
    }

    /// What discovery says of a pod that is not meshed.
    pub(crate) fn unmeshed_endpoint(&self) -> WeightedAddr {
        WeightedAddr { addr: Some(self.address.into()), weight: 10_000, ..WeightedAddr::default() }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(20), self.seen.recv()).await.expect("nothing came").unwrap()
    }

    /// The next request. Where this machine is slow, the proxy has dialled before its client spoke, and that connection came to nothing.
    pub(crate) async fn request(&mut self) -> (http::Version, HeaderMap, http::Uri) {
        loop {
            if let Seen::Request { version, headers, uri } = self.next().await {
                return (version, headers, uri);
            }
        }
    }

    /// How many more requests there have been.
    pub(crate) fn more_requests(&mut self) -> usize {
        std::iter::from_fn(|| self.seen.try_recv().ok()).filter(|seen| matches!(seen, Seen::Request { .. })).count()
    }
}

async fn serve(
    failed: Arc<AtomicUsize>,
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    app: App,
    is_http1: bool,
    tell: mpsc::UnboundedSender<Seen>,
) {
    let name = match app {
        App::Echo | App::SpeaksFirst(_) => {
            if let App::SpeaksFirst(greeting) = app {
                let _ = stream.write_all(greeting.as_bytes()).await;
                let _ = stream.flush().await;
            }
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
            return;
        }
        App::Http(name) => name,
        App::Grpc | App::Unserved(_) | App::Failing(..) | App::FailingCalls(..) | App::Silent | App::Stalling => "",
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (tell, failed) = (tell.clone(), failed.clone());
        async move {
            let _ = tell.send(Seen::Request {
                version: request.version(),
                headers: request.headers().clone(),
                uri: request.uri().clone(),
            });
            if let App::Silent = app {
                std::future::pending::<()>().await;
            }
            Ok::<_, hyper::Error>(if let App::Failing(status, times) = app {
                let failed = failed.fetch_add(1, Ordering::Relaxed) < times;
                let response = Response::builder().status(if failed { status } else { 200 });
                response.body(request.into_body().boxed()).unwrap()
            } else if let App::Stalling = app {
                let some = tokio_stream::once(Ok(Frame::data(Bytes::from_static(b"begun"))));
                let stream = tokio_stream::StreamExt::chain(some, tokio_stream::pending());
                let body = http_body_util::BodyExt::boxed(StreamBody::new(stream));
                Response::builder().header("content-type", "application/grpc").body(body).unwrap()
            } else if let App::FailingCalls(code, times) = app {
                let failed = failed.fetch_add(1, Ordering::Relaxed) < times;
                call(request, if failed { code } else { 0 })
            } else if let App::Unserved(why) = app {
                let empty = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
                Response::builder().status(502).header("hawser-unserved", why).body(empty).unwrap()
            } else if request.headers().contains_key("upgrade") || request.method() == http::Method::CONNECT {
                upgrade(&mut request)
            } else if name.is_empty() {
                call(request, 7)
            } else {
                let response = Response::builder().header("l5d-proxy-error", "of the peer").header("x-app", name);
                let response = match request.headers().get("l5d-orig-proto") {
                    Some(was) => response.header("l5d-orig-proto", was),
                    None => response,
                };
                response.body(Full::new(Bytes::from(name)).map_err(|never| match never {}).boxed()).unwrap()
            })
        }
    });
    let stream = TokioIo::new(stream);
    if is_http1 {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).with_upgrades().await;
    } else {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

/// A gRPC response: what was sent comes back, with this status in the trailers.
fn call(request: Request<Incoming>, code: u16) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(code))]);
    let body = request.into_body().map_frame(|frame| frame);
    let end = StreamBody::new(tokio_stream::once(Ok(Frame::trailers(trailers))));
    let frames = tokio_stream::StreamExt::chain(http_body_util::BodyStream::new(body), end);
    Response::builder()
        .header("content-type", "application/grpc")
        .body(http_body_util::BodyExt::boxed(StreamBody::new(frames)))
        .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "servers of tests are not drained")]
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let client = hyper::upgrade::on(&mut *request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(client.await.unwrap()));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let empty = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
    if request.method() == http::Method::CONNECT {
        return Response::new(empty);
    }
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(empty).unwrap()
}

/// The labels of a connection, for comparing.
pub(crate) fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
