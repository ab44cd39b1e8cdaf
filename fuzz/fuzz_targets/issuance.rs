//! What pods send to the identity service, into the service itself: whatever it signs is for the name that the token proves, and for nobody else.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use hawser::cluster::token_review::{Account, Refused, Reviewer};
use hawser::control::identity::authority::Signing;
use hawser::control::identity::certify::{Certify, Metrics, Settings};
use hawser::mesh::Identity;
use hawser::pki::{Anchor, Bundle, Certificate, LeafKey, Validity};
use hawser::wire::identity::CertifyRequest;
use hawser::wire::identity::identity_server::Identity as _;
use libfuzzer_sys::fuzz_target;
use prometheus_client::registry::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";

/// Every token that comes this far is that of one service account.
struct Web;

impl Reviewer for Web {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        assert_eq!(token.split('.').count(), 3, "{token:?}");
        Box::pin(async { Ok(Account { namespace: "shop".into(), service_account: "web".into() }) })
    }
}

struct World {
    runtime: Runtime,
    certify: Certify,
    csr: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let now = SystemTime::now();
    let anchor = Anchor::create("cluster.local", now).unwrap();
    let issuer = anchor.create_issuer("cluster.local", now).unwrap();
    let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
    let signing = watch::Sender::new(Some(Arc::new(Signing { issuer, bundle, keeper: None })));
    let settings = Settings {
        control_namespace: "hawser".into(),
        trust_domain: "cluster.local".into(),
        validity: Validity { lifetime: Duration::from_secs(86_400), skew: Duration::from_secs(20) },
    };
    let metrics = Metrics::register(&mut Registry::default());
    World {
        runtime: Builder::new_current_thread().enable_time().build().unwrap(),
        certify: Certify::new(settings, signing.subscribe(), Arc::new(Web), metrics),
        csr: LeafKey::generate().unwrap().csr(&WEB.parse().unwrap()).unwrap(),
    }
});

/// A name, none for the right one; a token; and where the bytes of a good CSR are changed, and by what.
type Input<'a> = (Option<&'a str>, &'a [u8], Vec<(u16, u8)>);

fuzz_target!(|input: Input<'_>| {
    let (name, token, changes) = input;
    let mut csr = WORLD.csr.clone();
    for (at, by) in changes {
        let at = usize::from(at) % csr.len();
        csr[at] ^= by;
    }
    let identity = name.unwrap_or(WEB).to_owned();
    let asked = CertifyRequest { identity, token: token.to_vec(), certificate_signing_request: csr };
    let answer = WORLD.runtime.block_on(WORLD.certify.certify(tonic::Request::new(asked)));
    if let Ok(answer) = answer {
        let leaf = Certificate::from_der(answer.into_inner().leaf_certificate).unwrap();
        assert_eq!(leaf.identities(), [WEB.parse::<Identity>().unwrap()]);
    }
});
