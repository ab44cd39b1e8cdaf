//! Judges whether the API server can ask the injector: the webhook is registered, and who serves it is who it expects.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Snapshot, Unread, Verdict, judge, trust};
use crate::manifest::names;
use crate::pki::Certificate;

pub(super) fn is_registered(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let Some(webhook) = webhook(snapshot)? else {
            return Ok(Verdict::failed(format!(
                "there is no MutatingWebhookConfiguration `{}`",
                names::WEBHOOK_CONFIG
            )));
        };
        let of = webhook.metadata.labels.as_ref().and_then(|labels| labels.get(names::CONTROL_PLANE_NS));
        Ok(match (cas(webhook), of) {
            (_, Some(other)) if *other != snapshot.control_namespace => {
                Verdict::failed(format!("it is that of the control plane in namespace `{other}`"))
            }
            (Err(line), _) => Verdict::failed(line),
            (Ok(_), _) => Verdict::Passed,
        })
    })
}

pub(super) fn is_served(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(Ok(cas)) = webhook(snapshot)?.map(cas) else { return Ok(Verdict::Skipped) };
        let shown = match &snapshot.webhook_shown {
            None => return Ok(Verdict::Unknown("no pod of the injector could be asked".into())),
            Some(shown) => shown.as_ref()?,
        };
        let name = format!("{}.{}.svc", names::INJECTOR, snapshot.control_namespace);
        Ok(match verify(&cas, shown, &name, snapshot) {
            Ok(()) => Verdict::Passed,
            Err(reason) => Verdict::failed(format!("the API server will not believe {name}: {reason}")),
        })
    })
}

pub(super) fn is_renewed(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(Ok(shown)) = &snapshot.webhook_shown else { return Ok(Verdict::Skipped) };
        let leaf = shown.first().and_then(|leaf| Certificate::from_der(leaf.clone()).ok());
        Ok(leaf.map_or(Verdict::Skipped, |leaf| trust::renewal(&leaf, snapshot.now)))
    })
}

fn webhook(snapshot: &Snapshot) -> Result<Option<&MutatingWebhookConfiguration>, &Unread> {
    let webhooks = snapshot.webhooks.as_ref()?;
    Ok(webhooks.iter().find(|webhook| webhook.metadata.name.as_deref() == Some(names::WEBHOOK_CONFIG)))
}

/// The CAs that the API server believes for this webhook.
fn cas(webhook: &MutatingWebhookConfiguration) -> Result<Vec<CertificateDer<'static>>, String> {
    let configured = webhook.webhooks.iter().flatten().filter_map(|one| one.client_config.ca_bundle.as_ref());
    let pem: Vec<u8> = configured.flat_map(|pem| pem.0.iter().copied().chain([b'\n'])).collect();
    let cas = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match cas {
        Ok(cas) if cas.is_empty() => Err("it has no CA yet".into()),
        Ok(cas) => Ok(cas),
        Err(error) => Err(format!("its CA cannot be read: {error}")),
    }
}

/// Judges as the API server would: a chain to one of the CAs, for the Service's name, at this time.
fn verify(
    cas: &[CertificateDer<'static>],
    shown: &[CertificateDer<'static>],
    name: &str,
    snapshot: &Snapshot,
) -> Result<(), String> {
    let (leaf, intermediates) = shown.split_first().ok_or("it showed no certificate")?;
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let now = snapshot.now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::since_unix_epoch(now))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::checks::leaf::tests::{DAY, now};
    use crate::checks::tests::{fails, forbidden, healthy, is_unknown, passes, serving, webhook};

    #[test]
    fn a_webhook_must_be_registered_with_a_ca() {
        let mut snapshot = healthy();
        assert!(passes(is_registered, &snapshot));
        snapshot.webhooks = Ok(vec![webhook(names::WEBHOOK_CONFIG, b"")]);
        assert_eq!(fails(is_registered, &snapshot), ["it has no CA yet"]);
        let mut other = webhook(names::WEBHOOK_CONFIG, b"");
        other.metadata.labels = Some(BTreeMap::from([(names::CONTROL_PLANE_NS.to_owned(), "mesh".to_owned())]));
        snapshot.webhooks = Ok(vec![other]);
        assert_eq!(fails(is_registered, &snapshot), ["it is that of the control plane in namespace `mesh`"]);
        snapshot.webhooks = Ok(vec![]);
        assert_eq!(fails(is_registered, &snapshot), ["there is no MutatingWebhookConfiguration `hawser-injector`"]);
        snapshot.webhooks = forbidden();
        assert!(is_unknown(is_registered, &snapshot));
    }

    #[test]
    fn what_the_injector_serves_must_be_of_that_ca_for_its_name_and_now() {
        let mut snapshot = healthy();
        assert!(passes(is_served, &snapshot), "{:?}", is_served(&snapshot));
        snapshot.now = now() + 400 * DAY;
        assert_eq!(fails(is_served, &snapshot).len(), 1);
        snapshot.now = now();
        snapshot.webhook_shown = Some(Ok(serving("hawser-injector.hawser.svc").1));
        assert_eq!(fails(is_served, &snapshot).len(), 1);
        let (ca, chain) = serving("hawser-injector.elsewhere.svc");
        snapshot.webhooks = Ok(vec![webhook(names::WEBHOOK_CONFIG, ca.as_bytes())]);
        snapshot.webhook_shown = Some(Ok(chain));
        assert_eq!(fails(is_served, &snapshot).len(), 1);
    }

    #[test]
    fn an_injector_that_could_not_be_asked_is_unknown() {
        let mut snapshot = healthy();
        snapshot.webhook_shown = None;
        assert!(is_unknown(is_served, &snapshot));
        snapshot.webhook_shown = Some(forbidden());
        assert!(is_unknown(is_served, &snapshot));
    }

    #[test]
    fn a_serving_certificate_near_its_end_is_warned_of() {
        let mut snapshot = healthy();
        assert!(passes(is_renewed, &snapshot));
        snapshot.now = now() + 85 * DAY;
        assert_eq!(fails(is_renewed, &snapshot).len(), 1);
    }
}
