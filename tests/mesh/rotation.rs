//! A rotation of the anchor beside proxies that are not hawser's: the identity role as a process, an API server that tells of two pods, and on
//! loopback what the admin ports of their proxies answer.

use std::io::BufReader;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hawser::pki::{AnchorTold, Phase, ProxyTold};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::objects::{BUNDLE, ISSUER, Objects, Replica, request, respond};

const SOON: Duration = Duration::from_secs(60);
/// Longer than a new anchor is published at least.
const LONG: u64 = 3_600;

/// A pod whose proxy has this admin port, injected with this bundle.
fn pod(name: &str, admin_port: u16, bundle_sha256: &str) -> Value {
    let admin = json!({"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": format!("0.0.0.0:{admin_port}")});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {"linkerd.io/control-plane-ns": "hawser"},
            "annotations": {"linkerd.io/trust-root-sha256": bundle_sha256},
        },
        "spec": {"serviceAccountName": "web", "containers": [{"name": "linkerd-proxy", "image": "proxy", "env": [admin]}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]},
    })
}

/// An admin port: what it answers to `/trust`, where it knows that.
fn admin(trust: impl Fn() -> Option<ProxyTold> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
            let Ok((head, _)) = request(&mut reader) else { continue };
            let told = head.starts_with("GET /trust ").then(&trust).flatten();
            let _ = match told {
                Some(told) => respond(&mut stream, 200, &serde_json::to_value(told).unwrap()),
                None => respond(&mut stream, 404, &Value::Null),
            };
        }
    });
    port
}

/// As a proxy of ours tells, which has been told the bundle: it believes what there is.
fn told(objects: &Objects) -> Option<ProxyTold> {
    let bundle = objects.bundle()?;
    let anchors = bundle.anchors().iter().map(AnchorTold::from).collect();
    Some(ProxyTold { identity: None, bundle: bundle.sha256_hex(), anchors, certificate: None, clock: None })
}

fn set(objects: &Objects, key: &str, value: String) {
    objects.change(BUNDLE, |bundle| bundle["data"][key] = value.into());
}

#[test]
fn a_stock_proxy_holds_the_switch_by_name_until_it_has_been_restarted() {
    let (objects, kubeconfig) = Objects::start(1);
    let _replica = Replica::start(kubeconfig.path());
    eventually("there is an issuer", SOON, || (objects.written(ISSUER) == 1).then_some(()).ok_or("none"));
    let old = objects.bundle().unwrap().sha256_hex();
    let ours = admin({
        let objects: Arc<Objects> = objects.clone();
        move || told(&objects)
    });
    // A stock proxy knows no `/trust`; all that tells of it are the label and the annotation of its injector.
    let stock = admin(|| None);
    objects.set_pods(vec![pod("ours-1", ours, &old), pod("stock-1", stock, &old)]);

    set(&objects, "request", "rotate-anchor".into());
    let rotation = eventually("the stock proxy is named, and alone", SOON, || match objects.rotation() {
        Some(rotation) if rotation.waiting_for_count == 1 => Ok(rotation),
        other => Err(other),
    });
    assert_eq!(rotation.phase, Phase::Publish);
    assert_eq!(rotation.waiting_for, ["shop/stock-1: has a proxy that reads anchors at its start only: restart it"]);
    assert_eq!(objects.bundle().unwrap().anchors().len(), 2);

    // However long it has been published: as if an hour ago.
    let mut earlier = rotation.clone();
    earlier.since -= LONG;
    let listed = objects.pods_listed();
    set(&objects, "rotation", serde_json::to_string(&earlier).unwrap());
    eventually("the pods were looked at twice since", SOON, || {
        set(&objects, "touched", objects.pods_listed().to_string());
        let looks = objects.pods_listed() - listed;
        if looks >= 2 { Ok(()) } else { Err(looks) }
    });
    assert_eq!((objects.rotation(), objects.written(ISSUER)), (Some(earlier), 1));

    // Its pod is created anew, with the bundle of now.
    let both = objects.bundle().unwrap().sha256_hex();
    objects.set_pods(vec![pod("ours-1", ours, &old), pod("stock-2", stock, &both)]);
    let signing = eventually("the new anchor's issuer signs", SOON, || {
        set(&objects, "touched", objects.pods_listed().to_string());
        objects.rotation().filter(|rotation| rotation.phase == Phase::Expire).ok_or("not yet")
    });
    assert_eq!((&signing.new, objects.written(ISSUER)), (&rotation.new, 2));
}
