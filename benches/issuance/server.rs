//! The identity service as its role serves it, with an authority that is made here instead of read from a cluster.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use hawser::cluster::token_review::{Account, ApiServer, Refused, Reviewer};
use hawser::control::identity::authority::Signing;
use hawser::control::identity::certify::{Certify, Metrics, Settings};
use hawser::control::identity::serve as listen;
use hawser::control::identity::trust::Trust;
use hawser::manifest::names::TOKEN_AUDIENCE;
use hawser::net::drain::Drain;
use hawser::pki::{Anchor, Bundle, Validity};
use hawser::telemetry::{self, LogFormat};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum)]
    reviews: Reviews,
    /// Where the API server is
    #[arg(long)]
    api: String,
}

/// Who says whose token it is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Reviews {
    Api,
    /// The token itself, at no cost.
    None,
}

impl Reviews {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::None => "none",
        }
    }
}

pub(crate) fn serve(args: &Args) {
    telemetry::start("warn,hawser=info", LogFormat::Plain).unwrap();
    // As the roles of the control plane have it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let now = SystemTime::now();
        let anchor = Anchor::create("cluster.local", now).unwrap();
        let issuer = anchor.create_issuer("cluster.local", now).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        let told = watch::Sender::new(Some(Arc::new(bundle.clone())));
        let signing = watch::Sender::new(Some(Arc::new(Signing { issuer, bundle, keeper: None })));
        let settings = Settings {
            control_namespace: "hawser".into(),
            trust_domain: "cluster.local".into(),
            validity: Validity { lifetime: Duration::from_secs(86_400), skew: Duration::from_secs(20) },
        };
        let reviewer: Arc<dyn Reviewer> = match args.reviews {
            Reviews::None => Arc::new(AnyToken),
            Reviews::Api => Arc::new(ApiServer {
                client: kube::Client::try_from(kube::Config::new(args.api.parse().unwrap())).unwrap(),
                audience: TOKEN_AUDIENCE,
                accepts_api_server_tokens: false,
            }),
        };
        let mut registry = Registry::default();
        let certify = Certify::new(settings, signing.subscribe(), reviewer, Metrics::register(&mut registry));
        let trust = Trust::new(told.subscribe(), &mut registry, Drain::new());
        let address = listen("127.0.0.1:0".parse().unwrap(), certify, trust, &Drain::new()).await.unwrap();
        println!("{address}");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}

struct AnyToken;

impl Reviewer for AnyToken {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        let account = super::api::account(&token);
        Box::pin(async { Ok(Account { namespace: "shop".into(), service_account: account }) })
    }
}
