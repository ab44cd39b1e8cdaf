//! A healthy mesh, for tests of what makes it unhealthy.

use std::collections::BTreeMap;

use serde_json::json;

use super::leaf::tests::{DAY, now};
use super::*;
use crate::manifest::names;
use crate::mesh::Identity;
use crate::pki::{Anchor, Csr, LeafKey, Validity};

/// One pod of each role, and `shop/web-1`.
pub(crate) fn healthy() -> Snapshot {
    let anchor = Anchor::create("cluster.local", now()).unwrap();
    let issuer = anchor.create_issuer("cluster.local", now()).unwrap();
    let chain = |account: &str, namespace: &str| {
        let identity = Identity::of_service_account(account, namespace, "hawser", "cluster.local").unwrap();
        let csr = Csr::parse_der(&LeafKey::generate().unwrap().csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: DAY, skew: std::time::Duration::from_secs(20) };
        let leaf = issuer.sign(&csr, &identity, now(), validity).unwrap();
        std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates).collect::<Vec<_>>()
    };
    let mut shown = BTreeMap::new();
    let mut pods = Vec::new();
    for (role, component) in control_plane::ROLES.into_iter().zip(["identity", "destination", "proxy-injector"]) {
        let mut pod = proxy_pod::tests::meshed("hawser", &format!("{role}-1"));
        pod.metadata.labels.as_mut().unwrap().insert(names::COMPONENT.into(), component.into());
        pod.spec.as_mut().unwrap().service_account_name = Some(role.into());
        pods.push(pod);
        shown.insert(("hawser".into(), format!("{role}-1")), Ok(chain(role, "hawser")));
    }
    pods.push(proxy_pod::tests::meshed("shop", "web-1"));
    shown.insert(("shop".into(), "web-1".into()), Ok(chain("web", "shop")));
    let (ca, serving) = serving("hawser-injector.hawser.svc");
    let roles = || Ok(control_plane::ROLES.map(str::to_owned).into_iter().collect());
    Snapshot {
        now: now(),
        server_now: Ok(now()),
        kubernetes_version: Ok("v1.36.0".into()),
        control_namespace: "hawser".into(),
        version: "0.1.0".into(),
        namespaces: Ok(vec![namespace("hawser", "disabled"), namespace("shop", "enabled")]),
        deployments: Ok(control_plane::ROLES.map(deployment).into()),
        service_accounts: roles(),
        cluster_roles: roles(),
        cluster_role_bindings: roles(),
        config_maps: Ok(vec![
            config_map(names::CONFIG_MAP, &[("version", "0.1.0")]),
            config_map(names::BUNDLE_CONFIG_MAP, &[(names::BUNDLE_KEY, &anchor.certificate().to_pem())]),
        ]),
        webhooks: Ok(vec![webhook(names::WEBHOOK_CONFIG, ca.as_bytes())]),
        pods: Ok(pods),
        namespace: None,
        shown,
        clocks: BTreeMap::from([(("shop".into(), "web-1".into()), Offset { offset_ms: -40, within_ms: 3 })]),
        believing: BTreeMap::new(),
        signing: BTreeMap::from([("hawser-identity-1".into(), Ok(Some(IdentityTold::default())))]),
        webhook_shown: Some(Ok(serving)),
        permissions: Ok(BTreeMap::new()),
    }
}

fn namespace(name: &str, inject: &str) -> Namespace {
    serde_json::from_value(json!({"metadata": {"name": name, "annotations": {names::INJECT: inject}}})).unwrap()
}

fn deployment(name: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": 1, "selector": {}, "template": {}},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    }))
    .unwrap()
}

pub(crate) fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
}

pub(crate) fn webhook(name: &str, ca: &[u8]) -> MutatingWebhookConfiguration {
    let mut webhook: MutatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {names::CONTROL_PLANE_NS: "hawser"}},
        "webhooks": [{"name": "a", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None"}],
    }))
    .unwrap();
    webhook.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = Some(k8s_openapi::ByteString(ca.to_vec()));
    webhook
}

/// A CA, as PEM, and a chain under it for a server of this name.
pub(crate) fn serving(name: &str) -> (String, Vec<CertificateDer<'static>>) {
    let anchor = Anchor::create("cluster.local", now()).unwrap();
    let issuer = anchor.create_issuer("cluster.local", now()).unwrap();
    let identity: Identity = name.parse().unwrap();
    let csr = Csr::parse_der(&LeafKey::generate().unwrap().csr(&identity).unwrap()).unwrap();
    let validity = Validity { lifetime: 90 * DAY, skew: std::time::Duration::from_secs(20) };
    let leaf = issuer.sign(&csr, &identity, now(), validity).unwrap();
    let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates).collect();
    (anchor.certificate().to_pem(), chain)
}

pub(crate) fn forbidden<T>() -> Fact<T> {
    Err(Unread("forbidden".into()))
}

pub(crate) fn passes(check: fn(&Snapshot) -> Verdict, snapshot: &Snapshot) -> bool {
    matches!(check(snapshot), Verdict::Passed | Verdict::PassedWith(_))
}

pub(crate) fn is_unknown(check: fn(&Snapshot) -> Verdict, snapshot: &Snapshot) -> bool {
    matches!(check(snapshot), Verdict::Unknown(_))
}

/// What speaks against it; the check must fail.
pub(crate) fn fails(check: fn(&Snapshot) -> Verdict, snapshot: &Snapshot) -> Vec<String> {
    match check(snapshot) {
        Verdict::Failed(evidence) => evidence.lines,
        other => panic!("{other:?}"),
    }
}

fn verdict<'a>(findings: &'a [Finding], id: &str) -> &'a Verdict {
    &findings.iter().find(|finding| finding.check.id == id).unwrap().verdict
}

#[test]
fn a_healthy_mesh_passes_every_check() {
    for stage in [Stage::Before, Stage::Installed] {
        let findings = run(&healthy(), stage);
        for finding in &findings {
            assert!(
                matches!(finding.verdict, Verdict::Passed | Verdict::PassedWith(_)),
                "{}: {:?}",
                finding.check.id,
                finding.verdict
            );
        }
        assert_eq!(health(&findings), Health::Healthy);
    }
    assert_eq!(
        run(&healthy(), Stage::Installed).len(),
        list::CHECKS.iter().filter(|c| c.stage != Stage::Before).count()
    );
}

#[test]
fn ids_are_unique_and_categories_stand_together() {
    let ids: BTreeSet<_> = list::CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), list::CHECKS.len());
    let mut categories: Vec<_> = list::CHECKS.iter().map(|check| check.category).collect();
    categories.dedup();
    assert_eq!(categories.iter().collect::<BTreeSet<_>>().len(), categories.len());
}

#[test]
fn a_warning_does_not_make_a_mesh_unhealthy_and_an_error_does() {
    let mut snapshot = healthy();
    snapshot.config_maps.as_mut().unwrap()[0] = config_map(names::CONFIG_MAP, &[("version", "0.0.9")]);
    let findings = run(&snapshot, Stage::Installed);
    assert!(matches!(verdict(&findings, "version-control-plane"), Verdict::Failed(_)));
    assert_eq!(health(&findings), Health::Healthy);
    snapshot.webhooks = Ok(vec![]);
    assert_eq!(health(&run(&snapshot, Stage::Installed)), Health::Unhealthy);
}

#[test]
fn what_could_not_be_read_is_unknown_and_never_healthy() {
    let mut snapshot = healthy();
    snapshot.pods = forbidden();
    assert_eq!(health(&run(&snapshot, Stage::Installed)), Health::Unknown);
}

#[test]
fn without_a_control_plane_one_check_says_so() {
    let mut snapshot = healthy();
    snapshot.namespaces = Ok(vec![]);
    snapshot.deployments = Ok(vec![]);
    snapshot.config_maps = Ok(vec![]);
    snapshot.webhooks = Ok(vec![]);
    snapshot.pods = Ok(vec![]);
    snapshot.shown.clear();
    snapshot.webhook_shown = None;
    let failed: Vec<_> = run(&snapshot, Stage::Installed)
        .into_iter()
        .filter(|finding| !matches!(finding.verdict, Verdict::Passed | Verdict::PassedWith(_)))
        .map(|finding| finding.check.id)
        .collect();
    assert_eq!(failed, ["namespace"]);
}
