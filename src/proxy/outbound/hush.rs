//! A server connection that is only listened to, to hear whether it speaks first.
//!
//! A server that hangs up without a word has not spoken. It may be the proxy of a port that takes HTTP only, and was told of opaque bytes;
//! its client may still turn out to speak HTTP. So the end is kept quiet for a while, and the client is listened to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Routed;

pub(super) struct Hush {
    opened: Box<Routed>,
    patience: Duration,
    has_spoken: bool,
    /// Since the server hung up without a word: until when that is kept quiet.
    ended: Option<Pin<Box<Sleep>>>,
}

impl Hush {
    pub(super) fn new(opened: Box<Routed>, patience: Duration) -> Self {
        Self { opened, patience, has_spoken: false, ended: None }
    }

    /// The connection, unless the server has hung up.
    pub(super) fn into_inner(self) -> Option<Box<Routed>> {
        self.ended.is_none().then_some(self.opened)
    }
}

impl AsyncRead for Hush {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(ended) = &mut self.ended {
            return ended.as_mut().poll(cx).map(Ok);
        }
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.opened.opened.connection.stream).poll_read(cx, buffer));
        self.has_spoken |= buffer.filled().len() > before;
        if self.has_spoken {
            return Poll::Ready(read);
        }
        let mut ended = Box::pin(sleep(self.patience));
        let quiet = ended.as_mut().poll(cx);
        self.ended = Some(ended);
        quiet.map(Ok)
    }
}
