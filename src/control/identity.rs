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
use crate::pki::Validity;
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
/// Clocks of one cluster that differ by more than a day have other problems than certificates.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where proxies ask for certificates
    #[arg(long, env = "HAWSER_IDENTITY_ADDRESS", default_value = "[::]:8080", value_name = "IP:PORT")]
    address: SocketAddr,
    /// How long a certificate is valid
    #[arg(long, env = "HAWSER_ISSUANCE_LIFETIME", default_value = "24h", value_parser = lifetime, value_name = "DURATION")]
    issuance_lifetime: Duration,
    /// How far clocks of nodes may differ
    #[arg(long, env = "HAWSER_CLOCK_SKEW_ALLOWANCE", default_value = "20s", value_parser = skew, value_name = "DURATION")]
    clock_skew_allowance: Duration,
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

pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { common, address, issuance_lifetime, clock_skew_allowance, accept_api_server_tokens } = args;
    super::start(common, async |role: Role| {
        let block = role.readiness.block("the issuer");
        trust_bundle::keep_copy(&role);
        let (authority, metrics, trust) = {
            let mut registry = role.metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let authority = Authority::new(
                role.client.clone(),
                &role.common,
                issuance_lifetime + 2 * clock_skew_allowance,
                Status::register(&mut registry),
                role.drain.clone(),
            );
            let trust = Trust::new(authority.bundle(), &mut registry, role.drain.clone());
            (authority, Metrics::register(&mut registry), trust)
        };
        let certify = Certify::new(
            certify::Settings {
                control_namespace: role.common.control_namespace.clone(),
                trust_domain: role.common.trust_domain.clone(),
                validity: Validity { lifetime: issuance_lifetime, skew: clock_skew_allowance },
            },
            authority.signing(),
            Arc::new(ApiServer {
                client: role.client.clone(),
                audience: TOKEN_AUDIENCE,
                accepts_api_server_tokens: accept_api_server_tokens,
            }),
            metrics,
        );
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

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime < Duration::from_secs(1) { Err("less than a second".into()) } else { Ok(lifetime) }
}

fn skew(text: &str) -> Result<Duration, String> {
    let skew = duration(text)?;
    if skew > CLOCK_SKEW_MAX { Err("more than a day".into()) } else { Ok(skew) }
}

/// A duration as values files have it: numbers with units, such as `24h`, `1m30s` or `24h0m0s`.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || "expected a duration such as 24h, 90s or 1h30m".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
            "d" => number.checked_mul(24 * 60 * 60).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = after;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_values_files_have_them() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("24h0m0s"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    }

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

    #[test]
    fn refuses_durations_without_unit_and_beyond_reason() {
        for text in ["", "24", "h", "-1s", "1 s", "1y", "99999999999999999999s", "999999999999999999h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(lifetime("0s").is_err());
        assert!(skew("25h").is_err());
    }
}
