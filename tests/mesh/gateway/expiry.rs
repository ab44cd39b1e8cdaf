//! What a gateway carries ends with the certificates of both connections that it is carried over, where they may not be outlived.

use std::time::{Duration, SystemTime};

use hawser::mesh::Protocol;
use hawser::proxy::tls::ClientStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::inbound::read;
use super::super::outbound::world::App;
use super::world::{World, header};
use super::{SOON, switch};
use crate::support::eventually;

/// For a few handshakes and bytes.
const ENDS_IN: Duration = Duration::from_secs(5);

/// A gateway whose certificate ends as its clients see it, or as the servers do.
async fn ending(app: App, is_inward: bool) -> World {
    let end = Some(SystemTime::now() + ENDS_IN);
    World::ending(app, if is_inward { [end, None] } else { [None, end] }).await
}

async fn is_closed(world: &World, mut stream: ClientStream<TcpStream>) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "it goes on: {rest:?}");
    eventually("both are closed", SOON, || {
        let recorded = world.gateway.recorded();
        if recorded.live.is_empty() { Ok(()) } else { Err(recorded) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_end_with_a_certificate_of_either_way() {
    for is_inward in [true, false] {
        let world = ending(App::Echo, is_inward).await;
        let mut stream = world.connect(header(Protocol::Opaque)).await;
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut stream, 4).await, "ping");
        is_closed(&world, stream).await;
        eventually("the end is counted", SOON, || {
            match world.gateway.metric("inbound_tcp_errors_total", &["error=\"certificate ended\""]) {
                1.0 => Ok(()),
                _ => Err(world.gateway.metrics.encode()),
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_switched_protocols_ends_with_a_certificate_of_either_way() {
    for is_inward in [true, false] {
        let world = ending(App::Http("web"), is_inward).await;
        let mut stream = world.connect(header(Protocol::Http1)).await;
        switch(&mut stream).await;
        is_closed(&world, stream).await;
    }
}
