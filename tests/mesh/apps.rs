//! Apps behind the proxy: what they were sent is in what they answer.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hawser::net::drain::Drain;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How many connections the apps of this process have accepted, by address.
static ACCEPTED: Mutex<BTreeMap<SocketAddr, usize>> = Mutex::new(BTreeMap::new());

/// How many connections this app has accepted.
pub(super) fn connections(app: SocketAddr) -> usize {
    ACCEPTED.lock().unwrap().get(&app).copied().unwrap_or_default()
}

/// Listens, and gives each connection to `serve`.
pub(super) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The kernel gives a port again that an app of an earlier test had.
    ACCEPTED.lock().unwrap().insert(address, 0);
    let drain = Drain::new();
    drain.clone().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *ACCEPTED.lock().unwrap().entry(address).or_default() += 1;
            drain.spawn(serve(stream));
        }
    });
    address
}

/// Where connecting takes forever: nobody accepts, and the kernel has no place for more who wait. So it is for as long as the rest is kept.
pub(super) async fn deaf() -> (SocketAddr, (socket2::Socket, Vec<TcpStream>)) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        held.push(stream);
    }
    (address, (listener, held))
}

/// Frames of a body, as given.
pub(super) struct Frames(VecDeque<Result<Frame<Bytes>, h2::Error>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// What an app says it was asked.
fn seen(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    text
}

/// Speaks HTTP/1 and answers with what it was asked. Counts nothing, keeps connections alive.
pub(super) async fn http1() -> SocketAddr {
    listen(|stream| async move {
        let answer = service_fn(|request| async move { Ok::<_, Infallible>(Response::new(seen(&request))) });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    })
    .await
}

/// Speaks HTTP/2 only, and answers as gRPC servers do: a message, then the status in trailers. `/reset` is reset.
pub(super) async fn grpc() -> SocketAddr {
    listen(|stream| async move {
        let answer = service_fn(|request: Request<Incoming>| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "3".parse().unwrap());
            let frames = match request.uri().path() {
                "/reset" => vec![
                    Ok(Frame::data(Bytes::from_static(b"some"))),
                    Err(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM)),
                ],
                _ => vec![Ok(Frame::data(Bytes::from(seen(&request)))), Ok(Frame::trailers(trailers))],
            };
            let response = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(Frames(frames.into())).unwrap())
        });
        let builder = hyper::server::conn::http2::Builder::new(Drain::new());
        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
    })
    .await
}

/// Speaks HTTP/2 only, reads each request to its end and answers with a few bytes.
pub(super) async fn http2() -> SocketAddr {
    listen(|stream| async move {
        let answer = service_fn(|request: Request<Incoming>| async move {
            let body = if request.method() == Method::HEAD { "" } else { "a few bytes" };
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(body))))
        });
        let builder = hyper::server::conn::http2::Builder::new(Drain::new());
        let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
    })
    .await
}

/// What an app has heard, byte for byte.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// Notes what it hears, and says `response` to the end of each head.
pub(super) async fn recorder(response: &'static [u8]) -> (SocketAddr, Heard) {
    let heard = Heard::default();
    let app = heard.clone();
    let address = listen(move |mut stream| {
        let app = app.clone();
        async move {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                app.0.lock().unwrap().push(byte);
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let _ = stream.write_all(response).await;
                }
            }
        }
    })
    .await;
    (address, heard)
}

/// What keeps an app from answering.
#[derive(Clone)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    /// How many requests wait.
    pub(super) fn held(&self) -> usize {
        self.0.receiver_count()
    }
}

/// Speaks HTTP/1 and HTTP/2, and answers nobody until the gate is open.
pub(super) async fn gate() -> (SocketAddr, Gate) {
    let gate = Gate(Arc::new(watch::Sender::new(false)));
    let app = gate.clone();
    let address = listen(move |stream| {
        let app = app.clone();
        async move {
            let answer = service_fn(|_| {
                let mut open = app.0.subscribe();
                async move {
                    open.wait_for(|open| *open).await.unwrap();
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"at last"))))
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(Drain::new());
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await;
    (address, gate)
}

/// Gives back what it gets, and ends when its client has.
pub(super) async fn echo() -> SocketAddr {
    listen(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// Greets before it has heard anything, then sends back what it hears until that ends, and a farewell after it.
pub(super) async fn greeter() -> SocketAddr {
    listen(|mut stream| async move {
        stream.write_all(b"220 hello\r\n").await.unwrap();
        let mut heard = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut heard).await {
            stream.write_all(&heard[..read]).await.unwrap();
        }
        let _ = stream.write_all(b"bye\r\n").await;
    })
    .await
}

/// Switches from HTTP/1 to a protocol of its own, in which it sends back what it hears.
pub(super) async fn switcher() -> SocketAddr {
    listen(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nready";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// Ends TLS of its own and greets within.
pub(super) async fn tls(acceptor: tokio_rustls::TlsAcceptor) -> SocketAddr {
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.write_all(b"mine").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await
}
