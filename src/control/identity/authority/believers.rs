//! Asks every meshed pod's proxy whom it believes: nobody is to be left behind by a new anchor.
//!
//! In: the bundle that all should believe, or the anchor that is to go. Out: who is behind, and why, by pod. The answers are the proxies' own, of now, on their admin port; a pod
//! that has not started counts, for it was created with a bundle too. Linkerd's proxies cannot be asked: theirs is the bundle they were
//! created with, which an annotation tells.
//!
//! Start at [`behind`].

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::control::index::facts;
use crate::manifest::names::{ADMIN_PORT, CONTROL_PLANE_NS, TRUST_ROOT_SHA256};
use crate::net::drain::Drain;
use crate::pki::{Bundle, ProxyTold};

/// How many pods come in one answer of the API server, and how many are asked at a time.
const PAGE: u32 = 500;
const ASKED_AT_ONCE: usize = 32;
/// A proxy answers in a millisecond; one that does not is asked again in the next round.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// A certificate's worth per anchor, and more.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What every proxy is asked for.
pub(super) enum Wanted<'a> {
    /// To believe all of this.
    Belief(&'a Bundle),
    /// Not to show a certificate under the anchor with this fingerprint.
    Leaving(&'a str),
}

/// Who does not do what is `wanted`, as `namespace/pod: why`, in the order of their names.
///
/// # Errors
/// Where the pods cannot be listed.
pub(super) async fn behind(
    client: &Client,
    control_namespace: &str,
    wanted: Wanted<'_>,
    drain: &Drain,
) -> kube::Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().labels(&format!("{CONTROL_PLANE_NS}={control_namespace}")).limit(PAGE);
    let mut all = Vec::new();
    loop {
        let answer = pods.list(&page).await?;
        all.extend(answer.items);
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => break,
        }
    }
    let asked = stream::iter(all).map(|pod| {
        let wanted = &wanted;
        async move {
            let name = facts::Key::of(&pod.metadata)?.to_string();
            let why = match wanted {
                Wanted::Belief(bundle) => disbelief(&pod, bundle, drain).await?,
                Wanted::Leaving(old) => remainder(&pod, old, drain).await?,
            };
            Some(format!("{name}: {why}"))
        }
    });
    let mut behind: Vec<String> = asked.buffer_unordered(ASKED_AT_ONCE).filter_map(async |why| why).collect().await;
    behind.sort();
    Ok(behind)
}

/// Why a pod's proxy cannot be counted on to believe `bundle`; none where it can, or where there will never be one again.
async fn disbelief(pod: &Pod, bundle: &Bundle, drain: &Drain) -> Option<String> {
    let facts = facts::Pod::of(pod)?;
    let phase = phase(pod);
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get(TRUST_ROOT_SHA256));
    let was_created_with_it = annotated.is_some_and(|injected| *injected == bundle.sha256_hex());
    let Some(address) = admin_address(&facts).filter(|_| phase == "Running") else {
        return (!was_created_with_it).then(|| "has not started".into());
    };
    match timeout(ASK_TIMEOUT, told(address, drain)).await {
        Err(_) => Some(format!("did not answer within {ASK_TIMEOUT:?}")),
        Ok(Err(why)) => Some(format!("cannot be asked: {why}")),
        Ok(Ok(Some(told))) if told.believes(bundle) => None,
        Ok(Ok(Some(_))) => Some("does not believe the new anchor yet".into()),
        Ok(Ok(None)) if was_created_with_it => None,
        Ok(Ok(None)) => Some("has a proxy that reads anchors at its start only: restart it".into()),
    }
}

/// Why a pod is not done with the anchor `old`. Who does not answer is not waited for: how long certificates live bounds it already, but for
/// those that were signed when they lived longer.
async fn remainder(pod: &Pod, old: &str, drain: &Drain) -> Option<String> {
    let facts = facts::Pod::of(pod)?;
    let address = admin_address(&facts).filter(|_| phase(pod) == "Running")?;
    let told = timeout(ASK_TIMEOUT, told(address, drain)).await.ok()?.ok()??;
    let anchor = told.certificate?.anchor?;
    (anchor == old).then(|| "still has a certificate under the old anchor".into())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn admin_address(facts: &facts::Pod) -> Option<SocketAddr> {
    let port = facts.mesh.as_ref().and_then(|mesh| mesh.admin_port).unwrap_or(ADMIN_PORT);
    facts.ips.first().map(|ip| SocketAddr::new(*ip, port))
}

/// What a proxy tells of whom it believes; none of one that does not tell.
async fn told(
    address: SocketAddr,
    drain: &Drain,
) -> Result<Option<ProxyTold>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    drain.spawn(connection);
    let request = http::Request::get("/trust").header(http::header::HOST, address.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if response.status() == http::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok(Some(serde_json::from_slice(&body)?))
}
