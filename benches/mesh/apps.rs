//! The server's app: the least that answers, so that what is measured is what lies between it and the client.
//!
//! One process, one thread. It runs as `mesh serve`, in the network of the server's pod.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What an HTTP response carries, and what a new connection and an echo send.
pub(crate) const PAYLOAD: usize = 1024;
/// Reads of a stream: as large as a client's writes.
pub(crate) const CHUNK: usize = 128 * 1024;

/// Where each protocol is served.
pub(crate) mod port {
    pub(crate) const HTTP: u16 = 8000;
    pub(crate) const GRPC: u16 = 8001;
    /// Declared opaque, as are those after it on the client's side. Takes what comes.
    pub(crate) const SINK: u16 = 8002;
    pub(crate) const ECHO: u16 = 8003;
    /// Another, which the server's side finds out about: it is sent a mesh connection for each of the app's, as proxies that are not hawser's are.
    pub(crate) const FOREIGN: u16 = 8004;
}

/// One gRPC message of eight bytes.
pub(crate) const MESSAGE: &[u8] = &[0, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];

/// Serves until the process is killed.
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::join!(
            each(port::HTTP, http1),
            each(port::GRPC, grpc),
            each(port::SINK, sink),
            each(port::ECHO, echo),
            each(port::FOREIGN, echo),
            async { println!("ready") },
        );
    });
}

#[expect(clippy::disallowed_methods, reason = "the process is killed")]
async fn each<F>(port: u16, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream));
    }
}

/// Answers each head, of requests without a body.
async fn http1(mut stream: TcpStream) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {PAYLOAD}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; PAYLOAD]].concat();
    let (mut request, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(&mut request[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if request[..filled].ends_with(b"\r\n\r\n") {
            stream.write_all(&answer).await?;
            filled = 0;
        }
    }
}

/// Answers each call with the message it got.
#[expect(clippy::disallowed_methods, reason = "the process is killed")]
async fn grpc(stream: TcpStream) -> std::io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut message = Bytes::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                message = data;
            }
            let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            let _ = stream.send_data(message, false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        });
    }
    Ok(())
}

async fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 4 * PAYLOAD];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..read]).await?;
    }
}
