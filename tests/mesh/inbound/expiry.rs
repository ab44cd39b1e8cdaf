//! What becomes of connections that outlive a certificate that they were made with: as the setting has it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hawser::mesh::Protocol;
use hawser::net::drain::Drain;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{Pod, becomes_true, is_sent_away};
use super::{apps, header, read};

/// For a handshake and a few bytes.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn http_ends_in_good_order_when_a_certificate_does() {
    let pod = Pod::ending_in(SOON, true);
    let (app, gate) = apps::gate().await;
    let mut plain = pod.dial(app).await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut http1 = pod.connect(header(app, Protocol::Http1)).await;
    http1.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let drain = Drain::new();
    let builder = hyper::client::conn::http2::Builder::new(drain.clone());
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let (mut sender, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
    let connection = drain.spawn(connection);
    let first = Request::get("http://web.shop/").body(Empty::<Bytes>::new()).unwrap();
    let mut running = sender.clone();
    let running = drain.spawn(async move { running.send_request(first).await });
    becomes_true("all are under way", || gate.held() == 3).await;

    // GOAWAY, so that a request after it can go elsewhere; what is under way has its answer.
    is_sent_away(&mut sender, Duration::from_secs(60)).await;
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    connection.await.unwrap().unwrap();
    let mut answer = String::new();
    http1.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    // What was made without a certificate has none to end with.
    assert!(read(&mut plain, 15).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(pod.snapshot().live.len(), 1);
}

#[tokio::test]
async fn opaque_and_switched_connections_are_closed_when_a_certificate_ends() {
    let pod = Pod::ending_in(SOON, true);
    let (echo, switcher) = (apps::echo().await, apps::switcher().await);
    let mut opaque = pod.connect(header(echo, Protocol::Opaque)).await;
    opaque.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut opaque, 4).await, "ping");
    let mut switched = pod.connect(header(switcher, Protocol::Http1)).await;
    switched.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
    becomes_true("both are open", || pod.snapshot().live.len() == 2).await;
    let mut rest = Vec::new();
    let _ = opaque.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let _ = switched.read_to_end(&mut rest).await;
    becomes_true("both are closed", || pod.snapshot().live.is_empty()).await;
    let metrics = pod.metrics.encode().unwrap();
    assert!(metrics.contains("inbound_tcp_errors_total{error=\"certificate ended\"} 1"), "{metrics}");
}

#[tokio::test]
async fn by_default_connections_outlive_their_certificates() {
    let soon = Duration::from_millis(1);
    let (pod, app) = (Pod::ending_in(soon, false), apps::echo().await);
    let ended_at = SystemTime::now() + soon;
    let mut stream = pod.connect(header(app, Protocol::Opaque)).await;
    for said in ["before", "after!"] {
        stream.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(read(&mut stream, 6).await, said);
        let left = ended_at.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left + Duration::from_millis(100)).await;
    }
    assert_eq!(pod.snapshot().live.len(), 1);
}
