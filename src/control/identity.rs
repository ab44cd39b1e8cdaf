//! The identity role: CSR and token in, leaf out.
//!
//! ```text
//!   authority.rs  keeps anchor, issuer and bundle in the cluster, and renews the issuer
//!        │ watch: what to sign with               │ watch: what to believe
//!        v                                        v
//!   certify.rs    answers proxies over gRPC:     trust.rs    tells proxies the bundle, live
//!        ^        checks in order, then signs         ^
//!        └────────────────── limits.rs ──────────────┘   who asks too often, before anything is read
//! ```
//!
//! Its ServiceAccount needs, for the cluster: `create` `tokenreviews.authentication.k8s.io`; in the namespace of the control plane:
//! `get`, `list`, `watch`, `update` Secrets `hawser-trust-anchor` and `hawser-identity-issuer`; `get`, `list`, `watch`, `update` ConfigMap
//! `hawser-trust-bundle`; `create`, `patch` `events.events.k8s.io`. It may create no Secret, and see no other.
//!
//! Start at [`run`].

pub mod authority;
pub mod certify;
pub mod limits;
pub mod trust;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::Service as _;

use super::grpc::Caller;
use super::{Common, Role, grpc, trust_bundle};
use crate::cluster::token_review::ApiServer;
use crate::manifest::names::{CLIENT_IP, TOKEN_AUDIENCE};
use crate::net::drain::Drain;
use crate::pki::{Lifetime, Lifetimes, Validity, parse_duration};
use crate::wire::identity::identity_server::IdentityServer;
use crate::wire::trust::WATCH;
use authority::{Authority, Status};
use certify::{Certify, Metrics};
use limits::Source;
use trust::Trust;

/// A name, a token and a CSR at their largest ([`certify`] has the bounds of each): larger requests are none.
const REQUEST_BYTES_MAX: usize = 24 << 10;
/// How long a request may take as a whole: reading it, and twice waiting for the API server. Then its place is free again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(14);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where proxies ask for certificates
    #[arg(long, env = "HAWSER_IDENTITY_ADDRESS", default_value = "[::]:8080", value_name = "IP:PORT")]
    address: SocketAddr,
    /// How long a certificate is valid
    #[arg(long, env = "HAWSER_ISSUANCE_LIFETIME", default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    issuance_lifetime: Duration,
    /// How far clocks of nodes may differ
    #[arg(long, env = "HAWSER_CLOCK_SKEW_ALLOWANCE", default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    clock_skew_allowance: Duration,
    /// How long an issuer made here is valid
    #[arg(long, env = "HAWSER_ISSUER_LIFETIME", default_value = "90d", value_parser = parse_duration, value_name = "DURATION")]
    issuer_lifetime: Duration,
    /// How long before its end an issuer made here is replaced
    #[arg(long, env = "HAWSER_ISSUER_RENEW_BEFORE", default_value = "30d", value_parser = parse_duration, value_name = "DURATION")]
    issuer_renew_before: Duration,
    /// How long a trust anchor made here is valid
    #[arg(long, env = "HAWSER_ANCHOR_LIFETIME", default_value = "3652d", value_parser = parse_duration, value_name = "DURATION")]
    anchor_lifetime: Duration,
    /// How long before its end a trust anchor begins to be replaced
    #[arg(long, env = "HAWSER_ANCHOR_ROTATE_BEFORE", default_value = "730d", value_parser = parse_duration, value_name = "DURATION")]
    anchor_rotate_before: Duration,
    /// Whether pods may prove themselves by a token for the API server: for pods that have none for the mesh
    #[arg(
        long,
        env = "HAWSER_ACCEPT_API_SERVER_TOKENS",
        default_value_t = false,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    accept_api_server_tokens: bool,
}

impl Args {
    fn lifetimes(&self) -> anyhow::Result<Lifetimes> {
        let lifetimes = Lifetimes {
            leaf: self.issuance_lifetime,
            skew: self.clock_skew_allowance,
            issuer: self.issuer_lifetime,
            issuer_renew_before: self.issuer_renew_before,
            anchor: self.anchor_lifetime,
            anchor_rotate_before: self.anchor_rotate_before,
        };
        lifetimes.check().map_err(|(which, why)| {
            let flag = match which {
                Lifetime::Leaf => "issuance-lifetime",
                Lifetime::Skew => "clock-skew-allowance",
                Lifetime::Issuer => "issuer-lifetime",
                Lifetime::IssuerRenewBefore => "issuer-renew-before",
                Lifetime::Anchor => "anchor-lifetime",
                Lifetime::AnchorRotateBefore => "anchor-rotate-before",
            };
            anyhow::Error::new(why).context(format!("--{flag} cannot be that"))
        })?;
        Ok(lifetimes)
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let lifetimes = args.lifetimes()?;
    let Args { common, address, accept_api_server_tokens, .. } = args;
    super::start(common, async |role: Role| {
        let block = role.readiness.block("the issuer");
        trust_bundle::keep_copy(&role);
        let (authority, metrics, trust) = {
            let mut registry = role.metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let status = Status::register(&mut registry);
            role.tell_trust(status.clone());
            let authority = Authority::new(role.client.clone(), &role.common, lifetimes, status, role.drain.clone());
            let trust = Trust::new(authority.bundle(), &mut registry, role.drain.clone());
            (authority, Metrics::register(&mut registry), trust)
        };
        let certify = Certify::new(
            certify::Settings {
                control_namespace: role.common.control_namespace.clone(),
                trust_domain: role.common.trust_domain.clone(),
                validity: Validity { lifetime: lifetimes.leaf, skew: lifetimes.skew },
            },
            authority.signing(),
            Arc::new(ApiServer {
                client: role.client.clone(),
                audience: TOKEN_AUDIENCE,
                accepts_api_server_tokens: accept_api_server_tokens,
            }),
            metrics,
        )
        .explaining(authority.trouble());
        // From here on proxies hear "not ready yet" at once, rather than nothing.
        let address = serve(address, certify, trust, &role.drain).await?;
        tracing::info!(%address, "serving the identity API");
        role.drain.spawn(authority.keep(block));
        Ok(())
    })
}

/// Listens at `address`, and answers proxies until the drain.
///
/// # Errors
/// Where the address is taken.
pub async fn serve(address: SocketAddr, certify: Certify, trust: Trust, drain: &Drain) -> anyhow::Result<SocketAddr> {
    let certify = Arc::new(certify);
    let service = move |caller: Caller| {
        let server = Server { certify: certify.clone(), trust: trust.clone(), caller };
        tower::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        })
    };
    grpc::listen(address, service, drain).await
}

/// What answers the requests of one connection.
#[derive(Clone)]
struct Server {
    certify: Arc<Certify>,
    trust: Trust,
    caller: Caller,
}

impl Server {
    async fn answer(self, mut request: Request<Incoming>) -> Response<tonic::body::Body> {
        let source = source(self.caller, request.headers());
        if request.uri().path() == WATCH {
            return match self.certify.limits().subscribe(source, Instant::now()) {
                Ok(place) => self.trust.answer(request, place).await,
                Err(too_much) => self.certify.slow(source, too_much).into_http(),
            };
        }
        // Nothing of a request that comes too soon is read.
        let _place = match self.certify.limits().enter(source, Instant::now()) {
            Ok(place) => place,
            Err(too_much) => return self.certify.slow(source, too_much).into_http(),
        };
        request.extensions_mut().insert(source);
        let mut identity = IdentityServer::from_arc(self.certify).max_decoding_message_size(REQUEST_BYTES_MAX);
        match timeout(REQUEST_TIMEOUT, identity.call(request)).await {
            Ok(Ok(response)) => response,
            Err(_) => tonic::Status::deadline_exceeded("the request took too long").into_http(),
        }
    }
}

/// Where a request comes from. The proxy of this pod says for whom it speaks; anybody else speaks for themselves.
fn source(caller: Caller, headers: &HeaderMap) -> Source {
    let said = || headers.get(CLIENT_IP)?.to_str().ok()?.parse::<Source>().ok();
    if caller.is_local { said().unwrap_or(caller.ip) } else { caller.ip }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_proxy_of_this_pod_speaks_for_others() {
        let (pod, other): (Source, Source) = ("10.0.0.7".parse().unwrap(), "10.0.0.9".parse().unwrap());
        let mut headers = HeaderMap::new();
        let local = Caller { ip: pod, is_local: true };
        assert_eq!(source(local, &headers), pod);
        headers.insert(CLIENT_IP, http::HeaderValue::from_static("10.0.0.9"));
        assert_eq!(source(local, &headers), other);
        assert_eq!(source(Caller { ip: pod, is_local: false }, &headers), pod);
        headers.insert(CLIENT_IP, http::HeaderValue::from_static("nobody"));
        assert_eq!(source(local, &headers), pod);
    }
}
