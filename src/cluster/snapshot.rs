//! Reads what commands need of a cluster, in as few questions as there are kinds of things, and all at once.
//!
//! In: a client and a scope. Out: lists, what each proxy answered, and for the checks a [`Snapshot`]. Nothing here judges, and
//! what cannot be read is part of what is told.
//!
//! Start at [`read`]; [`pods`] and [`each`] are for commands that need less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::{ListParams, PostParams};
use rustls::pki_types::CertificateDer;

use super::client::{Cluster, is_status};
use super::port_forward::{self, PodPort};
use super::words;
use crate::checks::proxy_pod::{ProxyPod, State};
use crate::checks::{Fact, Snapshot, Stage, Unread};
use crate::manifest::names;
use crate::mesh::places;
use crate::pki::{IdentityTold, ProxyTold};

/// How many pods are asked at once. Each costs a connection to the API server and one of its kubelet's; past this the API
/// server's priority and fairness would only queue them.
const ASKED_AT_ONCE: usize = 32;

/// What `install` creates: group and resource, and whether that is in a namespace.
const INSTALLED: [(&str, &str, bool); 12] = [
    ("", "namespaces", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("", "secrets", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
];

/// Which namespaces to look into.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    All,
    Namespace(String),
}

impl Scope {
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(name) => name == namespace,
        }
    }

    pub fn api<K>(&self, client: &kube::Client) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::All => Api::all(client.clone()),
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::Namespace(name) => write!(f, "namespace `{name}`"),
        }
    }
}

/// The pods of a scope, those that match `selector`.
///
/// # Errors
/// Those of the API server.
pub async fn pods(client: &kube::Client, scope: &Scope, selector: Option<&str>) -> Result<Vec<Pod>, kube::Error> {
    let mut wanted = cached();
    wanted.label_selector = selector.map(str::to_owned);
    Ok(scope.api::<Pod>(client).list(&wanted).await?.items)
}

/// From the API server's cache: no older than a moment, and without a round trip to etcd.
fn cached() -> ListParams {
    ListParams::default().match_any()
}

/// The trust bundle's PEM as a control plane in `namespace` publishes it; none where there is none.
///
/// # Errors
/// Those of the API server but for that it is not there.
pub async fn bundle_pem(client: &kube::Client, namespace: &str) -> Result<Option<String>, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match maps.get(names::BUNDLE_CONFIG_MAP).await {
        Ok(map) => Ok(map.data.and_then(|mut data| data.remove(names::BUNDLE_KEY)).filter(|pem| !pem.is_empty())),
        Err(error) if is_status(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks everyone, many at once, and keeps the answers in the order of the asked. `done` hears of each as it comes.
pub async fn each<A, T, F>(asked: Vec<A>, ask: impl Fn(A) -> F, done: impl Fn()) -> Vec<T>
where
    F: Future<Output = T>,
{
    let asking = stream::iter(asked).map(|one| {
        let answer = ask(one);
        let done = &done;
        async move {
            // On the heap: an answer's future is large, and there are many.
            let answer = Box::pin(answer).await;
            done();
            answer
        }
    });
    asking.buffered(ASKED_AT_ONCE).collect().await
}

/// What the checks are to look at.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub control_namespace: String,
    /// Whose pods to look at, beside the control plane's; all without.
    pub namespace: Option<String>,
    /// [`Stage::Before`] or [`Stage::Installed`].
    pub stage: Stage,
}

/// Reads everything the checks look at: first the lists, all at once, then a handshake with each proxy.
///
/// For anyone who waits for a mesh to be healthy: read, [`crate::checks::run`], [`crate::checks::health`], and again.
pub async fn read(cluster: &Cluster, wanted: &Wanted) -> Snapshot {
    let client = &cluster.client;
    let ours = || Api::namespaced(client.clone(), &wanted.control_namespace);
    let labelled = cached().labels(&format!("{}={}", names::CONTROL_PLANE_NS, wanted.control_namespace));
    let (accounts, maps): (Api<ServiceAccount>, Api<ConfigMap>) =
        (ours(), Api::namespaced(client.clone(), &wanted.control_namespace));
    let (roles, bindings): (Api<ClusterRole>, Api<ClusterRoleBinding>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &wanted.control_namespace);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let all = cached();
    let (server_now, namespaces, deployments, accounts, roles, bindings, maps, webhooks, pods, permissions) = tokio::join!(
        server_now(client),
        namespaces.list(&all),
        deployments.list(&all),
        accounts.list_metadata(&all),
        roles.list_metadata(&labelled),
        bindings.list_metadata(&labelled),
        maps.list(&all),
        webhooks.list(&all),
        pods_of(client, wanted),
        permissions(client, wanted),
    );
    let mut snapshot = Snapshot {
        now: SystemTime::now(),
        server_now,
        kubernetes_version: cluster
            .version
            .as_ref()
            .map(|version| version.git_version.clone())
            .ok_or_else(|| Unread("the API server does not tell you its version".into())),
        control_namespace: wanted.control_namespace.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        namespaces: items(namespaces),
        deployments: items(deployments),
        service_accounts: items(accounts).map(all_names),
        cluster_roles: items(roles).map(all_names),
        cluster_role_bindings: items(bindings).map(all_names),
        config_maps: items(maps),
        webhooks: items(webhooks),
        pods,
        namespace: wanted.namespace.clone(),
        shown: BTreeMap::new(),
        clocks: BTreeMap::new(),
        believing: BTreeMap::new(),
        signing: BTreeMap::new(),
        webhook_shown: None,
        permissions,
    };
    if wanted.stage == Stage::Installed {
        let (asked, webhook_shown, signing) = tokio::join!(
            proxies_asked(client, &snapshot),
            webhook_shown(client, &snapshot),
            identity_signing(client, &snapshot),
        );
        for (pod, (shown, told)) in asked {
            let clock = told.as_ref().ok().and_then(|told| told.as_ref()?.clock);
            snapshot.clocks.extend(clock.map(|clock| (pod.clone(), clock)));
            snapshot.believing.insert(pod.clone(), told);
            snapshot.shown.insert(pod, shown);
        }
        (snapshot.webhook_shown, snapshot.signing) = (webhook_shown, signing);
    }
    // The handshakes took a while, and certificates are judged by the time of their showing.
    snapshot.now = SystemTime::now();
    snapshot
}

fn unread(error: &(dyn std::error::Error + 'static)) -> Unread {
    Unread(words::causes(error).join(": "))
}

fn items<K: Clone>(list: Result<kube::core::ObjectList<K>, kube::Error>) -> Fact<Vec<K>> {
    list.map(|list| list.items).map_err(|error| unread(&error))
}

fn all_names<K: kube::ResourceExt>(items: Vec<K>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.name_any()).collect()
}

/// The API server's clock, from the header every answer has.
async fn server_now(client: &kube::Client) -> Fact<SystemTime> {
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| unread(&error))?;
    let response = client.send(request).await.map_err(|error| unread(&error))?;
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let parsed = date.and_then(|date| k8s_openapi::jiff::fmt::rfc2822::parse(date).ok());
    parsed.map(|date| date.timestamp().into()).ok_or_else(|| Unread("the API server does not tell the time".into()))
}

async fn pods_of(client: &kube::Client, wanted: &Wanted) -> Fact<Vec<Pod>> {
    if wanted.stage == Stage::Before {
        return Ok(Vec::new());
    }
    let listed = match &wanted.namespace {
        None => pods(client, &Scope::All, None).await,
        Some(namespace) => {
            let (own, other) =
                (Scope::Namespace(wanted.control_namespace.clone()), Scope::Namespace(namespace.clone()));
            if own == other {
                pods(client, &own, None).await
            } else {
                let both = tokio::try_join!(pods(client, &own, None), pods(client, &other, None));
                both.map(|(own, other)| own.into_iter().chain(other).collect())
            }
        }
    };
    listed.map_err(|error| unread(&error))
}

async fn permissions(client: &kube::Client, wanted: &Wanted) -> Fact<BTreeMap<&'static str, bool>> {
    if wanted.stage == Stage::Installed {
        return Ok(BTreeMap::new());
    }
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let ask = async |(group, resource, is_namespaced): (&'static str, &'static str, bool)| {
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some("create".to_owned()),
            namespace: is_namespaced.then(|| wanted.control_namespace.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let reviewed = reviews.create(&PostParams::default(), &review).await;
        reviewed.map(|review| (resource, review.status.is_some_and(|status| status.allowed)))
    };
    let answers = each(INSTALLED.to_vec(), ask, || ()).await;
    answers.into_iter().collect::<Result<_, _>>().map_err(|error| unread(&error))
}

type Chain = Vec<CertificateDer<'static>>;

type Asked = (Fact<Chain>, Fact<Option<ProxyTold>>);

/// A handshake with the proxy of every pod that is ready for one, and what it tells of whom it believes.
async fn proxies_asked(client: &kube::Client, snapshot: &Snapshot) -> BTreeMap<(String, String), Asked> {
    let pods = snapshot.pods.iter().flatten().filter(|pod| {
        let namespace = pod.metadata.namespace.as_ref();
        let is_wanted = namespace == Some(&snapshot.control_namespace)
            || snapshot.namespace.as_ref().is_none_or(|wanted| namespace == Some(wanted));
        is_wanted && places::is_meshed(pod)
    });
    let proxies = pods.filter_map(|pod| ProxyPod::of(pod).ok());
    let proxies =
        proxies.filter(|proxy| proxy.state == State::Ready && proxy.control_namespace == snapshot.control_namespace);
    let ask = async |proxy: ProxyPod| {
        let to = PodPort { namespace: proxy.namespace.clone(), pod: proxy.name.clone(), port: proxy.admin_port };
        let shown = async {
            match &proxy.identity {
                None => Err(Unread("the pod does not say who it should be".into())),
                Some(identity) => show(client, &to, identity.as_str()).await,
            }
        };
        let asked = tokio::join!(shown, told(client, &to));
        ((proxy.namespace, proxy.name), asked)
    };
    each(proxies.collect(), ask, || ()).await.into_iter().collect()
}

/// What the pods of the identity role sign with, and what keeps them from it.
async fn identity_signing(client: &kube::Client, snapshot: &Snapshot) -> BTreeMap<String, Fact<Option<IdentityTold>>> {
    match &snapshot.pods {
        Ok(pods) => identity_told(client, &snapshot.control_namespace, pods).await,
        // Not to be known is a fact that other checks tell.
        Err(_) => BTreeMap::new(),
    }
}

/// What those of `pods` tell that run the identity role of the control plane in `namespace`, by name.
pub async fn identity_told(
    client: &kube::Client,
    namespace: &str,
    pods: &[Pod],
) -> BTreeMap<String, Fact<Option<IdentityTold>>> {
    let is_identity = |pod: &&Pod| {
        let is_role = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()) == Some(names::IDENTITY);
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        is_role && !is_leaving && phase == Some("Running") && pod.metadata.namespace.as_deref() == Some(namespace)
    };
    let names = pods.iter().filter(is_identity).filter_map(|pod| pod.metadata.name.clone());
    let ask = async |pod: String| {
        let to = PodPort { namespace: namespace.to_owned(), pod: pod.clone(), port: names::ROLE_ADMIN_PORT };
        (pod, told(client, &to).await)
    };
    each(names.collect(), ask, || ()).await.into_iter().collect()
}

/// What `/trust` of an admin port tells; none where there is no such thing.
async fn told<T: serde::de::DeserializeOwned>(client: &kube::Client, to: &PodPort) -> Fact<Option<T>> {
    match port_forward::body_at(client, to, "/trust").await {
        Ok(body) => serde_json::from_slice(&body).map(Some).map_err(|error| unread(&error)),
        Err(port_forward::Error::Status { status: http::StatusCode::NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(unread(&error)),
    }
}

/// What the injector serves the API server with; none where no pod of it runs.
async fn webhook_shown(client: &kube::Client, snapshot: &Snapshot) -> Option<Fact<Chain>> {
    let injector = snapshot.pods.iter().flatten().find(|pod| {
        let is_role = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()) == Some(names::INJECTOR);
        let is_running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        is_role && is_running && pod.metadata.namespace.as_ref() == Some(&snapshot.control_namespace)
    })?;
    let to = PodPort {
        namespace: snapshot.control_namespace.clone(),
        pod: injector.metadata.name.clone()?,
        port: names::INJECTOR_PORT,
    };
    Some(show(client, &to, &format!("{}.{}.svc", names::INJECTOR, snapshot.control_namespace)).await)
}

async fn show(client: &kube::Client, to: &PodPort, name: &str) -> Fact<Chain> {
    let shown = port_forward::handshake(client, to, name).await;
    shown.map(|handshake| handshake.chain).map_err(|error| unread(&error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn answers_come_in_the_order_of_the_asked_whoever_is_first() {
        let heard = Cell::new(0);
        let ask = |number: u64| async move {
            for _ in 0..(100 - number) {
                tokio::task::yield_now().await;
            }
            number
        };
        let answers = each((0..100).collect(), ask, || heard.set(heard.get() + 1)).await;
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        assert_eq!(heard.get(), 100);
    }

    #[tokio::test]
    async fn never_asks_more_than_the_bound_at_once() {
        let (open, most) = (Cell::new(0), Cell::new(0));
        let ask = |()| async {
            open.set(open.get() + 1);
            most.set(most.get().max(open.get()));
            tokio::task::yield_now().await;
            open.set(open.get() - 1);
        };
        each(vec![(); 200], ask, || ()).await;
        assert_eq!(most.get(), ASKED_AT_ONCE);
    }

    #[test]
    fn a_scope_includes_its_own() {
        assert!(Scope::All.includes("shop"));
        assert!(Scope::Namespace("shop".into()).includes("shop"));
        assert!(!Scope::Namespace("shop".into()).includes("load"));
    }
}
