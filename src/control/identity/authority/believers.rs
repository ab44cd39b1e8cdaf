//! Asks every meshed pod's proxy whom it believes: nobody is to be left behind by a new anchor.
//!
//! In: the bundle that all should believe. Out: who does not, and why, by pod. The answers are the proxies' own, of now, on their admin port; a pod
//! that has not started counts, for it was created with a bundle too. Linkerd's proxies cannot be asked: theirs is the bundle they were
//! created with, which an annotation tells.
//!
//! Start at [`unbelieving`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::control::index::facts;
use crate::manifest::names::{ADMIN_PORT, CONTROL_PLANE_NS, TRUST_ROOT_SHA256};
use crate::net::drain::Drain;
use crate::pki::Bundle;

/// How many pods come in one answer of the API server, and how many are asked at a time.
const PAGE: u32 = 500;
const ASKED_AT_ONCE: usize = 32;
/// A proxy answers in a millisecond; one that does not is asked again in the next round.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// A certificate's worth per anchor, and more.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Who does not believe all of `bundle`, as `namespace/pod: why`, in the order of their names.
///
/// # Errors
/// Where the pods cannot be listed.
pub(super) async fn unbelieving(
    client: &Client,
    control_namespace: &str,
    bundle: &Bundle,
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
    let wanted: BTreeSet<String> = bundle.anchors().iter().map(|anchor| anchor.fingerprint()).collect();
    let sha256 = bundle.sha256_hex();
    let asked = stream::iter(all).map(|pod| {
        let (wanted, sha256) = (&wanted, sha256.as_str());
        async move {
            let name = facts::Key::of(&pod.metadata)?.to_string();
            let why = ask(&pod, wanted, sha256, drain).await?;
            Some(format!("{name}: {why}"))
        }
    });
    let mut unbelieving: Vec<String> =
        asked.buffer_unordered(ASKED_AT_ONCE).filter_map(async |why| why).collect().await;
    unbelieving.sort();
    Ok(unbelieving)
}

/// Why a pod's proxy cannot be counted on; none where it can, or where there will never be one again.
async fn ask(pod: &Pod, wanted: &BTreeSet<String>, sha256: &str, drain: &Drain) -> Option<String> {
    let facts = facts::Pod::of(pod)?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get(TRUST_ROOT_SHA256));
    let was_created_with_it = annotated.is_some_and(|injected| injected == sha256);
    let Some(ip) = facts.ips.first().filter(|_| phase == "Running") else {
        return (!was_created_with_it).then(|| "has not started".into());
    };
    let port = facts.mesh.and_then(|mesh| mesh.admin_port).unwrap_or(ADMIN_PORT);
    match timeout(ASK_TIMEOUT, believed(SocketAddr::new(*ip, port), drain)).await {
        Err(_) => Some(format!("did not answer within {ASK_TIMEOUT:?}")),
        Ok(Err(why)) => Some(format!("cannot be asked: {why}")),
        Ok(Ok(Some(believed))) if wanted.is_subset(&believed) => None,
        Ok(Ok(Some(_))) => Some("does not believe the new anchor yet".into()),
        Ok(Ok(None)) if was_created_with_it => None,
        Ok(Ok(None)) => Some("has a proxy that reads anchors at its start only: restart it".into()),
    }
}

#[derive(Deserialize)]
struct Trust {
    anchors: Vec<Anchor>,
}

#[derive(Deserialize)]
struct Anchor {
    fingerprint: String,
}

/// The fingerprints of the anchors that a proxy believes; none of a proxy that does not tell.
async fn believed(
    address: SocketAddr,
    drain: &Drain,
) -> Result<Option<BTreeSet<String>>, Box<dyn std::error::Error + Send + Sync>> {
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
    let trust: Trust = serde_json::from_slice(&body)?;
    Ok(Some(trust.anchors.into_iter().map(|anchor| anchor.fingerprint).collect()))
}
