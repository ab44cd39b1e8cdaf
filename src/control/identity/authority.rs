//! Keeps what the mesh signs with: anchor, issuer and bundle, in objects that `install` has made without data.
//!
//! In: Secrets `hawser-trust-anchor` and `hawser-identity-issuer`, ConfigMap `hawser-trust-bundle`. Out: [`Signing`] on a watch channel,
//! and the objects filled. What to write next is decided by [`next`], without I/O; every write names the version it saw, so
//! of replicas that decide at once one wins, and the others read what it wrote and decide again.
//!
//! An issuer that somebody else put there is used as it is, and never replaced: only what our anchor signed is ours to renew.
//!
//! Start at [`Authority::keep`].

mod believers;
mod plan;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::control::Common;
use crate::manifest::names::{
    ANCHOR_SECRET, BUNDLE_CONFIG_MAP, BUNDLE_KEY, IDENTITY, ISSUER_SECRET, REQUEST_KEY, ROTATION_KEY,
};
use crate::net::backoff::Backoff;
use crate::net::drain::Drain;
use crate::net::readiness::BlockReady;
use crate::pki::{
    self, Bundle, Certificate, IdentityTold, Issuer, IssuerTold, Keeper, Lifetimes, NotTrusted, Phase, Rotation,
};
use crate::telemetry::error_chain;
use believers::Wanted;
pub use plan::{KeyPem, Next, Settings, State, Stored, Trouble, next};

/// How often the objects are read again, although changes are watched: time passes too, and a watch can be silent for reasons of its own.
const REREAD_INTERVAL: Duration = Duration::from_secs(15);
/// The waits after a failure: the whole mesh waits for the first success.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Anchor, bundle, issuer: three writes, and a phase of a rotation is as many; twice that for replicas that get in each other's way, and some to
/// spare.
const STEPS_MAX: usize = 16;
/// One request to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// The keys of a Secret in the two schemes people have: Linkerd's own, and that of Kubernetes and cert-manager.
const KEY_NAMES: [(&str, &str); 2] = [("crt.pem", "key.pem"), ("tls.crt", "tls.key")];
/// The other anchor of a rotation, in the same Secret: so that both are always written at once.
const SUCCESSOR_NAMES: (&str, &str) = ("successor-crt.pem", "successor-key.pem");

/// What leaves are signed with, and what proxies believe; each has been checked against the other.
#[derive(Debug)]
pub struct Signing {
    pub issuer: Issuer,
    pub bundle: Bundle,
    /// Who keeps the issuer, where it was brought.
    pub keeper: Option<Keeper>,
}

impl Signing {
    /// Whether the issuer can still be used: that it chains to the bundle was proven when both were read.
    ///
    /// # Errors
    /// Where the issuer has ended, or not begun.
    pub fn check(&self, now: SystemTime) -> Result<(), NotTrusted> {
        let subject = || self.issuer.certificate().subject().to_owned();
        if self.issuer.not_after() <= now {
            return Err(NotTrusted::Expired { subject: subject() });
        }
        if self.issuer.certificate().not_before() > now {
            return Err(NotTrusted::NotYetValid { subject: subject() });
        }
        Ok(())
    }

    fn is(&self, other: &Self) -> bool {
        self.issuer.certificate() == other.issuer.certificate()
            && self.bundle == other.bundle
            && self.keeper == other.keeper
    }
}

/// Why the authority could not be read or written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{kind} {namespace}/{name} does not exist; apply the output of `hawser install` again, which makes it")]
    Missing { kind: &'static str, namespace: String, name: &'static str },
    #[error("cannot {verb} {kind} {namespace}/{name}")]
    Api { verb: &'static str, kind: &'static str, namespace: String, name: &'static str, source: Box<kube::Error> },
    #[error("the API server did not answer within {API_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error("anchor, issuer and bundle do not come to rest: others keep changing them")]
    Unsettled,
}

/// What is signed with now, for those who sign and for `/metrics`. Clones are the same.
#[derive(Clone, Debug)]
pub struct Status {
    signing: watch::Sender<Option<Arc<Signing>>>,
    /// What to believe: also while there is nothing to sign with.
    bundle: watch::Sender<Option<Arc<Bundle>>>,
    /// Why anchor, issuer and bundle could not be settled the last time; none where they were.
    trouble: watch::Sender<Option<String>>,
}

/// The keeper of the mesh's authority.
pub struct Authority {
    client: Client,
    namespace: String,
    settings: Settings,
    drain: Drain,
    status: Status,
    recorder: Recorder,
}

impl Authority {
    pub fn new(client: Client, common: &Common, lifetimes: Lifetimes, status: Status, drain: Drain) -> Self {
        let recorder = Recorder::new(client.clone(), IDENTITY.into());
        let namespace = common.control_namespace.clone();
        let settings = Settings { trust_domain: common.trust_domain.clone(), lifetimes };
        Self { client, namespace, settings, drain, status, recorder }
    }

    /// What to sign with: none until the cluster's objects have been read, and made if need be.
    pub fn signing(&self) -> watch::Receiver<Option<Arc<Signing>>> {
        self.status.signing.subscribe()
    }

    /// What keeps from using what is stored: none where nothing does.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.status.trouble.subscribe()
    }

    /// What proxies are to believe: none until it has been read.
    pub fn bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.status.bundle.subscribe()
    }

    /// Reads, makes and renews, until the drain. `block` is dropped once there is an issuer.
    pub async fn keep(self, block: BlockReady) {
        let drain = self.drain.clone();
        let mut block = Some(block);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut last_trouble = String::new();
        let changed = Arc::new(Notify::new());
        self.watch(&changed, &drain);
        loop {
            let settled = tokio::select! {
                settled = self.settle() => settled,
                () = drain.started() => return,
            };
            let wait = match settled {
                Ok(signing) => {
                    self.status.trouble.send_replace(None);
                    self.publish(signing).await;
                    block.take();
                    backoff.reset();
                    last_trouble.clear();
                    REREAD_INTERVAL
                }
                Err(error) => {
                    let trouble = error_chain(&error);
                    self.status.trouble.send_replace(Some(trouble.clone()));
                    // What there is goes on being used, and what goes on being wrong is said once.
                    if trouble != last_trouble {
                        tracing::error!(error = trouble, "cannot settle anchor, issuer and bundle");
                        let reason = if block.is_some() { "IssuerValidationFailed" } else { "IssuerUpdateSkipped" };
                        self.record(EventType::Warning, reason, &trouble).await;
                        last_trouble = trouble;
                    }
                    backoff.delay()
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed.notified() => {}
                () = drain.started() => return,
            }
        }
    }

    /// Has `changed` told of every change of the three objects, by whomever.
    fn watch(&self, changed: &Arc<Notify>, drain: &Drain) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        tell(secrets.clone(), ANCHOR_SECRET, changed, drain);
        tell(secrets, ISSUER_SECRET, changed, drain);
        tell(config_maps, BUNDLE_CONFIG_MAP, changed, drain);
    }

    /// Reads what there is and writes what is missing, step by step, until nothing is.
    async fn settle(&self) -> Result<Signing, Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        for _ in 0..STEPS_MAX {
            let (anchor, issuer, bundle) = tokio::join!(
                self.read(&secrets, "secret", ANCHOR_SECRET),
                self.read(&secrets, "secret", ISSUER_SECRET),
                self.read(&config_maps, "config map", BUNDLE_CONFIG_MAP),
            );
            if let Ok(bundle) = &bundle {
                self.tell_bundle(bundle);
            }
            // In this order, so that what is said to be missing does not depend on who answered first.
            let (mut anchor, mut issuer, mut bundle) = (anchor?, issuer?, bundle?);
            let data = bundle.data.clone().unwrap_or_default();
            let mut stored = Stored {
                anchor: key_pem(&anchor, KEY_NAMES.iter()),
                successor: key_pem(&anchor, std::iter::once(&SUCCESSOR_NAMES)),
                issuer: key_pem(&issuer, KEY_NAMES.iter()),
                keeper: keeper(&issuer),
                bundle: data.get(BUNDLE_KEY).cloned(),
                rotation: rotation(&data),
                request: data.get(REQUEST_KEY).filter(|text| !text.is_empty()).cloned(),
                behind: None,
            };
            stored.behind = self.behind(&stored).await;
            match next(&stored, &self.settings, SystemTime::now())? {
                Next::Ready(signing) => return Ok(*signing),
                Next::WriteAnchors { anchor: first, successor } => {
                    let is_first = stored.anchor.is_none();
                    fill(&mut anchor, first);
                    fill_successor(&mut anchor, successor);
                    if self.write(&secrets, "secret", ANCHOR_SECRET, &anchor).await? && is_first {
                        self.note("TrustAnchorCreated", "made a new trust anchor".into()).await;
                    }
                }
                Next::WriteIssuer { issuer: new, is_asked } => {
                    fill(&mut issuer, new);
                    if self.write(&secrets, "secret", ISSUER_SECRET, &issuer).await? {
                        tracing::info!("made a new issuer");
                        if is_asked {
                            bundle.data.get_or_insert_default().remove(REQUEST_KEY);
                            self.write(&config_maps, "config map", BUNDLE_CONFIG_MAP, &bundle).await?;
                        }
                    }
                }
                Next::WriteState(State { bundle: text, rotation, clears_request, note }) => {
                    let data = bundle.data.get_or_insert_default();
                    data.insert(BUNDLE_KEY.into(), text);
                    match rotation.as_ref().map(serde_json::to_string) {
                        Some(Ok(rotation)) => data.insert(ROTATION_KEY.into(), rotation),
                        _ => data.remove(ROTATION_KEY),
                    };
                    if clears_request {
                        data.remove(REQUEST_KEY);
                    }
                    if self.write(&config_maps, "config map", BUNDLE_CONFIG_MAP, &bundle).await? {
                        match note {
                            None => tracing::info!("wrote the trust bundle"),
                            Some((false, reason, why)) => self.note(reason, why).await,
                            Some((true, reason, why)) => {
                                tracing::warn!(reason, "{why}");
                                self.record(EventType::Warning, reason, &why).await;
                            }
                        }
                    }
                }
            }
        }
        Err(Error::Unsettled)
    }

    /// Who holds a rotation: asked only where the answer decides something, and never by a replica that has nothing to sign with yet.
    async fn behind(&self, stored: &Stored) -> Option<Vec<String>> {
        let rotation = stored.rotation.as_ref()?;
        let bundle = Bundle::parse_pem(stored.bundle.as_deref()?).ok()?;
        let wanted = match rotation.phase {
            Phase::Publish => Wanted::Belief(&bundle),
            Phase::Expire if self.settings.is_over(rotation, SystemTime::now()) => Wanted::Leaving(&rotation.old),
            Phase::Expire | Phase::Switch => return None,
        };
        if self.status.signing.borrow().is_none() {
            return None;
        }
        let asked = believers::behind(&self.client, &self.namespace, wanted, &self.drain).await;
        Some(asked.unwrap_or_else(|error| vec![format!("the meshed pods cannot be listed: {error}")]))
    }

    /// Proxies are told what the cluster says, whatever else is wrong with it; a text that is no bundle is left to [`next`] to complain about.
    fn tell_bundle(&self, config_map: &ConfigMap) {
        let text = config_map.data.as_ref().and_then(|data| data.get(BUNDLE_KEY));
        let Some(Ok(bundle)) = text.map(|text| Bundle::parse_pem(text)) else { return };
        self.status.bundle.send_if_modified(|held| {
            let is_new = held.as_deref() != Some(&bundle);
            if is_new {
                tracing::info!(
                    bundle = bundle.sha256_hex(),
                    anchors = bundle.anchors().len(),
                    "telling proxies whom to believe"
                );
                *held = Some(Arc::new(bundle));
            }
            is_new
        });
    }

    async fn read<K>(&self, api: &Api<K>, kind: &'static str, name: &'static str) -> Result<K, Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let namespace = || self.namespace.clone();
        match timeout(API_TIMEOUT, api.get_opt(name)).await.map_err(|_| Error::Timeout)? {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Error::Missing { kind, namespace: namespace(), name }),
            Err(source) => {
                Err(Error::Api { verb: "read", kind, namespace: namespace(), name, source: Box::new(source) })
            }
        }
    }

    /// Writes an object that carries the version it was read at; says whether it was still that version.
    async fn write<K>(&self, api: &Api<K>, kind: &'static str, name: &'static str, object: &K) -> Result<bool, Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let parameters = PostParams { field_manager: Some(IDENTITY.into()), ..PostParams::default() };
        match timeout(API_TIMEOUT, api.replace(name, &parameters, object)).await.map_err(|_| Error::Timeout)? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(source) => Err(Error::Api {
                verb: "update",
                kind,
                namespace: self.namespace.clone(),
                name,
                source: Box::new(source),
            }),
        }
    }

    async fn publish(&self, signing: Signing) {
        if self.status.signing.borrow().as_ref().is_some_and(|held| held.is(&signing)) {
            return;
        }
        let note = format!(
            "signing with {} (serial {}) until {}",
            signing.issuer.certificate().subject(),
            signing.issuer.certificate().serial(),
            time::OffsetDateTime::from(signing.issuer.not_after()),
        );
        self.status.signing.send_replace(Some(Arc::new(signing)));
        self.note("IssuerUpdated", note).await;
    }

    async fn note(&self, reason: &'static str, note: String) {
        tracing::info!(reason, "{note}");
        self.record(EventType::Normal, reason, &note).await;
    }

    /// None where it cannot be told: the word is left all the same.
    async fn deployment_uid(&self) -> Option<String> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        timeout(API_TIMEOUT, deployments.get_metadata(IDENTITY)).await.ok()?.ok()?.metadata.uid
    }

    /// Leaves a word at the Deployment. Repetitions are counted, not added; a word that cannot be left is no harm.
    async fn record(&self, type_: EventType, reason: &str, note: &str) {
        let deployment = ObjectReference {
            api_version: Some("apps/v1".into()),
            kind: Some("Deployment".into()),
            name: Some(IDENTITY.into()),
            namespace: Some(self.namespace.clone()),
            // `kubectl describe` shows the events of a uid only.
            uid: self.deployment_uid().await,
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.chars().take(NOTE_CHARS_MAX).collect()),
            action: "Settle".into(),
            secondary: None,
        };
        match timeout(API_TIMEOUT, self.recorder.publish(&event, &deployment)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "cannot record an event"),
            Err(_) => tracing::debug!(reason, "cannot record an event in time"),
        }
    }
}

/// Tells of each change of one object until the drain; what goes wrong is tried again, and [`REREAD_INTERVAL`] does not depend on it.
fn tell<K>(api: Api<K>, name: &'static str, changed: &Arc<Notify>, drain: &Drain)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let (changed, stop) = (changed.clone(), drain.clone());
    drain.spawn(async move {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut watch = pin!(watch_object(api, name));
        loop {
            let change = tokio::select! {
                change = watch.next() => change,
                () = stop.started() => return,
            };
            match change {
                Some(Ok(_)) => {
                    backoff.reset();
                    changed.notify_one();
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, name, "cannot watch");
                    tokio::select! {
                        () = sleep(backoff.delay()) => {}
                        () = stop.started() => return,
                    }
                }
                None => return,
            }
        }
    });
}

/// The API server refuses events of more than 1 KiB.
const NOTE_CHARS_MAX: usize = 900;

/// Certificate and key of a Secret, in either scheme; none where it has not been filled.
fn key_pem<'n>(secret: &Secret, mut names: impl Iterator<Item = &'n (&'n str, &'n str)>) -> Option<KeyPem> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| data.get(name).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    names.find_map(|(certificate, key)| match (text(certificate), text(key)) {
        (None, None) => None,
        (certificate, key) => {
            Some(KeyPem { certificate: certificate.unwrap_or_default(), key: key.unwrap_or_default() })
        }
    })
}

/// Who keeps what is in a Secret: the API server notes who wrote which field.
fn keeper(secret: &Secret) -> Keeper {
    let has_key =
        |fields: &FieldsV1| KEY_NAMES.iter().any(|(_, key)| fields.0["f:data"].get(format!("f:{key}")).is_some());
    let entries = secret.metadata.managed_fields.iter().flatten();
    let writers = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(has_key));
    let last = writers.max_by(|one, other| one.time.cmp(&other.time));
    Keeper {
        secret_type: secret.type_.clone().unwrap_or_else(|| "Opaque".into()),
        written_by: last.and_then(|last| last.manager.clone()),
    }
}

/// Where a rotation stands; a text that nobody can read is no rotation, and is replaced by the next.
fn rotation(data: &BTreeMap<String, String>) -> Option<Rotation> {
    let text = data.get(ROTATION_KEY).filter(|text| !text.is_empty())?;
    serde_json::from_str(text)
        .inspect_err(|error| tracing::error!(%error, "cannot read where the rotation stands, so taking it for none"))
        .ok()
}

fn fill_successor(secret: &mut Secret, new: Option<KeyPem>) {
    let data = secret.data.get_or_insert_default();
    let (certificate, key) = SUCCESSOR_NAMES;
    match new {
        Some(new) => {
            data.insert(certificate.into(), ByteString(new.certificate.into_bytes()));
            data.insert(key.into(), ByteString(new.key.into_bytes()));
        }
        None => {
            data.remove(certificate);
            data.remove(key);
        }
    }
}

fn fill(secret: &mut Secret, new: KeyPem) {
    let data = secret.data.get_or_insert_default();
    // In the scheme that is there already.
    let (certificate, key) =
        KEY_NAMES.into_iter().find(|(certificate, _)| data.contains_key(*certificate)).unwrap_or(KEY_NAMES[0]);
    data.insert(certificate.into(), ByteString(new.certificate.into_bytes()));
    data.insert(key.into(), ByteString(new.key.into_bytes()));
}

impl Status {
    /// Shows on `/metrics` when issuer and anchors end.
    pub fn register(registry: &mut Registry) -> Self {
        let status = Self {
            signing: watch::Sender::new(None),
            bundle: watch::Sender::new(None),
            trouble: watch::Sender::new(None),
        };
        registry.register_collector(Box::new(status.clone()));
        status
    }

    /// What `/trust` tells of it.
    pub fn told(&self) -> IdentityTold {
        let signing = self.signing.borrow().clone();
        let issuer = signing.map(|signing| IssuerTold {
            subject: signing.issuer.certificate().subject().into(),
            serial: signing.issuer.certificate().serial().into(),
            expires_at: pki::seconds(signing.issuer.not_after()),
            keeper: signing.keeper.clone(),
        });
        let bundle = self.bundle.borrow().as_ref().map(|bundle| bundle.sha256_hex());
        IdentityTold { bundle, issuer, trouble: self.trouble.borrow().clone() }
    }
}

impl Collector for Status {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let in_trouble = ConstGauge::new(i64::from(self.trouble.borrow().is_some()));
        in_trouble.encode(encoder.encode_descriptor(
            "hawser_identity_in_trouble",
            "Whether anchor, issuer and bundle in the cluster cannot be used as they are, so that what was there before is",
            None,
            MetricType::Gauge,
        )?)?;
        let Some(signing) = self.signing.borrow().clone() else { return Ok(()) };
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let issuer = seconds(signing.issuer.not_after());
        let anchor = signing.bundle.anchors().iter().map(Certificate::not_after).min().map_or(0.0, seconds);
        for (name, help, value) in [
            ("issuer_cert_ttl_seconds", "How long the issuer is still valid", issuer - seconds(SystemTime::now())),
            (
                "hawser_identity_issuer_expiration_timestamp_seconds",
                "When the issuer ends, in seconds since 1970",
                issuer,
            ),
            (
                "hawser_identity_anchor_expiration_timestamp_seconds",
                "When the first anchor of the bundle ends, in seconds since 1970",
                anchor,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Anchor;

    #[test]
    fn metrics_tell_when_issuer_and_anchor_end_and_whether_something_is_wrong() {
        let mut registry = Registry::default();
        let status = Status::register(&mut registry);
        let shown = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        status.trouble.send_replace(Some("broken".into()));
        let text = shown(&registry);
        assert!(
            text.contains("hawser_identity_in_trouble 1\n") && !text.contains("issuer_cert_ttl_seconds "),
            "{text}"
        );

        let now = SystemTime::now();
        let anchor = Anchor::create("cluster.local", now).unwrap();
        let issuer = anchor.create_issuer("cluster.local", now).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        let ends = [issuer.not_after(), anchor.certificate().not_after()].map(pki::seconds);
        status.trouble.send_replace(None);
        status.signing.send_replace(Some(Arc::new(Signing { issuer, bundle, keeper: None })));
        let text = shown(&registry);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{name}: {text}"))
        };
        assert_eq!(value("hawser_identity_in_trouble"), 0.0);
        let left = value("issuer_cert_ttl_seconds");
        assert!(left > 0.0 && left <= (ends[0] - pki::seconds(now)) as f64 + 1.0, "{left}");
        assert_eq!(value("hawser_identity_issuer_expiration_timestamp_seconds"), ends[0] as f64);
        assert_eq!(value("hawser_identity_anchor_expiration_timestamp_seconds"), ends[1] as f64);
    }

    #[test]
    fn who_wrote_the_key_last_keeps_it_and_not_who_wrote_something_else() {
        let entry = |manager: &str, time: &str, fields: &str| serde_json::json!({"manager": manager, "time": time, "fieldsV1": {"f:data": {fields: {}}}});
        let secret = |entries: &[serde_json::Value]| -> Secret {
            let metadata = serde_json::json!({"managedFields": entries});
            serde_json::from_value(serde_json::json!({"metadata": metadata, "type": "kubernetes.io/tls"})).unwrap()
        };
        let found = keeper(&secret(&[
            entry("kubectl-patch", "2026-01-01T00:00:00Z", "f:tls.key"),
            entry("cert-manager", "2026-01-02T00:00:00Z", "f:tls.key"),
            entry("trust-manager", "2026-01-03T00:00:00Z", "f:ca.crt"),
        ]));
        assert_eq!(
            (found.secret_type.as_str(), found.written_by.as_deref()),
            ("kubernetes.io/tls", Some("cert-manager"))
        );
        assert_eq!(keeper(&secret(&[])).written_by, None);
        assert_eq!(keeper(&Secret::default()).secret_type, "Opaque");
    }
}
