//! Judges the proxies: there, ready, and able to prove who they are.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::control_plane::{complaint, is_leaving};
use super::proxy_pod::{NoProxy, ProxyPod, State};
use super::{Snapshot, Unread, Verdict, judge, trust};
use crate::manifest::names;
use crate::mesh::places;

pub(super) fn control_plane_is_certified(snapshot: &Snapshot) -> Verdict {
    are_certified(snapshot, true)
}

pub(super) fn proxies_are_certified(snapshot: &Snapshot) -> Verdict {
    are_certified(snapshot, false)
}

/// Only proxies that are ready are asked: those that are not have a check of their own.
fn are_certified(snapshot: &Snapshot, of_control_plane: bool) -> Verdict {
    judge(|| {
        let Some(bundle) = trust::bundle(snapshot)? else { return Ok(Verdict::Skipped) };
        let (mut bad, mut unknown, mut good) = (Vec::new(), Vec::new(), 0);
        for pod in meshed(snapshot, of_control_plane)? {
            let Ok(proxy) = ProxyPod::of(pod) else { continue };
            if proxy.state != State::Ready {
                continue;
            }
            match trust::shown(snapshot, &proxy, &bundle) {
                Ok(shown) if shown.faults.is_empty() => good += 1,
                Ok(shown) => bad.extend(shown.faults.iter().map(|fault| format!("{}: {fault}", name(pod)))),
                Err(unread) => unknown.push(format!("{}: {unread}", name(pod))),
            }
        }
        Ok(match (bad.is_empty(), unknown.is_empty()) {
            (true, true) if good == 0 => Verdict::Skipped,
            (true, true) => Verdict::Passed.with(good),
            (true, false) => Verdict::Unknown(unknown.join("; ")),
            (false, _) => Verdict::unless(bad.into_iter().chain(unknown).collect()).with(good),
        })
    })
}

/// By what the proxies measured themselves: those that have not are left out, for older ones cannot.
pub(super) fn clocks_agree(snapshot: &Snapshot) -> Verdict {
    let off = snapshot.clocks.iter().filter(|(_, offset)| offset.is_off());
    let lines = off.map(|((namespace, pod), offset)| format!("{namespace}/{pod}: clock is {offset} identity's"));
    match snapshot.clocks.len() {
        0 => Verdict::Skipped,
        measured => Verdict::unless(lines.collect()).with(measured),
    }
}

pub(super) fn proxies_are_present(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let mut count = 0;
        let mut lines = Vec::new();
        for pod in meshed(snapshot, false)? {
            count += 1;
            if ProxyPod::of(pod) == Err(NoProxy::NoContainer) {
                lines.push(format!("{} has no container `{}`", name(pod), names::PROXY_CONTAINER));
            }
        }
        Ok(if count == 0 { Verdict::Skipped } else { Verdict::unless(lines).with(count) })
    })
}

pub(super) fn proxies_are_ready(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let mut count = 0;
        let mut lines = Vec::new();
        for pod in meshed(snapshot, false)? {
            let Ok(proxy) = ProxyPod::of(pod) else { continue };
            count += 1;
            if proxy.state != State::Ready {
                lines.push(format!("{}/{}", proxy.namespace, complaint(pod)));
            }
        }
        Ok(if count == 0 { Verdict::Skipped } else { Verdict::unless(lines).with(count) })
    })
}

pub(super) fn proxies_have_the_bundle(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(bundle) = trust::bundle(snapshot)? else { return Ok(Verdict::Skipped) };
        let present = bundle.sha256_hex();
        let (mut count, mut lines, mut unknown) = (0, Vec::new(), Vec::new());
        for pod in meshed(snapshot, false)? {
            count += 1;
            if !was_given_another(pod, &present) {
                continue;
            }
            let key =
                (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default());
            match snapshot.believing.get(&key) {
                // Whether it is ready is another check's question.
                None => {}
                Some(Ok(Some(told))) if told.believes(&bundle) => {}
                Some(Ok(Some(_))) => lines.push(format!("{} does not yet", name(pod))),
                Some(Ok(None)) => {
                    lines.push(format!("{} was given another, and reads it at its start only", name(pod)));
                }
                Some(Err(unread)) => unknown.push(format!("{}: {unread}", name(pod))),
            }
        }
        Ok(match (count, lines.is_empty(), unknown.is_empty()) {
            (0, ..) => Verdict::Skipped,
            (_, true, false) => Verdict::Unknown(unknown.join("; ")),
            _ => Verdict::unless(lines.into_iter().chain(unknown).collect()),
        })
    })
}

/// Whether the pod was created with a bundle that is not the one whose SHA-256 this is: then what its proxy believes by now is asked of it.
fn was_given_another(pod: &Pod, sha256: &str) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(names::TRUST_ROOT_SHA256)).is_some_and(|given| given != sha256)
}

pub(super) fn versions_match(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        // Proxy with proxy: the version is the image's tag, which whoever builds their own image chooses.
        let of = |pod: &Pod| ProxyPod::of(pod).ok()?.version;
        let present: BTreeSet<String> = meshed(snapshot, true)?.filter_map(of).collect();
        let (mut count, mut lines) = (0, Vec::new());
        for pod in meshed(snapshot, false)? {
            let Some(own) = of(pod) else { continue };
            count += 1;
            if !present.contains(&own) {
                let present: Vec<_> = present.iter().map(String::as_str).collect();
                lines.push(format!("{} has {own}, the control plane's have {}", name(pod), present.join(" and ")));
            }
        }
        Ok(if count == 0 || present.is_empty() { Verdict::Skipped } else { Verdict::unless(lines) })
    })
}

pub(super) fn namespaces_are_meshed(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let namespaces = snapshot.namespaces.as_ref()?.iter().filter(|namespace| {
            let annotations = namespace.metadata.annotations.as_ref();
            let wish = annotations.and_then(|annotations| annotations.get(names::INJECT));
            wish.is_some_and(|wish| wish == "enabled" || wish == "ingress")
        });
        let annotated: Vec<&str> = namespaces.filter_map(|namespace| namespace.metadata.name.as_deref()).collect();
        if annotated.is_empty() {
            return Ok(Verdict::Skipped);
        }
        let unmeshed = snapshot.pods.as_ref()?.iter().filter(|pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            annotated.contains(&namespace) && could_be_meshed(pod) && !places::is_meshed(pod)
        });
        Ok(Verdict::unless(unmeshed.map(|pod| format!("{} is not", name(pod))).collect()))
    })
}

/// Whether the injector would mesh this pod, were it created again.
fn could_be_meshed(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let opted_out = annotations.and_then(|all| all.get(names::INJECT)).is_some_and(|wish| wish == "disabled");
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    !(opted_out || on_host || places::has_ended(pod) || is_leaving(pod))
}

/// The meshed pods that should be working: of the control plane, or else those that are looked at.
fn meshed(snapshot: &Snapshot, of_control_plane: bool) -> Result<impl Iterator<Item = &Pod>, &Unread> {
    let pods = snapshot.pods.as_ref()?.iter();
    Ok(pods.filter(move |pod| {
        let namespace = pod.metadata.namespace.as_ref();
        let is_wanted = if of_control_plane {
            namespace == Some(&snapshot.control_namespace)
        } else {
            namespace != Some(&snapshot.control_namespace)
                && snapshot.namespace.as_ref().is_none_or(|wanted| namespace == Some(wanted))
        };
        is_wanted && is_ours(pod, &snapshot.control_namespace) && !places::has_ended(pod) && !is_leaving(pod)
    }))
}

/// Whether the pod is meshed by this control plane, and not by a stock one beside it.
fn is_ours(pod: &Pod, control_namespace: &str) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(names::CONTROL_PLANE_NS));
    label.is_some_and(|label| label == control_namespace)
}

fn name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::leaf::tests::{DAY, now};
    use crate::checks::tests::{fails, forbidden, healthy, is_unknown, passes};
    use crate::mesh::clock::Offset;
    use crate::pki::{AnchorTold, ProxyTold};

    /// The data plane's only pod.
    fn web(snapshot: &mut Snapshot) -> &mut Pod {
        snapshot.pods.as_mut().unwrap().iter_mut().find(|pod| pod.metadata.name.as_deref() == Some("web-1")).unwrap()
    }

    #[test]
    fn ready_proxies_must_show_a_good_certificate() {
        let mut snapshot = healthy();
        assert!(passes(proxies_are_certified, &snapshot) && passes(control_plane_is_certified, &snapshot));
        snapshot.now = now() + 2 * DAY;
        assert_eq!(fails(proxies_are_certified, &snapshot), ["shop/web-1: it has expired"]);
        assert_eq!(fails(control_plane_is_certified, &snapshot).len(), 3);
    }

    #[test]
    fn a_proxy_that_could_not_be_asked_is_unknown() {
        let mut snapshot = healthy();
        snapshot.shown.insert(("shop".into(), "web-1".into()), forbidden());
        assert_eq!(proxies_are_certified(&snapshot), Verdict::Unknown("shop/web-1: forbidden".into()));
        snapshot.pods = forbidden();
        assert!(is_unknown(proxies_are_certified, &snapshot));
    }

    #[test]
    fn a_pod_that_says_meshed_and_has_no_proxy_is_named() {
        let mut snapshot = healthy();
        assert!(passes(proxies_are_present, &snapshot));
        web(&mut snapshot).spec.as_mut().unwrap().init_containers = None;
        assert_eq!(fails(proxies_are_present, &snapshot), ["shop/web-1 has no container `linkerd-proxy`"]);
    }

    #[test]
    fn a_proxy_that_is_not_ready_is_named_with_the_kubelets_reason() {
        let mut snapshot = healthy();
        assert!(passes(proxies_are_ready, &snapshot));
        web(&mut snapshot).status.as_mut().unwrap().init_container_statuses.as_mut().unwrap()[0].ready = false;
        assert_eq!(fails(proxies_are_ready, &snapshot), ["shop/web-1: container linkerd-proxy is not ready"]);
        web(&mut snapshot).status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(proxies_are_ready(&snapshot), Verdict::Skipped, "one that has ended need not be");
    }

    #[test]
    fn a_proxy_that_does_not_believe_the_bundle_is_warned_of() {
        let mut snapshot = healthy();
        let bundle = trust::bundle(&snapshot).unwrap().unwrap();
        let annotate = |snapshot: &mut Snapshot, digest: &str| {
            let annotations = web(snapshot).metadata.annotations.get_or_insert_default();
            annotations.insert(names::TRUST_ROOT_SHA256.into(), digest.into());
        };
        annotate(&mut snapshot, &bundle.sha256_hex());
        assert!(passes(proxies_have_the_bundle, &snapshot));
        // Created with another: what counts is what it believes by now.
        annotate(&mut snapshot, "0000");
        let mut believing = |told| {
            snapshot.believing.insert(("shop".into(), "web-1".into()), told);
            proxies_have_the_bundle(&snapshot)
        };
        let anchors: Vec<_> = bundle.anchors().iter().map(AnchorTold::from).collect();
        let told =
            |anchors| ProxyTold { identity: None, bundle: String::new(), anchors, certificate: None, clock: None };
        let failed = |line: &str| Verdict::unless(vec![line.into()]);
        assert_eq!(believing(Ok(Some(told(anchors)))), Verdict::Passed);
        assert_eq!(believing(Ok(Some(told(vec![])))), failed("shop/web-1 does not yet"));
        let stock = failed("shop/web-1 was given another, and reads it at its start only");
        assert_eq!(believing(Ok(None)), stock);
        assert!(matches!(believing(Err(Unread("no answer".into()))), Verdict::Unknown(_)));
    }

    #[test]
    fn a_proxy_of_another_version_is_warned_of() {
        let mut snapshot = healthy();
        assert!(passes(versions_match, &snapshot));
        web(&mut snapshot)
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(names::PROXY_VERSION.into(), "0.0.9".into());
        assert_eq!(fails(versions_match, &snapshot), ["shop/web-1 has 0.0.9, the control plane's have 0.1.0"]);
    }

    #[test]
    fn unmeshed_pods_of_an_annotated_namespace_are_warned_of_unless_they_opted_out() {
        let mut snapshot = healthy();
        assert!(passes(namespaces_are_meshed, &snapshot));
        web(&mut snapshot).metadata.labels = None;
        assert_eq!(fails(namespaces_are_meshed, &snapshot), ["shop/web-1 is not"]);
        web(&mut snapshot).metadata.annotations =
            Some(serde_json::from_value(json!({names::INJECT: "disabled"})).unwrap());
        assert!(passes(namespaces_are_meshed, &snapshot));
    }

    #[test]
    fn a_clock_that_is_off_is_named_with_how_far() {
        let mut snapshot = healthy();
        assert!(passes(clocks_agree, &snapshot));
        snapshot.clocks.insert(("shop".into(), "web-1".into()), Offset { offset_ms: -94_000, within_ms: 3 });
        assert_eq!(fails(clocks_agree, &snapshot), ["shop/web-1: clock is 94 s behind identity's"]);
        snapshot.clocks.insert(("shop".into(), "web-1".into()), Offset { offset_ms: -94_000, within_ms: 90_000 });
        assert!(passes(clocks_agree, &snapshot), "it may be the measurement");
        snapshot.clocks.clear();
        assert_eq!(clocks_agree(&snapshot), Verdict::Skipped);
    }

    #[test]
    fn only_the_wanted_namespace_and_only_our_pods_are_judged() {
        let mut snapshot = healthy();
        web(&mut snapshot).status.as_mut().unwrap().init_container_statuses.as_mut().unwrap()[0].ready = false;
        snapshot.namespace = Some("load".into());
        for check in [proxies_are_ready, proxies_are_certified, proxies_have_the_bundle, versions_match] {
            assert_eq!(check(&snapshot), Verdict::Skipped);
        }
        snapshot.namespace = None;
        web(&mut snapshot).metadata.labels.as_mut().unwrap().insert(names::CONTROL_PLANE_NS.into(), "linkerd".into());
        assert_eq!(proxies_are_ready(&snapshot), Verdict::Skipped);
    }
}
