//! A pod that is a gateway: its way in and its way out, and clients that come to it as proxies of another cluster do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use hawser::mesh::Protocol;
use hawser::mesh::policy::DefaultPolicy;
use hawser::proxy::gateway::Gateway;
use hawser::proxy::inbound::{Inbound, Options};
use hawser::proxy::policy;
use hawser::proxy::tls::{Alpn, ClientStream, Tls};
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::{AuthorityOverride, WeightedAddr};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::super::inbound::profiles::profiles;
use super::super::outbound::world::{AUTHORITY, App, CLIENT, Peer, Pki, Pod, WEB};
use super::super::pair::{inbound_options, policies, policy_settings};
use crate::support::control::{Control, detect, meshed};

pub(super) const GATEWAY: &str = "gateway.multicluster.serviceaccount.identity.hawser.cluster.local";
/// What [`AUTHORITY`] is without its port.
pub(super) const NAME: &str = "web.shop.svc.cluster.local";
/// Where clients come from.
const NETWORK: &str = "10.9.0.0/16";

pub(super) struct World {
    pub(super) pki: Pki,
    pub(super) control: Control,
    /// The gateway's way out, whose metrics and connections are those of its way in too.
    pub(super) gateway: Pod,
    pub(super) address: SocketAddr,
    /// What [`NAME`] leads to.
    pub(super) peer: Peer,
}

impl World {
    pub(super) async fn start(app: App) -> Self {
        Self::with(app, NETWORK, 100).await
    }

    /// One that lets in only clients of this network, and takes them on to so many names.
    pub(super) async fn with(app: App, network: &str, names_max: usize) -> Self {
        let pki = Pki::new();
        let ways = [pki.tls(GATEWAY), pki.tls(GATEWAY)];
        Self::of(pki, ways, app, network, names_max).await
    }

    /// One whose connections in, and out, end with its certificate, which is thought to end then.
    pub(super) async fn ending(app: App, ends: [Option<SystemTime>; 2]) -> Self {
        let pki = Pki::new();
        let ways = ends.map(|end| pki.tls_until(GATEWAY, end).bounding_connections(true));
        Self::of(pki, ways, app, NETWORK, 100).await
    }

    async fn of(pki: Pki, [inward, outward]: [Tls; 2], app: App, network: &str, names_max: usize) -> Self {
        let control = Control::start();
        let peer = Peer::start(pki.tls(WEB), app).await;
        control.policy(AUTHORITY, detect(AUTHORITY));
        control.add(AUTHORITY, vec![peer.endpoint(5432, WEB)]);
        let gateway = Pod::of(outward, &control, names_max);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inbound = Arc::new(inbound(inward, &control, &gateway, address.port(), network));
        let drain = gateway.drain.clone();
        gateway.drain.spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                // What policy lets everyone in the pod do says nothing about others.
                let peer = SocketAddr::new(IpAddr::from([10, 9, 8, 7]), peer.port());
                let inbound = inbound.clone();
                drain.spawn(async move { inbound.accept(stream, peer, address).await });
            }
        });
        Self { pki, control, gateway, address, peer }
    }

    /// A mesh connection to the gateway of whoever has this identity.
    pub(super) async fn dial(&self, identity: &str, offer: Alpn) -> ClientStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connected = self.pki.tls(identity).connect(stream, &GATEWAY.parse().unwrap(), GATEWAY, offer).await;
        connected.unwrap().stream
    }

    /// The same, with a header.
    pub(super) async fn connect_as(&self, identity: &str, header: Header) -> ClientStream<TcpStream> {
        let mut stream = self.dial(identity, Alpn::TransportHeader).await;
        stream.write_all(&header.encode()).await.unwrap();
        stream
    }

    pub(super) async fn connect(&self, header: Header) -> ClientStream<TcpStream> {
        self.connect_as(CLIENT, header).await
    }

    /// A service of another cluster, as the control plane of the client's tells it: behind this gateway.
    pub(super) fn mirrored(&self, authority: &str) -> WeightedAddr {
        let authority_override = Some(AuthorityOverride { authority_override: authority.into() });
        WeightedAddr { authority_override, ..meshed(self.address, self.address.port(), GATEWAY) }
    }
}

/// What a client's proxy says to have itself taken on to [`AUTHORITY`].
pub(super) fn header(protocol: Protocol) -> Header {
    Header { port: 80, name: Some(NAME.into()), protocol }
}

fn inbound(tls: Tls, control: &Control, gateway: &Pod, port: u16, network: &str) -> Inbound {
    let policies = policies(policy::Settings {
        workload: "gateway".into(),
        default_policy: DefaultPolicy::ClusterAuthenticated,
        cluster_networks: vec![network.parse().unwrap()],
        eager_ports: [port].into(),
        ..policy_settings()
    });
    // As every pod has them.
    let options = Options { profiles: Some(profiles(control)), ..inbound_options(port) };
    let (connections, metrics) = (gateway.connections.clone(), gateway.metrics.clone());
    let inbound = Inbound::new(options, tls, policies, connections, metrics, gateway.drain.clone());
    inbound.through(Gateway::new("svc.cluster.local.".parse().unwrap(), gateway.outbound.clone()))
}
