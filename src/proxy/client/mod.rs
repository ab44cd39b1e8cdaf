//! Connects to endpoints: TCP, then mesh TLS where discovery named an identity; the transport header goes out with what follows.
//!
//! In: an endpoint and what will be spoken with it. Out: a [`Connection`], listed in the connection table with what its
//! handshake measured, or with the reason why it is plaintext. An endpoint with an identity is reached with TLS or not at all.
//!
//! Start at [`Connector::connect`]. [`http`] keeps connections for requests.

pub mod http;
mod renamed;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub use stream::Stream;

use super::connections::{Entry, Opened, Table};
use super::metrics::{Labels, Metrics, Transport};
use super::settings::Settings;
use super::streams::Framed;
use super::tls::{self, Alpn, ClientStream, Terms, Tls};
use super::transport_header::Header;
use crate::mesh::connection::{Direction, PlaintextReason, Security};
use crate::mesh::endpoint::{Hint, Server};
use crate::mesh::{Endpoint, Identity, Protocol};
use crate::net::counted::Counted;
use crate::net::drain::Drain;
use crate::net::fair;
use crate::net::own;

/// What connecting needs to know of this pod.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of TCP, TLS and the transport header together.
    pub connect_timeout: Duration,
    pub keepalive: Option<Duration>,
    pub user_timeout: Option<Duration>,
    pub http1_idle_timeout: Duration,
    /// The addresses of this pod: endpoints there are this pod's own app.
    pub local_ips: Vec<IpAddr>,
    /// Where this proxy listens: connecting there from here would go round in circles.
    pub own_ports: Vec<u16>,
    /// For tests, whose servers are on loopback. In a pod, loopback is what only its own containers should reach: an endpoint
    /// there is a mistake or an attack. No setting leads here.
    pub may_dial_loopback: bool,
}

impl From<&Settings> for Options {
    fn from(settings: &Settings) -> Self {
        let outbound = &settings.outbound;
        let given = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let listeners = [settings.inbound.inbound_listen_addr];
        let own_ports = listeners.into_iter().chain(settings.outbound_listen_addrs()).map(|address| address.port());
        Self {
            connect_timeout: outbound.outbound_connect_timeout,
            keepalive: given(outbound.outbound_connect_keepalive),
            user_timeout: given(outbound.outbound_connect_user_timeout),
            http1_idle_timeout: outbound.outbound_http1_connection_pool_idle_timeout,
            local_ips: settings.inbound.inbound_ips.clone(),
            own_ports: own_ports.collect(),
            may_dial_loopback: false,
        }
    }
}

/// Opens connections to endpoints.
#[derive(Debug)]
pub struct Connector {
    pub options: Options,
    pub tls: Tls,
    pub connections: Table,
    pub metrics: Metrics,
    pub drain: Drain,
}

/// An open connection; dropping it closes it, in the table too.
#[derive(Debug)]
pub struct Connection {
    pub stream: Counted<Stream>,
    pub records: Records,
    /// How long it took to be there.
    pub took: Duration,
    /// What is known of the connection, where it may be used again.
    pub made: Option<Made>,
    /// When it must have ended, where it may not outlive its certificates.
    pub ends_at: Option<tokio::time::Instant>,
}

/// How a connection that may carry more streams was made.
#[derive(Clone, Debug)]
pub struct Made {
    client: SocketAddr,
    server: SocketAddr,
    security: Security,
    terms: Terms,
}

/// A mesh connection whose stream has ended.
#[derive(Debug)]
pub struct Kept {
    pub stream: ClientStream<TcpStream>,
    pub made: Made,
    pub since: Instant,
}

/// Where a connection is on record for as long as it is open.
#[derive(Debug)]
pub struct Records {
    /// None where the connection does not leave the pod.
    entry: Option<Entry>,
    transport: Transport,
}

/// Why an endpoint was not reached. No byte of the app's has been sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot begin HTTP with {address}")]
    Http {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} had ended the connection")]
    Ended { address: SocketAddr },
    #[error("{address} took no other stream on a connection")]
    Again {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("refusing to connect to {0}: a loopback address is no endpoint")]
    Loopback(SocketAddr),
    #[error("refusing to connect to {0}: it is this very proxy")]
    Loop(SocketAddr),
    #[error("the app at {address} did not serve it: {reason}")]
    Unserved { address: SocketAddr, reason: String },
    #[error("connecting to {address} took more than {timeout:?}")]
    Timeout { address: SocketAddr, timeout: Duration },
    #[error("cannot make a mesh connection to {identity} at {address}")]
    Tls {
        address: SocketAddr,
        identity: Identity,
        #[source]
        source: tls::Error,
    },
    #[error("refusing to connect to {address}: its identity {identity:?} cannot be verified")]
    Unverifiable { address: SocketAddr, identity: String },
}

impl Connector {
    /// What is known of a connection to `endpoint` before there is one: whether and why it will be plaintext.
    fn plaintext_reason(&self, endpoint: &Endpoint) -> Option<PlaintextReason> {
        match endpoint.server {
            _ if self.is_local(endpoint) => Some(PlaintextReason::Loopback),
            Server::Unmeshed => Some(PlaintextReason::NotProvidedByServiceDiscovery),
            Server::Meshed { .. } | Server::Unverifiable(_) => None,
        }
    }

    /// Whether the endpoint is this pod's own app.
    pub fn is_local(&self, endpoint: &Endpoint) -> bool {
        self.options.local_ips.contains(&endpoint.address.ip())
    }

    /// The labels of everything that goes to `endpoint`: who it is, and how it is secured.
    pub fn labels(&self, endpoint: &Endpoint, authority: Option<&str>) -> Labels {
        let tls = match (&endpoint.server, self.plaintext_reason(endpoint)) {
            (_, Some(reason)) => Labels::tls(Direction::Outbound, &Security::Plaintext { reason }),
            (Server::Meshed { identity, .. }, None) => {
                Labels::new([("tls", "true".to_owned()), ("server_id", identity.to_string())])
            }
            (_, None) => Labels::new([("tls", "true")]),
        };
        let authority = Labels::new(authority.map(|authority| ("authority", authority.to_owned())));
        let destination = endpoint.labels.iter().map(|(name, value)| (format!("dst_{name}"), value.clone()));
        authority.and(&Labels::target(endpoint.address)).and(&tls).and(&Labels::new(destination))
    }

    /// Connects to `endpoint`, to speak `protocol` to the app behind it. `labels` are [`Self::labels`], made once.
    ///
    /// # Errors
    /// Where the endpoint is not reached in time, or does not prove to be who it should be.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        protocol: Protocol,
        authority: Option<&str>,
        labels: &Labels,
    ) -> Result<Connection, Error> {
        let began_at = Instant::now();
        let secured = self.in_time(endpoint, Box::pin(self.secure(endpoint, Some(protocol)))).await?;
        Ok(self.record(secured, began_at, endpoint, protocol, authority, labels))
    }

    /// Begins another opaque stream on a connection to `endpoint`.
    ///
    /// # Errors
    /// Where the peer does not accept it in time. Nothing of the app's has been sent then.
    pub async fn again(
        &self,
        kept: Kept,
        endpoint: &Endpoint,
        authority: Option<&str>,
        labels: &Labels,
    ) -> Result<Connection, Error> {
        let began_at = Instant::now();
        let Kept { stream, made, .. } = kept;
        let Made { client, server, security, .. } = made.clone();
        let header = header(endpoint).map(|meant| meant.encode(Protocol::Opaque)).unwrap_or_default();
        let accepted = async {
            let address = endpoint.address;
            Framed::again(stream, &header).await.map_err(|source| Error::Again { address, source })
        };
        let stream = Stream::Framed(Box::new(self.in_time(endpoint, Box::pin(accepted)).await?));
        let secured = Secured { stream, client, server, security, terms: Some(made.terms) };
        Ok(self.record(secured, began_at, endpoint, Protocol::Opaque, authority, labels))
    }

    /// Puts a connection on record.
    fn record(
        &self,
        secured: Secured,
        began_at: Instant,
        endpoint: &Endpoint,
        protocol: Protocol,
        authority: Option<&str>,
        labels: &Labels,
    ) -> Connection {
        let Secured { stream, client, server, security, terms } = secured;
        let ends_at = terms.as_ref().and_then(|terms| self.tls.ends_at(terms));
        let made = terms.filter(|_| matches!(stream, Stream::Framed(_))).map(|terms| Made {
            client,
            server,
            security: security.clone(),
            terms,
        });
        let entry = (!self.is_local(endpoint)).then(|| {
            self.connections.open(Opened {
                direction: Direction::Outbound,
                client,
                server,
                target: endpoint.address,
                authority: authority.map(Into::into),
                protocol,
                security,
                labels: endpoint.labels.clone(),
            })
        });
        let peer = Labels::direction(Direction::Outbound).and(&Labels::new([("peer", "dst")]));
        let transport = self.metrics.transport(&peer.and(labels));
        let counts = entry.as_ref().map(Entry::counts).unwrap_or_default();
        let stream = Counted::new(stream, counts, transport.totals());
        Connection { stream, records: Records { entry, transport }, took: began_at.elapsed(), made, ends_at }
    }

    /// Says whether `endpoint` can be reached again. Nothing of it comes to the app's notice.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn probe(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.in_time(endpoint, Box::pin(self.secure(endpoint, None))).await.map(drop)
    }

    /// `work` is boxed: whoever may have to connect has a place for it in each request's future, and hardly any request connects.
    async fn in_time<T>(
        &self,
        endpoint: &Endpoint,
        work: Pin<Box<impl Future<Output = Result<T, Error>>>>,
    ) -> Result<T, Error> {
        let timeout = self.options.connect_timeout;
        let late = |_| Error::Timeout { address: endpoint.address, timeout };
        fair::timeout(timeout, work).await.map_err(late)?
    }

    /// Connects and proves; with a `protocol`, has the peer's proxy told where to take it.
    async fn secure(&self, endpoint: &Endpoint, protocol: Option<Protocol>) -> Result<Secured, Error> {
        if let Some(reason) = self.plaintext_reason(endpoint) {
            let stream = self.dial(endpoint.address).await?;
            let (client, server) = addresses(&stream, endpoint.address)?;
            let security = Security::Plaintext { reason };
            return Ok(Secured { stream: Stream::Plain(stream), client, server, security, terms: None });
        }
        let (identity, server_name) = match &endpoint.server {
            Server::Meshed { identity, server_name } => (identity, server_name),
            Server::Unmeshed => return Err(Error::Loop(endpoint.address)),
            Server::Unverifiable(identity) => {
                return Err(Error::Unverifiable { address: endpoint.address, identity: identity.clone() });
            }
        };
        let header = header(endpoint);
        let port = header.as_ref().map_or(endpoint.address.port(), |header| header.dialled);
        let address = SocketAddr::new(endpoint.address.ip(), port);
        let offer = match (&header, protocol) {
            (None, _) => Alpn::None,
            (Some(_), Some(Protocol::Opaque)) => Alpn::Streams,
            (Some(_), _) => Alpn::TransportHeader,
        };
        let stream = self.dial(address).await?;
        let (client, server) = addresses(&stream, address)?;
        let connected = self.tls.connect(stream, identity, server_name, offer).await.map_err(|source| Error::Tls {
            address,
            identity: identity.clone(),
            source,
        })?;
        let preface = match (header, protocol, connected.transport_header) {
            (Some(header), Some(protocol), true) => header.encode(said(endpoint, protocol)),
            _ => Vec::new(),
        };
        let security = Security::Mutual(connected.tls);
        let stream = if connected.streams {
            Stream::Framed(Box::new(Framed::first(connected.stream, &preface)))
        } else {
            Stream::Tls(Box::new(stream::Tls::new(connected.stream, preface.into())))
        };
        Ok(Secured { stream, client, server, security, terms: Some(connected.terms) })
    }

    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, Error> {
        let ip = address.ip().to_canonical();
        if (ip.is_loopback() || ip.is_unspecified()) && !self.options.may_dial_loopback {
            return Err(Error::Loopback(address));
        }
        if self.options.local_ips.contains(&ip) && self.options.own_ports.contains(&address.port()) {
            return Err(Error::Loop(address));
        }
        let failed = |source| Error::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        own::note(&stream, address);
        stream.set_nodelay(true).map_err(failed)?;
        let socket = SockRef::from(&stream);
        if let Some(keepalive) = self.options.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive)).map_err(failed)?;
        }
        if self.options.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.options.user_timeout).map_err(failed)?;
        }
        Ok(stream)
    }
}

struct Secured {
    stream: Stream,
    client: SocketAddr,
    server: SocketAddr,
    security: Security,
    /// Of a mesh connection.
    terms: Option<Terms>,
}

/// What the transport header of connections to an endpoint says, besides the protocol.
struct Meant<'a> {
    /// The port that takes headers.
    dialled: u16,
    port: u16,
    name: Option<&'a str>,
}

impl Meant<'_> {
    fn encode(&self, protocol: Protocol) -> Vec<u8> {
        Header { port: self.port, name: self.name.map(Into::into), protocol }.encode()
    }
}

fn header(endpoint: &Endpoint) -> Option<Meant<'_>> {
    let port = endpoint.address.port();
    match (&endpoint.authority_override, endpoint.header_port) {
        // A gateway's address is that of its proxy already.
        (Some((name, meant)), _) => Some(Meant { dialled: port, port: *meant, name: Some(name) }),
        (None, Some(dialled)) => Some(Meant { dialled, port, name: None }),
        (None, None) => None,
    }
}

/// What the transport header says will be spoken. A server that wants its bytes carried blindly must not be told: its proxy
/// would look for HTTP routes that an opaque port does not have.
fn said(endpoint: &Endpoint, protocol: Protocol) -> Protocol {
    if endpoint.hint == Hint::Opaque { Protocol::Opaque } else { protocol }
}

fn addresses(stream: &TcpStream, address: SocketAddr) -> Result<(SocketAddr, SocketAddr), Error> {
    Ok((stream.local_addr().map_err(|source| Error::Connect { address, source })?, address))
}

impl Kept {
    /// Whether all still holds under which the connection was made.
    fn may_be_used(&self, connector: &Connector) -> bool {
        connector.tls.still(&self.made.terms)
    }
}

impl Records {
    /// Counts one HTTP request.
    pub fn add_request(&self) {
        if let Some(entry) = &self.entry {
            entry.add_request();
        }
    }

    /// Notes why the connection is about to end.
    pub fn failed(&mut self, error: &io::Error) {
        self.transport.failed(error);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use tokio::sync::watch;

    use super::*;
    use crate::pki::{Anchor, Bundle};

    /// A connector of a pod 10.0.0.9 without certificate.
    pub(in crate::proxy) fn connector() -> Arc<Connector> {
        let anchor = Anchor::create("cluster.local", SystemTime::now()).unwrap();
        let bundle = Arc::new(Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap());
        Arc::new(Connector {
            options: Options {
                connect_timeout: Duration::from_secs(1),
                keepalive: None,
                user_timeout: None,
                http1_idle_timeout: Duration::from_secs(3),
                local_ips: vec!["10.0.0.9".parse().unwrap()],
                own_ports: vec![4140, 4143],
                may_dial_loopback: false,
            },
            tls: Tls::new(watch::Sender::new(bundle).subscribe(), watch::Sender::new(None).subscribe()),
            connections: Table::default(),
            metrics: Metrics::new(),
            drain: Drain::new(),
        })
    }

    async fn refused(address: &str) -> Error {
        let endpoint = Endpoint::plain(address.parse().unwrap());
        connector().connect(&endpoint, Protocol::Opaque, None, &Labels::target(endpoint.address)).await.unwrap_err()
    }

    #[tokio::test]
    async fn never_connects_to_loopback() {
        for address in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80", "[::]:80"] {
            assert!(matches!(refused(address).await, Error::Loopback(_)), "{address}");
        }
    }

    #[tokio::test]
    async fn never_connects_to_itself() {
        assert!(matches!(refused("10.0.0.9:4143").await, Error::Loop(_)));
        assert!(matches!(refused("10.0.0.9:4140").await, Error::Loop(_)));
    }

    #[test]
    fn labels_say_who_where_and_how_secured() {
        let mut endpoint = Endpoint::plain("10.0.0.2:80".parse().unwrap());
        endpoint.labels.insert("pod".into(), "web-1".into());
        let connector = connector();
        let shown = |endpoint: &Endpoint| format!("{:?}", connector.labels(endpoint, Some("web.shop:80")));
        let plain = shown(&endpoint);
        for part in ["web.shop:80", "10.0.0.2:80", "not_provided_by_service_discovery", "dst_pod"] {
            assert!(plain.contains(part), "{part} in {plain}");
        }
        let identity: Identity = "web.shop".parse().unwrap();
        endpoint.server = Server::Meshed { identity, server_name: "web.shop".into() };
        assert!(shown(&endpoint).contains("server_id"));
        endpoint.address = "10.0.0.9:80".parse().unwrap();
        assert!(shown(&endpoint).contains("loopback"), "one's own app is reached without TLS");
    }

    #[test]
    fn an_opaque_server_is_not_told_what_is_spoken() {
        let mut endpoint = Endpoint::plain("10.0.0.2:80".parse().unwrap());
        assert_eq!(said(&endpoint, Protocol::Http1), Protocol::Http1);
        endpoint.hint = Hint::Opaque;
        assert_eq!(said(&endpoint, Protocol::Http1), Protocol::Opaque);
    }
}
