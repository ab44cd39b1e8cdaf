//! How connections end when the pod does.

use std::time::Duration;

use bytes::Bytes;
use hawser::mesh::Protocol;
use hawser::net::drain::Drain;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{Pod, becomes_true, is_sent_away};
use super::{apps, header, read};

#[tokio::test]
async fn a_drain_closes_idle_connections_and_finishes_the_others() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let mut idle = pod.dial(app).await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    read(&mut idle, 15).await;
    pod.drain.start();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(pod.drain.finish(Duration::from_secs(10)).await, "nothing is left that holds the drain");
}

#[tokio::test]
async fn a_drain_ends_http_in_good_order() {
    let pod = Pod::start();
    let (app, gate) = apps::gate().await;
    let mut http1 = pod.dial(app).await;
    http1.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let drain = Drain::new();
    let builder = hyper::client::conn::http2::Builder::new(drain.clone());
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let (mut sender, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
    let connection = drain.spawn(connection);
    let mut running = sender.clone();
    let first = Request::get("http://web.shop/").body(Empty::<Bytes>::new()).unwrap();
    let running = drain.spawn(async move { running.send_request(first).await });
    becomes_true("both are under way", || gate.held() == 2).await;

    pod.drain.start();
    // GOAWAY: a request after it is not sent, and so can go elsewhere. One that overtakes it waits at the gate like the others.
    is_sent_away(&mut sender, Duration::from_secs(10)).await;
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    connection.await.unwrap().unwrap();
    let mut answer = String::new();
    http1.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(pod.drain.finish(Duration::from_secs(10)).await, "nothing is left that holds the drain");
}
