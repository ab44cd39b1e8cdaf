//! Carries bytes both ways without looking at them.
//!
//! In: two streams. Out: how it ended. When one end stops sending, the other is told and may go on sending: half-closed connections
//! stay so. Bytes that are not being carried need no memory, so an idle connection has no buffers.
//!
//! Start at [`carry`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::drain::Drain;

/// One read. Several TLS records and a good part of a socket's buffer: small reads are what bulk transfers pay for. With the length of
/// a frame ([`super::streams`]) it is four whole records.
const READ_MAX: usize = 64 * 1024 - 2;
/// How long a connection of which one half is closed may last once the proxy is to end: the end that still could speak belongs
/// to an app that is ending too, or to a client that forgot to close.
const HALF_CLOSED_AT_DRAIN: Duration = Duration::from_secs(3);

thread_local! {
    /// Where this thread reads into; what cannot be written on at once is copied out.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MAX]);
}

/// Why carrying ended before both ends had closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection with the client broke")]
    Client(#[source] io::Error),
    #[error("the connection with the server broke")]
    Server(#[source] io::Error),
}

impl Error {
    pub fn io(&self) -> &io::Error {
        match self {
            Self::Client(error) | Self::Server(error) => error,
        }
    }
}

/// Carries until both ends have closed.
///
/// # Errors
/// Where either end breaks. What is under way to the other is lost then, as it would be without a proxy.
pub async fn carry<C, S>(mut client: C, mut server: S, drain: &Drain) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut sent = Direction::default();
    let mut received = Direction::default();
    let mut either_done = false;
    let carrying = poll_fn(|cx| {
        let sent = poll_carry(cx, &mut client, &mut server, &mut sent).map_err(|broken| match broken {
            Broken::Read(error) => Error::Client(error),
            Broken::Write(error) => Error::Server(error),
        })?;
        let received = poll_carry(cx, &mut server, &mut client, &mut received).map_err(|broken| match broken {
            Broken::Read(error) => Error::Server(error),
            Broken::Write(error) => Error::Client(error),
        })?;
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(Half::Both));
        }
        if !either_done && (sent.is_ready() || received.is_ready()) {
            either_done = true;
            return Poll::Ready(Ok(Half::One));
        }
        Poll::Pending
    });
    let mut carrying = std::pin::pin!(carrying);
    // The function above is not done when it says that one half is: it can be polled again.
    let mut carrying = poll_fn(move |cx| carrying.as_mut().poll(cx));
    match (&mut carrying).await? {
        Half::Both => return Ok(()),
        Half::One => {}
    }
    tokio::select! {
        carried = &mut carrying => carried.map(|_| ()),
        () = async { drain.started().await; tokio::time::sleep(HALF_CLOSED_AT_DRAIN).await } => Ok(()),
    }
}

enum Half {
    Both,
    One,
}

enum Broken {
    Read(io::Error),
    Write(io::Error),
}

/// One way through a connection.
#[derive(Default)]
struct Direction {
    /// Read but not yet written.
    pending: Bytes,
    needs_flush: bool,
    ended: bool,
    /// What the reader broke with, after the bytes that are pending.
    broken: Option<io::Error>,
    done: bool,
}

fn poll_carry<R, W>(
    cx: &mut Context<'_>,
    reader: &mut R,
    writer: &mut W,
    way: &mut Direction,
) -> Poll<Result<(), Broken>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        if way.done {
            return Poll::Ready(Ok(()));
        }
        while !way.pending.is_empty() {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, &way.pending)).map_err(Broken::Write)?;
            if written == 0 {
                return Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into())));
            }
            way.pending.advance(written);
            way.needs_flush = true;
            if way.pending.is_empty() {
                // Without, they would hold their buffer until the next ones come.
                way.pending = Bytes::new();
            }
        }
        if let Some(error) = way.broken.take() {
            return Poll::Ready(Err(Broken::Read(error)));
        }
        if way.ended {
            ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Broken::Write)?;
            way.done = true;
            continue;
        }
        match poll_step(cx, reader, writer, way)? {
            Poll::Ready(()) => {}
            Poll::Pending => {
                if way.needs_flush {
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Broken::Write)?;
                    way.needs_flush = false;
                }
                return Poll::Pending;
            }
        }
    }
}

/// Reads what there is and writes at once what can be. TLS gives a record per read, and a write for each would be one too many.
fn poll_step<R, W>(
    cx: &mut Context<'_>,
    reader: &mut R,
    writer: &mut W,
    way: &mut Direction,
) -> Result<Poll<()>, Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Pending if before == 0 => return Ok(Poll::Pending),
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().len() == before => way.ended = true,
                Poll::Ready(Ok(())) => continue,
                // An error is told once: a socket that was reset looks ended to the next read.
                Poll::Ready(Err(error)) => way.broken = Some(error),
            }
            break;
        }
        let read = buffer.filled();
        if read.is_empty() {
            return Ok(Poll::Ready(()));
        }
        let written = match Pin::new(writer).poll_write(cx, read) {
            Poll::Ready(written) => written.map_err(Broken::Write)?,
            Poll::Pending => 0,
        };
        way.needs_flush |= written > 0;
        way.pending = Bytes::copy_from_slice(&read[written..]);
        Ok(Poll::Ready(()))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A client and a server with `carry` between them.
    fn carried(drain: &Drain) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Result<(), Error>>) {
        let (client, near_client) = duplex(1000);
        let (server, near_server) = duplex(10);
        let heeded = drain.clone();
        let carrying = drain.spawn(async move { carry(near_client, near_server, &heeded).await });
        (client, server, carrying)
    }

    #[tokio::test]
    async fn carries_more_than_either_side_can_hold() {
        let (mut client, mut server, carrying) = carried(&Drain::new());
        let payload: Vec<u8> = (0..300_000u32).map(|byte| byte as u8).collect();
        let expected = payload.clone();
        let write = async move {
            client.write_all(&payload).await.unwrap();
            client.shutdown().await.unwrap();
            client
        };
        let read = async {
            let mut read = Vec::new();
            server.read_to_end(&mut read).await.unwrap();
            read
        };
        let (client, read) = tokio::join!(write, read);
        assert!(read == expected);
        drop((client, server));
        carrying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_half_closed_connection_still_carries_the_other_way() {
        let (mut client, mut server, carrying) = carried(&Drain::new());
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        server.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        client.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
        server.shutdown().await.unwrap();
        carrying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn says_which_end_broke() {
        let broken = tokio_test_stream();
        let (_client, near_client) = duplex(10);
        let error = carry(near_client, broken, &Drain::new()).await.unwrap_err();
        assert!(matches!(error, Error::Server(_)), "{error:?}");
    }

    /// A stream that breaks when read from.
    fn tokio_test_stream() -> impl AsyncRead + AsyncWrite + Unpin {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        impl AsyncWrite for Broken {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(bytes.len()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        Broken
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_what_is_half_closed_and_lets_the_rest_be() {
        let drain = Drain::new();
        let (mut client, _server, half) = carried(&drain);
        let (_other_client, _other_server, whole) = carried(&drain);
        client.shutdown().await.unwrap();
        drain.start();
        half.await.unwrap().unwrap();
        assert!(!whole.is_finished());
    }
}
