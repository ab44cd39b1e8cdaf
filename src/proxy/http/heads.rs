//! Ends connections of clients that begin a head and do not finish it.
//!
//! In: a client's stream, as hyper reads it. Out: the same, until a head that was begun is not whole in time. Only that has a limit: between
//! two requests a client may be silent for as long as it likes, and bodies take as long as they take. The time counts from the first
//! byte, so drop by drop is not sooner done; and it is time in which this process got to run ([`fair`]).
//!
//! ```text
//!   HTTP/1   hyper waits for a head ── a byte of it comes ── … ── whole
//!   HTTP/2   preface and first frame; then HEADERS ── … CONTINUATION … ── END_HEADERS
//! ```
//!
//! Of HTTP/1 hyper knows when it waits for a head, but not whether that has begun; so it brings the clock ([`Clock`]), and the stream
//! sets it going. Of HTTP/2 it knows no such limit, so the stream looks at the frames itself. What a pipelining client has sent of a
//! head together with the request before counts once more of it comes: until then it costs as much as a client that is idle.
//!
//! What the stream and the clock of an HTTP/1 connection see together also says whether it is idle ([`Exchanges`]).
//!
//! Start at [`Heads::http1`] and [`Heads::http2`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::fair;

/// What HTTP/2 begins with (RFC 9113 §3.4), before the first frame.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A client's stream that breaks where a head stays unfinished.
pub(super) struct Heads<S> {
    stream: S,
    seen: Seen,
}

enum Seen {
    Http1(Arc<Exchanges>),
    Http2 { frames: Frames, limit: Duration, over: Option<Countdown> },
}

/// How far the requests and responses of an HTTP/1 connection are.
///
/// `Relaxed` throughout: all of it is written and read by the task of the connection.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// Heads that were waited for.
    awaited: AtomicU32,
    /// Requests that came of them.
    asked: AtomicU32,
    /// Whether bytes have come since the latest head is waited for.
    begun: AtomicBool,
    /// Whether the client has yet to take what was written.
    is_stalled: AtomicBool,
}

impl Exchanges {
    /// Notes a request.
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether all requests are answered, and none has begun to come: the number of those that were, if so.
    pub(super) fn idle_after(&self) -> Option<u32> {
        let asked = self.asked.load(Ordering::Relaxed);
        let is_waiting = self.awaited.load(Ordering::Relaxed) == asked.wrapping_add(1);
        let is_moving = self.begun.load(Ordering::Relaxed) || self.is_stalled.load(Ordering::Relaxed);
        (is_waiting && !is_moving).then_some(asked)
    }

    fn write<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() || self.is_stalled.load(Ordering::Relaxed) {
            self.is_stalled.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }
}

impl<S> Heads<S> {
    /// Notes whether the client takes what is written.
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        match &self.seen {
            Seen::Http1(exchanges) => exchanges.write(written),
            Seen::Http2 { .. } => written,
        }
    }
}

type Countdown = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<S> Heads<S> {
    /// The stream, the clock for the connection it is read by, and how far that is.
    pub(super) fn http1(stream: S, limit: Duration) -> (Self, Clock, Arc<Exchanges>) {
        let exchanges = Arc::<Exchanges>::default();
        let clock = Clock { exchanges: exchanges.clone(), limit, made_at: Instant::now() };
        (Self { stream, seen: Seen::Http1(exchanges.clone()) }, clock, exchanges)
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    pub(super) fn http2(stream: S, limit: Duration) -> Self {
        Self { stream, seen: Seen::Http2 { frames: Frames::default(), limit, over: None } }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, seen } = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        match seen {
            // Hyper polls the clock next, in the same task, where it waits for a head.
            Seen::Http1(exchanges) if !bytes.is_empty() => exchanges.begun.store(true, Ordering::Relaxed),
            Seen::Http1(_) => {}
            Seen::Http2 { frames, limit, over } => {
                if frames.see(bytes) {
                    *over = None;
                }
                if read.is_pending() && frames.is_unfinished() {
                    ready!(over.get_or_insert_with(|| Box::pin(fair::elapse(*limit))).as_mut().poll(cx));
                    let error = "the client left headers unfinished";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
                }
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where one end is within what it sends of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Frames {
    preface: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// What is to come of the frame whose head is whole.
    payload: usize,
    /// Whether the first frame is whole.
    is_settled: bool,
    /// Whether headers have begun and not ended.
    in_headers: bool,
    /// How often headers have begun.
    pub headers: u32,
}

impl Frames {
    /// A server begins with a frame.
    pub(super) fn of_server() -> Self {
        Self { preface: PREFACE_BYTES, ..Self::default() }
    }

    /// Notes what the other end sent next; says whether something that has a limit is whole with it.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> bool {
        let mut finished = false;
        let skipped = bytes.len().min(PREFACE_BYTES - self.preface);
        self.preface += skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.head_bytes < FRAME_HEAD_BYTES {
                let taken = bytes.len().min(FRAME_HEAD_BYTES - self.head_bytes);
                self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&bytes[..taken]);
                self.head_bytes += taken;
                bytes = &bytes[taken..];
                if self.head_bytes < FRAME_HEAD_BYTES {
                    break;
                }
                let [high, middle, low, kind, ..] = self.head;
                self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.in_headers |= kind == HEADERS;
                self.headers = self.headers.saturating_add(u32::from(kind == HEADERS));
            }
            let skipped = bytes.len().min(self.payload);
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            if self.payload == 0 {
                let [_, _, _, kind, flags, ..] = self.head;
                self.head_bytes = 0;
                if !self.is_settled || (matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0) {
                    self.is_settled = true;
                    self.in_headers = false;
                    finished = true;
                }
            }
        }
        finished
    }

    fn is_unfinished(&self) -> bool {
        self.in_headers || (self.preface > 0 && !self.is_settled)
    }
}

/// The timer of an HTTP/1 connection, which hyper sets whenever it waits for a head.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    exchanges: Arc<Exchanges>,
    limit: Duration,
    /// Stands for any time: what hyper makes of it is not looked at, and asking for the time costs as much as the rest of this.
    made_at: Instant,
}

impl Timer for Clock {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.exchanges.begun.store(false, Ordering::Relaxed);
        self.exchanges.awaited.fetch_add(1, Ordering::Relaxed);
        Box::pin(Unfinished { exchanges: self.exchanges.clone(), limit: self.limit, over: None })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.limit)
    }

    fn now(&self) -> Instant {
        self.made_at
    }
}

/// Resolves when a head that was begun has been unfinished for too long.
struct Unfinished {
    exchanges: Arc<Exchanges>,
    limit: Duration,
    over: Option<Countdown>,
}

impl Future for Unfinished {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.exchanges.begun.load(Ordering::Relaxed) {
            // The byte that changes this wakes the connection, which polls this again.
            return Poll::Pending;
        }
        let limit = self.limit;
        self.over.get_or_insert_with(|| Box::pin(fair::elapse(limit))).as_mut().poll(cx)
    }
}

impl Sleep for Unfinished {}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\xfa";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_connection_is_unfinished_from_its_first_byte_to_its_first_frame() {
        let opening = [PREFACE, SETTINGS].concat();
        let mut frames = Frames::default();
        assert!(!frames.is_unfinished(), "a client may be silent");
        for (at, byte) in opening.iter().enumerate() {
            assert_eq!(frames.see(&[*byte]), at + 1 == opening.len());
            assert_eq!(frames.is_unfinished(), at + 1 < opening.len(), "after {} bytes", at + 1);
        }
    }

    #[test]
    fn headers_are_unfinished_until_their_last_frame_is_whole_at_whatever_split() {
        let opening = [PREFACE, SETTINGS].concat();
        let headers = [frame(HEADERS, 0, b"abc"), frame(CONTINUATION, 0, b""), frame(CONTINUATION, END_HEADERS, b"d")];
        let (headers, data) = (headers.concat(), frame(0, 0, b"body"));
        for split in 0..headers.len() {
            let mut frames = Frames::default();
            frames.see(&[&opening[..], &data, &headers[..split]].concat());
            assert_eq!(frames.is_unfinished(), split >= FRAME_HEAD_BYTES, "{split}");
            assert!(frames.see(&[&headers[split..], &data, &data[..3]].concat()));
            assert!(!frames.is_unfinished(), "a body has no limit");
        }
    }

    #[test]
    fn headers_that_begin_where_others_end_are_others() {
        let mut frames = Frames::default();
        frames.see(&[PREFACE, SETTINGS, &frame(HEADERS, 0, b"a")].concat());
        assert!(frames.see(&[frame(CONTINUATION, END_HEADERS, b"b"), frame(HEADERS, 0, b"c")].concat()));
        assert!(frames.is_unfinished());
    }
}
