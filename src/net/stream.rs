//! What connections are made of, whatever lies beneath: a socket, TLS, bytes read before.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream, as a trait object at the border of rooms.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
