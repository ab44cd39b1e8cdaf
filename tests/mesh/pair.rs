//! Two pods of the mesh, each with its proxy: the client's way out, the server's way in, and mesh TLS over real sockets between them.
//!
//! Start at [`Pair::start`]; [`talk`] has a client and an app say what a test wants, byte for byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hawser::mesh::policy::DefaultPolicy;
use hawser::mesh::ports::PortSet;
use hawser::net::drain::Drain;
use hawser::proxy::connections::Table;
use hawser::proxy::http::AppOptions;
use hawser::proxy::inbound::{Inbound, Options};
use hawser::proxy::metrics::Metrics;
use hawser::proxy::policy::{self, Policies};
use hawser::proxy::subscription::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::outbound::world::{AUTHORITY, Pki, Pod, SERVICE, WEB};
use crate::support::control::{Control, detect, meshed};

const SOON: Duration = Duration::from_secs(60);

pub(super) struct Pair {
    pub(super) client: Pod,
    _control: Control,
    drain: Drain,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.drain.start();
    }
}

impl Pair {
    /// Between a client of [`SERVICE`] and `app`, the only endpoint there is.
    pub(super) async fn start(app: SocketAddr) -> Self {
        let (pki, control, drain) = (Pki::new(), Control::start(), Drain::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inbound = Arc::new(inbound(&pki, port, drain.clone()));
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        drain.clone().spawn({
            let drain = drain.clone();
            async move {
                while let Ok((stream, peer)) = listener.accept().await {
                    let inbound = inbound.clone();
                    drain.spawn(async move { inbound.accept(stream, peer, server).await });
                }
            }
        });
        control.policy(SERVICE, detect(AUTHORITY));
        control.add(AUTHORITY, vec![meshed(app, port, WEB)]);
        let client = Pod::start_patient(&pki, &control, SOON);
        Self { client, _control: control, drain }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        self.client.connect(SERVICE).await
    }
}

fn inbound(pki: &Pki, port: u16, drain: Drain) -> Inbound {
    let policies = policies(policy::Settings { workload: "web".into(), ..policy_settings() });
    Inbound::new(inbound_options(port), pki.tls(WEB), policies, Table::default(), Metrics::new(), drain)
}

/// As the settings are in force for as long as no control plane says anything, which this one never does.
pub(super) fn policies(settings: policy::Settings) -> Policies {
    let away = tonic::transport::Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
    Policies::new(away, settings, Drain::new())
}

pub(super) fn policy_settings() -> policy::Settings {
    policy::Settings {
        workload: String::new(),
        default_policy: DefaultPolicy::AllUnauthenticated,
        cluster_networks: Vec::new(),
        opaque_ports: PortSet::default(),
        detect_timeout: Duration::from_secs(10),
        eager_ports: Default::default(),
        idle_timeout: Duration::from_secs(90),
        limits: Limits::default(),
    }
}

/// Of a proxy whose pod has the addresses of loopback.
pub(super) fn inbound_options(port: u16) -> Options {
    Options {
        port,
        ips: vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
        detect_timeout: Duration::from_secs(10),
        keepalive: None,
        user_timeout: None,
        app: AppOptions { connect_timeout: Duration::from_secs(5), idle_timeout: Duration::from_secs(3) },
        in_flight_max: 100,
        tells_client_ip: false,
        access_log: None,
        profiles: None,
        strangers_max: 100,
        newcomers_max: 100,
        http2_keep_alive: (Duration::from_secs(10), Duration::from_secs(20)),
    }
}

/// What one end of a conversation does next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Say(&'static str),
    /// Waits until the other end has said this, after what it was last heard to say. Letter case makes no difference.
    Hear(&'static str),
    /// Waits until the other end has nothing more to say.
    HearEnd,
    /// Has heard nothing of this so far.
    NotHeard(&'static str),
    /// Has nothing more to say.
    End,
}

/// Does one end's part, then hangs up.
pub(super) async fn act(what: &str, who: &str, mut stream: TcpStream, steps: &[Step]) {
    let (mut heard, mut before) = (Vec::new(), 0);
    for step in steps {
        let doing = async {
            match step {
                Step::Say(text) => {
                    // Who has hung up is missed where something should be heard.
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                Step::End => {
                    let _ = stream.shutdown().await;
                }
                Step::Hear(text) => loop {
                    let said = text_of(&heard);
                    if let Some(at) = said[before..].find(text) {
                        before += at + text.len();
                        return;
                    }
                    let read = stream.read_buf(&mut heard).await.unwrap_or_default();
                    assert!(read > 0, "{what}: the {who} hears the end and not {text:?} after {said:?}");
                },
                Step::HearEnd => while let Ok(1..) = stream.read_buf(&mut heard).await {},
                Step::NotHeard(text) => assert!(!text_of(&heard).contains(text), "{what}: {:?}", text_of(&heard)),
            }
        };
        if timeout(SOON, doing).await.is_err() {
            panic!("{what}: the {who} waits in {step:?} after {:?}", text_of(&heard));
        }
    }
}

/// In lower case, which for these texts has as many bytes.
fn text_of(heard: &[u8]) -> String {
    String::from_utf8_lossy(heard).to_ascii_lowercase()
}

/// The connection of a client, as soon as it has said something that the app wants to hear first. Where this machine is slow, the client's proxy has dialled
/// before the client has spoken; that connection ends without a word.
async fn accept(listener: &TcpListener, app: &[Step]) -> TcpStream {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let is_silent = async || !matches!(stream.peek(&mut [0]).await, Ok(1..));
        if !matches!(app, [Step::Hear(_), ..]) || !is_silent().await {
            return stream;
        }
    }
}

/// A client and an app talk through both proxies, on one connection each; both must get to the end of their parts.
pub(super) async fn talk(what: &str, client: &[Step], app: &[Step]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(listener.local_addr().unwrap()).await;
    let app = async {
        if app.is_empty() {
            return;
        }
        let accepted = timeout(SOON, accept(&listener, app)).await;
        let stream = accepted.unwrap_or_else(|_| panic!("{what}: nobody comes to the app"));
        act(what, "app", stream, app).await;
    };
    tokio::join!(act(what, "client", pair.connect().await, client), app);
}
