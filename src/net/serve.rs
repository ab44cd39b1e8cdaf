//! The one accept loop of all listeners.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::drain::Drain;

/// How long accepting pauses after an error. The errors that last (EMFILE, ENFILE) end when connections close;
/// a tighter loop would burn the CPU those need.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

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
                let handled = handle(stream, peer);
                drain.spawn(async move {
                    handled.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
