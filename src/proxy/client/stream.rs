//! The stream of a connection to an endpoint, encrypted or not.
//!
//! What the peer's proxy must be told first goes out with the first bytes of the app, in one record and one packet; or alone, as soon as
//! somebody listens for the peer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::streams::Framed;
use crate::proxy::tls::ClientStream;

/// What connections to endpoints are read from and written to.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
    /// One of the streams of a mesh connection.
    Framed(Box<Framed<ClientStream<TcpStream>>>),
}

impl Stream {
    /// The mesh connection, where it can carry another stream.
    pub fn into_connection(self) -> Option<ClientStream<TcpStream>> {
        match self {
            Self::Framed(stream) => stream.into_connection(),
            Self::Plain(_) | Self::Tls(_) => None,
        }
    }
}

/// A mesh connection.
#[derive(Debug)]
pub struct Tls {
    stream: ClientStream<TcpStream>,
    /// What is yet to be said before anything else.
    preface: Bytes,
}

impl Tls {
    pub fn new(stream: ClientStream<TcpStream>, preface: Bytes) -> Self {
        Self { stream, preface }
    }

    /// Says what is to be said first, if nothing has been said yet.
    fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.preface.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.preface))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.preface.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while !self.preface.is_empty() && !bytes.is_empty() {
            let both = [io::IoSlice::new(&self.preface), io::IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let said = written.min(self.preface.len());
            self.preface.advance(said);
            if written > said {
                return Poll::Ready(Ok(written - said));
            }
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(tls) => {
                ready!(tls.poll_preface(cx))?;
                Pin::new(&mut tls.stream).poll_read(cx, buffer)
            }
            Self::Framed(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
            Self::Framed(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(tls) if tls.preface.is_empty() => Pin::new(&mut tls.stream).poll_write_vectored(cx, slices),
            Self::Tls(tls) => {
                let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
                tls.poll_write(cx, first)
            }
            Self::Framed(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
            Self::Framed(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => {
                ready!(tls.poll_preface(cx))?;
                Pin::new(&mut tls.stream).poll_flush(cx)
            }
            Self::Framed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => {
                ready!(tls.poll_preface(cx))?;
                Pin::new(&mut tls.stream).poll_shutdown(cx)
            }
            Self::Framed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
