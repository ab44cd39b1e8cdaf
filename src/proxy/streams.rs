//! One mesh connection that carries one opaque stream after another, between two hawser proxies.
//!
//! A handshake costs as much CPU as carrying half a megabyte, so a connection whose stream has ended at both ends is used for the next.
//! Both ends agree to it by ALPN ([`ALPN`]); with any other peer a connection is one stream.
//!
//! ```text
//!   client:  header  frame …  end          header  frame …  end      …
//!   server:          frame …  end   (accepted)     frame …  end
//!   frame:   its length, two bytes, not zero; that many bytes.   end: two zero bytes.
//! ```
//!
//! The first stream is as it would be on a connection of its own: nothing is waited for. Later ones wait for the server to say that it
//! has accepted, which it does once the app behind it has; until then the client has sent nothing of its app's, and can turn to a
//! new connection where the old one has ended meanwhile. A connection that ends within a stream broke it.
//!
//! Start at [`Framed`], which is the stream of one at either end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// The protocol of connections that are used again.
pub const ALPN: &[u8] = b"hawser.streams/v1";
/// The longest frame: with its length, four whole TLS records.
const FRAME_MAX: usize = 64 * 1024 - LENGTH_BYTES;
const LENGTH_BYTES: usize = 2;
const END: [u8; LENGTH_BYTES] = [0; LENGTH_BYTES];
/// What a server says to a later stream, once it is carried.
const ACCEPTED: u8 = 1;

/// One stream of a connection that may carry more.
#[derive(Debug)]
pub struct Framed<S> {
    connection: S,
    /// What is yet to be written before anything else: the header, a frame's length, an end.
    control: BytesMut,
    /// What the frame begun still lacks, to the connection and from it.
    owed: usize,
    expected: usize,
    /// The length of the next frame, as far as it has been read.
    length: [u8; LENGTH_BYTES],
    length_read: usize,
    /// Whether the header is yet to be written: until then the peer has nothing to say.
    is_new: bool,
    /// Whether the stream has ended, to the connection and from it.
    is_shut: bool,
    is_over: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// The first stream of a connection. `header` goes out with the first bytes.
    pub fn first(connection: S, header: &[u8]) -> Self {
        Self {
            connection,
            control: BytesMut::from(header),
            owed: 0,
            expected: 0,
            length: END,
            length_read: 0,
            is_new: true,
            is_shut: false,
            is_over: false,
        }
    }

    /// A later stream, at the client: it has been accepted when this returns. The caller bounds the time.
    ///
    /// # Errors
    /// Where the connection has ended meanwhile, or does not want the stream.
    pub async fn again(mut connection: S, header: &[u8]) -> io::Result<Self> {
        connection.write_all(header).await?;
        connection.flush().await?;
        match connection.read_u8().await? {
            ACCEPTED => Ok(Self::first(connection, &[])),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer answered a stream with something else")),
        }
    }

    /// A later stream, at the server, which accepts it now.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn accepted(mut connection: S) -> io::Result<Self> {
        connection.write_all(&[ACCEPTED]).await?;
        connection.flush().await?;
        Ok(Self::first(connection, &[]))
    }

    /// The connection, for another stream: where this one has ended at both ends.
    pub fn into_connection(self) -> Option<S> {
        let is_done = self.is_shut && self.is_over && self.control.is_empty();
        is_done.then_some(self.connection)
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.control.is_empty() {
            let written = ready!(Pin::new(&mut self.connection).poll_write(cx, &self.control))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.control.advance(written);
        }
        self.is_new = false;
        Poll::Ready(Ok(()))
    }

    /// Reads up to the next frame's bytes, or the end.
    fn poll_length(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.expected == 0 && !self.is_over {
            let mut buffer = ReadBuf::new(&mut self.length[self.length_read..]);
            ready!(Pin::new(&mut self.connection).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.length_read += read;
            if self.length_read == LENGTH_BYTES {
                self.length_read = 0;
                self.expected = u16::from_be_bytes(self.length).into();
                self.is_over = self.expected == 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        // Only the header is waited for: a peer that does not read yet may have to be read from first.
        if stream.is_new {
            ready!(stream.poll_control(cx))?;
        }
        ready!(stream.poll_length(cx))?;
        let wanted = stream.expected.min(buffer.remaining());
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut limited = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut stream.connection).poll_read(cx, &mut limited))?;
        let read = limited.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        stream.expected -= read;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if stream.owed == 0 {
            stream.owed = bytes.len().min(FRAME_MAX);
            let length = u16::try_from(stream.owed).unwrap_or(u16::MAX);
            stream.control.extend_from_slice(&length.to_be_bytes());
        }
        let payload = &bytes[..bytes.len().min(stream.owed)];
        loop {
            let both = [io::IoSlice::new(&stream.control), io::IoSlice::new(payload)];
            let written = ready!(Pin::new(&mut stream.connection).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_control = written.min(stream.control.len());
            stream.control.advance(of_control);
            if written > of_control {
                stream.is_new = false;
                stream.owed -= written - of_control;
                return Poll::Ready(Ok(written - of_control));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    /// Ends the stream, and not the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.owed > 0 {
            return Poll::Ready(Err(io::Error::other("a stream cannot end within a frame")));
        }
        if !self.is_shut {
            self.is_shut = true;
            self.control.extend_from_slice(&END);
        }
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// The two ends of a connection that holds `bytes` under way.
    fn ends(bytes: usize) -> (Framed<DuplexStream>, Framed<DuplexStream>) {
        let (client, server) = duplex(bytes);
        (Framed::first(client, b""), Framed::first(server, b""))
    }

    async fn ended(stream: &mut Framed<DuplexStream>) -> Vec<u8> {
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn carries_one_stream_after_another_whatever_their_size() {
        let (mut client, mut server) = ends(1000);
        for size in [0, 1, 999, FRAME_MAX, 300_000] {
            let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            let talk = async {
                client.write_all(&payload).await.unwrap();
                client.shutdown().await.unwrap();
                assert_eq!(ended(&mut client).await, b"bye");
            };
            let listen = async {
                assert!(ended(&mut server).await == payload);
                server.write_all(b"bye").await.unwrap();
                server.shutdown().await.unwrap();
            };
            tokio::join!(talk, listen);
            let header = b"header";
            let (kept, accepting) = (client.into_connection().unwrap(), async {
                let mut connection = server.into_connection().unwrap();
                let mut read = [0; 6];
                connection.read_exact(&mut read).await.unwrap();
                assert_eq!(&read, header);
                Framed::accepted(connection).await.unwrap()
            });
            let (again, accepted) = tokio::join!(Framed::again(kept, header), accepting);
            (client, server) = (again.unwrap(), accepted);
        }
    }

    #[tokio::test]
    async fn the_header_goes_before_the_first_bytes_and_without_any_where_somebody_listens() {
        let (client, mut server) = duplex(1000);
        let mut client = Framed::first(client, b"header");
        client.write_all(b"x").await.unwrap();
        let mut read = [0; 9];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"header\x00\x01x");

        let (client, mut server) = duplex(1000);
        let mut client = Framed::first(client, b"header");
        let listened = tokio::time::timeout(std::time::Duration::from_millis(1), client.read_u8()).await;
        assert!(listened.is_err(), "nobody has spoken");
        server.read_exact(&mut read[..6]).await.unwrap();
        assert_eq!(&read[..6], b"header");
    }

    #[tokio::test]
    async fn a_half_ended_stream_still_carries_the_other_way_and_keeps_its_connection() {
        let (mut client, mut server) = ends(1000);
        client.shutdown().await.unwrap();
        assert_eq!(ended(&mut server).await, b"");
        server.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        client.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
        assert!(client.into_connection().is_none());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_read_from() {
        // Room for a frame of four bytes, and not for the end after it.
        let (mut client, mut server) = ends(6);
        client.write_all(b"full").await.unwrap();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), client.shutdown()).await.is_err());
        server.write_all(b"read").await.unwrap();
        let mut read = [0; 4];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"read");
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_stream_broke_it() {
        for said in [&b""[..], b"\x00", b"\x00\x05abc"] {
            let (client, mut server) = duplex(1000);
            let mut client = Framed::first(client, b"");
            server.write_all(said).await.unwrap();
            drop(server);
            let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_later_stream_that_is_not_accepted_is_none() {
        let (client, mut server) = duplex(1000);
        server.write_all(b"\x00").await.unwrap();
        assert!(Framed::again(client, b"header").await.is_err());
        let (client, server) = duplex(1000);
        drop(server);
        assert!(Framed::again(client, b"header").await.is_err());
    }
}
