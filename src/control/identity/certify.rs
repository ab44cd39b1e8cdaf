//! Answers a proxy that asks for a certificate: checks one thing after the other, then signs.
//!
//! In: the name a pod wants, its token and its CSR. Out: a leaf with its issuer, or the first reason against it. Order, codes and
//! messages are those that proxies and their operators know.
//!
//! Start at [`Certify::certify`].

use std::sync::Arc;
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
use crate::cluster::token_review::{Account, Refused, Reviewer};
use crate::mesh::Identity;
use crate::pki::{Csr, Leaf, Validity};
use crate::wire::identity::identity_server;
use crate::wire::identity::{CertifyRequest, CertifyResponse};

/// How many token reviews may be under way. The API server answers in milliseconds and has others to serve;
const REVIEWS_MAX: usize = 64;
/// past this wait the proxy had better ask another replica.
const REVIEW_WAIT: Duration = Duration::from_secs(5);
/// The seconds that answers take: mostly those of a token review.
const BUCKETS: [f64; 8] = [0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

/// The identity service.
pub struct Certify {
    settings: Settings,
    signing: watch::Receiver<Option<Arc<Signing>>>,
    reviewer: Arc<dyn Reviewer>,
    reviews: Semaphore,
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
    duration: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Refusal {
    code: String,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics =
            Self { issued: Counter::default(), refused: Family::default(), duration: Histogram::new(BUCKETS) };
        registry.register("hawser_identity_issued", "Certificates issued to proxies", metrics.issued.clone());
        registry.register(
            "hawser_identity_refused",
            "Requests for certificates that were refused, by gRPC code",
            metrics.refused.clone(),
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
        Self { settings, signing, reviewer, reviews: Semaphore::new(REVIEWS_MAX), metrics }
    }

    /// Signs what `asked` asks for, if its token proves that it may have it.
    async fn certify(&self, asked: CertifyRequest) -> Result<Leaf, Status> {
        let CertifyRequest { identity: requested, token, certificate_signing_request } = asked;
        let signing = self.signing.borrow().clone();
        let signing = signing.ok_or_else(|| Status::unavailable("cert issuer not ready yet"))?;
        if requested.is_empty() {
            return Err(Status::invalid_argument("missing identity"));
        }
        if token.is_empty() {
            return Err(Status::invalid_argument("missing token"));
        }
        let token = String::from_utf8(token).map_err(|_| Status::invalid_argument("the token is not text"))?;
        let csr = Csr::parse_der(&certificate_signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = SystemTime::now();
        signing.check(now).map_err(|error| Status::unknown(error.to_string()))?;
        csr.asks_for(&requested).map_err(|error| Status::failed_precondition(error.to_string()))?;
        let found = self.proven(token).await?;
        if found.as_str() != requested {
            return Err(Status::failed_precondition(format!(
                "requested identity did not match provided token: requested={requested}; found={found}"
            )));
        }
        let signed = signing.issuer.sign(&csr, &found, now, self.settings.validity);
        signed.map_err(|error| Status::internal(error.to_string()))
    }

    /// The identity that `token` proves.
    async fn proven(&self, token: String) -> Result<Identity, Status> {
        let permit = timeout(REVIEW_WAIT, self.reviews.acquire()).await;
        let _permit = permit.map_err(|_| Status::unavailable("too many token reviews are under way"))?;
        let Account { namespace, service_account } = self.reviewer.review(token).await.map_err(|refused| {
            let message = match &refused {
                Refused::Api(cause) => format!("{refused}: {cause}"),
                refused => refused.to_string(),
            };
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
        let asked = request.into_inner();
        let requested = asked.identity.clone();
        let certified = self.certify(asked).await;
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        match certified {
            Ok(leaf) => {
                self.metrics.issued.inc();
                let Leaf { certificate, intermediates } = leaf;
                tracing::info!(identity = requested, serial = certificate.serial(), "issued a certificate");
                Ok(Response::new(CertifyResponse {
                    valid_until: Some(certificate.not_after().into()),
                    leaf_certificate: certificate.der().to_vec(),
                    intermediate_certificates: intermediates.iter().map(|der| der.to_vec()).collect(),
                }))
            }
            Err(refused) => {
                let (code, reason) = (refused.code(), refused.message());
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

/// The code as gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Internal => "INTERNAL",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Unavailable => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}
