//! Answers a proxy that asks for a certificate: checks one thing after the other, then signs.
//!
//! In: the name a pod wants, its token and its CSR. Out: a leaf with its issuer, or the first reason against it. Codes and messages are those that
//! proxies and their operators know, and what costs least is asked first: shapes and names, then how often, then the signature of the CSR, and
//! the API server last.
//!
//! Start at [`Certify::certify`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Response, Status};

use super::authority::Signing;
use super::limits::{Limits, Source, TooMuch};
use crate::cluster::token_review::{Account, Refused, Reviewer};
use crate::mesh::Identity;
use crate::pki::{Asked, Issued, Validity};
use crate::wire::identity::identity_server;
use crate::wire::identity::{CertifyRequest, CertifyResponse};

/// Tokens of Kubernetes are one or two KiB.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest DNS name, in its text form.
const NAME_BYTES_MAX: usize = 253;
/// How many token reviews may be under way. The API server answers in milliseconds and has others to serve. Who waits for one has a place
/// among the requests under way, of which there are so many at most;
const REVIEWS_MAX: usize = 64;
/// past this wait the proxy had better ask another replica.
const REVIEW_WAIT: Duration = Duration::from_secs(5);
/// How often it is said in the log that somebody is slowed: whoever asks in a loop should not fill it.
const SLOWED_PAUSE: Duration = Duration::from_secs(10);
/// The seconds that answers take: mostly those of a token review.
const BUCKETS: [f64; 8] = [0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

/// The identity service.
pub struct Certify {
    settings: Settings,
    signing: watch::Receiver<Option<Arc<Signing>>>,
    /// What keeps from signing, where nothing is signed with; unknown to those who do not follow it.
    trouble: Option<watch::Receiver<Option<String>>>,
    reviewer: Arc<dyn Reviewer>,
    reviews: Semaphore,
    limits: Limits,
    /// When it was last said that somebody is slowed.
    slowed_at: Mutex<Option<Instant>>,
    metrics: Metrics,
}

/// What identities consist of, and how long they hold.
#[derive(Clone, Debug)]
pub struct Settings {
    pub control_namespace: String,
    pub trust_domain: String,
    pub validity: Validity,
}

/// What was asked for and how it went, for `/metrics`. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    issued: Counter,
    refused: Family<Refusal, Counter>,
    slowed: Family<Slowed, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Refusal {
    code: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Slowed {
    limit: &'static str,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            issued: Counter::default(),
            refused: Family::default(),
            slowed: Family::default(),
            duration: Histogram::new(BUCKETS),
        };
        registry.register("hawser_identity_issued", "Certificates issued to proxies", metrics.issued.clone());
        registry.register(
            "hawser_identity_refused",
            "Requests for certificates that were refused, by gRPC code",
            metrics.refused.clone(),
        );
        registry.register(
            "hawser_identity_slowed",
            "Requests that were refused for now, because too many come, by the limit they met",
            metrics.slowed.clone(),
        );
        registry.register(
            "hawser_identity_certify_duration_seconds",
            "How long answers to proxies took",
            metrics.duration.clone(),
        );
        metrics
    }
}

impl Certify {
    pub fn new(
        settings: Settings,
        signing: watch::Receiver<Option<Arc<Signing>>>,
        reviewer: Arc<dyn Reviewer>,
        metrics: Metrics,
    ) -> Self {
        let (reviews, limits, slowed_at) = (Semaphore::new(REVIEWS_MAX), Limits::default(), Mutex::default());
        Self { settings, signing, trouble: None, reviewer, reviews, limits, slowed_at, metrics }
    }

    /// What is the same for all that is asked of this role.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What whoever asks too much is told.
    pub(super) fn slow(&self, source: Source, too_much: TooMuch) -> Status {
        self.metrics.slowed.get_or_create(&Slowed { limit: too_much.as_str() }).inc();
        self.metrics.refused.get_or_create(&Refusal { code: name(Code::ResourceExhausted).into() }).inc();
        let mut slowed_at = self.slowed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if slowed_at.is_none_or(|at| at.elapsed() >= SLOWED_PAUSE) {
            *slowed_at = Some(Instant::now());
            tracing::warn!(%source, reason = %too_much, "slowing requests; more of this is counted in hawser_identity_slowed_total");
        }
        Status::resource_exhausted(too_much.to_string())
    }

    /// The same, saying what keeps from signing.
    #[must_use]
    pub fn explaining(self, trouble: watch::Receiver<Option<String>>) -> Self {
        Self { trouble: Some(trouble), ..self }
    }

    /// Signs what `asked` asks for, if its token proves that it may have it; what it is told, and the serial number.
    async fn certify(&self, source: Source, asked: CertifyRequest) -> Result<(CertifyResponse, String), Status> {
        let CertifyRequest { identity: requested, token, certificate_signing_request } = asked;
        let signing = self.signing.borrow().clone();
        let signing = signing.ok_or_else(|| {
            let trouble = self.trouble.as_ref().and_then(|trouble| trouble.borrow().clone());
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            Status::unavailable(format!("cert issuer not ready yet{why}"))
        })?;
        if requested.is_empty() {
            return Err(Status::invalid_argument("missing identity"));
        }
        if requested.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument("the identity is too long for a DNS name"));
        }
        let token = shaped(token).map_err(Status::invalid_argument)?;
        let csr = Asked::parse_der(&certificate_signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = SystemTime::now();
        signing.check(now).map_err(|error| Status::unknown(error.to_string()))?;
        csr.asks_for(&requested).map_err(|error| Status::failed_precondition(error.to_string()))?;
        let slow = |too_much| self.slow(source, too_much);
        self.limits.token(token.as_bytes(), Instant::now().into_std()).map_err(slow)?;
        let csr = csr.prove().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let found = self.proven(source, token).await?;
        if found.as_str() != requested {
            return Err(Status::failed_precondition(format!(
                "requested identity did not match provided token: requested={requested}; found={found}"
            )));
        }
        self.limits.identity(&found, Instant::now().into_std()).map_err(slow)?;
        let issued = signing.issuer.issue(&csr, &found, now, self.settings.validity);
        let Issued { der, serial, not_after } = issued.map_err(|error| Status::internal(error.to_string()))?;
        let response = CertifyResponse {
            valid_until: Some(not_after.into()),
            leaf_certificate: der.to_vec(),
            intermediate_certificates: signing.issuer.chain().iter().map(|der| der.to_vec()).collect(),
        };
        Ok((response, serial))
    }

    /// The identity that `token` proves.
    async fn proven(&self, source: Source, token: String) -> Result<Identity, Status> {
        let permit = timeout(REVIEW_WAIT, self.reviews.acquire()).await;
        let _permit = permit.map_err(|_| self.slow(source, TooMuch::Reviews))?;
        let Account { namespace, service_account } = self.reviewer.review(token).await.map_err(|refused| {
            let message = match &refused {
                Refused::Api(cause) => format!("{refused}: {cause}"),
                refused => refused.to_string(),
            };
            if !matches!(refused, Refused::Api(_) | Refused::Timeout) {
                self.limits.refused(source, Instant::now().into_std());
            }
            match refused {
                Refused::Api(_) | Refused::Timeout => Status::internal(message),
                Refused::Invalid(_) | Refused::NoServiceAccount(_) => Status::invalid_argument(message),
                Refused::NotAuthenticated | Refused::AudienceUnknown(_) => Status::failed_precondition(message),
            }
        })?;
        let Settings { control_namespace, trust_domain, .. } = &self.settings;
        Identity::of_service_account(&service_account, &namespace, control_namespace, trust_domain)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Certify {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let began = Instant::now();
        let source = request.extensions().get::<Source>().copied().unwrap_or(Source::from([0, 0, 0, 0]));
        let asked = request.into_inner();
        // For the log, where no more of it is of use than a name can have.
        let requested: String = asked.identity.chars().take(NAME_BYTES_MAX).collect();
        let certified = self.certify(source, asked).await;
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        match certified {
            Ok((response, serial)) => {
                self.metrics.issued.inc();
                tracing::info!(identity = requested, serial, "issued a certificate");
                Ok(Response::new(response))
            }
            Err(refused) => {
                let (code, reason) = (refused.code(), refused.message());
                if code == Code::ResourceExhausted {
                    return Err(refused); // counted, and said, where it was decided
                }
                self.metrics.refused.get_or_create(&Refusal { code: name(code).into() }).inc();
                match code {
                    // Every proxy of a starting cluster hears this, and asks again.
                    Code::Unavailable => tracing::debug!(identity = requested, reason, "refused: not ready"),
                    Code::InvalidArgument => tracing::info!(identity = requested, reason, "refused a request"),
                    code => tracing::warn!(identity = requested, ?code, reason, "refused a certificate"),
                }
                Err(refused)
            }
        }
    }
}

/// A token that may be shown to the API server: of the size and shape of those of Kubernetes (RFC 7515 section 7.1), whatever they say.
fn shaped(token: Vec<u8>) -> Result<String, &'static str> {
    match token.len() {
        0 => return Err("missing token"),
        length if length > TOKEN_BYTES_MAX => return Err("the token is too large"),
        _ => {}
    }
    let token = String::from_utf8(token).map_err(|_| "the token is not text")?;
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_token = token.split('.').count() == 3 && token.split('.').all(is_part);
    if is_token { Ok(token) } else { Err("the token is not one of a service account (three parts of base64url)") }
}

/// The code as gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Internal => "INTERNAL",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}
