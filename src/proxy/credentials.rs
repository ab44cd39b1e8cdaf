//! This pod's credentials: the key it made, and the certificate the mesh gave it for that key.
//!
//! In: the service account's token, the bundle, and the identity service. Out: [`Credentials`] on a watch channel, from the first
//! certificate on: the next handshake uses the latest. Every certificate has a new key, which never leaves this process.
//!
//! ```text
//!   key + CSR + token ──Certify──> leaf ──checked──> published ── 70 % of its life ──> again
//!                        failed: again soon, then with more patience; what there is stays until its NotAfter
//!                        told that it asks too much: with patience at once
//! ```
//!
//! Start at [`keep`].

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::control::{Channel, InvalidControl, Retry};
use super::settings::{ControlAddr, IdentitySettings, given};
use super::tls::Tls;
use crate::mesh::Identity;
use crate::net::backoff::Backoff;
use crate::net::drain::Drain;
use crate::pki::{Bundle, Certificate, InvalidCertificate, LeafKey, NoKey, NotTrusted};
use crate::telemetry::error_chain;
use crate::wire::identity::identity_client::IdentityClient;
use crate::wire::identity::{CertifyRequest, CertifyResponse};

/// One attempt, with its wait for a connection: past that another replica should have its chance.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(15);
/// Tokens of Kubernetes are one or two KiB; a file of another kind should not be sent around.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// A chain is a leaf and one issuer, with the issuer of a company rarely three.
const INTERMEDIATES_MAX: usize = 8;
/// When a certificate is renewed, in parts of the life that is left: around 70 %, which leaves time for retries before
/// peers refuse us, and not all pods of a rollout at once.
const RENEW_AT: std::ops::Range<f64> = 0.65..0.75;
/// However the refresh times are set, no certificate is left to its last moments.
const RENEW_AT_LATEST: f64 = 0.85;
/// Under an issuer that is about to end, certificates get shorter and shorter: that must not become a storm of requests.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// The waits after the identity service said that it is asked for too much. What it has too much of are proxies like this one, so soon is no help.
const SLOWED_FIRST: Duration = Duration::from_secs(2);
const SLOWED_LONGEST: Duration = Duration::from_secs(30);
/// The control plane may be starting too, so its absence is no news before that.
const QUIET_FOR: Duration = Duration::from_secs(5);

/// What this proxy proves its identity with, in every handshake until the next certificate.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub identity: Identity,
    pub certified_key: Arc<CertifiedKey>,
    pub leaf: Certificate,
    pub not_after: SystemTime,
}

/// Who to become, and who is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub identity: Identity,
    pub token_file: PathBuf,
    pub service: ControlAddr,
    /// The identity the service must prove; none for one in this pod.
    pub server: Option<Identity>,
    pub refresh_min: Duration,
    pub refresh_max: Duration,
}

impl From<&IdentitySettings> for Settings {
    fn from(settings: &IdentitySettings) -> Self {
        Self {
            identity: settings.identity_local_name.clone(),
            token_file: settings.identity_token_file.clone(),
            service: settings.identity_svc_addr.clone(),
            server: given(&settings.identity_svc_name).cloned(),
            refresh_min: settings.identity_min_refresh,
            refresh_max: settings.identity_max_refresh,
        }
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read the token {0}")]
    Token(PathBuf, #[source] std::io::Error),
    #[error("the token {0} is empty")]
    TokenEmpty(PathBuf),
    #[error("the token {0} has more than {TOKEN_BYTES_MAX} bytes")]
    TokenTooLarge(PathBuf),
    #[error("cannot make a key and CSR")]
    Key(#[from] NoKey),
    #[error(transparent)]
    Control(#[from] InvalidControl),
    #[error("the identity service refused ({:?}): {}", .0.code(), .0.message())]
    Refused(Status),
    #[error("the identity service did not answer within {CERTIFY_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Answer(#[from] InvalidAnswer),
}

impl Error {
    /// Whether the identity service can be asked, but not as often as it is.
    fn is_too_much(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::ResourceExhausted)
    }
}

/// What is wrong with a certificate that the identity service sent.
#[derive(Debug, thiserror::Error)]
enum InvalidAnswer {
    #[error("cannot read the new certificate")]
    Certificate(#[from] InvalidCertificate),
    #[error("the new certificate has {0} intermediates, more than {INTERMEDIATES_MAX}")]
    Intermediates(usize),
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    #[error("the new certificate is for {found:?}, not {expected}")]
    Identity { found: Vec<Identity>, expected: Identity },
    #[error("the new certificate is for another key")]
    Key(#[source] rustls::Error),
    #[error("the answer does not say until when the certificate is valid")]
    NoValidUntil,
    #[error("the new certificate is already over")]
    Over,
}

/// How certification goes, for `/metrics`. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    expiration: Gauge<f64, AtomicU64>,
    refreshed: Gauge<f64, AtomicU64>,
    refreshes: Family<Refresh, Counter>,
    /// Counts the requests.
    proxy: super::metrics::Metrics,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Refresh {
    result: &'static str,
}

impl Metrics {
    pub fn register(proxy: &super::metrics::Metrics) -> Self {
        let metrics = Self { proxy: proxy.clone(), ..Self::default() };
        let mut registry = proxy.registry();
        registry.register(
            "control_identity_cert_expiration_timestamp_seconds",
            "When the proxy's certificate ends, in seconds since 1970",
            metrics.expiration.clone(),
        );
        registry.register(
            "control_identity_cert_refresh_timestamp_seconds",
            "When the proxy's certificate was last renewed, in seconds since 1970",
            metrics.refreshed.clone(),
        );
        registry.register(
            "control_identity_cert_refreshes",
            "How often a certificate was asked for, by result",
            metrics.refreshes.clone(),
        );
        drop(registry);
        metrics
    }

    fn count(&self, result: &'static str) {
        self.refreshes.get_or_create(&Refresh { result }).inc();
    }
}

/// Gets this pod's first certificate as soon as it can be had, and renews it for as long as the proxy runs.
///
/// `credentials` has a value from the first certificate on; if the last one ends with no successor it has none again, so
/// that the next can be asked for without showing the old. `tls` must be made of its receiver. Returns when `drain` starts.
pub async fn keep(
    settings: Settings,
    tls: Tls,
    bundle: watch::Receiver<Arc<Bundle>>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    metrics: Metrics,
    drain: Drain,
) {
    let certify = |request| {
        // A connection for each certificate: the service should not hold one open for every pod of the cluster.
        let channel = Channel::to_identity(settings.service.clone(), settings.server.clone(), &tls, drain.clone());
        let counted = metrics.proxy.clone();
        async move {
            let mut client = IdentityClient::new(channel?.counted(&counted));
            let answered = timeout(CERTIFY_TIMEOUT, client.certify(request)).await.map_err(|_| Error::Timeout)?;
            Ok(answered.map_err(Error::Refused)?.into_inner())
        }
    };
    tokio::select! {
        () = renew(&settings, certify, SystemTime::now, &bundle, &credentials, &metrics) => {}
        () = drain.started() => {}
    }
}

async fn renew<F>(
    settings: &Settings,
    certify: impl Fn(CertifyRequest) -> F,
    now: impl Fn() -> SystemTime,
    bundle: &watch::Receiver<Arc<Bundle>>,
    credentials: &watch::Sender<Option<Arc<Credentials>>>,
    metrics: &Metrics,
) where
    F: Future<Output = Result<CertifyResponse, Error>>,
{
    let mut retry = Retry::new();
    let mut slowed = Backoff::new(SLOWED_FIRST, SLOWED_LONGEST);
    loop {
        let certified = async {
            let (key, request) = ask(settings).await?;
            let answer = certify(request).await?;
            Ok::<_, Error>(accept(&answer, &key, settings, &bundle.borrow(), now())?)
        };
        let wait = match certified.await {
            Ok(new) => {
                retry.reset();
                slowed.reset();
                metrics.count("ok");
                metrics.expiration.set(seconds(new.not_after));
                metrics.refreshed.set(seconds(now()));
                let left = new.not_after.duration_since(now()).unwrap_or_default();
                let wait = renewal(left, settings, rand::random_range(RENEW_AT));
                tracing::info!(identity = %new.identity, serial = new.leaf.serial(), left = ?left, renewal = ?wait, "certified");
                credentials.send_replace(Some(Arc::new(new)));
                wait
            }
            Err(error) => {
                metrics.count("error");
                let soonest = if error.is_too_much() { slowed.delay() } else { Duration::ZERO };
                let wait = retry.delay().max(soonest);
                let error = error_chain(&error);
                if retry.failing_for() < QUIET_FOR {
                    tracing::debug!(error, ?wait, "cannot get a certificate yet");
                } else {
                    tracing::warn!(error, ?wait, "cannot get a certificate");
                }
                wait
            }
        };
        sleep(wait).await;
        // An ended certificate proves nothing, and showing it would keep the identity service from hearing us.
        let has_ended = |held: &Option<Arc<Credentials>>| held.as_ref().is_some_and(|held| held.not_after <= now());
        if credentials.send_if_modified(|held| has_ended(held) && held.take().is_some()) {
            tracing::error!("the certificate has ended, and there is no new one");
        }
    }
}

/// Makes a new key, and the request for its certificate.
async fn ask(settings: &Settings) -> Result<(LeafKey, CertifyRequest), Error> {
    let file = &settings.token_file;
    // Read each time: Kubernetes replaces it before it ends.
    let token = tokio::fs::read(file).await.map_err(|error| Error::Token(file.clone(), error))?;
    match token.len() {
        0 => return Err(Error::TokenEmpty(file.clone())),
        length if length > TOKEN_BYTES_MAX => return Err(Error::TokenTooLarge(file.clone())),
        _ => {}
    }
    let key = LeafKey::generate()?;
    let certificate_signing_request = key.csr(&settings.identity)?;
    let identity = settings.identity.to_string();
    Ok((key, CertifyRequest { identity, token, certificate_signing_request }))
}

/// Checks an answer before anything relies on it: our name, our key, our bundle, and some life left.
fn accept(
    answer: &CertifyResponse,
    key: &LeafKey,
    settings: &Settings,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Credentials, InvalidAnswer> {
    let leaf = Certificate::from_der(answer.leaf_certificate.clone())?;
    let intermediates = &answer.intermediate_certificates;
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(InvalidAnswer::Intermediates(intermediates.len()));
    }
    let intermediates: Vec<CertificateDer<'static>> =
        intermediates.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let valid_until = answer.valid_until.ok_or(InvalidAnswer::NoValidUntil)?;
    let valid_until = SystemTime::try_from(valid_until).map_err(|_| InvalidAnswer::NoValidUntil)?;
    let not_after = valid_until.min(leaf.not_after());
    if not_after <= now {
        return Err(InvalidAnswer::Over);
    }
    bundle.verify(&leaf, &intermediates, now)?;
    if !leaf.identities().contains(&settings.identity) {
        let (found, expected) = (leaf.identities().to_vec(), settings.identity.clone());
        return Err(InvalidAnswer::Identity { found, expected });
    }
    let signing_key = any_ecdsa_type(&key.private_key()).map_err(InvalidAnswer::Key)?;
    let chain = std::iter::once(leaf.der().clone()).chain(intermediates).collect();
    let certified_key = CertifiedKey::new(chain, signing_key);
    certified_key.keys_match().map_err(InvalidAnswer::Key)?;
    Ok(Credentials { identity: settings.identity.clone(), certified_key: Arc::new(certified_key), leaf, not_after })
}

/// How long to wait before asking for the successor of a certificate that has `left` to live.
fn renewal(left: Duration, settings: &Settings, at: f64) -> Duration {
    let wait = left.mul_f64(at).max(settings.refresh_min).min(settings.refresh_max);
    wait.min(left.mul_f64(RENEW_AT_LATEST)).max(RENEWAL_MIN)
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
