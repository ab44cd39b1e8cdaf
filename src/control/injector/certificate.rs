//! Keeps the webhook's certificate, and the caBundle by which the API server believes it.
//!
//! Secret `hawser-injector-tls` is there from the start, empty. Who finds it empty, unusable or due makes a new certificate and writes it with the
//! resource version it read: of several replicas one wins, and the others take what it wrote. The new CA is in the caBundle before
//! the new certificate is shown, and the old one stays in it: at no time is there a replica that the API server does not believe.
//!
//! Start at [`keep`].

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::watch_object;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::Role;
use crate::manifest::names::{INJECTOR, WEBHOOK_CONFIG, WEBHOOK_SECRET};
use crate::net::backoff::Backoff;
use crate::net::readiness::BlockReady;
use crate::pki::serving::{Serving, certificates};
use crate::pki::{self, Certificate};

/// However few events come, everything is looked at anew this often: an hour of a wrong caBundle would be an hour of unmeshed pods.
const RECHECK: Duration = Duration::from_secs(60);
/// One request to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// API servers hear of a changed caBundle by their watches: in milliseconds, and where one has much to do in a second or two. Until all have, the
/// certificate is shown that they believe already; it is renewed weeks before its end.
const OVERLAP: Duration = Duration::from_secs(15);
/// After a change, its echo comes back as an event; several at once are looked at together.
const SETTLE: Duration = Duration::from_millis(50);

const CERTIFICATE_KEY: &str = "tls.crt";
const PRIVATE_KEY_KEY: &str = "tls.key";
const CA_KEY: &str = "ca.crt";

/// What the webhook serves with; none until there is a certificate. Kept right until the drain; `certified` is dropped once the
/// API server believes it.
pub(super) fn keep(role: &Role, certified: BlockReady) -> watch::Receiver<Option<Arc<ServerConfig>>> {
    let (sender, receiver) = watch::channel(None);
    let expires_at = Gauge::default();
    role.metrics.lock().unwrap_or_else(PoisonError::into_inner).register(
        "hawser_injector_certificate_expiration_timestamp_seconds",
        "When the webhook's certificate ends, in seconds since 1970",
        expires_at.clone(),
    );
    let keeper = Keeper {
        secrets: Api::namespaced(role.client.clone(), &role.common.control_namespace),
        webhooks: Api::all(role.client.clone()),
        names: names(&role.common.control_namespace, &role.common.cluster_domain),
        tls: sender,
        expires_at,
    };
    let drain = role.drain.clone();
    role.drain.spawn(async move {
        tokio::select! {
            () = keeper.keep(certified) => {}
            () = drain.started() => {}
        }
    });
    receiver
}

/// The names of the webhook's Service; the first is the one by which the API server calls it.
pub fn names(namespace: &str, cluster_domain: &str) -> Vec<String> {
    let service = format!("{INJECTOR}.{namespace}.svc");
    let long = format!("{service}.{cluster_domain}");
    vec![service, long]
}

struct Keeper {
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    names: Vec<String>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    /// That of the certificate shown.
    expires_at: Gauge,
}

impl Keeper {
    async fn keep(self, certified: BlockReady) {
        let mut certified = Some(certified);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut changes = pin!(watch_object(self.webhooks.clone(), WEBHOOK_CONFIG));
        let mut shown = Shown::default();
        loop {
            let pause = match self.settle(&mut shown).await {
                Ok(pause) => {
                    drop(certified.take());
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the webhook's certificate is not settled");
                    backoff.delay()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Somebody has changed the webhook, perhaps taken our caBundle away. An error of the watch is looked at no sooner than the timer.
                change = changes.next() => match change {
                    Some(Ok(_)) => tokio::time::sleep(SETTLE).await,
                    _ => tokio::time::sleep(pause).await,
                },
            }
        }
    }

    /// Sees to it that there is a certificate, that the API server believes it, and that it is shown, in this order; when to look again.
    async fn settle(&self, shown: &mut Shown) -> anyhow::Result<Duration> {
        let serving = self.certificate(SystemTime::now()).await?;
        self.publish(&serving).await?;
        if let Some(wait) = shown.goes_on_before(serving.certificate(), SystemTime::now(), Instant::now()) {
            return Ok(wait);
        }
        if shown.certificate.as_ref() != Some(serving.certificate()) {
            self.tls.send_replace(Some(Arc::new(server_config(&serving)?)));
            shown.certificate = Some(serving.certificate().clone());
            self.expires_at.set(i64::try_from(pki::seconds(serving.certificate().not_after())).unwrap_or(i64::MAX));
            tracing::info!(serial = serving.certificate().serial(), "the webhook shows this certificate");
        }
        Ok(RECHECK)
    }

    /// The certificate in the Secret, made anew where there is none or it is due.
    async fn certificate(&self, now: SystemTime) -> anyhow::Result<Serving> {
        let found = timeout(API_TIMEOUT, self.secrets.get(WEBHOOK_SECRET)).await;
        let mut secret = found
            .with_context(|| format!("secret {WEBHOOK_SECRET}: no answer in time"))?
            .with_context(|| format!("cannot read secret {WEBHOOK_SECRET}"))?;
        let text = |secret: &Secret, key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        let cas = text(&secret, CA_KEY);
        let name = self.names.first().map(String::as_str).unwrap_or_default();
        match Serving::parse_pem(&text(&secret, CERTIFICATE_KEY), &text(&secret, PRIVATE_KEY_KEY), &cas, name) {
            Ok(serving) if now < serving.renews_at() => return Ok(serving),
            Ok(_) => tracing::info!("the webhook's certificate is due: making a new one"),
            Err(why) => tracing::info!(%why, "making a certificate for the webhook"),
        }
        let new = Serving::create(&self.names, now, &certificates(&cas).unwrap_or_default())
            .context("cannot make a certificate")?;
        let data = secret.data.get_or_insert_default();
        for (key, text) in [
            (CERTIFICATE_KEY, new.certificate().to_pem()),
            (PRIVATE_KEY_KEY, new.key_pem().to_owned()),
            (CA_KEY, new.ca_bundle_pem()),
        ] {
            data.insert(key.into(), ByteString(text.into_bytes()));
        }
        // With the resource version that was read: where another replica was faster, this is refused, and the next round reads its.
        let written = timeout(API_TIMEOUT, self.secrets.replace(WEBHOOK_SECRET, &PostParams::default(), &secret)).await;
        written
            .with_context(|| format!("secret {WEBHOOK_SECRET}: no answer in time"))?
            .with_context(|| format!("cannot write secret {WEBHOOK_SECRET}"))?;
        Ok(new)
    }

    /// Writes the caBundle where it is not right.
    async fn publish(&self, serving: &Serving) -> anyhow::Result<()> {
        let found = timeout(API_TIMEOUT, self.webhooks.get(WEBHOOK_CONFIG)).await;
        let found = found
            .context("webhook configuration: no answer in time")?
            .with_context(|| format!("cannot read webhook configuration {WEBHOOK_CONFIG}"))?;
        let ca_bundle = ByteString(serving.ca_bundle_pem().into_bytes());
        let webhooks = found.webhooks.unwrap_or_default();
        if webhooks.is_empty() {
            bail!("webhook configuration {WEBHOOK_CONFIG} has no webhook; apply `hawser install` again");
        }
        if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&ca_bundle)) {
            return Ok(());
        }
        let right: Vec<_> = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": ca_bundle}}))
            .collect();
        // Webhooks are merged by name, and so only this field changes.
        let patch = Patch::Strategic(json!({"webhooks": right}));
        let params = PatchParams { field_manager: Some(INJECTOR.into()), ..PatchParams::default() };
        timeout(API_TIMEOUT, self.webhooks.patch(WEBHOOK_CONFIG, &params, &patch))
            .await
            .context("webhook configuration: no answer in time")?
            .with_context(|| format!("cannot write the caBundle of webhook configuration {WEBHOOK_CONFIG}"))?;
        tracing::info!("wrote the webhook's caBundle");
        Ok(())
    }
}

/// What is shown, and what is to be shown once every API server believes it.
#[derive(Debug, Default)]
struct Shown {
    certificate: Option<Certificate>,
    next: Option<(Certificate, Instant)>,
}

impl Shown {
    /// How long what is shown goes on being shown before `new`, which the API server has been told of by `at`; none where `new` can be shown.
    fn goes_on_before(&mut self, new: &Certificate, now: SystemTime, at: Instant) -> Option<Duration> {
        let shown = self.certificate.as_ref().filter(|shown| *shown != new && now < shown.not_after())?;
        let known = self.next.as_ref().filter(|(next, _)| next == new).map(|(_, since)| *since);
        let since = known.unwrap_or(at);
        self.next = Some((new.clone(), since));
        let left = OVERLAP.checked_sub(at.duration_since(since))?;
        let left = left.min(shown.not_after().duration_since(now).unwrap_or_default());
        (!left.is_zero()).then_some(left)
    }
}

/// TLS 1.2 and 1.3: the client is an API server, whose version we do not choose.
pub fn server_config(serving: &Serving) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_no_client_auth()
        .with_single_cert(vec![serving.certificate().der().clone()], serving.private_key())
        .context("cannot use the webhook's certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn certificate(now: SystemTime) -> Certificate {
        Serving::create(&names("hawser", "cluster.local"), now, &[]).unwrap().certificate().clone()
    }

    #[test]
    fn a_new_certificate_is_shown_once_every_api_server_can_have_heard_of_its_ca() {
        let (now, at) = (SystemTime::now(), Instant::now());
        let [old, new, newer] = [(); 3].map(|()| certificate(now));
        let mut shown = Shown::default();
        assert_eq!(shown.goes_on_before(&old, now, at), None, "who shows nothing shows what there is");
        shown.certificate = Some(old.clone());
        assert_eq!(shown.goes_on_before(&old, now, at), None);
        assert_eq!(shown.goes_on_before(&new, now, at), Some(OVERLAP));
        let later = at + OVERLAP / 3;
        assert_eq!(shown.goes_on_before(&new, now, later), Some(OVERLAP - OVERLAP / 3));
        assert_eq!(shown.goes_on_before(&newer, now, later), Some(OVERLAP), "another one is counted anew");
        assert_eq!(shown.goes_on_before(&newer, now, later + OVERLAP), None);
    }

    #[test]
    fn one_that_has_ended_is_not_shown_any_longer() {
        let now = SystemTime::now();
        let [old, new] = [(); 2].map(|()| certificate(now));
        let mut shown = Shown { certificate: Some(old.clone()), next: None };
        let near = old.not_after() - Duration::from_secs(1);
        assert_eq!(shown.goes_on_before(&new, near, Instant::now()), Some(Duration::from_secs(1)));
        assert_eq!(shown.goes_on_before(&new, old.not_after() + DAY, Instant::now()), None);
    }
}
