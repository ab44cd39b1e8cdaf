//! A connection to the app, counted from its beginning to its end.
//!
//! The series are one set for all ports, as dashboards know them: `direction="inbound"`, `peer="dst"`, and why there is no TLS. Which
//! port it is, connections with clients tell (`peer="src"`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::mesh::connection::{Direction, PlaintextReason, Security};
use crate::proxy::metrics::{Labels, Metrics, Transport};

/// A connection to the app.
#[derive(Debug)]
pub struct Dialled {
    stream: TcpStream,
    transport: Transport,
}

impl Dialled {
    pub(super) fn new(stream: TcpStream, metrics: &Metrics, labels: &Labels) -> Self {
        Self { stream, transport: metrics.transport(labels) }
    }

    /// The labels of all connections to the app. They stay in the pod, and are in plaintext for that.
    pub(super) fn labels() -> Labels {
        Labels::direction(Direction::Inbound)
            .and(&Labels::new([("peer", "dst")]))
            .and(&Labels::tls(Direction::Inbound, &Security::Plaintext { reason: PlaintextReason::Loopback }))
    }

    /// Notes what the connection broke with.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.transport.failed(error))
    }
}

impl AsyncRead for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.noted(read)?;
        self.transport.read((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        let written = self.noted(written)?;
        self.transport.wrote(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        let written = self.noted(written)?;
        self.transport.wrote(written as u64);
        Poll::Ready(Ok(written))
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
