//! The store against a control plane in this process, and the conversion against every way in which a message can be wrong.

use std::collections::HashMap;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::*;
use crate::mesh::policy::{Client, ClientTls, ServerProtocol};
use crate::wire::inbound::inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer};
use crate::wire::inbound::{self, Authn, Authz, Network, ProxyProtocol, authn, proxy_protocol};

type Answer = Result<ReceiverStream<Result<Server, Status>>, Status>;

/// A control plane that asks the test what to answer.
struct Control(mpsc::Sender<(PortSpec, tokio::sync::oneshot::Sender<Answer>)>);

#[tonic::async_trait]
impl InboundServerPolicies for Control {
    type WatchPortStream = ReceiverStream<Result<Server, Status>>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("the proxy watches"))
    }

    async fn watch_port(&self, request: Request<PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.0.send((request.into_inner(), answer)).await.map_err(|_| Status::cancelled("the test is over"))?;
        answered.await.map_err(|_| Status::cancelled("the test is over"))?.map(Response::new)
    }
}

/// One subscription as the control plane sees it.
struct Asked {
    port: PortSpec,
    answer: tokio::sync::oneshot::Sender<Answer>,
}

impl Asked {
    fn stream(self) -> mpsc::Sender<Result<Server, Status>> {
        let (messages, stream) = mpsc::channel(8);
        assert!(self.answer.send(Ok(ReceiverStream::new(stream))).is_ok());
        messages
    }

    fn refuse(self, status: Status) {
        assert!(self.answer.send(Err(status)).is_ok());
    }
}

struct Controlled(mpsc::Receiver<(PortSpec, tokio::sync::oneshot::Sender<Answer>)>);

impl Controlled {
    async fn asked(&mut self) -> Asked {
        let (port, answer) = self.0.recv().await.unwrap();
        Asked { port, answer }
    }
}

fn policies(eager: &[u16], default_policy: DefaultPolicy) -> (Policies, Controlled) {
    let (asks, asked) = mpsc::channel(512);
    let settings = Settings {
        workload: "{\"ns\":\"shop\", \"pod\":\"web-1\"}\n".into(),
        default_policy,
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
        opaque_ports: "3306".parse().unwrap(),
        detect_timeout: Duration::from_secs(10),
        eager_ports: eager.iter().copied().collect(),
        idle_timeout: Duration::from_secs(90),
        limits: Limits { initial: Some(Duration::from_secs(3)), ..Limits::default() },
    };
    let channel = InboundServerPoliciesServer::new(Control(asks));
    (Policies::new(channel, settings, Drain::new()), Controlled(asked))
}

fn anyone() -> Authz {
    Authz {
        networks: vec![Network { net: Some("0.0.0.0/0".parse::<IpNet>().unwrap().into()), except: vec![] }],
        authentication: Some(Authn { permit: Some(authn::Permit::Unauthenticated(authn::PermitUnauthenticated {})) }),
        labels: HashMap::new(),
        metadata: Some(default_metadata("anyone")),
    }
}

fn default_metadata(name: &str) -> crate::wire::meta::Metadata {
    crate::wire::meta::Metadata { kind: Some(crate::wire::meta::metadata::Kind::Default(name.into())) }
}

fn server(kind: proxy_protocol::Kind) -> Server {
    Server {
        protocol: Some(ProxyProtocol { kind: Some(kind) }),
        server_ips: vec![],
        authorizations: vec![anyone()],
        labels: HashMap::from([("name".into(), "here".into())]),
    }
}

fn detect() -> Server {
    server(proxy_protocol::Kind::Detect(proxy_protocol::Detect {
        timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        http_routes: vec![],
        http_local_rate_limit: None,
    }))
}

fn stranger() -> Client {
    Client { address: "10.0.0.9:1".parse().unwrap(), tls: ClientTls::None }
}

fn permits(policy: &watch::Receiver<Arc<ServerPolicy>>) -> bool {
    policy.borrow().authorize_connection(&stranger()).is_ok()
}

#[tokio::test(start_paused = true)]
async fn watches_eager_ports_from_the_start_with_the_workload_as_it_is() {
    let (_policies, mut control) = policies(&[4191, 8080], DefaultPolicy::AllUnauthenticated);
    let mut ports = vec![];
    for _ in 0..2 {
        let asked = control.asked().await;
        assert_eq!(asked.port.workload, "{\"ns\":\"shop\", \"pod\":\"web-1\"}\n");
        ports.push(asked.port.port);
    }
    ports.sort_unstable();
    assert_eq!(ports, [4191, 8080]);
}

#[tokio::test(start_paused = true)]
async fn the_default_policy_is_in_force_until_the_control_plane_answers() {
    let (policies, mut control) = policies(&[8080], DefaultPolicy::Deny);
    let mut policy = policies.port(8080);
    assert!(!permits(&policy));
    let stream = control.asked().await.stream();
    assert!(!permits(&policy));
    stream.send(Ok(detect())).await.unwrap();
    policy.changed().await.unwrap();
    assert!(permits(&policy));
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_opaque_list_is_opaque_until_answered() {
    let (policies, _control) = policies(&[], DefaultPolicy::AllUnauthenticated);
    assert!(matches!(policies.port(3306).borrow().protocol, ServerProtocol::Opaque));
    assert!(matches!(policies.port(8080).borrow().protocol, ServerProtocol::Detect { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_last_word_stays_in_force_while_the_control_plane_is_away() {
    let (policies, mut control) = policies(&[8080], DefaultPolicy::Deny);
    let mut policy = policies.port(8080);
    let stream = control.asked().await.stream();
    stream.send(Ok(detect())).await.unwrap();
    policy.changed().await.unwrap();
    stream.send(Err(Status::unavailable("going away"))).await.unwrap();
    for _ in 0..5 {
        control.asked().await.refuse(Status::unavailable("away"));
    }
    let stream = control.asked().await.stream();
    assert!(permits(&policy));
    assert_eq!(policies.stale(), 1);

    let mut denied = detect();
    denied.authorizations.clear();
    stream.send(Ok(denied)).await.unwrap();
    policy.changed().await.unwrap();
    assert!(!permits(&policy));
    assert_eq!(policies.stale(), 0);
}

#[tokio::test(start_paused = true)]
async fn asks_again_when_the_pod_is_not_known_yet() {
    let (policies, mut control) = policies(&[8080], DefaultPolicy::Deny);
    let mut policy = policies.port(8080);
    control.asked().await.refuse(Status::not_found("unknown server"));
    control.asked().await.stream().send(Ok(detect())).await.unwrap();
    policy.changed().await.unwrap();
    assert!(permits(&policy));
}

#[tokio::test(start_paused = true)]
async fn does_not_ask_again_what_the_control_plane_finds_wrong() {
    for code in [Code::InvalidArgument, Code::FailedPrecondition] {
        let (policies, mut control) = policies(&[8080], DefaultPolicy::AllUnauthenticated);
        control.asked().await.refuse(Status::new(code, "no"));
        let again = tokio::time::timeout(Duration::from_secs(3600), control.asked()).await;
        assert!(again.is_err());
        assert!(permits(&policies.port(8080)), "the default stays");
        assert_eq!(policies.stale(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_first_message_is_given_up() {
    let (_policies, mut control) = policies(&[8080], DefaultPolicy::Deny);
    let _silent = control.asked().await.stream();
    control.asked().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_no_sense_refuses_everyone() {
    let (policies, mut control) = policies(&[8080], DefaultPolicy::AllUnauthenticated);
    let mut policy = policies.port(8080);
    let stream = control.asked().await.stream();
    stream.send(Ok(Server { protocol: None, ..detect() })).await.unwrap();
    policy.changed().await.unwrap();
    assert!(!permits(&policy));
    stream.send(Ok(detect())).await.unwrap();
    policy.changed().await.unwrap();
    assert!(permits(&policy));
}

#[tokio::test(start_paused = true)]
async fn forgets_an_unused_port_but_never_an_eager_one() {
    let (policies, mut control) = policies(&[4191], DefaultPolicy::AllUnauthenticated);
    let held = policies.port(9000);
    drop(policies.port(9001));
    let mut streams = vec![];
    for _ in 0..3 {
        let stream = control.asked().await.stream();
        stream.send(Ok(detect())).await.unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(89)).await;
    assert_eq!(policies.watched(), 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(policies.watched(), 2, "9001 is not used");
    drop(held);
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(policies.watched(), 1);
}

#[tokio::test(start_paused = true)]
async fn refuses_ports_past_the_bound_rather_than_watch_them_all() {
    let (policies, _control) = policies(&[8080], DefaultPolicy::AllUnauthenticated);
    let within: Vec<_> = (0..LAZY_PORTS_MAX).map(|port| policies.port(20_000 + port as u16)).collect();
    assert!(within.iter().all(permits));
    assert!(!permits(&policies.port(10_000)));
    assert!(permits(&policies.port(8080)) && permits(&policies.port(20_000)), "known ports are not affected");
}

/// Two requests a second for each client, three for `batch`.
fn rate_limit() -> inbound::HttpLocalRateLimit {
    use inbound::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let batch = inbound::Identity { name: "Batch.shop".into() };
    inbound::HttpLocalRateLimit {
        metadata: Some(default_metadata("slowly")),
        total: None,
        identity: Some(Limit { requests_per_second: 2 }),
        overrides: vec![Override {
            limit: Some(Limit { requests_per_second: 3 }),
            clients: Some(ClientIdentities { identities: vec![batch] }),
        }],
    }
}

#[test]
fn every_protocol_that_can_be_limited_is() {
    use proxy_protocol::{Detect, Http1, Http2, Kind};
    let timeout = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    let kinds = [
        Kind::Detect(Detect { timeout, http_routes: vec![], http_local_rate_limit: Some(rate_limit()) }),
        Kind::Http1(Http1 { routes: vec![], local_rate_limit: Some(rate_limit()) }),
        Kind::Http2(Http2 { routes: vec![], local_rate_limit: Some(rate_limit()) }),
    ];
    let (now, request) = (Instant::now(), http::Request::get("/").body(()).unwrap());
    for kind in kinds {
        let policy = convert::server_policy(server(kind)).unwrap();
        let passes =
            |client: &Client| (0..10).filter(|_| policy.authorize_request(client, &request, || now).is_ok()).count();
        let batch = Client { tls: ClientTls::Terminated(Some("batch.shop".parse().unwrap())), ..stranger() };
        assert_eq!((passes(&stranger()), passes(&batch)), (2, 3));
    }
}

#[test]
fn refuses_each_message_that_makes_no_sense() {
    use proxy_protocol::{Detect, Http1, Kind};

    fn authz(change: fn(&mut Authz)) -> Server {
        let mut server = detect();
        change(&mut server.authorizations[0]);
        server
    }
    fn route(change: fn(&mut inbound::HttpRoute)) -> Server {
        let mut route = inbound::HttpRoute { metadata: Some(default_metadata("r")), ..Default::default() };
        route.rules.push(inbound::http_route::Rule::default());
        change(&mut route);
        server(Kind::Http1(Http1 { routes: vec![route], local_rate_limit: None }))
    }
    fn pattern(kind: crate::wire::http_route::path_match::Kind) -> inbound::http_route::Rule {
        let path = Some(crate::wire::http_route::PathMatch { kind: Some(kind) });
        let matches = vec![crate::wire::http_route::HttpRouteMatch { path, ..Default::default() }];
        inbound::http_route::Rule { matches, filters: vec![] }
    }
    fn limited(change: fn(&mut inbound::HttpLocalRateLimit)) -> Server {
        let mut limit = rate_limit();
        change(&mut limit);
        server(Kind::Http1(Http1 { routes: vec![], local_rate_limit: Some(limit) }))
    }
    use crate::wire::http_route::path_match::Kind as Path;

    assert!(convert::server_policy(limited(|_| {})).is_ok());
    assert!(convert::server_policy(detect()).is_ok());
    assert!(convert::server_policy(route(|_| {})).is_ok());
    let wrong = [
        ("no protocol", Server { protocol: None, ..detect() }),
        ("no kind", Server { protocol: Some(ProxyProtocol { kind: None }), ..detect() }),
        ("no name", Server { labels: HashMap::new(), ..detect() }),
        ("no timeout", server(Kind::Detect(Detect { timeout: None, ..Default::default() }))),
        (
            "negative timeout",
            server(Kind::Detect(Detect {
                timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..Default::default()
            })),
        ),
        (
            "server addresses, which nobody would enforce",
            Server { server_ips: vec![std::net::IpAddr::from([10, 0, 0, 1]).into()], ..detect() },
        ),
        ("override without limit", limited(|limit| limit.overrides[0].limit = None)),
        ("override without clients", limited(|limit| limit.overrides[0].clients = None)),
        ("no networks", authz(|authz| authz.networks.clear())),
        ("no net", authz(|authz| authz.networks[0].net = None)),
        ("prefix too long", authz(|authz| authz.networks[0].net.as_mut().unwrap().prefix_len = 33)),
        ("no authentication", authz(|authz| authz.authentication = None)),
        ("no permit", authz(|authz| authz.authentication = Some(Authn { permit: None }))),
        (
            "no clients",
            authz(|authz| {
                let permit = authn::Permit::MeshTls(authn::PermitMeshTls { clients: None });
                authz.authentication = Some(Authn { permit: Some(permit) });
            }),
        ),
        ("no metadata and no labels", authz(|authz| authz.metadata = None)),
        ("route without metadata", route(|route| route.metadata = None)),
        ("relative path", route(|route| route.rules[0] = pattern(Path::Exact("a".into())))),
        ("bad pattern", route(|route| route.rules[0] = pattern(Path::Regex("(".into())))),
        (
            "no path kind",
            route(|route| {
                route.rules[0] = pattern(Path::Exact("/".into()));
                route.rules[0].matches[0].path.as_mut().unwrap().kind = None;
            }),
        ),
        ("no filter kind", route(|route| route.rules[0].filters.push(inbound::http_route::Filter { kind: None }))),
        ("host without name", route(|route| route.hosts.push(crate::wire::http_route::HostMatch { r#match: None }))),
    ];
    for (what, message) in wrong {
        assert!(convert::server_policy(message).is_err(), "{what}");
    }
}

#[test]
fn names_servers_and_authorizations_by_their_labels_or_metadata() {
    let mut message = detect();
    message.labels = HashMap::from([("name".into(), "default:all-unauthenticated".into())]);
    message.authorizations[0].metadata = None;
    message.authorizations[0].labels = HashMap::from([("name".into(), "friends".into())]);
    let policy = convert::server_policy(message).unwrap();
    let permit = policy.authorize_connection(&stranger()).unwrap();
    assert_eq!((permit.server().kind.as_str(), permit.server().name.as_str()), ("default", "all-unauthenticated"));
    assert_eq!(permit.authorization().group, "policy.linkerd.io");
    assert_eq!(permit.authorization().name, "friends");
}

#[test]
fn a_server_without_routes_has_the_default_route() {
    let policy = convert::server_policy(detect()).unwrap();
    let request = http::Request::get("/any").body(()).unwrap();
    assert_eq!(policy.authorize_request(&stranger(), &request, Instant::now).unwrap().route().unwrap().name, "default");
}

#[test]
fn a_host_suffix_is_read_from_its_last_label() {
    let host = crate::wire::http_route::HostMatch {
        r#match: Some(crate::wire::http_route::host_match::Match::Suffix(
            crate::wire::http_route::host_match::Suffix { reverse_labels: vec!["com".into(), "example".into()] },
        )),
    };
    let route = inbound::HttpRoute {
        metadata: Some(default_metadata("r")),
        hosts: vec![host],
        authorizations: vec![],
        rules: vec![inbound::http_route::Rule::default()],
    };
    let kind = proxy_protocol::Kind::Http2(proxy_protocol::Http2 { routes: vec![route], local_rate_limit: None });
    let policy = convert::server_policy(server(kind)).unwrap();
    let to = |uri: &str| {
        policy.authorize_request(&stranger(), &http::Request::get(uri).body(()).unwrap(), Instant::now).is_ok()
    };
    assert!(to("http://a.example.com/"));
    assert!(!to("http://a.example.org/"));
}
