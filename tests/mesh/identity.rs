//! The identity service over real gRPC on loopback, with an API server that knows three tokens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
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
const NO_TOKEN: &str = "the token is not one of a service account (three parts of base64url)";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SKEW: Duration = Duration::from_secs(20);

/// Knows the tokens of two service accounts, and answers once it may.
struct Tokens {
    may_answer: watch::Receiver<bool>,
    /// How many have been asked about, are being, and were at once at most.
    asked: Arc<AtomicUsize>,
    under_way: AtomicUsize,
    under_way_most: Arc<AtomicUsize>,
}

impl Reviewer for Tokens {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.under_way_most.fetch_max(self.under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            self.may_answer.clone().wait_for(|may| *may).await.unwrap();
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            match token.as_str() {
                "of.cart.token" => Ok(Account { namespace: "shop".into(), service_account: "cart".into() }),
                token if token.starts_with("of.web.") => {
                    Ok(Account { namespace: "shop".into(), service_account: "web".into() })
                }
                "has.expired.token" => Err(Refused::Invalid("[invalid bearer token, token has expired]".into())),
                "api-server.is.away" => Err(Refused::Timeout),
                "of.a.node" => Err(Refused::NoServiceAccount("system:node:worker".into())),
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
    /// Whether the API server answers.
    may_answer: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
    under_way_most: Arc<AtomicUsize>,
}

impl Identity {
    /// The service, with an issuer made at `issued_at`.
    async fn start(issued_at: SystemTime) -> Self {
        let anchor = Anchor::create(TRUST_DOMAIN, issued_at).unwrap();
        let issuer = anchor.create_issuer(TRUST_DOMAIN, issued_at).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        let signing = watch::Sender::new(Some(Arc::new(Signing { issuer, bundle, keeper: None })));
        let settings = Settings {
            control_namespace: "hawser".into(),
            trust_domain: TRUST_DOMAIN.into(),
            validity: Validity { lifetime: DAY, skew: SKEW },
        };
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let may_answer = watch::Sender::new(true);
        let tokens = Tokens {
            may_answer: may_answer.subscribe(),
            asked: Arc::default(),
            under_way: AtomicUsize::new(0),
            under_way_most: Arc::default(),
        };
        let (asked, under_way_most) = (tokens.asked.clone(), tokens.under_way_most.clone());
        let certify = Certify::new(settings, signing.subscribe(), Arc::new(tokens), metrics);
        let told = watch::Sender::new(Some(Arc::new(signing.borrow().as_ref().unwrap().bundle.clone())));
        let trust = Trust::new(told.subscribe(), &mut registry, Drain::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = serve(any, certify, trust, &Drain::new()).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let client = IdentityClient::new(channel.clone());
        Self { client, channel, signing, told, registry, may_answer, asked, under_way_most }
    }

    /// How often the API server has been asked.
    fn reviews(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// What comes of a request that the pod's proxy says is from `source`.
    async fn certify_from(&self, source: [u8; 4], request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("hawser-client-ip", IpAddr::from(source).to_string().parse().unwrap());
        self.client.clone().certify(request).await.map(tonic::Response::into_inner)
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
    CertifyRequest { identity: WEB.into(), token: b"of.web.token".to_vec(), certificate_signing_request: csr(WEB) }
}

/// What the proxy of `cart` asks for.
fn of_cart() -> CertifyRequest {
    CertifyRequest { identity: CART.into(), token: b"of.cart.token".to_vec(), certificate_signing_request: csr(CART) }
}

fn rsa_csr() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let asked = rcgen::CertificateParams::new(vec![WEB.into()]).unwrap();
    asked.serialize_request(&key).unwrap().der().to_vec()
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
        (CertifyRequest { identity: "a".repeat(254), ..request() }, "the identity is too long for a DNS name"),
        (CertifyRequest { token: vec![b'a'; (16 << 10) + 1], ..request() }, "the token is too large"),
        (CertifyRequest { token: b"two.parts".to_vec(), ..request() }, NO_TOKEN),
        (CertifyRequest { token: b"one.two.three.four".to_vec(), ..request() }, NO_TOKEN),
        (CertifyRequest { token: b"an..empty".to_vec(), ..request() }, NO_TOKEN),
        (CertifyRequest { token: b"not.base64url.!".to_vec(), ..request() }, NO_TOKEN),
        (CertifyRequest { token: b"ends.with.newline\n".to_vec(), ..request() }, NO_TOKEN),
        (
            CertifyRequest { certificate_signing_request: vec![0x30; (4 << 10) + 1], ..request() },
            "the CSR has 4097 bytes, more than the 4096 that are read",
        ),
        (
            CertifyRequest { certificate_signing_request: rsa_csr(), ..request() },
            "the key of the CSR is not ECDSA P-256, which peers require",
        ),
        (CertifyRequest { certificate_signing_request: vec![], ..request() }, "the CSR is empty"),
        (
            CertifyRequest { certificate_signing_request: b"-----BEGIN".to_vec(), ..request() },
            "the CSR is not DER of PKCS #10",
        ),
    ] {
        assert_eq!(identity.refuses(broken).await, (Code::InvalidArgument, message.into()));
    }
    assert_eq!(identity.reviews(), 0, "the API server was asked for nothing");
}

#[tokio::test]
async fn what_costs_nothing_to_see_is_refused_before_a_signature_is_verified() {
    let identity = Identity::start(SystemTime::now()).await;
    let mut unsigned = csr(CART);
    *unsigned.last_mut().unwrap() ^= 1;
    let refused = identity.refuses(CertifyRequest { certificate_signing_request: unsigned, ..request() }).await;
    assert!(refused.1.contains("is for the DNS name"), "{}", refused.1);
    let mut unsigned = csr(WEB);
    *unsigned.last_mut().unwrap() ^= 1;
    let broken = CertifyRequest { certificate_signing_request: unsigned, ..request() };
    let refused = identity.refuses(CertifyRequest { token: b"no token".to_vec(), ..broken.clone() }).await;
    assert_eq!(refused.1, NO_TOKEN);
    // And that before the API server is asked.
    assert_eq!(identity.refuses(broken).await.1, "the CSR is not signed by the key that it is for");
    assert_eq!(identity.reviews(), 0);
}

#[tokio::test]
async fn a_pod_that_asks_in_a_loop_is_slowed_and_nobody_else_is() {
    let identity = Identity::start(SystemTime::now()).await;
    let answers = join_all((0..50).map(|_| identity.certify_from([10, 0, 0, 1], request()))).await;
    let slowed: Vec<&Status> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!slowed.is_empty(), "nobody slowed it");
    for refused in &slowed {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("with this token"), "{refused}");
    }
    assert_eq!(identity.reviews(), answers.len() - slowed.len(), "the API server was asked for those refused too");
    // Another pod of the same service account, and another service account from the same node.
    let sibling = CertifyRequest { token: b"of.web.sibling".to_vec(), ..request() };
    assert!(identity.certify_from([10, 0, 0, 2], sibling).await.is_ok());
    assert!(identity.certify_from([10, 0, 0, 1], of_cart()).await.is_ok());
    let metrics = identity.metrics();
    let line = format!(r#"hawser_identity_slowed_total{{limit="token"}} {}"#, slowed.len());
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test]
async fn whoever_sends_forged_tokens_is_slowed_whatever_their_number() {
    let identity = Identity::start(SystemTime::now()).await;
    let mut slowed = 0;
    for round in 0..5 {
        let forged = |n: usize| CertifyRequest { token: format!("forged.{round}.{n}").into_bytes(), ..request() };
        let answers = join_all((0..40).map(|n| identity.certify_from([10, 0, 0, 1], forged(n)))).await;
        slowed += answers.iter().filter(|answer| is_slowed(answer, "come from this address")).count();
    }
    assert!(slowed > 0 && identity.reviews() < 200, "{slowed} slowed, {} reviewed", identity.reviews());
    assert!(identity.certify_from([10, 0, 0, 2], request()).await.is_ok());
}

#[tokio::test]
async fn one_address_has_so_many_requests_under_way_and_a_slow_api_server_so_many_questions() {
    let identity = Identity::start(SystemTime::now()).await;
    identity.may_answer.send_replace(false);
    let asks = |source: u8, n: usize| {
        let request = CertifyRequest { token: format!("of.web.{source}-{n}").into_bytes(), ..request() };
        identity.certify_from([10, 0, 0, source], request)
    };
    // More than one address may: the first beyond are refused, while the API server has answered nobody.
    let mut of_one: FuturesUnordered<_> = (0..80).map(|n| asks(1, n)).collect();
    for _ in 0..80 - 64 {
        let refused = tokio::time::timeout(Duration::from_secs(60), of_one.next()).await.expect("an answer in time");
        assert!(is_slowed(&refused.unwrap(), "from this address are under way"));
    }
    // Others get a place; the API server is asked no more at once than before.
    let mut of_another: FuturesUnordered<_> = (0..10).map(|n| asks(2, n)).collect();
    let answered = tokio::time::timeout(Duration::from_secs(1), of_another.next()).await;
    assert!(answered.is_err() || is_slowed(&answered.unwrap().unwrap(), "the API server"), "they wait");
    assert!(identity.under_way_most.load(Ordering::SeqCst) <= 64);
    identity.may_answer.send_replace(true);
    while let Some(answer) = of_one.next().await {
        assert!(answer.is_ok() || is_slowed(&answer, "the API server"), "{answer:?}");
    }
    assert!(identity.certify_from([10, 0, 0, 3], of_cart()).await.is_ok());
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
    let other = CertifyRequest { identity: CART.into(), token: b"has.expired.token".to_vec(), ..request() };
    assert_eq!(identity.refuses(other).await.0, Code::Unknown);
}

#[tokio::test]
async fn refuses_a_csr_for_another_name_before_the_token_is_reviewed() {
    let identity = Identity::start(SystemTime::now()).await;
    let other =
        CertifyRequest { certificate_signing_request: csr(CART), token: b"has.expired.token".to_vec(), ..request() };
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
        ("a.forged.token", Code::FailedPrecondition),
        ("has.expired.token", Code::InvalidArgument),
        ("of.a.node", Code::InvalidArgument),
        ("api-server.is.away", Code::Internal),
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

fn is_slowed(answer: &Result<CertifyResponse, Status>, reason: &str) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted && status.message().contains(reason))
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
