//! The identity service over real gRPC on loopback, with an API server that knows three tokens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use hawser::cluster::token_review::{Account, Refused, Reviewer};
use hawser::control::identity::authority::Signing;
use hawser::control::identity::certify::{Certify, Metrics, Settings};
use hawser::control::identity::serve;
use hawser::control::identity::trust::Trust;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Certificate, LeafKey, Validity};
use hawser::wire::identity::identity_client::IdentityClient;
use hawser::wire::identity::{CertifyRequest, CertifyResponse};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
const CART: &str = "cart.shop.serviceaccount.identity.hawser.cluster.local";
const TRUST_DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SKEW: Duration = Duration::from_secs(20);

/// Knows the token of one service account.
struct Tokens;

impl Reviewer for Tokens {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        Box::pin(async move {
            match token.as_str() {
                "token of web" => Ok(Account { namespace: "shop".into(), service_account: "web".into() }),
                "expired" => Err(Refused::Invalid("[invalid bearer token, token has expired]".into())),
                "api server away" => Err(Refused::Timeout),
                "of a node" => Err(Refused::NoServiceAccount("system:node:worker".into())),
                _ => Err(Refused::NotAuthenticated),
            }
        })
    }
}

struct Identity {
    client: IdentityClient<Channel>,
    channel: Channel,
    /// What proxies are to believe.
    told: watch::Sender<Option<Arc<Bundle>>>,
    signing: watch::Sender<Option<Arc<Signing>>>,
    registry: Registry,
}

impl Identity {
    /// The service, with an issuer made at `issued_at`.
    async fn start(issued_at: SystemTime) -> Self {
        let anchor = Anchor::create(TRUST_DOMAIN, issued_at).unwrap();
        let issuer = anchor.create_issuer(TRUST_DOMAIN, issued_at).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        let signing = watch::Sender::new(Some(Arc::new(Signing { issuer, bundle })));
        let settings = Settings {
            control_namespace: "hawser".into(),
            trust_domain: TRUST_DOMAIN.into(),
            validity: Validity { lifetime: DAY, skew: SKEW },
        };
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let certify = Certify::new(settings, signing.subscribe(), Arc::new(Tokens), metrics);
        let told = watch::Sender::new(Some(Arc::new(signing.borrow().as_ref().unwrap().bundle.clone())));
        let trust = Trust::new(told.subscribe(), &mut registry, Drain::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = serve(any, certify, trust, &Drain::new()).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { client: IdentityClient::new(channel.clone()), channel, signing, told, registry }
    }

    async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        self.client.clone().certify(request).await.map(tonic::Response::into_inner)
    }

    async fn refuses(&self, request: CertifyRequest) -> (Code, String) {
        let refused = self.certify(request).await.unwrap_err();
        (refused.code(), refused.message().to_owned())
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// What the proxy of `web` asks for.
fn request() -> CertifyRequest {
    CertifyRequest { identity: WEB.into(), token: b"token of web".to_vec(), certificate_signing_request: csr(WEB) }
}

fn csr(name: &str) -> Vec<u8> {
    LeafKey::generate().unwrap().csr(&name.parse().unwrap()).unwrap()
}

#[tokio::test]
async fn signs_for_the_service_account_of_the_token() {
    let identity = Identity::start(SystemTime::now()).await;
    let answer = identity.certify(request()).await.unwrap();
    let leaf = Certificate::from_der(answer.leaf_certificate).unwrap();
    assert_eq!(leaf.identity().unwrap().as_str(), WEB);
    let intermediates: Vec<_> = answer.intermediate_certificates.into_iter().map(Into::into).collect();
    let signing = identity.signing.borrow().clone().unwrap();
    signing.bundle.verify(&leaf, &intermediates, SystemTime::now()).unwrap();
    assert_eq!(SystemTime::try_from(answer.valid_until.unwrap()).unwrap(), leaf.not_after());
    let life = leaf.not_after().duration_since(leaf.not_before()).unwrap();
    assert_eq!(life, DAY + 2 * SKEW);
    assert!(identity.metrics().contains("hawser_identity_issued_total 1"));
}

#[tokio::test]
async fn refuses_while_there_is_no_issuer() {
    let identity = Identity::start(SystemTime::now()).await;
    identity.signing.send_replace(None);
    let refused = identity.refuses(request()).await;
    assert_eq!(refused, (Code::Unavailable, "cert issuer not ready yet".into()));
    // Before anything else is looked at.
    assert_eq!(identity.refuses(CertifyRequest::default()).await.0, Code::Unavailable);
}

#[tokio::test]
async fn refuses_a_request_with_a_part_missing_or_broken() {
    let identity = Identity::start(SystemTime::now()).await;
    for (broken, message) in [
        (CertifyRequest { identity: String::new(), ..request() }, "missing identity"),
        (CertifyRequest { token: vec![], ..request() }, "missing token"),
        (CertifyRequest { token: vec![0xff], ..request() }, "the token is not text"),
        (CertifyRequest { certificate_signing_request: vec![], ..request() }, "the CSR is empty"),
        (
            CertifyRequest { certificate_signing_request: b"-----BEGIN".to_vec(), ..request() },
            "the CSR is not DER of PKCS #10",
        ),
    ] {
        assert_eq!(identity.refuses(broken).await, (Code::InvalidArgument, message.into()));
    }
}

#[tokio::test]
async fn refuses_a_csr_that_its_key_did_not_sign() {
    let identity = Identity::start(SystemTime::now()).await;
    let mut stolen = csr(WEB);
    *stolen.last_mut().unwrap() ^= 1;
    let refused = identity.refuses(CertifyRequest { certificate_signing_request: stolen, ..request() }).await;
    assert_eq!(refused.0, Code::InvalidArgument, "{}", refused.1);
}

#[tokio::test]
async fn refuses_once_the_issuer_has_ended() {
    let identity = Identity::start(SystemTime::now() - 91 * DAY).await;
    let refused = identity.refuses(request()).await;
    assert_eq!(refused.0, Code::Unknown);
    assert!(refused.1.contains("expired"), "{}", refused.1);
    // Before the CSR's names and the token are looked at.
    let other = CertifyRequest { identity: CART.into(), token: b"expired".to_vec(), ..request() };
    assert_eq!(identity.refuses(other).await.0, Code::Unknown);
}

#[tokio::test]
async fn refuses_a_csr_for_another_name_before_the_token_is_reviewed() {
    let identity = Identity::start(SystemTime::now()).await;
    let other = CertifyRequest { certificate_signing_request: csr(CART), token: b"expired".to_vec(), ..request() };
    let refused = identity.refuses(other).await;
    assert_eq!(refused.0, Code::FailedPrecondition, "{}", refused.1);
}

#[tokio::test]
async fn refuses_a_csr_for_another_service_account() {
    let identity = Identity::start(SystemTime::now()).await;
    let stolen = CertifyRequest { identity: CART.into(), certificate_signing_request: csr(CART), ..request() };
    let message = format!("requested identity did not match provided token: requested={CART}; found={WEB}");
    assert_eq!(identity.refuses(stolen).await, (Code::FailedPrecondition, message));
}

#[tokio::test]
async fn refuses_tokens_that_prove_nothing_each_with_its_code() {
    let identity = Identity::start(SystemTime::now()).await;
    for (token, code) in [
        ("forged", Code::FailedPrecondition),
        ("expired", Code::InvalidArgument),
        ("of a node", Code::InvalidArgument),
        ("api server away", Code::Internal),
    ] {
        let refused = identity.refuses(CertifyRequest { token: token.into(), ..request() }).await;
        assert_eq!(refused.0, code, "{token}: {}", refused.1);
    }
    let metrics = identity.metrics();
    assert!(metrics.contains(r#"hawser_identity_refused_total{code="INVALID_ARGUMENT"} 2"#), "{metrics}");
    assert!(metrics.contains("hawser_identity_issued_total 0"), "{metrics}");
}

#[tokio::test]
async fn refuses_a_request_that_is_too_large() {
    let identity = Identity::start(SystemTime::now()).await;
    let refused = identity.refuses(CertifyRequest { token: vec![b'a'; 65 << 10], ..request() }).await;
    assert_eq!(refused.0, Code::OutOfRange, "{}", refused.1);
    assert!(identity.certify(request()).await.is_ok(), "and goes on with others");
}

async fn told(stream: &mut tonic::Streaming<hawser::wire::trust::Bundle>) -> Bundle {
    let next = tokio::time::timeout(Duration::from_secs(60), stream.message()).await.expect("a message in time");
    Bundle::parse_pem(&next.unwrap().expect("the stream goes on").pem).unwrap()
}

#[tokio::test]
async fn tells_the_bundle_at_once_and_each_change_of_it() {
    let identity = Identity::start(SystemTime::now()).await;
    let first = identity.told.borrow().clone().unwrap();
    let asked = hawser::wire::trust::WatchRequest { bundle_sha256: first.sha256_hex() };
    let mut stream = hawser::wire::trust::watch(identity.channel.clone(), asked.clone()).await.unwrap().into_inner();
    assert_eq!(told(&mut stream).await, *first);
    let second = Anchor::create(TRUST_DOMAIN, SystemTime::now()).unwrap();
    let both = Bundle::parse_pem(&(first.to_pem() + &second.certificate().to_pem())).unwrap();
    identity.told.send_replace(Some(Arc::new(both.clone())));
    assert_eq!(told(&mut stream).await, both);
    assert!(identity.metrics().contains("hawser_identity_trust_subscribers 1"));
    // A replica that starts knows none yet: its subscribers wait, and are not told that there is none.
    identity.told.send_replace(None);
    let mut late = hawser::wire::trust::watch(identity.channel.clone(), asked).await.unwrap().into_inner();
    identity.told.send_replace(Some(Arc::new(both.clone())));
    assert_eq!(told(&mut late).await, both);
}
