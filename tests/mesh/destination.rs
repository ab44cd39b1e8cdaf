//! Discovery and policy as proxies ask for them: over gRPC, of an index that the test fills as the watches would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser::control::destination::serve;
use hawser::control::index::facts::{Key, Namespace, Pod, Service, Slice};
use hawser::control::index::{Index, Settings};
use hawser::mesh::policy::{Client, ClientTls, DefaultPolicy, Denied, ServerPolicy, ServerProtocol};
use hawser::net::drain::Drain;
use hawser::proxy::policy::{Policies, Settings as PolicySettings};
use hawser::wire::destination::destination_client::DestinationClient;
use hawser::wire::destination::{
    DestinationProfile, GetDestination, NoEndpoints, Update, WeightedAddr, WeightedAddrSet, protocol_hint, update,
};
use hawser::wire::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use hawser::wire::inbound::{PortSpec, Server, authn, proxy_protocol as inbound_protocol};
use hawser::wire::meta;
use hawser::wire::outbound::outbound_policies_client::OutboundPoliciesClient;
use hawser::wire::outbound::{
    OutboundPolicy, TrafficSpec, backend, failure_accrual, http_route, opaque_route, proxy_protocol, traffic_spec,
};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const WORKLOAD: &str = "{\"ns\":\"shop\", \"pod\":\"web-1\"}\n";
const CONTEXT: &str = "{\"ns\":\"shop\", \"nodeName\":\"node-1\", \"pod\":\"client\"}\n";

/// A destination role whose cluster is what the test says.
struct World {
    index: Arc<Index>,
    drain: Drain,
    destination: Channel,
    policy: Channel,
}

impl World {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            control_namespace: "hawser".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            default_policy: DefaultPolicy::AllUnauthenticated,
            cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
            opaque_ports: "25,3306".parse().unwrap(),
            probe_networks: vec!["0.0.0.0/0".parse().unwrap()],
            h2_upgrade: true,
        };
        change(&mut settings);
        let (index, drain) = (Arc::new(Index::new(settings)), Drain::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (destination, policy) = serve(&index, any, any, &drain).await.unwrap();
        let channel = |address| Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { index, drain, destination: channel(destination), policy: channel(policy) }
    }

    /// A service `web` in `shop` with one meshed pod behind it.
    async fn with_web() -> Self {
        let world = Self::start().await;
        world.web();
        world
    }

    fn web(&self) {
        self.service(service());
        self.pod(pod("web-1", "10.1.0.1"));
        self.slice(&[("web-1", "10.1.0.1")]);
    }

    fn pod(&self, pod: Value) {
        self.index.apply_pod(Pod::of(&serde_json::from_value(pod).unwrap()).unwrap());
    }

    fn service(&self, service: Value) {
        self.index.apply_service(Service::of(&serde_json::from_value(service).unwrap()).unwrap());
    }

    fn slice(&self, pods: &[(&str, &str)]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(pod, ip)| {
                json!({"addresses": [ip], "nodeName": "node-1", "zone": "a", "targetRef": {"kind": "Pod", "name": pod}})
            })
            .collect();
        let slice = json!({
            "metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "sql", "port": 3306}],
            "endpoints": endpoints,
        });
        self.index.apply_slice(Slice::of(&serde_json::from_value(slice).unwrap()).unwrap());
    }

    async fn get(&self, path: &str) -> Result<Streaming<Update>, Status> {
        let request = GetDestination { scheme: String::new(), path: path.into(), context_token: CONTEXT.into() };
        Ok(DestinationClient::new(self.destination.clone()).get(request).await?.into_inner())
    }

    async fn profile(&self, path: &str) -> Result<Streaming<DestinationProfile>, Status> {
        let request = GetDestination { scheme: String::new(), path: path.into(), context_token: CONTEXT.into() };
        Ok(DestinationClient::new(self.destination.clone()).get_profile(request).await?.into_inner())
    }

    async fn watch_port(&self, workload: &str, port: u32) -> Result<Streaming<Server>, Status> {
        let request = PortSpec { workload: workload.into(), port };
        Ok(InboundServerPoliciesClient::new(self.policy.clone()).watch_port(request).await?.into_inner())
    }

    async fn server(&self, port: u32) -> Server {
        next(&mut self.watch_port(WORKLOAD, port).await.unwrap()).await
    }

    async fn watch(&self, target: traffic_spec::Target) -> Result<Streaming<OutboundPolicy>, Status> {
        let request = TrafficSpec { source_workload: WORKLOAD.into(), target: Some(target) };
        Ok(OutboundPoliciesClient::new(self.policy.clone()).watch(request).await?.into_inner())
    }

    async fn outbound(&self, address: &str) -> Result<OutboundPolicy, Status> {
        Ok(next(&mut self.watch(to(address)).await?).await)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain.start();
    }
}

fn to(address: &str) -> traffic_spec::Target {
    traffic_spec::Target::Addr(address.parse::<SocketAddr>().unwrap().into())
}

fn service() -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "web", "annotations": {}},
        "spec": {
            "clusterIP": "10.96.0.10",
            "ports": [{"name": "http", "port": 80}, {"name": "sql", "port": 3306}, {"name": "h2", "port": 81, "appProtocol": "kubernetes.io/h2c"},
                {"name": "h1", "port": 82, "appProtocol": "http"}, {"name": "other", "port": 83, "appProtocol": "example.com/mine"}],
        },
    })
}

/// A meshed pod.
fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "labels": {"linkerd.io/control-plane-ns": "hawser", "pod-template-hash": "5f"},
            "annotations": {},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5f", "uid": "1", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "web",
            "nodeName": "node-1",
            "containers": [
                {"name": "app", "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}},
                {"name": "linkerd-proxy", "env": [
                    {"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "0.0.0.0:4143"},
                    {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "0.0.0.0:4191"},
                    {"name": "LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "value": "0.0.0.0:4190"},
                ]},
            ],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    })
}

fn annotated(mut object: Value, setting: &str, value: &str) -> Value {
    object["metadata"]["annotations"][format!("config.linkerd.io/{setting}")] = json!(value);
    object
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await.expect("a message in time");
    message.unwrap().expect("another message")
}

async fn added(stream: &mut Streaming<Update>) -> WeightedAddrSet {
    match next(stream).await.update {
        Some(update::Update::Add(set)) => set,
        other => panic!("not an add: {other:?}"),
    }
}

async fn the_one(stream: &mut Streaming<Update>) -> WeightedAddr {
    let mut set = added(stream).await;
    assert_eq!(set.addrs.len(), 1);
    set.addrs.remove(0)
}

fn refused<T>(answer: Result<T, Status>) -> Code {
    answer.err().expect("a refusal").code()
}

fn hint(endpoint: &WeightedAddr) -> &protocol_hint::Protocol {
    endpoint.protocol_hint.as_ref().unwrap().protocol.as_ref().unwrap()
}

const WEB: &str = "web.shop.svc.cluster.local";
const WEB_IDENTITY: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";

#[tokio::test]
async fn a_meshed_pod_is_told_with_identity_hints_and_labels() {
    let world = World::with_web().await;
    let set = added(&mut world.get(&format!("{WEB}:80")).await.unwrap()).await;
    assert_eq!((set.metric_labels["service"].as_str(), set.metric_labels["namespace"].as_str()), ("web", "shop"));
    let endpoint = &set.addrs[0];
    assert_eq!(SocketAddr::try_from(endpoint.addr.unwrap()).unwrap(), "10.1.0.1:8080".parse().unwrap());
    assert_eq!(endpoint.weight, 10_000);
    let labels = &endpoint.metric_labels;
    for (label, value) in [
        ("pod", "web-1"),
        ("deployment", "web"),
        ("serviceaccount", "web"),
        ("control_plane_ns", "hawser"),
        ("pod_template_hash", "5f"),
        ("zone", "a"),
        ("zone_locality", "unknown"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    let identity = endpoint.tls_identity.as_ref().unwrap();
    assert_eq!(identity.server_name.as_ref().unwrap().name, WEB_IDENTITY);
    let hints = endpoint.protocol_hint.as_ref().unwrap();
    assert_eq!(hints.opaque_transport.unwrap().inbound_port, 4143);
    assert!(matches!(hints.protocol, Some(protocol_hint::Protocol::H2(_))));
    assert!(endpoint.http2.unwrap().keep_alive.unwrap().while_idle);
}

#[tokio::test]
async fn an_opaque_port_is_hinted_as_such_and_still_has_its_transport_header() {
    let world = World::with_web().await;
    let endpoint = the_one(&mut world.get(&format!("{WEB}:3306")).await.unwrap()).await;
    assert!(matches!(hint(&endpoint), protocol_hint::Protocol::Opaque(_)));
    assert!(endpoint.protocol_hint.unwrap().opaque_transport.is_some());
    world.pod(annotated(pod("web-1", "10.1.0.1"), "opaque-ports", "8080"));
    let endpoint = the_one(&mut world.get(&format!("{WEB}:3306")).await.unwrap()).await;
    assert!(matches!(hint(&endpoint), protocol_hint::Protocol::H2(_)), "the annotation overrides the default list");
}

#[tokio::test]
async fn no_identity_is_told_of_a_pod_without_mesh_or_of_another_mesh_or_at_a_skipped_port() {
    let world = World::with_web().await;
    let mut stream = world.get(&format!("{WEB}:80")).await.unwrap();
    assert!(the_one(&mut stream).await.tls_identity.is_some());

    let mut other = pod("web-1", "10.1.0.1");
    other["metadata"]["labels"]["linkerd.io/control-plane-ns"] = json!("linkerd");
    world.pod(other);
    let endpoint = the_one(&mut stream).await;
    assert!(endpoint.tls_identity.is_none() && endpoint.protocol_hint.is_some());

    world.pod(annotated(pod("web-1", "10.1.0.1"), "skip-inbound-ports", "8080"));
    let endpoint = the_one(&mut stream).await;
    assert!(endpoint.tls_identity.is_none() && endpoint.protocol_hint.is_none());

    let mut plain = pod("web-1", "10.1.0.1");
    plain["metadata"]["labels"] = json!({});
    world.pod(plain);
    let endpoint = the_one(&mut stream).await;
    assert!(endpoint.tls_identity.is_none() && !endpoint.metric_labels.contains_key("control_plane_ns"));
}

#[tokio::test]
async fn an_endpoint_is_not_told_before_its_pod_is_known_or_while_another_has_its_name() {
    let world = World::start().await;
    world.service(service());
    world.slice(&[("web-1", "10.1.0.1")]);
    let mut stream = world.get(&format!("{WEB}:80")).await.unwrap();
    assert_eq!(next(&mut stream).await.update, Some(update::Update::NoEndpoints(NoEndpoints { exists: true })));
    world.pod(pod("web-1", "10.1.0.99"));
    world.pod(pod("web-1", "10.1.0.1"));
    assert!(the_one(&mut stream).await.tls_identity.is_some());
}

#[tokio::test]
async fn a_meshed_pod_that_does_not_say_where_its_proxy_listens_is_left_out() {
    let world = World::with_web().await;
    let mut broken = pod("web-2", "10.1.0.2");
    broken["spec"]["containers"][1]["env"] = json!([]);
    world.pod(broken);
    world.slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]);
    the_one(&mut world.get(&format!("{WEB}:80")).await.unwrap()).await;
}

#[tokio::test]
async fn endpoints_are_told_as_they_come_and_go() {
    let world = World::with_web().await;
    let mut stream = world.get(&format!("{WEB}:80")).await.unwrap();
    the_one(&mut stream).await;
    world.pod(pod("web-2", "10.1.0.2"));
    world.slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]);
    assert_eq!(the_one(&mut stream).await.metric_labels["pod"], "web-2");
    world.slice(&[("web-2", "10.1.0.2")]);
    let Some(update::Update::Remove(gone)) = next(&mut stream).await.update else { panic!("not a removal") };
    assert_eq!(SocketAddr::try_from(gone.addrs[0]).unwrap(), "10.1.0.1:8080".parse().unwrap());
    world.index.remove_slice(&Key::new("shop", "web-x"));
    assert_eq!(next(&mut stream).await.update, Some(update::Update::NoEndpoints(NoEndpoints { exists: true })));
    world.index.remove_service(&Key::new("shop", "web"));
    assert_eq!(next(&mut stream).await.update, Some(update::Update::NoEndpoints(NoEndpoints { exists: false })));
    world.web();
    the_one(&mut stream).await;
}

#[tokio::test]
async fn get_refuses_what_it_cannot_resolve() {
    let world = World::with_web().await;
    let mut alias = service();
    alias["metadata"]["name"] = json!("alias");
    alias["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    world.service(alias);
    assert_eq!(refused(world.get("nothing.shop.svc.cluster.local:80").await), Code::NotFound);
    assert_eq!(refused(world.get("10.96.0.10:80").await), Code::InvalidArgument);
    assert_eq!(refused(world.get("example.com:80").await), Code::InvalidArgument);
    assert_eq!(refused(world.get("alias.shop.svc.cluster.local:80").await), Code::InvalidArgument);
}

#[tokio::test]
async fn nothing_is_answered_before_the_cluster_has_been_listed() {
    let world = World::with_web().await;
    world.index.expect_list();
    assert_eq!(refused(world.get(&format!("{WEB}:80")).await), Code::Unavailable);
    assert_eq!(refused(world.profile("10.96.0.10:80").await), Code::Unavailable);
    assert_eq!(refused(world.watch(to("10.96.0.10:80")).await), Code::Unavailable);
    assert_eq!(refused(world.watch_port(WORKLOAD, 8080).await), Code::Unavailable);
    world.index.listed();
    assert!(world.get(&format!("{WEB}:80")).await.is_ok());
}

#[tokio::test]
async fn the_profile_of_a_cluster_ip_names_the_service() {
    let world = World::with_web().await;
    let profile = next(&mut world.profile("10.96.0.10:80").await.unwrap()).await;
    assert_eq!(profile.fully_qualified_name, WEB);
    assert!(!profile.opaque_protocol && profile.endpoint.is_none());
    let opaque = next(&mut world.profile("10.96.0.10:3306").await.unwrap()).await;
    assert!(opaque.opaque_protocol);
    let undefined = next(&mut world.profile("10.96.0.10:9").await.unwrap()).await;
    assert_eq!(undefined, DestinationProfile::default());
    let by_name = next(&mut world.profile(&format!("{WEB}:80")).await.unwrap()).await;
    assert_eq!(by_name, profile);
    assert_eq!(refused(world.profile("nothing.shop.svc.cluster.local:80").await), Code::NotFound);
}

#[tokio::test]
async fn the_profile_of_a_pod_is_its_endpoint_until_it_goes() {
    let world = World::with_web().await;
    let mut stream = world.profile("10.1.0.1:8080").await.unwrap();
    let profile = next(&mut stream).await;
    let endpoint = profile.endpoint.unwrap();
    assert!(profile.fully_qualified_name.is_empty());
    assert_eq!(endpoint.metric_labels["namespace"], "shop");
    assert_eq!(endpoint.tls_identity.unwrap().server_name.unwrap().name, WEB_IDENTITY);
    world.index.remove_pod(&Key::new("shop", "web-1"));
    assert!(next(&mut stream).await.endpoint.unwrap().tls_identity.is_none());
}

#[tokio::test]
async fn the_proxys_own_ports_have_no_transport_header() {
    let world = World::with_web().await;
    let profile = next(&mut world.profile("10.1.0.1:4191").await.unwrap()).await;
    let endpoint = profile.endpoint.unwrap();
    assert!(endpoint.tls_identity.is_some());
    assert!(endpoint.protocol_hint.unwrap().opaque_transport.is_none());
}

#[tokio::test]
async fn an_unknown_address_has_a_profile_too() {
    let world = World::start().await;
    let profile = next(&mut world.profile("192.0.2.1:25").await.unwrap()).await;
    assert!(profile.opaque_protocol && profile.endpoint.unwrap().tls_identity.is_none());
}

#[tokio::test]
async fn a_profile_changes_with_its_service() {
    let world = World::with_web().await;
    let mut stream = world.profile("10.96.0.10:80").await.unwrap();
    assert!(!next(&mut stream).await.opaque_protocol);
    world.service(annotated(service(), "opaque-ports", "80"));
    assert!(next(&mut stream).await.opaque_protocol);
}

#[tokio::test]
async fn opaque_ports_are_inherited_from_the_namespace() {
    let world = World::with_web().await;
    let mut stream = world.get(&format!("{WEB}:80")).await.unwrap();
    assert!(matches!(hint(&the_one(&mut stream).await), protocol_hint::Protocol::H2(_)));
    let namespace = Namespace { opaque_ports: Some("80,8080".parse().unwrap()), ..Namespace::default() };
    world.index.apply_namespace("shop", namespace);
    assert!(matches!(hint(&the_one(&mut stream).await), protocol_hint::Protocol::Opaque(_)));
    assert!(next(&mut world.profile("10.96.0.10:80").await.unwrap()).await.opaque_protocol);
}

fn balanced_path(backend: &hawser::wire::outbound::Backend) -> &str {
    assert!(backend.queue.is_some() && backend.metadata.is_some());
    match &backend.kind {
        Some(backend::Kind::Balancer(balancer)) => {
            assert!(balancer.load.is_some());
            let Some(backend::endpoint_discovery::Kind::Dst(get)) = &balancer.discovery.as_ref().unwrap().kind else {
                panic!("no discovery")
            };
            &get.path
        }
        other => panic!("not balanced: {other:?}"),
    }
}

fn opaque_backend(opaque: &proxy_protocol::Opaque) -> &hawser::wire::outbound::Backend {
    let rule = &opaque.routes[0].rules[0];
    match rule.backends.as_ref().unwrap().kind.as_ref().unwrap() {
        opaque_route::distribution::Kind::FirstAvailable(first) => first.backends[0].backend.as_ref().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_policy_of_a_service_detects_with_all_four_members_and_balances_by_name() {
    let world = World::with_web().await;
    let policy = world.outbound("10.96.0.10:80").await.unwrap();
    let Some(meta::metadata::Kind::Resource(resource)) = policy.metadata.unwrap().kind else { panic!("no resource") };
    assert_eq!((resource.group.as_str(), resource.kind.as_str()), ("core", "Service"));
    assert_eq!((resource.name.as_str(), resource.namespace.as_str(), resource.port), ("web", "shop", 80));
    let Some(proxy_protocol::Kind::Detect(detect)) = policy.protocol.unwrap().kind else { panic!("not detect") };
    assert!(detect.timeout.is_some() && detect.http1.is_some() && detect.http2.is_some());
    // An address instead of a name there ends a stock proxy's task.
    assert_eq!(balanced_path(opaque_backend(&detect.opaque.unwrap())), format!("{WEB}:80"));
}

#[tokio::test]
async fn what_is_annotated_of_retries_rests_and_penalties_is_told_to_clients() {
    let world = World::with_web().await;
    let told = async || {
        let policy = world.outbound("10.96.0.10:80").await.unwrap();
        let Some(proxy_protocol::Kind::Detect(detect)) = policy.protocol.unwrap().kind else { panic!("not detect") };
        (detect.http1.unwrap(), detect.http2.unwrap())
    };
    let (http1, http2) = told().await;
    assert_eq!((http1.failure_accrual, http2.failure_accrual), (None, None));
    assert!(http2.routes[0].rules[0].filters.is_empty() && http2.routes[0].rules[0].retry.is_none());

    let mut service = service();
    service["metadata"]["annotations"] = json!({
        "retry.linkerd.io/grpc": "unavailable, cancelled",
        "retry.linkerd.io/limit": "3",
        "balancer.linkerd.io/failure-accrual": "unified",
        "balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold": "0.9",
        "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after": "true",
        "balancer.alpha.linkerd.io/penalize-failures": "true",
    });
    world.service(service);
    let (http1, http2) = told().await;
    let Some(failure_accrual::Kind::Unified(unified)) = http2.failure_accrual.unwrap().kind else {
        panic!("not unified")
    };
    assert_eq!((unified.success_rate_threshold, unified.max_consecutive_failures), (0.9, 7));
    assert_eq!(http1.failure_accrual, http2.failure_accrual);
    assert!(unified.backoff.unwrap().respect_retry_after_hint);
    let rule = &http2.routes[0].rules[0];
    let Some(http_route::distribution::Kind::FirstAvailable(first)) = rule.backends.clone().unwrap().kind else {
        panic!("{:?}", rule.backends)
    };
    let Some(backend::Kind::Balancer(balancer)) = first.backends[0].backend.clone().unwrap().kind else {
        panic!("{first:?}")
    };
    let Some(backend::balance_p2c::Load::PenaltyPeakEwma(load)) = balancer.load else { panic!("{balancer:?}") };
    assert_eq!((load.penalty.unwrap().seconds, load.max_retry_after.unwrap().seconds), (5, 300));
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.max_retries, retry.conditions.as_ref().unwrap().status_ranges.len()), (3, 0));
    let [http_route::Filter { kind: Some(http_route::filter::Kind::RequestHeaderModifier(edit)) }] = &rule.filters[..]
    else {
        panic!("{:?}", rule.filters)
    };
    let headers = &edit.add.as_ref().unwrap().headers;
    assert_eq!(
        (headers[0].name.as_str(), headers[0].value.as_slice()),
        ("l5d-retry-grpc", &b"cancelled,unavailable"[..])
    );
    assert!(http1.routes[0].rules[0].filters.is_empty(), "calls are HTTP/2");
}

#[tokio::test]
async fn an_app_protocol_or_an_opaque_port_spares_detection() {
    let world = World::with_web().await;
    let mut kinds = Vec::new();
    for port in [81, 82, 83, 3306] {
        let policy = world.outbound(&format!("10.96.0.10:{port}")).await.unwrap();
        kinds.push(match policy.protocol.unwrap().kind.unwrap() {
            proxy_protocol::Kind::Http2(_) => "http2",
            proxy_protocol::Kind::Http1(_) => "http1",
            proxy_protocol::Kind::Opaque(_) => "opaque",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, ["http2", "http1", "opaque", "opaque"]);
}

#[tokio::test]
async fn a_port_that_the_service_lacks_is_forbidden() {
    let world = World::with_web().await;
    let policy = world.outbound("10.96.0.10:9").await.unwrap();
    let Some(proxy_protocol::Kind::Opaque(opaque)) = policy.protocol.unwrap().kind else { panic!("not opaque") };
    assert_eq!(opaque.routes.len(), 1);
    let filter = opaque.routes[0].rules[0].filters[0].kind.as_ref().unwrap();
    assert!(matches!(filter, opaque_route::filter::Kind::Forbidden(_)));
}

fn is_forbidden(policy: &OutboundPolicy) -> bool {
    let kind = policy.protocol.as_ref().and_then(|protocol| protocol.kind.as_ref());
    let Some(proxy_protocol::Kind::Opaque(opaque)) = kind else { return false };
    let filters = opaque.routes.iter().flat_map(|route| &route.rules).flat_map(|rule| &rule.filters);
    filters.into_iter().any(|filter| matches!(filter.kind, Some(opaque_route::filter::Kind::Forbidden(_))))
}

#[tokio::test]
async fn an_address_that_only_a_service_can_have_is_closed_until_one_has_it() {
    let world = World::start().await;
    world.index.apply_service_networks("kubernetes", vec!["10.96.0.0/16".parse().unwrap()]);
    let mut stream = world.watch(to("10.96.0.10:80")).await.unwrap();
    assert!(is_forbidden(&next(&mut stream).await), "whoever gets the address next may be meshed");
    world.web();
    assert!(!is_forbidden(&next(&mut stream).await));
    world.index.remove_service(&Key::new("shop", "web"));
    assert!(is_forbidden(&next(&mut stream).await));
    // Others may have these.
    assert_eq!(refused(world.outbound("10.97.0.10:80").await), Code::NotFound);
    assert!(!is_forbidden(&world.outbound("192.0.2.1:80").await.unwrap()));
}

#[tokio::test]
async fn a_service_that_the_client_knew_of_first_is_waited_for() {
    let world = World::start().await;
    world.index.apply_service_networks("kubernetes", vec!["10.96.0.0/16".parse().unwrap()]);
    let asked = world.watch(to("10.96.0.10:80"));
    let appears = async {
        tokio::task::yield_now().await;
        world.web();
    };
    let (stream, ()) = tokio::join!(asked, appears);
    assert!(!is_forbidden(&next(&mut stream.unwrap()).await), "the first word is the right one");
}

#[tokio::test]
async fn a_pods_address_has_no_policy_and_one_outside_is_forwarded_to() {
    let world = World::with_web().await;
    assert_eq!(refused(world.outbound("10.1.0.1:8080").await), Code::NotFound);
    let policy = world.outbound("192.0.2.1:443").await.unwrap();
    assert_eq!(policy.metadata.unwrap().kind, Some(meta::metadata::Kind::Default("egress-fallback".into())));
    let Some(proxy_protocol::Kind::Detect(detect)) = policy.protocol.unwrap().kind else { panic!("not detect") };
    let Some(backend::Kind::Forward(to)) = &opaque_backend(detect.opaque.as_ref().unwrap()).kind else {
        panic!("not forwarded")
    };
    assert_eq!(SocketAddr::try_from(to.addr.unwrap()).unwrap(), "192.0.2.1:443".parse().unwrap());
}

#[tokio::test]
async fn a_policy_can_be_asked_by_name_in_short_and_ends_with_its_service() {
    let world = World::with_web().await;
    let by_name = |name: &str| traffic_spec::Target::Authority(name.into());
    assert!(world.watch(by_name("web.shop.svc:80")).await.is_ok());
    assert!(world.watch(by_name(WEB)).await.is_ok());
    assert_eq!(refused(world.watch(by_name("example.com:80")).await), Code::NotFound);
    assert_eq!(refused(world.watch(by_name("web.shop.svc:9")).await), Code::NotFound);
    let mut stream = world.watch(by_name(&format!("{WEB}:80"))).await.unwrap();
    next(&mut stream).await;
    world.index.remove_service(&Key::new("shop", "web"));
    let ended = tokio::time::timeout(DEADLINE, stream.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn outbound_refuses_a_workload_or_target_that_means_nothing() {
    let world = World::with_web().await;
    let mut client = OutboundPoliciesClient::new(world.policy.clone());
    for request in [
        TrafficSpec { source_workload: "nonsense".into(), target: Some(to("10.96.0.10:80")) },
        TrafficSpec { source_workload: WORKLOAD.into(), target: None },
        TrafficSpec { source_workload: WORKLOAD.into(), target: Some(to("10.96.0.10:0")) },
    ] {
        assert_eq!(refused(client.get(request).await), Code::InvalidArgument);
    }
}

fn kind(server: &Server) -> &inbound_protocol::Kind {
    server.protocol.as_ref().unwrap().kind.as_ref().unwrap()
}

#[tokio::test]
async fn a_port_without_annotations_has_the_default_policy_and_a_route_for_its_probes() {
    let world = World::with_web().await;
    let server = world.server(8080).await;
    let label = |name: &str| server.labels[name].as_str();
    assert_eq!((label("group"), label("kind"), label("name")), ("", "default", "all-unauthenticated"));
    let inbound_protocol::Kind::Detect(detect) = kind(&server) else { panic!("not detect") };
    assert!(detect.timeout.is_some());
    let names: Vec<_> = detect
        .http_routes
        .iter()
        .map(|route| match route.metadata.as_ref().unwrap().kind.as_ref().unwrap() {
            meta::metadata::Kind::Default(name) => name.as_str(),
            meta::metadata::Kind::Resource(_) => "resource",
        })
        .collect();
    assert_eq!(names, ["default", "probe"]);
    let inbound_protocol::Kind::Detect(detect) = kind(&world.server(9999).await).clone() else { panic!("not detect") };
    assert_eq!(detect.http_routes.len(), 1, "no probe there");
    assert!(matches!(kind(&world.server(3306).await), inbound_protocol::Kind::Opaque(_)));
}

#[tokio::test]
async fn the_pods_policy_wins_over_its_namespaces_and_that_over_the_default() {
    let world = World::with_web().await;
    let mut stream = world.watch_port(WORKLOAD, 8080).await.unwrap();
    assert_eq!(next(&mut stream).await.labels["name"], "all-unauthenticated");
    let namespace = Namespace { default_policy: Some(DefaultPolicy::ClusterAuthenticated), ..Namespace::default() };
    world.index.apply_namespace("shop", namespace);
    let server = next(&mut stream).await;
    assert_eq!(server.labels["name"], "cluster-authenticated");
    assert_eq!(server.authorizations[0].networks[0].net.unwrap().prefix_len, 8);
    world.pod(annotated(pod("web-1", "10.1.0.1"), "default-inbound-policy", "deny"));
    let server = next(&mut stream).await;
    assert_eq!(server.labels["name"], "deny");
    assert!(server.authorizations.is_empty());
}

#[tokio::test]
async fn a_port_can_require_an_identity() {
    let world = World::with_web().await;
    world.pod(annotated(pod("web-1", "10.1.0.1"), "proxy-require-identity-inbound-ports", "8080"));
    let server = world.server(8080).await;
    assert_eq!(server.labels["name"], "all-authenticated");
    let permit = server.authorizations[0].authentication.as_ref().unwrap().permit.as_ref().unwrap();
    assert!(matches!(permit, authn::Permit::MeshTls(_)));
    assert_eq!(world.server(8081).await.labels["name"], "all-unauthenticated");
}

#[tokio::test]
async fn watch_port_refuses_what_means_nothing_and_pods_it_does_not_know() {
    let world = World::with_web().await;
    assert_eq!(refused(world.watch_port("nonsense", 80).await), Code::InvalidArgument);
    assert_eq!(refused(world.watch_port(WORKLOAD, 0).await), Code::InvalidArgument);
    assert_eq!(refused(world.watch_port(WORKLOAD, 65_536).await), Code::InvalidArgument);
    assert_eq!(refused(world.watch_port("shop:other", 80).await), Code::NotFound);
    assert!(world.watch_port("shop:web-1", 80).await.is_ok());
}

#[tokio::test]
async fn our_proxy_understands_every_default_policy_and_keeps_to_it() {
    let world = World::with_web().await;
    let settings = PolicySettings {
        workload: WORKLOAD.into(),
        default_policy: DefaultPolicy::Deny,
        cluster_networks: vec![],
        opaque_ports: "".parse().unwrap(),
        detect_timeout: Duration::from_secs(10),
        eager_ports: [8080].into(),
        idle_timeout: Duration::from_secs(90),
        limits: Default::default(),
    };
    let policies = Policies::new(world.policy.clone(), settings, world.drain.clone());
    let mut policy = policies.port(8080);
    let client = |ip: [u8; 4], identity: Option<&str>| Client {
        address: SocketAddr::from((ip, 1)),
        tls: identity.map_or(ClientTls::None, |name| ClientTls::Terminated(Some(name.parse().unwrap()))),
    };
    let [kubelet, outside, peer] =
        [client([10, 9, 9, 9], None), client([192, 0, 2, 1], None), client([10, 1, 0, 7], Some(WEB_IDENTITY))];
    for (name, may) in [
        ("all-unauthenticated", [true, true, true]),
        ("all-authenticated", [false, false, true]),
        ("cluster-unauthenticated", [true, false, true]),
        ("cluster-authenticated", [false, false, true]),
        ("audit", [true, true, true]),
        ("deny", [false, false, false]),
    ] {
        world.pod(annotated(pod("web-1", "10.1.0.1"), "default-inbound-policy", name));
        let is_in_force = |policy: &Arc<ServerPolicy>| {
            policy.meta.name == name && matches!(policy.protocol, ServerProtocol::Detect { .. })
        };
        let current = tokio::time::timeout(DEADLINE, policy.wait_for(is_in_force)).await.unwrap().unwrap().clone();
        let get = |path: &str| http::Request::get(path).body(()).unwrap();
        let clients = [&kubelet, &outside, &peer];
        assert_eq!(clients.map(|client| current.authorize_connection(client).is_ok()), may, "{name}");
        assert_eq!(
            clients.map(|client| current.authorize_request(client, &get("/"), Instant::now).is_ok()),
            may,
            "{name}"
        );
        assert!(
            current.authorize_request(&kubelet, &get("/ready"), Instant::now).is_ok(),
            "{name}: the kubelet's probe"
        );
        assert_ne!(
            current.authorize_request(&kubelet, &get("/"), Instant::now).err(),
            Some(no_route(&current)),
            "{name}"
        );
    }
}

fn no_route(policy: &ServerPolicy) -> Denied {
    Denied::NoRoute { server: policy.meta.clone() }
}

#[tokio::test]
async fn thousands_of_streams_fit_on_one_connection_and_all_hear_of_a_change() {
    const STREAMS: usize = 2100;
    let world = World::with_web().await;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut stream = world.profile("10.96.0.10:80").await.unwrap();
        assert!(!next(&mut stream).await.opaque_protocol);
        streams.push(stream);
    }
    world.service(annotated(service(), "opaque-ports", "80"));
    for stream in &mut streams {
        assert!(next(stream).await.opaque_protocol);
    }
}

#[tokio::test]
async fn streams_end_in_good_order_when_the_role_is_told_to_end() {
    let world = World::with_web().await;
    let mut endpoints = world.get(&format!("{WEB}:80")).await.unwrap();
    let mut server = world.watch_port(WORKLOAD, 8080).await.unwrap();
    added(&mut endpoints).await;
    next(&mut server).await;
    world.drain.start();
    assert_eq!(tokio::time::timeout(DEADLINE, endpoints.message()).await.unwrap().unwrap(), None);
    assert_eq!(tokio::time::timeout(DEADLINE, server.message()).await.unwrap().unwrap(), None);
    assert!(world.drain.finish(DEADLINE).await);
}
