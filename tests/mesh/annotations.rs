//! What annotations of a Service set: our control plane tells it, and a proxy as pods run it does it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hawser::control::destination::serve;
use hawser::control::index::facts::{Pod, Service, Slice};
use hawser::control::index::{Index, Settings};
use hawser::mesh::policy::DefaultPolicy;
use hawser::net::drain::Drain;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::proxy::{SOON, World, ready};
use crate::support::eventually;
use crate::support::namespace::Namespace;

/// Has something run in a pod's network, on a thread of its own, until the test ends.
fn run_in<F: Future<Output = ()>>(pod: &Namespace, work: impl FnOnce() -> F + Send + 'static) {
    pod.enter(|| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work());
        });
    });
}

/// A server of gRPC that is unavailable to the first call of each method, and not to the next.
fn app_in(pod: &Namespace) {
    let called = Arc::new(Mutex::new(HashSet::new()));
    run_in(pod, move || async move {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await.unwrap();
        let drain = Drain::new();
        while let Ok((stream, _)) = listener.accept().await {
            let called = called.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let is_first = called.lock().unwrap().insert(request.uri().path().to_owned());
                let leaked = request.headers().contains_key("l5d-retry-grpc");
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", if is_first { "14" } else { "0" })
                    .header("leaked", leaked.to_string());
                async move { Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap()) }
            });
            let connection = hyper::server::conn::http2::Builder::new(drain.clone());
            drain.spawn(async move { drop(connection.serve_connection(TokioIo::new(stream), answer).await) });
        }
    });
}

/// What a call of `method` ends with, and whether the server was told what was for the proxy.
fn call(pod: &Namespace, method: u32) -> (String, String) {
    pod.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect("10.96.0.10:80").await.unwrap();
            let drain = Drain::new();
            let builder = hyper::client::conn::http2::Builder::new(drain.clone());
            let (mut sender, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
            drain.spawn(connection);
            let request = Request::post(format!("http://web/shop.Cart/{method}"))
                .header("content-type", "application/grpc")
                .body(Empty::new());
            let response = tokio::time::timeout(SOON, sender.send_request(request.unwrap())).await.unwrap().unwrap();
            let said = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            (said("grpc-status"), said("leaked"))
        })
    })
}

fn service(annotations: &Value) -> Service {
    let service = json!({
        "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "grpc", "port": 80}]},
    });
    Service::of(&serde_json::from_value(service).unwrap()).unwrap()
}

/// A cluster of one Service and one unmeshed pod behind it, which is `other`.
fn index() -> Arc<Index> {
    let index = Index::new(Settings {
        control_namespace: "hawser".into(),
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        default_policy: DefaultPolicy::AllUnauthenticated,
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
        opaque_ports: "25".parse().unwrap(),
        probe_networks: vec!["0.0.0.0/0".parse().unwrap()],
        h2_upgrade: true,
    });
    let pod = json!({
        "metadata": {"namespace": "shop", "name": "web-1"},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.77.0.2"}]},
    });
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": 8080}],
        "endpoints": [{"addresses": ["10.77.0.2"], "targetRef": {"kind": "Pod", "name": "web-1"}}],
    });
    index.apply_service(service(&json!({})));
    index.apply_pod(Pod::of(&serde_json::from_value(pod).unwrap()).unwrap());
    index.apply_slice(Slice::of(&serde_json::from_value(slice).unwrap()).unwrap());
    Arc::new(index)
}

#[test]
fn calls_are_asked_again_for_the_statuses_that_a_service_is_annotated_with() {
    let (world, index) = (World::new(), index());
    let World { pod, other, .. } = &world;
    pod.run("ip", &["route", "add", "10.96.0.0/16", "via", "10.77.0.2"]).succeeded();
    app_in(other);
    let told = index.clone();
    run_in(pod, move || async move {
        let drain = Drain::new();
        serve(&told, "127.0.0.1:8086".parse().unwrap(), "127.0.0.1:8090".parse().unwrap(), &drain).await.unwrap();
        std::future::pending::<()>().await
    });
    // What other users send is redirected: the proxy's own connections would come back to it.
    let _proxy = world.start(world.command().uid(2102));
    ready(pod);
    assert_eq!(call(pod, 0), ("14".into(), "false".into()), "nothing says that it may be asked again");

    let mut method = 0;
    let mut ends_with = |status: &str| {
        eventually("the change is known", SOON, || {
            method += 1;
            let ended = call(pod, method);
            if ended == (status.into(), "false".into()) { Ok(()) } else { Err(ended) }
        });
    };
    index.apply_service(service(&json!({"retry.linkerd.io/grpc": "cancelled,unavailable"})));
    ends_with("0");
    index.apply_service(service(&json!({"retry.linkerd.io/grpc": "cancelled"})));
    ends_with("14");
}
