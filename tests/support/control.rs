//! A control plane that says what a test wants: where services are, and how they are reached. Real gRPC, on a real socket.
//!
//! Start at [`Control::start`]; what it says is made by [`detect`] and [`opaque`].

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use hawser::wire::destination::destination_server::{Destination, DestinationServer};
use hawser::wire::destination::{
    AddrSet, DestinationProfile, GetDestination, NoEndpoints, PathMatch, ProtocolHint, RequestMatch, RetryBudget,
    Route, TlsIdentity, Update, WeightedAddr, WeightedAddrSet, WeightedDst, protocol_hint, request_match, tls_identity,
    update,
};
use hawser::wire::outbound::outbound_policies_server::{OutboundPolicies, OutboundPoliciesServer};
use hawser::wire::outbound::{self as policy, OutboundPolicy, TrafficSpec, backend, proxy_protocol, traffic_spec};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tower::Service as _;

/// What the control plane says. Killing it breaks all its streams.
pub(crate) struct Control {
    said: Said,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Words>>);

#[derive(Default)]
struct Words {
    profiles: HashMap<String, DestinationProfile>,
    profiled: HashMap<String, Vec<mpsc::Sender<Result<DestinationProfile, Status>>>>,
    /// By address, or by authority.
    policies: HashMap<String, OutboundPolicy>,
    /// Of which nothing is said at all.
    silent: HashSet<String>,
    updates: HashMap<String, Vec<Update>>,
    listeners: HashMap<String, Vec<mpsc::Sender<Result<Update, Status>>>>,
    asked: Vec<String>,
    policies_asked: Vec<String>,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// A stream that says nothing and stays open.
fn mute<T: Send + 'static>() -> Stream<T> {
    let (sender, receiver) = mpsc::channel(1);
    std::mem::forget(sender);
    ReceiverStream::new(receiver)
}

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
        let path = request.into_inner().path;
        let (sender, receiver) = mpsc::channel(100);
        let mut words = self.0.lock().unwrap();
        if !words.silent.contains(&path) {
            let profile = words.profiles.get(&path).cloned().unwrap_or_default();
            sender.try_send(Ok(profile)).unwrap();
        }
        words.profiled.entry(path).or_default().push(sender);
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Said {
    type WatchStream = Stream<OutboundPolicy>;

    async fn get(&self, _: tonic::Request<TrafficSpec>) -> Result<tonic::Response<OutboundPolicy>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch(&self, request: tonic::Request<TrafficSpec>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let target = match request.into_inner().target {
            Some(traffic_spec::Target::Addr(address)) => SocketAddr::try_from(address).unwrap().to_string(),
            Some(traffic_spec::Target::Authority(authority)) => authority,
            None => return Err(Status::invalid_argument("no target")),
        };
        let mut words = self.0.lock().unwrap();
        words.policies_asked.push(target.clone());
        if words.silent.contains(&target) {
            return Ok(tonic::Response::new(mute()));
        }
        let policy = words.policies.get(&target).cloned();
        policy.map(|policy| tonic::Response::new(held(policy))).ok_or_else(|| Status::not_found("no such service"))
    }
}

#[expect(clippy::disallowed_methods, reason = "servers of tests are not drained")]
impl Control {
    pub(crate) fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn start_on(listener: TcpListener) -> Self {
        let said = Said::default();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        // A runtime of its own dies with everything in it, as a process would.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (destination, policies) = (DestinationServer::new(said.clone()), OutboundPoliciesServer::new(said.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
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
        self.said.0.lock().unwrap().policies.insert(target.into(), policy);
    }

    /// Says nothing of this target from now on, though it listens.
    pub(crate) fn silence(&self, target: &str) {
        self.said.0.lock().unwrap().silent.insert(target.into());
    }

    pub(crate) fn profile(&self, target: &str, profile: DestinationProfile) {
        let mut words = self.said.0.lock().unwrap();
        for listener in words.profiled.get(target).into_iter().flatten() {
            // A listener that has gone away is none of the test's business.
            let _ = listener.try_send(Ok(profile.clone()));
        }
        words.profiles.insert(target.into(), profile);
    }

    /// The targets and names whose profiles have been asked for.
    pub(crate) fn profiled(&self) -> Vec<String> {
        self.said.0.lock().unwrap().profiled.keys().cloned().collect()
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

    /// The targets whose policies have been asked for.
    pub(crate) fn policies_asked(&self) -> Vec<String> {
        self.said.0.lock().unwrap().policies_asked.clone()
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

/// An app at `address`, whose pod's proxy takes connections on its inbound port and proves to be `identity`.
pub(crate) fn meshed(address: SocketAddr, inbound_port: u16, identity: &str) -> WeightedAddr {
    let name = || tls_identity::DnsLikeIdentity { name: identity.to_owned() };
    WeightedAddr {
        addr: Some(address.into()),
        weight: 10_000,
        tls_identity: Some(TlsIdentity {
            strategy: Some(tls_identity::Strategy::DnsLikeIdentity(name())),
            server_name: Some(name()),
        }),
        protocol_hint: Some(ProtocolHint {
            protocol: Some(protocol_hint::Protocol::H2(protocol_hint::H2 {})),
            opaque_transport: Some(protocol_hint::OpaqueTransport { inbound_port: inbound_port.into() }),
        }),
        ..WeightedAddr::default()
    }
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

/// The same, where the rule for HTTP is `change`d.
pub(crate) fn detect_with(authority: &str, change: impl Fn(&mut policy::http_route::Rule)) -> OutboundPolicy {
    changed(authority, |http| http.iter_mut().flat_map(|route| &mut route.rules).for_each(&change), None)
}

/// The same, where endpoints that fail are given a rest.
pub(crate) fn detect_accruing(authority: &str, accrual: policy::FailureAccrual) -> OutboundPolicy {
    changed(authority, |_| (), Some(accrual))
}

fn changed(
    authority: &str,
    change: impl Fn(&mut Vec<policy::HttpRoute>),
    accrual: Option<policy::FailureAccrual>,
) -> OutboundPolicy {
    let mut policy = detect(authority);
    let Some(proxy_protocol::Kind::Detect(detect)) = policy.protocol.as_mut().and_then(|said| said.kind.as_mut())
    else {
        unreachable!("it is to be detected")
    };
    if let Some(http1) = &mut detect.http1 {
        change(&mut http1.routes);
        http1.failure_accrual = accrual;
    }
    if let Some(http2) = &mut detect.http2 {
        change(&mut http2.routes);
        http2.failure_accrual = accrual;
    }
    policy
}

pub(crate) fn opaque(authority: &str, filters: Vec<policy::opaque_route::Filter>) -> OutboundPolicy {
    of_kind(proxy_protocol::Kind::Opaque(opaque_routes(authority, filters)))
}

/// The policy of a service whose routes are of gRPC.
pub(crate) fn grpc(authority: &str) -> OutboundPolicy {
    grpc_retrying(authority, None)
}

/// The same, where calls are asked again.
pub(crate) fn grpc_retrying(authority: &str, retry: Option<policy::grpc_route::Retry>) -> OutboundPolicy {
    use policy::grpc_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend { backend: Some(balancer(authority)), ..RouteBackend::default() };
    let first = distribution::FirstAvailable { backends: vec![backend] };
    let backends = Some(Distribution { kind: Some(distribution::Kind::FirstAvailable(first)) });
    let rules = vec![Rule { backends, retry, ..Rule::default() }];
    let routes = vec![policy::GrpcRoute { metadata: metadata(), rules, ..policy::GrpcRoute::default() }];
    of_kind(proxy_protocol::Kind::Grpc(proxy_protocol::Grpc { routes, failure_accrual: None }))
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

/// The profile of the service behind [`detect`]'s usual authority, with these routes.
pub(crate) fn profile(routes: Vec<Route>) -> DestinationProfile {
    let fully_qualified_name = "web.shop.svc.cluster.local".into();
    DestinationProfile { fully_qualified_name, routes, ..DestinationProfile::default() }
}

/// The same, split over these.
pub(crate) fn split(overrides: &[(&str, u32)]) -> DestinationProfile {
    let to = |(authority, weight): &(&str, u32)| WeightedDst {
        authority: (*authority).into(),
        weight: *weight,
        ..WeightedDst::default()
    };
    DestinationProfile { dst_overrides: overrides.iter().map(to).collect(), ..profile(Vec::new()) }
}

/// A route of a profile, for the paths that are like this.
pub(crate) fn route(name: &str, pattern: &str) -> Route {
    let path = request_match::Match::Path(PathMatch { regex: pattern.into() });
    Route {
        condition: Some(RequestMatch { r#match: Some(path) }),
        metrics_labels: HashMap::from([("route".to_owned(), name.to_owned())]),
        ..Route::default()
    }
}

/// So many retries in a minute, whatever is asked.
pub(crate) fn budget(per_second: u32) -> Option<RetryBudget> {
    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    Some(RetryBudget { retry_ratio: 0.0, min_retries_per_second: per_second, ttl })
}
