//! An identity service that believes any token: the token itself says whose it is, as `of.NAMESPACE.SERVICE-ACCOUNT`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use hawser::cluster::token_review::{Account, Refused, Reviewer};
use hawser::control::identity::authority::Signing;
use hawser::control::identity::certify::{Certify, Metrics, Settings};
use hawser::control::identity::serve;
use hawser::control::identity::trust::Trust;
use hawser::mesh::Identity;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Csr, LeafKey, Validity};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::namespace::Namespace;

const TRUST_DOMAIN: &str = "cluster.local";
const VALIDITY: Validity = Validity { lifetime: Duration::from_secs(3600), skew: Duration::from_secs(20) };

struct AnyToken;

impl Reviewer for AnyToken {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        let said = token.strip_prefix("of.").and_then(|said| said.split_once('.'));
        let (namespace, service_account) = said.expect("a token as this service knows them");
        let account = Account { namespace: namespace.into(), service_account: service_account.into() };
        Box::pin(async { Ok(account) })
    }
}

/// The anchor of a mesh, and who signs under it.
pub(crate) struct Authority {
    signing: watch::Sender<Option<Arc<Signing>>>,
    /// What running proxies are told to believe.
    told: watch::Sender<Option<Arc<Bundle>>>,
    bundle: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now();
        let anchor = Anchor::create(TRUST_DOMAIN, now).unwrap();
        let issuer = anchor.create_issuer(TRUST_DOMAIN, now).unwrap();
        let pem = anchor.certificate().to_pem();
        let bundle = Bundle::parse_pem(&pem).unwrap();
        let told = watch::Sender::new(Some(Arc::new(bundle.clone())));
        Self {
            signing: watch::Sender::new(Some(Arc::new(Signing { issuer, bundle, keeper: None }))),
            told,
            bundle: pem,
        }
    }

    /// Has running proxies believe this, or hear no more.
    #[allow(dead_code, reason = "of the two programs that share this, the benchmark tells nothing new")]
    pub(crate) fn tell(&self, bundle: Option<&str>) {
        self.told.send_replace(bundle.map(|pem| Arc::new(Bundle::parse_pem(pem).unwrap())));
    }

    /// What peers believe, as PEM.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// A chain and its key for `identity`, as PEM: for those who cannot ask.
    pub(crate) fn certify(&self, identity: &str) -> (String, String) {
        let identity: Identity = identity.parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let signing = self.signing.borrow().clone().unwrap();
        let leaf = signing.issuer.sign(&csr, &identity, SystemTime::now(), VALIDITY).unwrap();
        let intermediates = leaf.intermediates.iter().map(|der| pem("CERTIFICATE", der));
        let chain = std::iter::once(leaf.certificate.to_pem()).chain(intermediates).collect();
        (chain, pem("PRIVATE KEY", key.private_key().secret_der()))
    }

    /// Signs for whoever asks at 127.0.0.1:8080 in a pod's network, until the test ends.
    pub(crate) fn serve_in(&self, pod: &Namespace) {
        let settings =
            Settings { control_namespace: "hawser".into(), trust_domain: TRUST_DOMAIN.into(), validity: VALIDITY };
        let (signing, told) = (self.signing.subscribe(), self.told.subscribe());
        // A thread that enters a namespace stays there, and so does what it spawns.
        pod.enter(|| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let metrics = Metrics::register(&mut Registry::default());
                    let certify = Certify::new(settings, signing, Arc::new(AnyToken), metrics);
                    let trust = Trust::new(told, &mut Registry::default(), Drain::new());
                    serve("127.0.0.1:8080".parse().unwrap(), certify, trust, &Drain::new()).await.unwrap();
                    std::future::pending::<()>().await
                });
            });
        });
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}
