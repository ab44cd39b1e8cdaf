use std::collections::HashMap;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::control::injector::certificate::{names, server_config};
use crate::manifest::inject::Annotations;
use crate::manifest::values::Values;
use crate::pki::Anchor;
use crate::pki::serving::Serving;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn webhook(bundle: Option<String>) -> Webhook {
    let namespaces = HashMap::from([
        ("shop".to_owned(), annotations(&[("linkerd.io/inject", "enabled")])),
        ("plain".to_owned(), Annotations::new()),
    ]);
    Webhook::new("hawser", Facts::of(bundle, Values::default(), namespaces), Events::none(), Metrics::default())
}

fn bundle() -> Option<String> {
    Some(Anchor::create("cluster.local", SystemTime::now()).unwrap().certificate().to_pem())
}

fn review(namespace: &str, pod: &Value) -> Value {
    json!({"kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"kind": "Pod"}, "namespace": namespace, "operation": "CREATE", "object": pod,
    }})
}

fn pod() -> Value {
    json!({
        "metadata": {
            "generateName": "web-5d8-",
            "labels": {"app": "web", "pod-template-hash": "5d8"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8", "uid": "x", "controller": true}],
        },
        "spec": {"containers": [{"name": "web", "image": "web:1"}], "initContainers": [{"name": "prepare"}]},
    })
}

/// The pod as the API server makes it from the answer.
fn patched(pod: &Value, answer: &Value) -> Value {
    let bytes: ByteString = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&bytes.0).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[tokio::test]
async fn a_pod_of_an_annotated_namespace_is_meshed() {
    let answer = webhook(bundle()).review(&review("shop", &pod())).await.unwrap();
    assert_eq!(answer["response"]["uid"], "u-1");
    assert_eq!(answer["response"]["allowed"], true);
    let meshed = patched(&pod(), &answer);
    let names: Vec<_> =
        meshed["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["linkerd-init", "linkerd-proxy", "prepare"]);
    let labels = &meshed["metadata"]["labels"];
    assert_eq!((&labels["app"], &labels["linkerd.io/workload-ns"]), (&json!("web"), &json!("shop")));
    assert_eq!(labels["linkerd.io/proxy-deployment"], "web");
    assert!(meshed.to_string().contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn a_pod_of_a_cron_job_is_labelled_with_it() {
    let mut pod = pod();
    pod["metadata"]["ownerReferences"][0]["kind"] = json!("Job");
    pod["metadata"]["ownerReferences"][0]["name"] = json!("backup-29512345");
    let meshed = patched(&pod, &webhook(bundle()).review(&review("shop", &pod)).await.unwrap());
    assert_eq!(meshed["metadata"]["labels"]["linkerd.io/proxy-cronjob"], "backup");
}

#[tokio::test]
async fn a_pod_that_does_not_ask_is_left_alone_without_a_word() {
    let answer = webhook(bundle()).review(&review("plain", &pod())).await.unwrap();
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    // Not even a bundle is needed for that.
    let answer = webhook(None).review(&review("plain", &pod())).await.unwrap();
    assert_eq!(answer["response"]["allowed"], true);
}

#[tokio::test]
async fn a_pod_that_cannot_be_meshed_is_admitted_with_a_warning() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    let answer = webhook(bundle()).review(&review("shop", &pod)).await.unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"].get("patch").is_none());
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("hawser: the pod is not meshed: hostNetwork is enabled"), "{warning}");
}

#[tokio::test]
async fn without_a_bundle_the_failure_policy_decides_about_pods_that_ask() {
    let refused = webhook(None).review(&review("shop", &pod())).await.unwrap_err();
    assert!(matches!(refused, Refused::NotReady(_)));
    let refused = webhook(bundle()).review(&review("unheard-of", &pod())).await.unwrap_err();
    assert!(matches!(refused, Refused::NotReady(_)));
}

#[tokio::test]
async fn what_is_no_review_is_refused() {
    let webhook = webhook(bundle());
    for strange in [
        json!(null),
        json!([]),
        json!({"request": 1}),
        json!({"request": {"uid": "u", "object": {}}}),
        json!({"request": {"uid": "u", "namespace": "shop", "object": "pod"}}),
        json!({"request": {"uid": "u", "namespace": "shop", "object": {}, "kind": {"kind": "Service"}}}),
        review("shop/../kube-system", &pod()),
        review("shop?watch=true", &pod()),
        review("", &pod()),
    ] {
        assert!(matches!(webhook.review(&strange).await, Err(Refused::NotAReview(_))), "{strange}");
    }
}

#[tokio::test]
async fn large_reviews_are_read_a_few_at_a_time_and_usual_ones_meanwhile() {
    use futures_util::FutureExt as _;
    let large = Arc::new(Semaphore::new(1));
    let of = |bytes: usize| Full::new(Bytes::from(vec![b' '; bytes]));
    let held = read(of(USUAL_BYTES_MAX + 1), &large).await.unwrap();
    assert!(read(of(USUAL_BYTES_MAX + 1), &large).now_or_never().is_none(), "there is no place for another");
    let (usual, place) = read(of(USUAL_BYTES_MAX), &large).now_or_never().unwrap().unwrap();
    assert!(usual.len() == USUAL_BYTES_MAX && place.is_none());
    drop(held);
    let (read_now, _) = read(of(REVIEW_BYTES_MAX), &large).now_or_never().unwrap().unwrap();
    assert_eq!(read_now.len(), REVIEW_BYTES_MAX);
    assert!(read(of(REVIEW_BYTES_MAX + 1), &Arc::new(Semaphore::new(1))).await.is_none(), "too large");
}

/// Posts `body` as the API server would, believing `serving`'s CAs; the answer with its head.
async fn post(address: SocketAddr, serving: &Serving, body: &str) -> Result<String, std::io::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in serving.cas() {
        roots.add(ca.der().clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("hawser-injector.hawser.svc").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn answers_over_https_to_who_believes_its_ca_and_to_nobody_else() {
    let serving = Serving::create(&names("hawser", "cluster.local"), SystemTime::now(), &[]).unwrap();
    let other = Serving::create(&names("hawser", "cluster.local"), SystemTime::now(), &[]).unwrap();
    let (_sender, tls) = watch::channel(Some(Arc::new(server_config(&serving).unwrap())));
    let drain = Drain::new();
    let address = listen("127.0.0.1:0".parse().unwrap(), Arc::new(webhook(bundle())), tls, &drain).await.unwrap();

    let answer = post(address, &serving, &review("shop", &pod()).to_string()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("JSONPatch"), "{answer}");
    assert!(post(address, &serving, "{").await.unwrap().starts_with("HTTP/1.1 400"));
    assert!(post(address, &serving, "{}").await.unwrap().starts_with("HTTP/1.1 400"));
    assert!(post(address, &other, "{}").await.is_err(), "a CA of another webhook");

    drain.start();
    assert!(drain.finish(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn without_a_certificate_nobody_is_answered() {
    let serving = Serving::create(&names("hawser", "cluster.local"), SystemTime::now(), &[]).unwrap();
    let (_sender, tls) = watch::channel(None);
    let drain = Drain::new();
    let address = listen("127.0.0.1:0".parse().unwrap(), Arc::new(webhook(bundle())), tls, &drain).await.unwrap();
    assert!(post(address, &serving, "{}").await.is_err());
    drain.start();
}
