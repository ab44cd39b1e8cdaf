//! A pod with its proxy's way in, apps behind it, and peers of every kind: each over real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use hawser::mesh::Identity;
use hawser::mesh::connection::Connections;
use hawser::mesh::policy::DefaultPolicy;
use hawser::mesh::ports::PortSet;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Csr, Issuer, LeafKey, Validity};
use hawser::proxy::access_log::{AccessLog, Format};
use hawser::proxy::connections::Table;
use hawser::proxy::credentials::Credentials;
use hawser::proxy::http::AppOptions;
use hawser::proxy::inbound::{Inbound, Options};
use hawser::proxy::metrics::Metrics;
use hawser::proxy::policy::{self, Policies};
use hawser::proxy::subscription::Limits;
use hawser::proxy::tls::Tls;
use hawser::proxy::transport_header::Header;
use hawser::wire::inbound::inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer};
use hawser::wire::inbound::{PortSpec, Server};
use http_body_util::Empty;
use hyper::client::conn::http2;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tonic::{Request, Response, Status};

pub(super) const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
pub(super) const CART: &str = "cart.shop.serviceaccount.identity.hawser.cluster.local";
/// Where the proxy would listen; nobody does, since targets are given.
const INBOUND_PORT: u16 = 4143;
const TRUST_DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who signs, and whom its holders believe.
pub(super) struct Authority {
    issuer: Issuer,
    pub(super) bundle: Arc<Bundle>,
}

impl Authority {
    pub(super) fn new() -> Self {
        // Old enough to have signed what has expired since.
        let born = SystemTime::now() - 10 * DAY;
        let anchor = Anchor::create(TRUST_DOMAIN, born).unwrap();
        let issuer = anchor.create_issuer(TRUST_DOMAIN, born).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        Self { issuer, bundle: Arc::new(bundle) }
    }

    pub(super) fn credentials(&self, name: &str) -> Arc<Credentials> {
        self.credentials_from(name, SystemTime::now())
    }

    pub(super) fn expired(&self, name: &str) -> Arc<Credentials> {
        self.credentials_from(name, SystemTime::now() - 2 * DAY)
    }

    fn tls(&self, own: Arc<Credentials>) -> Tls {
        Tls::new(watch::channel(self.bundle.clone()).1, watch::channel(Some(own)).1)
    }

    fn credentials_from(&self, name: &str, from: SystemTime) -> Arc<Credentials> {
        let identity: Identity = name.parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: DAY, skew: Duration::from_secs(20) };
        let leaf = self.issuer.sign(&csr, &identity, from, validity).unwrap();
        let mut chain = vec![leaf.certificate.der().clone()];
        chain.extend(leaf.intermediates.iter().cloned());
        let signer = aws_lc_rs::sign::any_ecdsa_type(&key.private_key()).unwrap();
        let not_after = leaf.not_after();
        let certified_key = Arc::new(CertifiedKey::new(chain, signer));
        Arc::new(Credentials { identity, certified_key, leaf: leaf.certificate, not_after })
    }
}

/// The way in to a pod whose identity is [`WEB`].
pub(super) struct Pod {
    pub(super) authority: Authority,
    pub(super) connections: Table,
    pub(super) metrics: Metrics,
    pub(super) drain: Drain,
    policies: Policies,
    inbound: Arc<Inbound>,
}

/// A control plane that says the same of every port.
struct Control(Server);

#[tonic::async_trait]
impl InboundServerPolicies for Control {
    type WatchPortStream = futures_util::stream::BoxStream<'static, Result<Server, Status>>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("the proxy watches"))
    }

    async fn watch_port(&self, _: Request<PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        let server = self.0.clone();
        let said = futures_util::stream::once(async move { Ok(server) });
        Ok(Response::new(said.chain(futures_util::stream::pending()).boxed()))
    }
}

impl Pod {
    pub(super) const IN_FLIGHT_MAX: usize = 100;

    pub(super) fn start() -> Self {
        Self::with_policy(DefaultPolicy::AllUnauthenticated)
    }

    pub(super) fn with_policy(default_policy: DefaultPolicy) -> Self {
        Self::with(default_policy, None, |_| ())
    }

    /// One whose certificate ends that soon; whether its connections do then.
    pub(super) fn ending_in(soon: Duration, bounds_connections: bool) -> Self {
        let authority = Authority::new();
        // It is valid for longer, so that a handshake that comes late is no failure.
        let not_after = SystemTime::now() + soon;
        let own = Arc::new(Credentials { not_after, ..(*authority.credentials(WEB)).clone() });
        let tls = authority.tls(own).bounding_connections(bounds_connections);
        Self::of(authority, tls, DefaultPolicy::AllUnauthenticated, None, |_| ())
    }

    /// A pod that logs requests in this way, and the lines.
    pub(super) fn logging(format: Format) -> (Self, Receiver<String>) {
        let (log, lines) = AccessLog::new(format, &Metrics::new());
        let change = |options: &mut Options| options.access_log = Some(log);
        (Self::with(DefaultPolicy::AllAuthenticated, None, change), lines)
    }

    /// One whose settings are other than usual.
    pub(super) fn changed(change: impl FnOnce(&mut Options)) -> Self {
        Self::with(DefaultPolicy::AllUnauthenticated, None, change)
    }

    /// A pod whose port of `app` has the policy that a control plane told it.
    pub(super) async fn told(app: SocketAddr, server: Server) -> Self {
        let pod = Self::with(DefaultPolicy::Deny, Some(server), |_| ());
        let mut policy = pod.policies.port(app.port());
        tokio::time::timeout(Duration::from_secs(10), policy.changed()).await.unwrap().unwrap();
        pod
    }

    fn with(default_policy: DefaultPolicy, told: Option<Server>, change: impl FnOnce(&mut Options)) -> Self {
        let authority = Authority::new();
        let tls = authority.tls(authority.credentials(WEB));
        Self::of(authority, tls, default_policy, told, change)
    }

    fn of(
        authority: Authority,
        tls: Tls,
        default_policy: DefaultPolicy,
        told: Option<Server>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let (connections, metrics, drain) = (Table::default(), Metrics::new(), Drain::new());
        let settings = policy::Settings {
            workload: "web".into(),
            default_policy,
            cluster_networks: Vec::new(),
            opaque_ports: PortSet::default(),
            detect_timeout: Duration::from_secs(10),
            eager_ports: Default::default(),
            idle_timeout: Duration::from_secs(90),
            limits: Limits::default(),
        };
        let policies = match told {
            // Nobody answers there, so the default policy stays in force.
            None => {
                let away = tonic::transport::Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
                Policies::new(away, settings, Drain::new())
            }
            Some(server) => Policies::new(InboundServerPoliciesServer::new(Control(server)), settings, Drain::new()),
        };
        let mut options = Options {
            port: INBOUND_PORT,
            ips: vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
            detect_timeout: Duration::from_secs(10),
            keepalive: Some(Duration::from_secs(10)),
            user_timeout: Some(Duration::from_secs(30)),
            app: AppOptions { connect_timeout: Duration::from_secs(1), idle_timeout: Duration::from_secs(3) },
            in_flight_max: Self::IN_FLIGHT_MAX,
            strangers_max: 1_000,
            newcomers_max: 1_000,
            http2_keep_alive: (Duration::from_secs(10), Duration::from_secs(3)),
            tells_client_ip: false,
            access_log: None,
            profiles: None,
        };
        change(&mut options);
        let inbound = Inbound::new(options, tls, policies.clone(), connections.clone(), metrics.clone(), drain.clone());
        Self { authority, connections, metrics, drain, policies, inbound: Arc::new(inbound) }
    }

    /// A connection that was going to `target`, of a client that is not in the pod.
    pub(super) async fn dial(&self, target: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        // What policy lets everyone in the pod do says nothing about others.
        let peer = SocketAddr::new(IpAddr::from([10, 9, 8, 7]), peer.port());
        let inbound = self.inbound.clone();
        self.drain.spawn(async move { inbound.accept(stream, peer, target).await });
        client
    }

    /// Where whoever connects is a client of `target` that is not in the pod.
    pub(super) async fn listen(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (inbound, drain) = (self.inbound.clone(), self.drain.clone());
        self.drain.spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (inbound, peer) = (inbound.clone(), SocketAddr::new(IpAddr::from([10, 9, 8, 7]), peer.port()));
                drain.spawn(async move { inbound.accept(stream, peer, target).await });
            }
        });
        address
    }

    /// A connection to the inbound port itself.
    pub(super) async fn dial_direct(&self) -> TcpStream {
        self.dial(SocketAddr::from((Ipv4Addr::LOCALHOST, INBOUND_PORT))).await
    }

    /// As a stock peer connects: mesh TLS to the inbound port, then the header.
    pub(super) async fn connect(&self, header: Header) -> TlsStream<TcpStream> {
        let peer = Peer::meshed(self, &self.authority.credentials(CART));
        let mut stream = peer.handshake(self.dial_direct().await).await.unwrap();
        stream.write_all(&header.encode()).await.unwrap();
        stream
    }

    pub(super) fn snapshot(&self) -> Connections {
        self.connections.snapshot(None)
    }
}

/// How somebody begins TLS. Plain rustls, with none of the proxy's own code.
pub(super) struct Peer {
    pub(super) bundle: Arc<Bundle>,
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) sni: &'static str,
}

impl Peer {
    pub(super) fn meshed(pod: &Pod, credentials: &Arc<Credentials>) -> Self {
        Self {
            bundle: pod.authority.bundle.clone(),
            credentials: Some(credentials.clone()),
            alpn: vec![b"transport.l5d.io/v1".to_vec()],
            sni: WEB,
        }
    }

    pub(super) async fn handshake(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.bundle.root_store(), provider.clone()).build().unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_webpki_verifier(verifier);
        let mut config = match &self.credentials {
            None => builder.with_no_client_auth(),
            Some(credentials) => builder.with_client_cert_resolver(Arc::new(Shown(credentials.certified_key.clone()))),
        };
        config.alpn_protocols = self.alpn.clone();
        let name = ServerName::try_from(self.sni).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Whether the pod lets this peer in: refusals of a client's certificate arrive after its side of the handshake is done.
    pub(super) async fn is_let_in(&self, stream: TcpStream, header: &Header) -> bool {
        let Ok(mut stream) = self.handshake(stream).await else { return false };
        let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        if stream.write_all(&[header.encode(), request.to_vec()].concat()).await.is_err() {
            return false;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer.starts_with(b"HTTP/1.1 200")
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A self-signed certificate of the app's own, for what passes through.
pub(super) fn app_tls(name: &str) -> (tokio_rustls::TlsAcceptor, CertificateDer<'static>) {
    let own = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = own.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    (Arc::new(config).into(), certificate)
}

/// Lets the other tasks go on until it is so.
pub(super) async fn becomes_true(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The client of an HTTP/2 connection is told in time to go elsewhere: a request after that is not sent.
pub(super) async fn is_sent_away(sender: &mut http2::SendRequest<Empty<Bytes>>, within: Duration) {
    let request = || http::Request::get("http://web.shop/").body(Empty::new()).unwrap();
    let unsent = async {
        loop {
            let attempt = tokio::time::timeout(Duration::from_millis(50), sender.try_send_request(request()));
            if let Ok(answered) = attempt.await {
                break answered.unwrap_err().take_message();
            }
        }
    };
    let unsent = tokio::time::timeout(within, unsent).await.expect("the client was never told");
    assert!(unsent.is_some(), "a request was sent on a connection that ends");
}
