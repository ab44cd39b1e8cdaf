//! What is asked again when the app has not answered, and what is not.

use std::net::SocketAddr;

use hawser::mesh::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::world::Pod;
use super::{apps, get, header, read};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nhawser-unserved: unsent\r\n\r\nok";

/// Answers the first request of each connection, and closes it at the second.
async fn fickle() -> SocketAddr {
    apps::listen(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        head(&mut stream).await;
    })
    .await
}

async fn head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
}

/// The status line of the second of two requests over one connection.
async fn second(request: &str) -> String {
    let (pod, app) = (Pod::start(), fickle().await);
    let mut stream = pod.dial(app).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut first = String::new();
    while !first.ends_with("\r\n\r\nok") {
        first += &read(&mut stream, 1).await;
    }
    assert!(!first.contains("hawser-unserved"), "what proxies tell each other no app can say: {first}");
    stream.write_all(request.as_bytes()).await.unwrap();
    read(&mut stream, 12).await
}

#[tokio::test]
async fn what_may_be_asked_twice_survives_an_app_that_closes_a_kept_connection() {
    assert_eq!(second("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await, "HTTP/1.1 200");
    assert_eq!(second("PUT / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\n1").await, "HTTP/1.1 200");
}

#[tokio::test]
async fn what_may_not_be_asked_twice_is_lost_with_the_connection() {
    assert_eq!(second("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").await, "HTTP/1.1 502");
    assert_eq!(second("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\n1").await, "HTTP/1.1 502");
}

#[tokio::test]
async fn a_peer_is_told_that_the_app_saw_nothing_and_a_stranger_is_not() {
    let pod = Pod::start();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let told = get(pod.connect(header(gone, Protocol::Http1)).await, "").await;
    assert!(told.starts_with("HTTP/1.1 502 ") && told.contains("hawser-unserved: unsent"), "{told}");
    let told = get(pod.dial(gone).await, "").await;
    assert!(told.starts_with("HTTP/1.1 502 ") && !told.contains("hawser-unserved"), "{told}");
}

#[tokio::test]
async fn a_peer_is_told_that_the_app_hung_up_where_it_may_ask_again() {
    let (pod, rude) = (Pod::start(), apps::listen(|mut stream| async move { head(&mut stream).await }).await);
    let told = get(pod.connect(header(rude, Protocol::Http1)).await, "").await;
    assert!(told.starts_with("HTTP/1.1 502 ") && told.contains("hawser-unserved: unanswered"), "{told}");
    let mut stream = pod.connect(header(rude, Protocol::Http1)).await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 502 ") && !told.contains("hawser-unserved"), "{told}");
}
