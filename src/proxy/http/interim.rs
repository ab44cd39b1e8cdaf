//! Ends connections to servers that send interim responses (1xx) without end.
//!
//! In: a server's stream, and word of each request that goes there. Out: the same stream, until more heads have come than the requests are
//! worth. Hyper reads interim responses and goes on waiting, so without this a request would last, and cost a CPU, for as long as its
//! server likes.
//!
//! ```text
//!   HTTP/1   asked ── 1xx ── 1xx ── … ── a final head ── nothing is looked at until the next is asked
//!   HTTP/2   each request is worth so many heads; each HEADERS frame takes one
//! ```
//!
//! HTTP/2 compresses its heads, so that interim ones cannot be told there; many requests of a connection have their heads in common. What is
//! left of earlier requests does not add up for ever.
//!
//! Start at [`http1`] and [`http2`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::heads::Frames;

/// Interim responses to one request: `100 Continue`, an early hint or two, and progress for those that take long.
const INTERIMS_MAX: u32 = 64;
/// Heads that one request of HTTP/2 is worth: besides, its response and its trailers.
const HEADS_PER_REQUEST: u32 = INTERIMS_MAX + 2;
/// Heads that a connection of HTTP/2 may be owed: more than two for each stream it can have, and few enough to be read in a moment.
const HEADS_OWED_MAX: u32 = 100_000;
/// `HTTP/1.1 100`
const STATUS_BYTES: usize = 12;

/// A server's stream that breaks where too many heads come.
pub struct Interims<S> {
    stream: S,
    asked: Arc<AtomicU32>,
    seen: Seen,
}

enum Seen {
    Http1(Heads),
    Http2 { frames: Frames, owed: u32 },
}

/// The stream of an HTTP/1 connection, and where its [`super::sender::Sender`] counts requests.
pub fn http1<S>(stream: S) -> (Interims<S>, Arc<AtomicU32>) {
    of(stream, Seen::Http1(Heads::default()))
}

/// The same for HTTP/2.
pub fn http2<S>(stream: S) -> (Interims<S>, Arc<AtomicU32>) {
    of(stream, Seen::Http2 { frames: Frames::of_server(), owed: 0 })
}

fn of<S>(stream: S, seen: Seen) -> (Interims<S>, Arc<AtomicU32>) {
    let asked = Arc::<AtomicU32>::default();
    (Interims { stream, asked: asked.clone(), seen }, asked)
}

impl Seen {
    /// Notes what the server sent next, after so many requests more; says whether it is too much.
    fn see(&mut self, bytes: &[u8], asked: u32) -> bool {
        match self {
            Self::Http1(heads) => {
                if asked > 0 {
                    *heads = Heads::awaited();
                }
                heads.see(bytes);
                heads.interims > INTERIMS_MAX
            }
            Self::Http2 { frames, owed } => {
                *owed = owed.saturating_add(asked.saturating_mul(HEADS_PER_REQUEST)).min(HEADS_OWED_MAX);
                frames.see(bytes);
                let headers = std::mem::take(&mut frames.headers);
                let is_too_much = headers > *owed;
                *owed = owed.saturating_sub(headers);
                is_too_much
            }
        }
    }
}

/// The heads of HTTP/1 that come before the response itself.
#[derive(Debug, Default)]
struct Heads {
    at: At,
    interims: u32,
}

#[derive(Debug, Default)]
enum At {
    /// Nothing is awaited, or the response itself has begun.
    #[default]
    Final,
    /// In the first bytes of a head.
    Status { bytes: [u8; STATUS_BYTES], length: usize },
    /// In an interim head, whose line so far is empty or not.
    Interim { is_line_empty: bool },
}

impl At {
    const BEGIN: Self = Self::Status { bytes: [0; STATUS_BYTES], length: 0 };
}

impl Heads {
    fn awaited() -> Self {
        Self { at: At::BEGIN, interims: 0 }
    }

    fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match &mut self.at {
                At::Final => return,
                // Empty lines before a head are none of it.
                At::Status { length: 0, .. } if matches!(byte, b'\r' | b'\n') => {}
                At::Status { bytes, length } => {
                    bytes[*length] = *byte;
                    *length += 1;
                    if *length == STATUS_BYTES {
                        // 101 is the last that comes of HTTP.
                        let is_interim = bytes.starts_with(b"HTTP/1.") && bytes[9] == b'1' && bytes[9..] != *b"101";
                        self.interims += u32::from(is_interim);
                        self.at = if is_interim { At::Interim { is_line_empty: false } } else { At::Final };
                    }
                }
                At::Interim { is_line_empty: true } if *byte == b'\n' => self.at = At::BEGIN,
                At::Interim { is_line_empty } if *byte != b'\r' => *is_line_empty = *byte == b'\n',
                At::Interim { .. } => {}
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Interims<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, asked, seen } = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() && seen.see(bytes, asked.swap(0, Ordering::Relaxed)) {
            let error = "the server sent interim responses without end";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Interims<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERIM: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    fn http1_after(bytes: &[u8]) -> Heads {
        let mut heads = Heads::awaited();
        heads.see(bytes);
        heads
    }

    #[test]
    fn interim_heads_are_counted_at_whatever_split_and_the_response_ends_it() {
        let all = [b"\r\n", INTERIM, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", INTERIM].concat();
        for split in 0..all.len() {
            let mut heads = http1_after(&all[..split]);
            heads.see(&all[split..]);
            assert_eq!(heads.interims, 2, "a body may look like a head; split at {split}");
        }
        assert_eq!(http1_after(b"HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 100 a\r\n\r\n").interims, 0);
        assert_eq!(http1_after(b"SSH-2.0-x\r\n\r\nHTTP/1.1 100 a\r\n\r\n").interims, 0);
        assert_eq!(http1_after(b"HTTP/1.1 100 a\n\nHTTP/1.1 100 b\n\n").interims, 2);
    }

    #[test]
    fn each_request_of_http1_may_have_so_many_and_no_more() {
        let mut seen = Seen::Http1(Heads::default());
        for _ in 0..2 {
            assert!(!seen.see(&INTERIM.repeat(INTERIMS_MAX as usize), 1));
            assert!(!seen.see(b"HTTP/1.1 200 OK\r\n\r\n", 0));
        }
        assert!(!seen.see(&INTERIM.repeat(INTERIMS_MAX as usize), 1));
        assert!(seen.see(INTERIM, 0));
    }

    #[test]
    fn a_connection_of_http2_is_owed_heads_by_its_requests_and_only_so_many() {
        let head = b"\0\0\x01\x01\x04\0\0\0\x01\x88".as_slice();
        let heads = |count: u32| head.repeat(count as usize);
        let mut seen = Seen::Http2 { frames: Frames::of_server(), owed: 0 };
        assert!(!seen.see(&heads(2 * HEADS_PER_REQUEST), 2));
        assert!(seen.see(&heads(1), 0));
        let mut seen = Seen::Http2 { frames: Frames::of_server(), owed: 0 };
        assert!(!seen.see(&heads(HEADS_OWED_MAX), u32::MAX));
        assert!(seen.see(&heads(1), 0), "what nobody has taken does not add up");
    }
}
