//! A small world on loopback: a control plane that says what the test wants, peers with real certificates, and the outbound proxy of
//! one pod, whose app the test is.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hawser::mesh::Identity;
use hawser::mesh::connection::Connections;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Csr, Issuer, LeafKey, Validity};
use hawser::proxy::client::{Connector, Options};
use hawser::proxy::connections::Table;
use hawser::proxy::control::Channel;
use hawser::proxy::credentials::Credentials;
use hawser::proxy::discovery::{self, Discovery};
use hawser::proxy::metrics::Metrics;
use hawser::proxy::outbound::{self, Outbound};
use hawser::proxy::settings::{ControlAddr, Networks};
use hawser::proxy::subscription::Limits;
use hawser::proxy::tls::{Alpn, Tls};
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::destination_server::{Destination, DestinationServer};
use hawser::wire::destination::{
    AddrSet, DestinationProfile, GetDestination, NoEndpoints, ProtocolHint, TlsIdentity, Update, WeightedAddr,
    WeightedAddrSet, protocol_hint, tls_identity, update,
};
use hawser::wire::outbound::outbound_policies_server::{OutboundPolicies, OutboundPoliciesServer};
use hawser::wire::outbound::{self as policy, OutboundPolicy, TrafficSpec, backend, proxy_protocol, traffic_spec};
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
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tower::Service as _;

pub(crate) const CLIENT: &str = "client.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const THIEF: &str = "thief.shop.serviceaccount.identity.hawser.cluster.local";
pub(crate) const AUTHORITY: &str = "web.shop.svc.cluster.local:80";
/// How long an unused target stays known.
pub(crate) const IDLE: Duration = Duration::from_millis(500);
pub(crate) const FAILFAST: Duration = Duration::from_millis(400);
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
        let identity: Identity = identity.parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: Duration::from_secs(3600), skew: Duration::from_secs(20) };
        let leaf = self.issuer.sign(&csr, &identity, SystemTime::now(), validity).unwrap();
        let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates.clone()).collect();
        let certified_key = Arc::new(CertifiedKey::new(chain, any_ecdsa_type(&key.private_key()).unwrap()));
        let not_after = leaf.not_after();
        let credentials = Credentials { identity, certified_key, leaf: leaf.certificate, not_after };
        let bundle = watch::Sender::new(self.bundle.clone()).subscribe();
        Tls::new(bundle, watch::Sender::new(Some(Arc::new(credentials))).subscribe())
    }
}

/// What the control plane says. Killing it breaks all its streams.
pub(crate) struct Control {
    said: Said,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Words>>);

#[derive(Default)]
struct Words {
    profiles: HashMap<String, DestinationProfile>,
    policies: HashMap<SocketAddr, OutboundPolicy>,
    updates: HashMap<String, Vec<Update>>,
    listeners: HashMap<String, Vec<mpsc::Sender<Result<Update, Status>>>>,
    asked: Vec<String>,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// A stream that says one thing and stays open.
fn held<T: Send + 'static>(word: T) -> Stream<T> {
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(Ok(word)).ok().unwrap();
    // The sender lives as long as the server's runtime does.
    std::mem::forget(sender);
    ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl Destination for Said {
    type GetStream = Stream<Update>;
    type GetProfileStream = Stream<DestinationProfile>;

    async fn get(&self, request: tonic::Request<GetDestination>) -> Result<tonic::Response<Self::GetStream>, Status> {
        let path = request.into_inner().path;
        let (sender, receiver) = mpsc::channel(100);
        let mut words = self.0.lock().unwrap();
        words.asked.push(path.clone());
        for update in words.updates.get(&path).into_iter().flatten() {
            sender.try_send(Ok(update.clone())).unwrap();
        }
        words.listeners.entry(path).or_default().push(sender);
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_profile(
        &self,
        request: tonic::Request<GetDestination>,
    ) -> Result<tonic::Response<Self::GetProfileStream>, Status> {
        let profile = self.0.lock().unwrap().profiles.get(&request.into_inner().path).cloned();
        Ok(tonic::Response::new(held(profile.unwrap_or_default())))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Said {
    type WatchStream = Stream<OutboundPolicy>;

    async fn get(&self, _: tonic::Request<TrafficSpec>) -> Result<tonic::Response<OutboundPolicy>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch(&self, request: tonic::Request<TrafficSpec>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let Some(traffic_spec::Target::Addr(address)) = request.into_inner().target else {
            return Err(Status::invalid_argument("no address"));
        };
        let address = SocketAddr::try_from(address).unwrap();
        let policy = self.0.lock().unwrap().policies.get(&address).cloned();
        policy.map(|policy| tonic::Response::new(held(policy))).ok_or_else(|| Status::not_found("no such service"))
    }
}

#[expect(clippy::disallowed_methods, reason = "servers of tests are not drained")]
impl Control {
    pub(crate) fn start() -> Self {
        let said = Said::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        // A runtime of its own dies with everything in it, as a process would.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (destination, policies) = (DestinationServer::new(said.clone()), OutboundPoliciesServer::new(said.clone()));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (destination, policies) = (destination.clone(), policies.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (mut destination, mut policies) = (destination.clone(), policies.clone());
                    let request = request.map(tonic::body::Body::new);
                    async move {
                        if request.uri().path().starts_with("/io.linkerd.proxy.destination.") {
                            destination.call(request).await
                        } else {
                            policies.call(request).await
                        }
                    }
                });
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { said, address, runtime: Some(runtime) }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn policy(&self, target: &str, policy: OutboundPolicy) {
        self.said.0.lock().unwrap().policies.insert(target.parse().unwrap(), policy);
    }

    pub(crate) fn profile(&self, target: &str, profile: DestinationProfile) {
        self.said.0.lock().unwrap().profiles.insert(target.into(), profile);
    }

    pub(crate) fn add(&self, authority: &str, addrs: Vec<WeightedAddr>) {
        let metric_labels = HashMap::from([("service".to_owned(), "web".to_owned())]);
        self.say(authority, update::Update::Add(WeightedAddrSet { addrs, metric_labels }));
    }

    pub(crate) fn remove(&self, authority: &str, address: SocketAddr) {
        self.say(authority, update::Update::Remove(AddrSet { addrs: vec![address.into()] }));
    }

    pub(crate) fn no_endpoints(&self, authority: &str) {
        self.say(authority, update::Update::NoEndpoints(NoEndpoints { exists: true }));
    }

    fn say(&self, authority: &str, update: update::Update) {
        let update = Update { update: Some(update) };
        let mut words = self.said.0.lock().unwrap();
        words.updates.entry(authority.into()).or_default().push(update.clone());
        for listener in words.listeners.get(authority).into_iter().flatten() {
            // A listener that has gone away is none of the test's business.
            let _ = listener.try_send(Ok(update.clone()));
        }
    }

    /// The authorities whose endpoints have been asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.said.0.lock().unwrap().asked.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.kill();
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
        let (drain, metrics, connections) = (Drain::new(), Metrics::new(), Table::default());
        let tls = pki.tls(CLIENT);
        let address: ControlAddr = control.address.to_string().parse().unwrap();
        let channel = Channel::new(address, None, &tls, drain.clone()).unwrap();
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
            failfast: FAILFAST,
            limits: Limits::default(),
            cluster_patience: Duration::from_secs(2),
        };
        let discovery = Discovery::new(channel.clone(), channel, settings, connector);
        let options = outbound::Options {
            detect_timeout: Duration::from_secs(10),
            requests_max: 100,
            keep_alive: (Duration::ZERO, Duration::ZERO),
            tells_why: true,
        };
        let outbound = Arc::new(Outbound::new(discovery, metrics.clone(), drain.clone(), options));
        Self { outbound, connections, metrics, drain }
    }

    /// A connection of the app's to `target`, as redirection would bring it to the proxy.
    pub(crate) async fn connect(&self, target: &str) -> TcpStream {
        let target = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = self.outbound.clone().serve(listener, move |_| Ok(target));
        self.drain.spawn(serving);
        TcpStream::connect(address).await.unwrap()
    }

    /// One HTTP/1.1 request on a connection of its own; the whole response as text.
    pub(crate) async fn get(&self, target: &str, headers: &str) -> String {
        let mut stream = self.connect(target).await;
        let request = format!("GET /hello HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
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
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, tell) = (tls.clone(), tell.clone());
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
                        hawser::mesh::Protocol::Opaque => !matches!(app, App::Grpc),
                    };
                    let _ = tell.send(Seen::Header(header, client));
                    serve(stream, app, is_http1, tell).await;
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
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, app, true, tell.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// What discovery says of it: its app listens on `port`, its proxy takes headers.
    pub(crate) fn endpoint(&self, port: u16, identity: &str) -> WeightedAddr {
        let name = || tls_identity::DnsLikeIdentity { name: identity.to_owned() };
        WeightedAddr {
            addr: Some(SocketAddr::new(self.address.ip(), port).into()),
            weight: 10_000,
            metric_labels: HashMap::from([("pod".to_owned(), format!("web-{port}"))]),
            tls_identity: Some(TlsIdentity {
                strategy: Some(tls_identity::Strategy::DnsLikeIdentity(name())),
                server_name: Some(name()),
            }),
            protocol_hint: Some(ProtocolHint {
                protocol: Some(protocol_hint::Protocol::H2(protocol_hint::H2 {})),
                opaque_transport: Some(protocol_hint::OpaqueTransport { inbound_port: self.address.port().into() }),
            }),
            ..WeightedAddr::default()
        }
    }

    /// What discovery says of a pod that is not meshed.
    pub(crate) fn unmeshed_endpoint(&self) -> WeightedAddr {
        WeightedAddr { addr: Some(self.address.into()), weight: 10_000, ..WeightedAddr::default() }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(20), self.seen.recv()).await.expect("nothing came").unwrap()
    }
}

async fn serve(
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
        App::Grpc => "",
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(Seen::Request {
                version: request.version(),
                headers: request.headers().clone(),
                uri: request.uri().clone(),
            });
            Ok::<_, hyper::Error>(if request.headers().contains_key("upgrade") {
                upgrade(&mut request)
            } else if name.is_empty() {
                call(request)
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

/// A gRPC response: what was sent comes back, with a status in the trailers.
fn call(request: Request<Incoming>) -> Response<Body> {
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("7"))]);
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
    let client = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(client.await.unwrap()));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let empty = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(empty).unwrap()
}

fn metadata() -> Option<hawser::wire::meta::Metadata> {
    Some(hawser::wire::meta::Metadata { kind: Some(hawser::wire::meta::metadata::Kind::Default("test".into())) })
}

pub(crate) fn balancer(authority: &str) -> policy::Backend {
    let load = backend::balance_p2c::PeakEwma {
        default_rtt: Some(prost_types::Duration { seconds: 0, nanos: 30_000_000 }),
        decay: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
    };
    let dst = backend::endpoint_discovery::DestinationGet { path: authority.into() };
    policy::Backend {
        metadata: metadata(),
        kind: Some(backend::Kind::Balancer(backend::BalanceP2c {
            discovery: Some(backend::EndpointDiscovery { kind: Some(backend::endpoint_discovery::Kind::Dst(dst)) }),
            load: Some(backend::balance_p2c::Load::PeakEwma(load)),
        })),
        queue: None,
    }
}

/// The policy of a service as the control plane sends it by default.
pub(crate) fn detect(authority: &str) -> OutboundPolicy {
    let http = || {
        use policy::http_route::{Distribution, RouteBackend, Rule, distribution};
        let backend = RouteBackend { backend: Some(balancer(authority)), ..RouteBackend::default() };
        let first = distribution::FirstAvailable { backends: vec![backend] };
        let backends = Some(Distribution { kind: Some(distribution::Kind::FirstAvailable(first)) });
        vec![policy::HttpRoute {
            metadata: metadata(),
            rules: vec![Rule { backends, ..Rule::default() }],
            ..policy::HttpRoute::default()
        }]
    };
    let detect = proxy_protocol::Detect {
        timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        http1: Some(proxy_protocol::Http1 { routes: http(), failure_accrual: None }),
        http2: Some(proxy_protocol::Http2 { routes: http(), failure_accrual: None }),
        opaque: Some(opaque_routes(authority, Vec::new())),
    };
    of_kind(proxy_protocol::Kind::Detect(detect))
}

pub(crate) fn opaque(authority: &str, filters: Vec<policy::opaque_route::Filter>) -> OutboundPolicy {
    of_kind(proxy_protocol::Kind::Opaque(opaque_routes(authority, filters)))
}

fn opaque_routes(authority: &str, filters: Vec<policy::opaque_route::Filter>) -> proxy_protocol::Opaque {
    use policy::opaque_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend { backend: Some(balancer(authority)), filters: Vec::new() };
    let first = distribution::FirstAvailable { backends: vec![backend] };
    let backends = Some(Distribution { kind: Some(distribution::Kind::FirstAvailable(first)) });
    let route = policy::OpaqueRoute { metadata: metadata(), rules: vec![Rule { backends, filters }] };
    proxy_protocol::Opaque { routes: vec![route] }
}

pub(crate) fn of_kind(kind: proxy_protocol::Kind) -> OutboundPolicy {
    OutboundPolicy { protocol: Some(policy::ProxyProtocol { kind: Some(kind) }), metadata: metadata() }
}

/// The labels of a connection, for comparing.
pub(crate) fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
