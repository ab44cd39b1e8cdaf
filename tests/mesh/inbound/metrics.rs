//! What the way in counts, by names, labels and buckets.

use hawser::mesh::Protocol;
use hawser::mesh::policy::DefaultPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::Pod;
use super::{apps, get, header};
use crate::support::metrics::are_golden;

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_counted_under_the_names_dashboards_know() {
    let (pod, app, echo) = (Pod::start(), apps::http1().await, apps::echo().await);
    let answer = get(pod.connect(header(app, Protocol::Http1)).await, "").await;
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
