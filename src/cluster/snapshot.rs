//! Reads what commands need of a cluster, in as few questions as there are kinds of things, and all at once.
//!
//! In: a client and a scope. Out: lists, and what each proxy answered. Nothing here judges.
//!
//! Start at [`pods`] and [`each`].

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::ListParams;

use super::client::is_status;
use crate::manifest::names;

/// How many pods are asked at once. Each costs a connection to the API server and one of its kubelet's; past this the API
/// server's priority and fairness would only queue them.
const ASKED_AT_ONCE: usize = 32;

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
    // From the API server's cache: no newer than a moment ago, and without a round trip to etcd.
    let mut wanted = ListParams::default().match_any();
    wanted.label_selector = selector.map(str::to_owned);
    Ok(scope.api::<Pod>(client).list(&wanted).await?.items)
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
