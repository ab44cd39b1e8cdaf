//! What the way in counts, by names, labels and buckets.

use std::time::Duration;

use hawser::mesh::Protocol;
use hawser::mesh::policy::DefaultPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::profiles::{CANONICAL, PROFILED, profiles};
use super::world::Pod;
use super::{apps, get, header};
use crate::support::control::{Control, profile, route};
use crate::support::eventually;
use crate::support::metrics::are_golden;

/// What connections to the app are labelled with.
const TO_APP: &str = r#"direction="inbound",peer="dst",tls="no_identity",no_tls_reason="loopback""#;
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_counted_under_the_names_dashboards_know() {
    let control = Control::start();
    control.profile(PROFILED, profile(vec![route("GET /cart", "/cart")]));
    let pod = Pod::changed(|options| options.profiles = Some(profiles(&control)));
    let (app, echo) = (apps::http1().await, apps::echo().await);
    let answer = get(pod.connect(header(app, Protocol::Http1)).await, CANONICAL).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut stream = pod.dial(echo).await;
    stream.write_all(b"\0ping").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    are_golden("inbound", || pod.metrics.encode().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_under_the_names_dashboards_know() {
    let (pod, app) = (Pod::with_policy(DefaultPolicy::AllAuthenticated), apps::http1().await);
    let answer = get(pod.dial(app).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let gone = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let answer = get(pod.connect(header(gone, Protocol::Http1)).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let mut stream = pod.dial(app).await;
    stream.write_all(b"\0ping").await.unwrap();
    let _closed_or_reset = stream.read(&mut [0; 1]).await;
    are_golden("refused", || pod.metrics.encode().unwrap());
}

/// Waits until the metrics have each of these lines.
fn are_told(pod: &Pod, lines: &[String]) {
    eventually("the metrics tell of connections to the app", SOON, || {
        let text = pod.metrics.encode().unwrap();
        let is_told = |line: &String| text.lines().any(|told| told == line);
        if lines.iter().all(is_told) { Ok(()) } else { Err(format!("{lines:#?} are not all in:\n{text}")) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_app_is_counted_from_its_beginning_to_its_end() {
    let (pod, echo) = (Pod::start(), apps::echo().await);
    let mut stream = pod.dial(echo).await;
    stream.write_all(b"\0ping").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    are_told(
        &pod,
        &[
            format!("tcp_open_total{{{TO_APP}}} 1"),
            format!("tcp_open_connections{{{TO_APP}}} 1"),
            format!("tcp_read_bytes_total{{{TO_APP}}} 5"),
            format!("tcp_write_bytes_total{{{TO_APP}}} 5"),
        ],
    );
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    let closed = format!("tcp_close_total{{{TO_APP},errno=\"\"}} 1");
    are_told(&pod, &[format!("tcp_open_connections{{{TO_APP}}} 0"), closed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_nobody_was_let_to_or_that_is_not_there_counts_no_connection() {
    let (pod, app) = (Pod::with_policy(DefaultPolicy::AllAuthenticated), apps::http1().await);
    assert!(get(pod.dial(app).await, "").await.starts_with("HTTP/1.1 403"));
    let gone = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    assert!(get(pod.connect(header(gone, Protocol::Http1)).await, "").await.starts_with("HTTP/1.1 502"));
    assert!(!pod.metrics.encode().unwrap().contains(TO_APP));
}
