//! What rustls is told: one configuration for each end and offer, from one certificate and one bundle.
//!
//! In: the credentials and the bundle in force. Out: [`Configs`], built when either changes, not for each connection.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use super::chains::Chains;
use super::verify::{ClientVerifier, PROVIDER, ServerVerifier};
use super::{Alpn, TRANSPORT_HEADER_ALPN};
use crate::mesh::Identity;
use crate::pki::Bundle;
use crate::proxy::credentials::Credentials;
use crate::proxy::streams;

/// What rustls makes of one certificate and one bundle.
pub(super) struct Configs {
    pub(super) bundle: Arc<Bundle>,
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) clients: Offers<ClientConfig>,
    /// What servers have shown.
    pub(super) server_chains: Arc<Chains>,
    /// None until there are credentials.
    pub(super) servers: Option<Servers>,
}

pub(super) struct Servers {
    pub(super) identity: Identity,
    pub(super) configs: Offers<ServerConfig>,
    /// What clients have shown.
    pub(super) client_chains: Arc<Chains>,
}

/// A configuration for each [`Alpn`].
pub(super) struct Offers<C> {
    none: Arc<C>,
    transport_header: Arc<C>,
    streams: Arc<C>,
}

impl<C: Clone> Offers<C> {
    /// From a configuration that offers nothing, and a way to have it offer something.
    fn new(none: C, offer: impl Fn(&mut C, Vec<Vec<u8>>)) -> Self {
        let offering = |alpn: Alpn| {
            let mut config = none.clone();
            offer(&mut config, alpn.protocols());
            Arc::new(config)
        };
        Self {
            none: offering(Alpn::None),
            transport_header: offering(Alpn::TransportHeader),
            streams: offering(Alpn::Streams),
        }
    }

    pub(super) fn of(&self, alpn: Alpn) -> &Arc<C> {
        match alpn {
            Alpn::None => &self.none,
            Alpn::TransportHeader => &self.transport_header,
            Alpn::Streams => &self.streams,
        }
    }
}

impl Alpn {
    /// The best first.
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            Self::TransportHeader => vec![TRANSPORT_HEADER_ALPN.to_vec()],
            Self::Streams => vec![streams::ALPN.to_vec(), TRANSPORT_HEADER_ALPN.to_vec()],
        }
    }
}

impl Configs {
    pub(super) fn build(bundle: Arc<Bundle>, credentials: Option<Arc<Credentials>>) -> Result<Self, rustls::Error> {
        let own = credentials.as_ref().map(|credentials| Arc::new(Own(credentials.certified_key.clone())));
        let server_chains = Arc::<Chains>::default();
        let client = client_config(&bundle, own.clone(), server_chains.clone())?;
        let clients = Offers::new(client, |config, protocols| config.alpn_protocols = protocols);
        let servers = match (&credentials, own) {
            (Some(credentials), Some(own)) => {
                let client_chains = Arc::<Chains>::default();
                let server = server_config(&bundle, own, client_chains.clone())?;
                let configs = Offers::new(server, |config, protocols| config.alpn_protocols = protocols);
                Some(Servers { identity: credentials.identity.clone(), configs, client_chains })
            }
            _ => None,
        };
        Ok(Self { bundle, credentials, clients, server_chains, servers })
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
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(bundle.root_store(), chains)?))
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
