//! Judges the trust bundle, and the issuer that signs under it.
//!
//! The issuer is taken from what the identity role's own proxy shows in a handshake: the Secret is nobody's business, and what is
//! shown is what peers get.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;

use super::leaf::Shown;
use super::proxy_pod::ProxyPod;
use super::{Snapshot, Unread, Verdict, judge};
use crate::manifest::names;
use crate::manifest::values::Values;
use crate::pki::{Bundle, Certificate};

/// How long before the end of an anchor everyone should know: who brought it may need weeks for another, and its own rotation has failed for long.
const ANCHORS_LEFT_MIN: Duration = Duration::from_secs(60 * 86_400);
/// The value of [`names::COMPONENT`] on the identity role's pods.
const IDENTITY_COMPONENT: &str = "identity";
/// Roles renew their certificates when a third of their life is left; at a quarter they are late.
const LATE_AT: u32 = 4;

pub(super) fn bundle_can_be_read(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let Some(pem) = bundle_pem(snapshot)? else {
            return Ok(Verdict::failed(format!(
                "ConfigMap `{}` has no `{}`",
                names::BUNDLE_CONFIG_MAP,
                names::BUNDLE_KEY
            )));
        };
        Ok(match Bundle::parse_pem(pem) {
            Ok(bundle) => Verdict::Passed.with(bundle.sha256_hex()),
            Err(error) => Verdict::failed(error.to_string()),
        })
    })
}

pub(super) fn anchors_are_valid(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(bundle) = bundle(snapshot)? else { return Ok(Verdict::Skipped) };
        let is_valid = |anchor: &&Certificate| (anchor.not_before()..=anchor.not_after()).contains(&snapshot.now);
        // An old anchor beside its successor does no harm.
        if bundle.anchors().iter().any(|anchor| is_valid(&anchor)) {
            return Ok(Verdict::Passed);
        }
        let lines = bundle.anchors().iter().map(|anchor| format!("{} is not valid now", anchor.subject()));
        Ok(Verdict::unless(lines.collect()))
    })
}

pub(super) fn anchors_have_time_left(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(bundle) = bundle(snapshot)? else { return Ok(Verdict::Skipped) };
        let Some(last) = bundle.anchors().iter().max_by_key(|anchor| anchor.not_after()) else {
            return Ok(Verdict::Skipped);
        };
        let left = last.not_after().duration_since(snapshot.now).unwrap_or_default();
        let verdict = if left >= ANCHORS_LEFT_MIN {
            Verdict::Passed
        } else {
            Verdict::failed(format!("{} ends in {} days", last.subject(), left.as_secs() / 86_400))
        };
        Ok(verdict.with(left.as_secs()))
    })
}

pub(super) fn identity_is_proven(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let (Some(_), true) = (bundle(snapshot)?, snapshot.is_installed()?) else { return Ok(Verdict::Skipped) };
        let mut proven = 0;
        let mut lines = Vec::new();
        for (pod, shown) in identity_shown(snapshot)? {
            let shown = shown?;
            lines.extend(shown.faults.iter().map(|fault| format!("{pod}: {fault}")));
            proven += 1;
        }
        if proven == 0 {
            // Which pods are ready is another check's question.
            return Ok(Verdict::Unknown("no pod of the identity role could be asked".into()));
        }
        Ok(Verdict::unless(lines))
    })
}

pub(super) fn issuer_is_valid(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(issuer) = issuer(snapshot)? else { return Ok(Verdict::Skipped) };
        let now = snapshot.now;
        let verdict = if now > issuer.not_after() {
            Verdict::failed(format!("{} has expired{}", issuer.subject(), whose_to_renew(snapshot)?))
        } else if now < issuer.not_before() {
            Verdict::failed(format!("{} is not valid yet", issuer.subject()))
        } else {
            Verdict::Passed
        };
        Ok(verdict.with(left(&issuer, now).as_secs()))
    })
}

pub(super) fn issuer_is_renewed(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(issuer) = issuer(snapshot)? else { return Ok(Verdict::Skipped) };
        Ok(match renewal(&issuer, snapshot.now) {
            Verdict::Failed(mut late) => {
                let whose = whose_to_renew(snapshot)?;
                late.lines.iter_mut().for_each(|line| line.push_str(&whose));
                Verdict::Failed(late)
            }
            verdict => verdict,
        })
    })
}

pub(super) fn identity_is_untroubled(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let (mut asked, mut lines) = (0, Vec::new());
        for (pod, told) in &snapshot.signing {
            let Some(told) = told.as_ref()? else { continue };
            asked += 1;
            lines.extend(told.trouble.iter().map(|trouble| format!("{pod}: {trouble}")));
        }
        Ok(if asked == 0 { Verdict::Skipped } else { Verdict::unless(lines) })
    })
}

/// What is to be added to the end of an issuer, where somebody else keeps it: by the installation, or by what the identity role found in its Secret.
fn whose_to_renew(snapshot: &Snapshot) -> Result<String, &Unread> {
    let config = snapshot.config_map(names::CONFIG_MAP)?;
    let values = config.and_then(|map| map.data.as_ref()?.get("values")).and_then(|text| Values::read(text).ok());
    let mut told = snapshot.signing.values().filter_map(|told| told.as_ref().ok()?.as_ref()?.issuer.as_ref());
    let keeper = told.find_map(|issuer| issuer.keeper.as_ref());
    let is_external = keeper.is_some() || values.is_some_and(|values| values.identity.issuer.external);
    if !is_external {
        return Ok(String::new());
    }
    let keeper = keeper.map(|keeper| format!(" ({keeper})")).unwrap_or_default();
    Ok(format!(
        "; it is external, and hawser does not renew it: whoever keeps secret {} must{keeper}",
        names::ISSUER_SECRET
    ))
}

/// Whether a certificate that should have been renewed long ago has been.
pub(super) fn renewal(certificate: &Certificate, now: SystemTime) -> Verdict {
    let left = left(certificate, now);
    let life = certificate.not_after().duration_since(certificate.not_before()).unwrap_or_default();
    let verdict = if left > life / LATE_AT {
        Verdict::Passed
    } else {
        let hours = left.as_secs() / 3600;
        Verdict::failed(format!("{} ends in {} d {} h", certificate.subject(), hours / 24, hours % 24))
    };
    verdict.with(left.as_secs())
}

fn left(certificate: &Certificate, now: SystemTime) -> Duration {
    certificate.not_after().duration_since(now).unwrap_or_default()
}

pub(super) fn bundle_pem(snapshot: &Snapshot) -> Result<Option<&str>, &Unread> {
    let map = snapshot.config_map(names::BUNDLE_CONFIG_MAP)?;
    let pem = map.and_then(|map| map.data.as_ref()?.get(names::BUNDLE_KEY)).map(String::as_str);
    Ok(pem.filter(|pem| !pem.is_empty()))
}

/// The bundle, where there is one that can be read.
pub(super) fn bundle(snapshot: &Snapshot) -> Result<Option<Bundle>, &Unread> {
    Ok(bundle_pem(snapshot)?.and_then(|pem| Bundle::parse_pem(pem).ok()))
}

/// What a pod's proxy showed, judged as its peers would.
pub(super) fn shown(snapshot: &Snapshot, proxy: &ProxyPod, bundle: &Bundle) -> Result<Shown, Unread> {
    let key = (proxy.namespace.clone(), proxy.name.clone());
    let chain =
        snapshot.shown.get(&key).ok_or_else(|| Unread("it was not asked".into()))?.as_ref().map_err(Clone::clone)?;
    Shown::judge(chain, proxy.identity.as_ref(), Some(bundle), snapshot.now).map_err(|error| Unread(error.to_string()))
}

type OfPod<T> = Vec<(String, Result<T, Verdict>)>;

fn identity_shown(snapshot: &Snapshot) -> Result<OfPod<Shown>, Verdict> {
    let Some(bundle) = bundle(snapshot)? else { return Ok(Vec::new()) };
    let is_identity = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(names::COMPONENT)).map(String::as_str) == Some(IDENTITY_COMPONENT)
    };
    let pods = snapshot.pods_of_control_plane()?.filter(is_identity).filter(|pod| super::control_plane::is_ready(pod));
    let proxies = pods.filter_map(|pod| ProxyPod::of(pod).ok());
    Ok(proxies
        .map(|proxy| {
            let shown = shown(snapshot, &proxy, &bundle)
                .map_err(|unread| Verdict::Unknown(format!("{}: {unread}", proxy.name)));
            (proxy.name, shown)
        })
        .collect())
}

/// The certificate that signed the identity role's own leaf; none where it was not seen, or is the anchor itself.
fn issuer(snapshot: &Snapshot) -> Result<Option<Certificate>, Verdict> {
    let shown = identity_shown(snapshot)?.into_iter().find_map(|(_, shown)| shown.ok());
    Ok(shown.and_then(|shown| shown.intermediates.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::leaf::tests::{DAY, now};
    use crate::checks::tests::{config_map, fails, forbidden, healthy, is_unknown, passes};
    use crate::pki::{IdentityTold, IssuerTold, Keeper};

    fn without_bundle() -> Snapshot {
        let mut snapshot = healthy();
        snapshot.config_maps = Ok(vec![config_map(names::BUNDLE_CONFIG_MAP, &[])]);
        snapshot
    }

    #[test]
    fn a_bundle_must_be_there_and_readable() {
        assert!(passes(bundle_can_be_read, &healthy()));
        assert_eq!(
            fails(bundle_can_be_read, &without_bundle()),
            ["ConfigMap `hawser-trust-bundle` has no `ca-bundle.crt`"]
        );
        let mut snapshot = healthy();
        snapshot.config_maps = Ok(vec![config_map(names::BUNDLE_CONFIG_MAP, &[(names::BUNDLE_KEY, "garbage")])]);
        assert_eq!(fails(bundle_can_be_read, &snapshot), ["the trust bundle has no certificate"]);
        snapshot.config_maps = forbidden();
        assert!(is_unknown(bundle_can_be_read, &snapshot));
    }

    #[test]
    fn without_a_bundle_nothing_is_asked_of_it() {
        for check in [anchors_are_valid, anchors_have_time_left, identity_is_proven, issuer_is_valid, issuer_is_renewed]
        {
            assert_eq!(check(&without_bundle()), Verdict::Skipped);
        }
    }

    #[test]
    fn anchors_end_with_a_warning_first() {
        let mut snapshot = healthy();
        assert!(passes(anchors_are_valid, &snapshot) && passes(anchors_have_time_left, &snapshot));
        let end = bundle(&snapshot).unwrap().unwrap().anchors()[0].not_after();
        snapshot.now = end - 30 * DAY;
        assert!(passes(anchors_are_valid, &snapshot));
        assert!(fails(anchors_have_time_left, &snapshot)[0].ends_with("ends in 30 days"));
        snapshot.now = end + DAY;
        assert!(fails(anchors_are_valid, &snapshot)[0].ends_with("is not valid now"));
    }

    #[test]
    fn the_identity_role_must_show_a_good_certificate() {
        let mut snapshot = healthy();
        assert!(passes(identity_is_proven, &snapshot));
        snapshot.now = now() + 2 * DAY;
        assert_eq!(fails(identity_is_proven, &snapshot), ["hawser-identity-1: it has expired"]);
        snapshot.shown.clear();
        assert!(is_unknown(identity_is_proven, &snapshot));
    }

    #[test]
    fn what_the_identity_role_cannot_use_is_said_though_it_goes_on_with_what_it_had() {
        let mut snapshot = healthy();
        assert!(passes(identity_is_untroubled, &snapshot));
        let told = IdentityTold { trouble: Some("secret x holds no usable issuer".into()), ..IdentityTold::default() };
        snapshot.signing.insert("hawser-identity-2".into(), Ok(Some(told)));
        assert_eq!(fails(identity_is_untroubled, &snapshot), ["hawser-identity-2: secret x holds no usable issuer"]);
        snapshot.signing = [("hawser-identity-1".to_owned(), Err(Unread("no answer".into())))].into();
        assert!(is_unknown(identity_is_untroubled, &snapshot));
        snapshot.signing = [("hawser-identity-1".to_owned(), Ok(None))].into();
        assert_eq!(identity_is_untroubled(&snapshot), Verdict::Skipped, "an older one does not tell");
    }

    #[test]
    fn an_external_issuer_is_said_to_be_others_to_renew_by_the_values_or_by_its_secret() {
        let mut snapshot = healthy();
        let mut values = Values::default();
        values.identity.issuer.external = true;
        let config = config_map(names::CONFIG_MAP, &[("version", "0.1.0"), ("values", &values.to_yaml())]);
        snapshot.config_maps.as_mut().unwrap()[0] = config;
        assert!(passes(issuer_is_renewed, &snapshot));
        snapshot.now = now() + 80 * DAY;
        assert!(fails(issuer_is_renewed, &snapshot)[0].ends_with("whoever keeps secret hawser-identity-issuer must"));
        let mut own = Snapshot { now: snapshot.now, ..healthy() };
        assert!(!fails(issuer_is_renewed, &own)[0].contains("external"));
        let keeper = Keeper { secret_type: "kubernetes.io/tls".into(), written_by: Some("cert-manager".into()) };
        let issuer = IssuerTold { subject: "CN=i".into(), serial: "1".into(), expires_at: 1, keeper: Some(keeper) };
        let told = IdentityTold { issuer: Some(issuer), ..IdentityTold::default() };
        own.signing = [("hawser-identity-1".to_owned(), Ok(Some(told)))].into();
        own.now = now() + 91 * DAY;
        let said = &fails(issuer_is_valid, &own)[0];
        assert!(said.ends_with("must (a secret of type kubernetes.io/tls, last written by cert-manager)"), "{said}");
    }

    #[test]
    fn the_issuer_is_the_one_in_the_handshake_and_must_be_valid() {
        let mut snapshot = healthy();
        assert!(passes(issuer_is_valid, &snapshot) && passes(issuer_is_renewed, &snapshot));
        snapshot.now = now() + 80 * DAY;
        assert!(passes(issuer_is_valid, &snapshot));
        assert!(
            fails(issuer_is_renewed, &snapshot)[0].contains("ends in 9 d")
                || fails(issuer_is_renewed, &snapshot)[0].contains("ends in 10 d")
        );
        snapshot.now = now() + 91 * DAY;
        assert!(fails(issuer_is_valid, &snapshot)[0].ends_with("has expired"));
    }
}
