//! The end of a connection to a server that requests are put into; none stays there when the connection ends.
//!
//! Hyper passes a request to its connection's task through a channel. A request that is put there in the very moment in which the task ends
//! is seen by nobody, and given back only with the last sender of the connection; who waits for its response would wait for ever. So all
//! who send share one sender, which the connection takes along when it ends.
//!
//! ```text
//!   Sender ──┐
//!   Sender ──┼──> hyper's sender ──channel──> the connection's task
//!   Sender ──┘          ^                        │
//!                       └── dropped with ── Ending
//! ```
//!
//! Start at [`shared`].

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

/// Puts requests into a connection. Clones are the same.
#[derive(Debug)]
pub struct Sender<S>(Arc<Shared<S>>);

/// Belongs to the task of the connection, and ends with it.
#[derive(Debug)]
pub struct Ending<S>(Weak<Shared<S>>);

#[derive(Debug)]
struct Shared<S> {
    /// None once the connection has ended.
    sender: Mutex<Option<S>>,
    /// How many requests there have been, as whoever watches their responses takes them off ([`super::interim`]).
    asked: Arc<AtomicU32>,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Failed<B> {
    /// No byte was sent. Where that is not hyper's judgement, the connection had ended before.
    Unsent { request: Box<Request<B>>, why: Option<hyper::Error> },
    /// The server may have acted on the request.
    Lost(hyper::Error),
}

/// Shares hyper's `sender` until the connection ends, and counts requests in `asked`. The connection's task ends with the last [`Sender`].
pub fn shared<S>(sender: S, asked: Arc<AtomicU32>) -> (Sender<S>, Ending<S>) {
    let shared = Arc::new(Shared { sender: Mutex::new(Some(sender)), asked });
    let ending = Ending(Arc::downgrade(&shared));
    (Sender(shared), ending)
}

impl<S> Clone for Sender<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Drop for Ending<S> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let sender = shared.lock().take();
            // Not within the lock: what is given back with it may be sent elsewhere at once.
            drop(sender);
        }
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Option<S>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> From<TrySendError<Request<B>>> for Failed<B> {
    fn from(mut failed: TrySendError<Request<B>>) -> Self {
        match failed.take_message() {
            Some(request) => Self::Unsent { request: Box::new(request), why: Some(failed.into_error()) },
            None => Self::Lost(failed.into_error()),
        }
    }
}

/// The same for both versions of HTTP, whose senders have no trait in common.
macro_rules! sender_of {
    ($version:ident) => {
        impl<B: Body + 'static> Sender<$version::SendRequest<B>> {
            /// Sends the request, and waits for the head of its response.
            ///
            /// # Errors
            /// Where there is none.
            pub fn try_send_request(
                &self,
                request: Request<B>,
            ) -> impl Future<Output = Result<Response<Incoming>, Failed<B>>> + use<B> {
                // `Relaxed`: what the server answers comes after it has been sent the request, through the kernel.
                self.0.asked.fetch_add(1, Ordering::Relaxed);
                let sent = match &mut *self.0.lock() {
                    Some(sender) => Ok(sender.try_send_request(request)),
                    None => Err(Box::new(request)),
                };
                async move {
                    match sent {
                        Ok(answered) => answered.await.map_err(Failed::from),
                        Err(request) => Err(Failed::Unsent { request, why: None }),
                    }
                }
            }

            pub fn is_closed(&self) -> bool {
                self.0.lock().as_ref().is_none_or($version::SendRequest::is_closed)
            }

            pub fn is_ready(&self) -> bool {
                self.0.lock().as_ref().is_some_and($version::SendRequest::is_ready)
            }

            /// Waits until the next request can be sent; says whether there will be one.
            pub async fn ready(&self) -> bool {
                poll_fn(|cx| match &mut *self.0.lock() {
                    Some(sender) => sender.poll_ready(cx).map(|ready| ready.is_ok()),
                    None => Poll::Ready(false),
                })
                .await
            }
        }
    };
}

sender_of!(http1);
sender_of!(http2);

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper_util::rt::TokioIo;
    use tokio::io::duplex;

    use super::*;

    const TRIES: usize = 5_000;
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_is_given_back_that_comes_as_its_connection_ends() {
        for at in 0..TRIES {
            let (stream, _server) = duplex(64);
            let (sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
            let (sender, ending) = shared(sender, Arc::default());
            let both = Arc::new(Barrier::new(2));
            let ended = std::thread::spawn({
                let both = both.clone();
                move || {
                    both.wait();
                    drop(connection);
                    drop(ending);
                }
            });
            both.wait();
            let answered = tokio::time::timeout(SOON, sender.try_send_request(Request::default())).await;
            let answered = answered.unwrap_or_else(|_| panic!("request {at} is left without an answer"));
            assert!(matches!(answered, Err(Failed::Unsent { .. })), "{answered:?}");
            assert!(sender.is_closed());
            ended.join().unwrap();
        }
    }
}
