//! Who may, and who may not.

use super::super::route::{HttpMatch, PathMatch};
use super::*;

fn plain(address: &str) -> Client {
    Client { address: SocketAddr::new(address.parse().unwrap(), 5000), tls: ClientTls::None }
}

fn meshed(identity: Option<&str>) -> Client {
    Client {
        address: "10.1.2.3:5000".parse().unwrap(),
        tls: ClientTls::Terminated(identity.map(|name| name.parse().unwrap())),
    }
}

fn cluster() -> Vec<IpNet> {
    vec!["10.0.0.0/8".parse().unwrap()]
}

fn policy(default: DefaultPolicy) -> ServerPolicy {
    default.policy(&cluster(), false, DETECT_TIMEOUT)
}

/// A server with one authorization, speaking what `protocol` makes of it.
fn server(authentication: Authentication, protocol: fn(&[Authorization]) -> ServerProtocol) -> ServerPolicy {
    let authorization = Authorization {
        networks: all_networks().map(Network::from).to_vec(),
        authentication,
        meta: Arc::new(Meta::default_policy("those")),
    };
    ServerPolicy::new(Meta::default_policy("here"), vec![authorization], protocol)
}

fn identities(identities: &[&str], suffixes: Vec<Suffix>) -> Authentication {
    Authentication::TlsAuthenticated { identities: identities.iter().map(|&name| name.into()).collect(), suffixes }
}

fn get(path: &str) -> http::Request<()> {
    http::Request::get(path).body(()).unwrap()
}

fn authorize(policy: &ServerPolicy, client: &Client, request: &http::Request<()>) -> Result<Permit, Denied> {
    policy.authorize_request(client, request, Instant::now)
}

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";

#[test]
fn all_unauthenticated_permits_anyone() {
    let policy = policy(DefaultPolicy::AllUnauthenticated);
    for client in [plain("203.0.113.1"), plain("2001:db8::1"), meshed(None), meshed(Some(WEB))] {
        let permit = policy.authorize_connection(&client).unwrap();
        assert_eq!(permit.server().name, "all-unauthenticated");
        assert_eq!(permit.authorization().kind, "default");
        assert!(authorize(&policy, &client, &get("/")).is_ok());
    }
}

#[test]
fn all_authenticated_refuses_who_shows_no_certificate() {
    let policy = policy(DefaultPolicy::AllAuthenticated);
    assert!(policy.authorize_connection(&meshed(Some(WEB))).is_ok());
    for client in [plain("10.1.2.3"), meshed(None)] {
        let denied = authorize(&policy, &client, &get("/")).unwrap_err();
        assert!(matches!(denied, Denied::Unauthorized { route: Some(route), .. } if route.name == "default"));
        assert!(policy.authorize_connection(&client).is_err());
    }
}

#[test]
fn cluster_unauthenticated_refuses_other_networks() {
    let policy = policy(DefaultPolicy::ClusterUnauthenticated);
    assert!(policy.authorize_connection(&plain("10.1.2.3")).is_ok());
    assert!(policy.authorize_connection(&plain("::ffff:10.1.2.3")).is_ok(), "as a dual-stack listener shows it");
    assert!(policy.authorize_connection(&plain("203.0.113.1")).is_err());
}

#[test]
fn cluster_authenticated_wants_both() {
    let policy = policy(DefaultPolicy::ClusterAuthenticated);
    assert!(policy.authorize_connection(&meshed(Some(WEB))).is_ok());
    assert!(policy.authorize_connection(&plain("10.1.2.3")).is_err());
    let outside = Client { address: "203.0.113.1:1".parse().unwrap(), ..meshed(Some(WEB)) };
    assert!(policy.authorize_connection(&outside).is_err());
}

#[test]
fn audit_permits_and_says_so() {
    assert!(policy(DefaultPolicy::Audit).authorize_connection(&plain("203.0.113.1")).unwrap().is_audit());
    assert!(!policy(DefaultPolicy::AllUnauthenticated).authorize_connection(&plain("203.0.113.1")).unwrap().is_audit());
}

#[test]
fn deny_refuses_all_but_the_pod_itself() {
    let policy = policy(DefaultPolicy::Deny);
    assert!(matches!(policy.protocol, ServerProtocol::Opaque));
    assert!(policy.authorize_connection(&meshed(Some(WEB))).is_err());
    for localhost in ["127.0.0.1", "::1"] {
        assert_eq!(policy.authorize_connection(&plain(localhost)).unwrap().authorization().name, "localhost");
    }
    assert!(policy.authorize_connection(&plain("127.0.0.2")).is_err());
}

#[test]
fn an_identity_must_be_named_exactly() {
    let policy = server(identities(&[WEB], vec![]), |_| ServerProtocol::Opaque);
    assert!(policy.authorize_connection(&meshed(Some(WEB))).is_ok());
    assert!(policy.authorize_connection(&meshed(Some(&format!("x{WEB}")))).is_err());
    assert!(policy.authorize_connection(&meshed(None)).is_err());
}

#[test]
fn a_suffix_matches_names_below_it_only() {
    let suffix = Suffix::new(&["Shop", "serviceaccount"]);
    let policy = server(identities(&[], vec![suffix]), |_| ServerProtocol::Opaque);
    assert!(policy.authorize_connection(&meshed(Some("web.shop.serviceaccount"))).is_ok());
    assert!(policy.authorize_connection(&meshed(Some("shop.serviceaccount"))).is_err());
    assert!(policy.authorize_connection(&meshed(Some("web.badshop.serviceaccount"))).is_err());
    assert!(policy.authorize_connection(&meshed(Some(WEB))).is_err());
}

#[test]
fn an_empty_suffix_matches_any_identity() {
    let policy = server(Authentication::any_identity(), |_| ServerProtocol::Opaque);
    assert!(policy.authorize_connection(&meshed(Some("api.example.com"))).is_ok());
    assert!(policy.authorize_connection(&plain("10.0.0.1")).is_err());
}

#[test]
fn mesh_tls_without_a_certificate_is_enough_where_policy_says_so() {
    let policy = server(Authentication::TlsUnauthenticated, |_| ServerProtocol::Opaque);
    assert!(policy.authorize_connection(&meshed(None)).is_ok());
    assert!(policy.authorize_connection(&plain("10.0.0.1")).is_err());
}

#[test]
fn tls_that_ends_in_the_app_proves_nothing() {
    assert_eq!(ClientTls::from(&Security::Passthrough { sni: Some(WEB.into()) }), ClientTls::None);
}

#[test]
fn an_exception_is_not_in_its_network() {
    let network = Network { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
    assert!(network.contains("10.2.0.1".parse().unwrap()));
    assert!(!network.contains("10.1.0.1".parse().unwrap()));
}

#[test]
fn blind_bytes_are_refused_where_the_port_speaks_http() {
    let protocols: [fn(&[Authorization]) -> ServerProtocol; 3] = [
        |authorizations| ServerProtocol::Http1(Arc::new([Route::default_of(authorizations)])),
        |authorizations| ServerProtocol::Http2(Arc::new([Route::default_of(authorizations)])),
        |authorizations| ServerProtocol::Grpc(Arc::new([Route::default_of(authorizations)])),
    ];
    for protocol in protocols {
        let policy = server(Authentication::Unauthenticated, protocol);
        assert!(matches!(policy.authorize_connection(&plain("10.0.0.1")), Err(Denied::Unauthorized { .. })));
        assert!(authorize(&policy, &plain("10.0.0.1"), &get("/")).is_ok());
    }
}

#[test]
fn requests_find_no_route_where_the_port_is_opaque() {
    for protocol in [|_: &[Authorization]| ServerProtocol::Opaque, |_: &[Authorization]| ServerProtocol::Tls] {
        let policy = server(Authentication::Unauthenticated, protocol);
        assert!(matches!(authorize(&policy, &plain("10.0.0.1"), &get("/")), Err(Denied::NoRoute { .. })));
        assert!(policy.authorize_connection(&plain("10.0.0.1")).is_ok());
    }
}

#[test]
fn a_route_permits_what_it_or_its_server_does() {
    let policy = server(identities(&[WEB], vec![]), |server| {
        let anyone = Authorization {
            networks: all_networks().map(Network::from).to_vec(),
            authentication: Authentication::Unauthenticated,
            meta: Arc::new(Meta::default_policy("probe")),
        };
        let health = Rule {
            matches: vec![RequestMatch::Http(HttpMatch {
                path: Some(PathMatch::Exact("/health".into())),
                method: Some(http::Method::GET),
                ..HttpMatch::default()
            })],
            filters: Arc::new([]),
        };
        let probe = Route::new(Meta::default_policy("probe"), vec![], vec![anyone], vec![health], server);
        let routes = Arc::new([Route::default_of(server), probe]);
        ServerProtocol::Detect { timeout: DETECT_TIMEOUT, routes }
    });
    let kubelet = plain("10.0.0.1");
    assert_eq!(authorize(&policy, &kubelet, &get("/health")).unwrap().route().unwrap().name, "probe");
    assert!(authorize(&policy, &kubelet, &get("/")).is_err());
    assert!(authorize(&policy, &kubelet, &http::Request::post("/health").body(()).unwrap()).is_err());
    assert!(authorize(&policy, &meshed(Some(WEB)), &get("/")).is_ok());
    assert_eq!(authorize(&policy, &meshed(Some(WEB)), &get("/health")).unwrap().authorization().name, "probe");
}

#[test]
fn an_invalid_policy_refuses_even_the_pod_itself() {
    let policy = ServerPolicy::invalid();
    assert!(matches!(policy.authorize_connection(&plain("127.0.0.1")), Err(Denied::InvalidPolicy { .. })));
    assert!(matches!(authorize(&policy, &plain("127.0.0.1"), &get("/")), Err(Denied::InvalidPolicy { .. })));
}

#[test]
fn default_policies_have_their_names() {
    for name in [
        "all-unauthenticated",
        "all-authenticated",
        "cluster-unauthenticated",
        "cluster-authenticated",
        "audit",
        "deny",
    ] {
        assert_eq!(name.parse::<DefaultPolicy>().unwrap().as_str(), name);
    }
    assert!("allow".parse::<DefaultPolicy>().is_err());
}

#[test]
fn an_opaque_default_is_not_detected() {
    let policy = DefaultPolicy::AllUnauthenticated.policy(&[], true, DETECT_TIMEOUT);
    assert!(matches!(policy.protocol, ServerProtocol::Opaque));
    assert!(policy.authorize_connection(&plain("10.0.0.1")).is_ok());
}

#[test]
fn a_rate_limit_is_for_those_who_may_at_all_and_survives_a_policy_that_does_not_change_it() {
    let limits = |total| Limits { meta: None, total: Some(total), identity: None, overrides: Default::default() };
    let limited = |total| policy(DefaultPolicy::AllAuthenticated).limited(Some(limits(total)));
    let (first, now) = (limited(2), Instant::now());
    let ask = |policy: &ServerPolicy, client: Client| policy.authorize_request(&client, &get("/"), || now).map(drop);
    for _ in 0..10 {
        assert!(matches!(ask(&first, plain("10.0.0.1")), Err(Denied::Unauthorized { .. })));
    }
    assert!(ask(&first, meshed(Some(WEB))).is_ok() && ask(&first, meshed(Some(WEB))).is_ok());
    let denied = ask(&first, meshed(Some(WEB)));
    assert!(matches!(denied, Err(Denied::RateLimited { exceeded: Exceeded::Total, .. })), "{denied:?}");
    let same = limited(2).after(&first);
    assert!(matches!(ask(&same, meshed(Some(WEB))), Err(Denied::RateLimited { .. })), "what was used stays used");
    let other = limited(3).after(&first);
    assert!(ask(&other, meshed(Some(WEB))).is_ok());
}

#[test]
fn headers_are_added_then_set_then_removed() {
    let map = |pairs: &[(&'static str, &'static str)]| {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<http::HeaderMap>()
    };
    let remove = vec!["x-gone".parse().unwrap()];
    let add = map(&[("x-gone", "no"), ("x-kept", "b")]);
    let modifier = HeaderModifier { add, set: map(&[("x-set", "1")]), remove };
    let mut headers = map(&[("x-gone", "old"), ("x-kept", "a"), ("x-set", "0")]);
    modifier.modify(&mut headers);
    assert!(!headers.contains_key("x-gone"));
    assert_eq!(headers.get_all("x-kept").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(headers.get_all("x-set").iter().collect::<Vec<_>>(), ["1"]);
}
