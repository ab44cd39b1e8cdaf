//! Mesh TLS, both ends: proves who this pod is and learns who the peer is.
//!
//! In: a stream, and of an outbound one the identity its peer must prove. Out: an encrypted stream with what the handshake settled,
//! as [`Security`]. TLS 1.3 only; the bundle is the only trust there is. A server's name is compared with the identities in
//! its certificate, never with the SNI: the SNI only tells the peer which of its names is meant.
//!
//! Start at [`Tls::accept`] and [`Tls::connect`]. Whether a connection is mesh TLS at all is found out in [`super::detect`].

mod chains;

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use self::chains::Chains;
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

/// AES-128 first, as proxies of this mesh expect; on CPUs without AES instructions ChaCha20 is only the third choice, as with them.
const CIPHER_SUITES: [SupportedCipherSuite; 3] = [
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Signatures that are believed. No RSA-PSS: an RSA key can sign an issuer, but not authenticate a peer.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki::aws_lc_rs::ECDSA_P256_SHA256,
        webpki::aws_lc_rs::ECDSA_P256_SHA384,
        webpki::aws_lc_rs::ECDSA_P256_SHA512,
        webpki::aws_lc_rs::ECDSA_P384_SHA256,
        webpki::aws_lc_rs::ECDSA_P384_SHA384,
        webpki::aws_lc_rs::ECDSA_P384_SHA512,
        webpki::aws_lc_rs::ECDSA_P521_SHA256,
        webpki::aws_lc_rs::ECDSA_P521_SHA384,
        webpki::aws_lc_rs::ECDSA_P521_SHA512,
        webpki::aws_lc_rs::ED25519,
        webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
        webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
        webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[webpki::aws_lc_rs::ECDSA_P384_SHA384]),
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP521_SHA512, &[webpki::aws_lc_rs::ECDSA_P521_SHA512]),
        (SignatureScheme::ED25519, &[webpki::aws_lc_rs::ED25519]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256]),
    ],
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        signature_verification_algorithms: SIGNATURES,
        ..aws_lc_rs::default_provider()
    })
});

/// Both ends of mesh TLS, always with the latest credentials and bundle. Clones are the same.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    bundle: watch::Receiver<Arc<Bundle>>,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    configs: ArcSwapOption<Configs>,
}

/// What rustls makes of one certificate and one bundle: built when either changes, not for each connection.
struct Configs {
    bundle: Arc<Bundle>,
    credentials: Option<Arc<Credentials>>,
    client: Arc<ClientConfig>,
    client_with_header: Arc<ClientConfig>,
    client_with_streams: Arc<ClientConfig>,
    /// What servers have shown.
    server_chains: Arc<Chains>,
    /// None until there are credentials.
    servers: Option<Servers>,
}

struct Servers {
    identity: Identity,
    plain: Arc<ServerConfig>,
    with_header: Arc<ServerConfig>,
    with_streams: Arc<ServerConfig>,
    /// What clients have shown.
    client_chains: Arc<Chains>,
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

/// An accepted mesh connection.
#[derive(Debug)]
pub struct Accepted<S> {
    pub stream: server::TlsStream<S>,
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
    pub stream: client::TlsStream<S>,
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
        Self(Arc::new(Inner { bundle, credentials, configs: ArcSwapOption::empty() }))
    }

    /// This proxy's own identity; none until it is certified.
    pub fn identity(&self) -> Option<Identity> {
        self.0.credentials.borrow().as_ref().map(|credentials| credentials.identity.clone())
    }

    /// Resolves once this proxy is certified; never, if nobody gets it certificates any more.
    pub async fn certified(&self) {
        let mut credentials = self.0.credentials.clone();
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
        let config = match alpn {
            Alpn::None => &servers.plain,
            Alpn::TransportHeader => &servers.with_header,
            Alpn::Streams => &servers.with_streams,
        };
        let handshake = TlsAcceptor::from(config.clone()).accept(stream);
        let stream = fair::timeout(ACCEPT_TIMEOUT, handshake)
            .await
            .map_err(|_| Error::HandshakeTimeout)?
            .map_err(Error::Handshake)?;
        let state = stream.get_ref().1;
        let client = peer(state, &servers.client_chains)?;
        let client_identity = client.as_ref().and_then(|client| client.identity().cloned());
        let tls = settled(state, client_identity, servers.identity.clone(), client.as_deref())?;
        let security = if tls.client_identity.is_some() { Security::Mutual(tls) } else { Security::ServerOnly(tls) };
        let (transport_header, streams) = agreed(state);
        let terms = Terms::of(configs.clone(), client.as_deref());
        Ok(Accepted { stream, security, transport_header, streams, terms })
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
        let config = match offer {
            Alpn::None => &configs.client,
            Alpn::TransportHeader => &configs.client_with_header,
            Alpn::Streams => &configs.client_with_streams,
        };
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| Error::ServerName(server_name.into()))?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(Error::Handshake)?;
        let state = stream.get_ref().1;
        let certificate = peer(state, &configs.server_chains)?.ok_or(Error::Unfinished("server certificate"))?;
        if !certificate.identities().contains(server) {
            return Err(Error::WrongServer { expected: server.clone(), found: certificate.identities().to_vec() });
        }
        let client_identity = configs.credentials.as_ref().map(|credentials| credentials.identity.clone());
        let tls = settled(state, client_identity, server.clone(), Some(&certificate))?;
        let (transport_header, streams) = agreed(state);
        let terms = Terms::of(configs.clone(), Some(&certificate));
        Ok(Connected { stream, tls, transport_header, streams, terms })
    }

    /// Whether a connection made under these terms may be used again: with the same certificate and bundle on this side, and while
    /// neither certificate has ended.
    pub fn still(&self, terms: &Terms) -> bool {
        SystemTime::now() < terms.until && self.configs().is_ok_and(|configs| Arc::ptr_eq(&configs, &terms.configs))
    }

    fn configs(&self) -> Result<Arc<Configs>, Error> {
        let bundle = self.0.bundle.borrow().clone();
        let credentials = self.0.credentials.borrow().clone();
        if let Some(built) = &*self.0.configs.load() {
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
        self.0.configs.store(Some(configs.clone()));
        Ok(configs)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity()).finish()
    }
}

impl Configs {
    fn build(bundle: Arc<Bundle>, credentials: Option<Arc<Credentials>>) -> Result<Self, rustls::Error> {
        let own = credentials.as_ref().map(|credentials| Arc::new(Own(credentials.certified_key.clone())));
        let server_chains = Arc::<Chains>::default();
        let client = client_config(&bundle, own.clone(), server_chains.clone())?;
        let mut client_with_header = client.clone();
        client_with_header.alpn_protocols = vec![TRANSPORT_HEADER_ALPN.to_vec()];
        let mut client_with_streams = client.clone();
        client_with_streams.alpn_protocols = vec![streams::ALPN.to_vec(), TRANSPORT_HEADER_ALPN.to_vec()];
        let servers = match (&credentials, own) {
            (Some(credentials), Some(own)) => {
                let client_chains = Arc::<Chains>::default();
                let plain = server_config(&bundle, own, client_chains.clone())?;
                let mut with_header = plain.clone();
                with_header.alpn_protocols = vec![TRANSPORT_HEADER_ALPN.to_vec()];
                let mut with_streams = plain.clone();
                with_streams.alpn_protocols = vec![streams::ALPN.to_vec(), TRANSPORT_HEADER_ALPN.to_vec()];
                Some(Servers {
                    identity: credentials.identity.clone(),
                    plain: Arc::new(plain),
                    with_header: Arc::new(with_header),
                    with_streams: Arc::new(with_streams),
                    client_chains,
                })
            }
            _ => None,
        };
        Ok(Self {
            bundle,
            credentials,
            client: Arc::new(client),
            client_with_header: Arc::new(client_with_header),
            client_with_streams: Arc::new(client_with_streams),
            server_chains,
            servers,
        })
    }
}

fn client_config(bundle: &Bundle, own: Option<Arc<Own>>, chains: Arc<Chains>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { roots: bundle.root_store(), chains }));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    // A resumed session would prove what a certificate said then, not what it says now.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_config(bundle: &Bundle, own: Arc<Own>, chains: Arc<Chains>) -> Result<ServerConfig, rustls::Error> {
    let clients = WebPkiClientVerifier::builder_with_provider(bundle.root_store(), PROVIDER.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier { clients, chains }))
        .with_cert_resolver(own);
    // No client of the mesh resumes, so tickets would be bytes and signatures for nobody.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// This proxy's own certificate and key, whatever the peer's hints and SNI.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).is_some().then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Believes what the bundle vouches for, whatever its name: whose it is [`Tls::connect`] compares.
#[derive(Debug)]
struct ServerVerifier {
    roots: Arc<RootCertStore>,
    chains: Arc<Chains>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chains.verify(leaf, intermediates, now, || {
            let leaf = ParsedCertificate::try_from(leaf)?;
            let algorithms: &[&dyn SignatureVerificationAlgorithm] = SIGNATURES.all;
            verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Believes of clients what rustls does, once for each chain.
#[derive(Debug)]
struct ClientVerifier {
    clients: Arc<dyn ClientCertVerifier>,
    chains: Arc<Chains>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verify = || self.clients.verify_client_cert(leaf, intermediates, now).map(drop);
        self.chains.verify(leaf, intermediates, now, verify)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl Terms {
    fn of(configs: Arc<Configs>, peer: Option<&Certificate>) -> Self {
        let own = configs.credentials.as_ref().map(|credentials| credentials.not_after);
        let until = own.into_iter().chain(peer.map(Certificate::not_after)).min();
        Self { configs, until: until.unwrap_or(UNIX_EPOCH) }
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
