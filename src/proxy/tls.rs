//! Mesh TLS, both ends: proves who this pod is and learns who the peer is.
//!
//! In: a stream, and of an outbound one the identity its peer must prove. Out: an encrypted stream with what the handshake settled,
//! as [`Security`]. TLS 1.3 only; the bundle is the only trust there is. A server's name is compared with the identities in
//! its certificate, never with the SNI: the SNI only tells the peer which of its names is meant.
//!
//! Start at [`Tls::accept`] and [`Tls::connect`]. Whether a connection is mesh TLS at all is found out in [`super::detect`].

mod chains;
mod configs;
mod stream;
mod verify;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use self::chains::Chains;
use self::configs::Configs;
use self::stream::TlsStream;
use super::credentials::Credentials;
use super::streams;
use crate::mesh::Identity;
use crate::mesh::connection::{self, Security};
use crate::net::fair;
use crate::pki::{Bundle, Certificate, InvalidCertificate};

/// What a connection that begins with a transport header is told apart by.
pub const TRANSPORT_HEADER_ALPN: &[u8] = b"transport.l5d.io/v1";
/// A handshake takes two round trips and a millisecond of CPU. A peer that has not finished by then only holds a place.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what is under way on a connection may take to end, once its certificates have: longer than requests take, but for streams that
/// never end by themselves.
pub const ENDING_MAX: Duration = Duration::from_secs(60);

/// Both ends of mesh TLS, always with the latest credentials and bundle. Clones are the same.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
    /// Whether connections end when a certificate does that they were made with.
    bounds_connections: bool,
}

struct Inner {
    bundle: watch::Receiver<Arc<Bundle>>,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    configs: ArcSwapOption<Configs>,
}

/// What one end offers the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// Nothing: app ports, admin.
    None,
    /// `transport.l5d.io/v1`: the inbound port itself.
    TransportHeader,
    /// That, and rather [`streams::ALPN`]: one stream after another, each with a header.
    Streams,
}

/// Under what a connection was made. It may be used again for as long as all of that holds.
#[derive(Clone)]
pub struct Terms {
    configs: Arc<Configs>,
    /// When the first of both certificates ends.
    until: SystemTime,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("until", &self.until).finish()
    }
}

/// A mesh connection as its server has it. On the heap: it is more than a kilobyte, and every future that it passes through would have places
/// for it, for as long as the connection lasts.
pub type ServerStream<S> = Box<TlsStream<S, UnbufferedServerConnection>>;
/// A mesh connection as its client has it.
pub type ClientStream<S> = Box<TlsStream<S, UnbufferedClientConnection>>;

/// An accepted mesh connection.
#[derive(Debug)]
pub struct Accepted<S> {
    pub stream: ServerStream<S>,
    pub security: Security,
    /// Whether the client will send a transport header first.
    pub transport_header: bool,
    /// Whether the client may send one stream after another.
    pub streams: bool,
    pub terms: Terms,
}

/// A mesh connection to a server that has proven to be who it should be.
#[derive(Debug)]
pub struct Connected<S> {
    pub stream: ClientStream<S>,
    pub tls: connection::Tls,
    /// Whether the server expects a transport header first.
    pub transport_header: bool,
    /// Whether the server takes one stream after another.
    pub streams: bool,
    pub terms: Terms,
}

/// Why there is no mesh connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the TLS settings cannot be used")]
    Configuration(#[source] rustls::Error),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the TLS handshake took more than {ACCEPT_TIMEOUT:?}")]
    HandshakeTimeout,
    #[error("there is no certificate yet")]
    NoCredentials,
    #[error("the peer's certificate cannot be read")]
    PeerCertificate(#[source] InvalidCertificate),
    #[error("the server name {0:?} is not a DNS name")]
    ServerName(String),
    #[error("the handshake ended without its {0}")]
    Unfinished(&'static str),
    #[error("the server is {}, not {expected}", names(found))]
    WrongServer { expected: Identity, found: Vec<Identity> },
}

fn names(identities: &[Identity]) -> String {
    if identities.is_empty() {
        return "nobody of this mesh".into();
    }
    identities.iter().map(Identity::as_str).collect::<Vec<_>>().join(" or ")
}

impl Tls {
    pub fn new(bundle: watch::Receiver<Arc<Bundle>>, credentials: watch::Receiver<Option<Arc<Credentials>>>) -> Self {
        let inner = Arc::new(Inner { bundle, credentials, configs: ArcSwapOption::empty() });
        Self { inner, bounds_connections: false }
    }

    /// The same, saying whether connections end when a certificate does that they were made with.
    #[must_use]
    pub fn bounding_connections(self, bounds_connections: bool) -> Self {
        Self { bounds_connections, ..self }
    }

    /// This proxy's own identity; none until it is certified.
    pub fn identity(&self) -> Option<Identity> {
        self.inner.credentials.borrow().as_ref().map(|credentials| credentials.identity.clone())
    }

    /// Resolves once this proxy is certified; never, if nobody gets it certificates any more.
    pub async fn certified(&self) {
        let mut credentials = self.inner.credentials.clone();
        if credentials.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Does the server's part of a handshake with a client whose SNI is ours.
    ///
    /// A client may stay without a certificate ([`Security::ServerOnly`]), but one that shows any must show a good one.
    ///
    /// # Errors
    /// Where the client is not believed, shares no ALPN, does not finish in time, or this proxy has no certificate yet.
    pub async fn accept<S>(&self, stream: S, alpn: Alpn) -> Result<Accepted<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let configs = self.configs()?;
        let servers = configs.servers.as_ref().ok_or(Error::NoCredentials)?;
        let handshake = TlsStream::accept(servers.configs.of(alpn).clone(), stream);
        let stream = fair::timeout(ACCEPT_TIMEOUT, handshake)
            .await
            .map_err(|_| Error::HandshakeTimeout)?
            .map_err(Error::Handshake)?;
        let state = stream.state();
        let client = peer(state, &servers.client_chains)?;
        let client_identity = client.as_ref().and_then(|client| client.identity().cloned());
        let tls = settled(state, client_identity, servers.identity.clone(), client.as_deref())?;
        let security = if tls.client_identity.is_some() { Security::Mutual(tls) } else { Security::ServerOnly(tls) };
        let (transport_header, streams) = agreed(state);
        let terms = Terms::of(configs.clone(), client.as_deref());
        Ok(Accepted { stream: Box::new(stream), security, transport_header, streams, terms })
    }

    /// Does the client's part of a handshake with a server that must prove to be `server`.
    ///
    /// Works without credentials too, since the first certificate is asked for over such a connection. The caller bounds the time.
    ///
    /// # Errors
    /// Where the server is not believed, or is somebody else.
    pub async fn connect<S>(
        &self,
        stream: S,
        server: &Identity,
        server_name: &str,
        offer: Alpn,
    ) -> Result<Connected<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let configs = self.configs()?;
        let config = configs.clients.of(offer);
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| Error::ServerName(server_name.into()))?;
        let stream = TlsStream::connect(config.clone(), name, stream).await.map_err(Error::Handshake)?;
        let state = stream.state();
        let certificate = peer(state, &configs.server_chains)?.ok_or(Error::Unfinished("server certificate"))?;
        if !certificate.identities().contains(server) {
            return Err(Error::WrongServer { expected: server.clone(), found: certificate.identities().to_vec() });
        }
        let client_identity = configs.credentials.as_ref().map(|credentials| credentials.identity.clone());
        let tls = settled(state, client_identity, server.clone(), Some(&certificate))?;
        let (transport_header, streams) = agreed(state);
        let terms = Terms::of(configs.clone(), Some(&certificate));
        Ok(Connected { stream: Box::new(stream), tls, transport_header, streams, terms })
    }

    /// Whether a connection made under these terms may be used again: with the same certificate and bundle on this side, and while
    /// neither certificate has ended.
    pub fn still(&self, terms: &Terms) -> bool {
        SystemTime::now() < terms.until && self.configs().is_ok_and(|configs| Arc::ptr_eq(&configs, &terms.configs))
    }

    /// When a connection made under these terms must end; none where it may outlive its certificates.
    ///
    /// It was authenticated while they were valid, and its keys are as good as before: so by default it may. What is told here is told by the
    /// clock of now, which may be set meanwhile.
    pub fn ends_at(&self, terms: &Terms) -> Option<Instant> {
        let left = terms.until.duration_since(SystemTime::now()).unwrap_or_default();
        self.bounds_connections.then(|| Instant::now() + left)
    }

    fn configs(&self) -> Result<Arc<Configs>, Error> {
        let bundle = self.inner.bundle.borrow().clone();
        let credentials = self.inner.credentials.borrow().clone();
        if let Some(built) = &*self.inner.configs.load() {
            let same_credentials = match (&built.credentials, &credentials) {
                (None, None) => true,
                (Some(built), Some(latest)) => Arc::ptr_eq(built, latest),
                _ => false,
            };
            if same_credentials && Arc::ptr_eq(&built.bundle, &bundle) {
                return Ok(built.clone());
            }
        }
        let configs = Arc::new(Configs::build(bundle, credentials).map_err(Error::Configuration)?);
        self.inner.configs.store(Some(configs.clone()));
        Ok(configs)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity()).finish()
    }
}

impl Terms {
    fn of(configs: Arc<Configs>, peer: Option<&Certificate>) -> Self {
        let own = configs.credentials.as_ref().map(|credentials| credentials.not_after);
        let until = own.into_iter().chain(peer.map(Certificate::not_after)).min();
        Self { configs, until: until.unwrap_or(UNIX_EPOCH) }
    }
}

/// Resolves when a connection must have ended; never where it need not.
pub async fn end(ends_at: Option<Instant>) {
    match ends_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether a transport header comes first, and whether streams may follow each other.
fn agreed(state: &CommonState) -> (bool, bool) {
    let streams = state.alpn_protocol() == Some(streams::ALPN);
    (streams || state.alpn_protocol() == Some(TRANSPORT_HEADER_ALPN), streams)
}

fn peer(state: &CommonState, chains: &Chains) -> Result<Option<Arc<Certificate>>, Error> {
    let Some(leaf) = state.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    chains.leaf(leaf).map(Some).map_err(Error::PeerCertificate)
}

fn settled(
    state: &CommonState,
    client_identity: Option<Identity>,
    server_identity: Identity,
    peer: Option<&Certificate>,
) -> Result<connection::Tls, Error> {
    let version = state.protocol_version().ok_or(Error::Unfinished("version"))?;
    let cipher = state.negotiated_cipher_suite().ok_or(Error::Unfinished("cipher suite"))?;
    let group = state.negotiated_key_exchange_group().ok_or(Error::Unfinished("key exchange"))?;
    let expires_at =
        |peer: &Certificate| peer.not_after().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(connection::Tls {
        client_identity,
        server_identity,
        version: format!("{version:?}").replace('_', "."),
        cipher: format!("{:?}", cipher.suite()),
        group: format!("{:?}", group.name()),
        peer_serial: peer.map(|peer| peer.serial().to_owned()),
        peer_expires_at: peer.map(expires_at),
    })
}
