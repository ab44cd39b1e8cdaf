//! The client's end of connections whose certificates end, with a peer that goes on: where they may not outlive them.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::SOON;
use super::world::{AUTHORITY, App, Peer, Pki, Pod, SERVICE, WEB};
use crate::support::control::{Control, detect, opaque};
use crate::support::eventually;

/// For a handshake and a few bytes.
const ENDS_IN: Duration = Duration::from_secs(3);

async fn world(app: App) -> (Control, Pod, Peer) {
    let (pki, control) = (Pki::new(), Control::start());
    let peer = Peer::start(pki.tls(WEB), app).await;
    control.add(AUTHORITY, vec![peer.endpoint(5432, WEB)]);
    let pod = Pod::ending(&pki, &control, SystemTime::now() + ENDS_IN);
    (control, pod, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_by_another_connection_when_a_certificate_ends() {
    let (control, pod, _peer) = world(App::Http("web")).await;
    control.policy(SERVICE, detect(AUTHORITY));
    for _ in 0..3 {
        assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
    }
    eventually("the connection has ended", SOON, || {
        let recorded = pod.recorded();
        if recorded.live.is_empty() && recorded.recent.len() == 1 { Ok(()) } else { Err(recorded) }
    });
    assert_eq!(pod.recorded().recent[0].requests, 3);
    assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_connection_is_reset_when_a_certificate_ends() {
    let (control, pod, _peer) = world(App::Echo).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    let reset = tokio::time::timeout(SOON, stream.read_u8()).await.expect("it goes on").unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    let labels = ["error=\"certificate ended\""];
    eventually("the end is counted", SOON, || match pod.metric("outbound_tcp_errors_total", &labels) {
        1.0 => Ok(()),
        other => Err((other, pod.metrics.encode())),
    });
}
