//! The one accept loop of all listeners.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::drain::Drain;
use super::newcomers::Newcomers;

/// How long accepting pauses after an error. The errors that last (EMFILE, ENFILE) end when connections close;
/// a tighter loop would burn the CPU those need.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Connections past the places of [`serve_latest`]: those that have lost theirs and are about to end.
const LEAVING_MAX: usize = 64;

/// Accepts connections and gives each to `handle` in a task of its own, until `drain` starts.
///
/// At most `connections_max` are handled at a time: past that the kernel's backlog is the backpressure.
pub async fn serve<H, F>(listener: TcpListener, connections_max: usize, drain: Drain, handle: H)
where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(connections_max));
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            () = drain.started() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.started() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Not an async block: that would have room for the future twice, for as long as there is the connection.
                drain.spawn(handle(stream, peer).map(move |()| drop(permit)));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// As [`serve`], for listeners that must answer whoever comes next: past `places_max` the connection that has been there longest ends.
///
/// A probe or a scrape takes milliseconds, and whoever makes one comes again if it is cut off. With backpressure instead, whoever can
/// reach the port could keep everybody else from it by opening connections, and a pod that answers no probe is ended.
pub async fn serve_latest<H, F>(listener: TcpListener, places_max: usize, drain: Drain, handle: H)
where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Newcomers::new(places_max);
    serve(listener, places_max + LEAVING_MAX, drain, move |stream, peer| {
        let mut place = places.enter();
        // A pointer, which the block below may have twice.
        let handled = Box::pin(handle(stream, peer));
        async move {
            tokio::select! {
                () = handled => {}
                () = place.lost() => {}
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn whoever_comes_last_is_answered_and_whoever_was_there_longest_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
        drain.spawn(serve_latest(listener, 3, drain.clone(), |mut stream, _| async move {
            while let Ok(byte) = stream.read_u8().await {
                let _ = stream.write_u8(byte).await;
            }
        }));
        let echoes = async |stream: &mut TcpStream| {
            let echoed = async {
                stream.write_u8(7).await?;
                stream.read_u8().await
            };
            tokio::time::timeout(Duration::from_secs(30), echoed).await.expect("nobody answers").ok()
        };
        let mut streams = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(echoes(&mut stream).await, Some(7));
            streams.push(stream);
        }
        for stream in &mut streams[97..] {
            assert_eq!(echoes(stream).await, Some(7), "there are places for so many");
        }
        for stream in &mut streams[..97] {
            assert_eq!(echoes(stream).await, None, "one too many keeps its place");
        }
        drain.start();
    }
}
