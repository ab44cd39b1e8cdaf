//! The client's app: makes load, and tells how long each piece of it took.
//!
//! In: what to send, over how many connections, how often. Out: the count and the latencies of a window after a warm-up, as JSON.
//! Closed loop: each connection sends its next request when it has the answer. At a fixed rate, requests are due at fixed times; one
//! that could not be sent because the answer before it was late is timed from when it was due, so a stall counts for all it held up.
//!
//! One process, one thread. It runs as `mesh load`, in the network of the client's pod.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{CHUNK, MESSAGE, PAYLOAD};

/// Connections are open, caches are warm, and power of two choices has an opinion.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Kind {
    Http,
    Grpc,
    Stream,
    Echo,
    /// A connection for each message that is echoed.
    Connect,
    /// Connections that have carried one request, and carry no more.
    IdleHttp,
    /// Connections that have carried one message, and carry no more.
    IdleEcho,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) kind: Kind,
    #[arg(long)]
    pub(crate) to: SocketAddr,
    #[arg(long)]
    pub(crate) connections: usize,
    /// Per second, all connections together; without it each goes as fast as it can.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// What was measured in the window.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Requests or connections; bytes of a stream.
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

struct Window {
    from: Instant,
    until: Instant,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    count: u64,
    latencies: Vec<Duration>,
}

impl Window {
    fn add(&self, count: u64, began_at: Instant) {
        let now = Instant::now();
        if now < self.from || now > self.until {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        seen.count += count;
        seen.latencies.push(now - began_at);
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Makes the load. Says `begin` when the window begins, and what was measured when it has ended.
pub(crate) fn run(load: &Load) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if let Kind::IdleHttp | Kind::IdleEcho = load.kind {
            let opened = open_all(load).await.unwrap_or_else(|error| panic!("{} broke: {error}", load.to));
            println!("begin");
            tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
            let measured = Measured { seconds: load.seconds, count: opened.len() as u64, ..Measured::default() };
            return println!("{}", serde_json::to_string(&measured).unwrap());
        }
        let from = Instant::now() + WARM_UP;
        let until = from + Duration::from_secs_f64(load.seconds);
        let window = Rc::new(Window { from, until, seen: RefCell::default() });
        for at in 0..load.connections {
            let (load, window) = (load.clone(), window.clone());
            tokio::task::spawn_local(async move {
                let pace = Pace::new(&load, at);
                let ended = match load.kind {
                    Kind::Http => http(load.to, pace, &window).await,
                    Kind::Grpc => grpc(load.to, pace, &window).await,
                    Kind::Stream => stream(load.to, &window).await,
                    Kind::Echo => echo(load.to, pace, &window).await,
                    Kind::Connect => connect(load.to, &window).await,
                    Kind::IdleHttp | Kind::IdleEcho => unreachable!("they make no load"),
                };
                if let Err(error) = ended {
                    panic!("{} broke: {error}", load.to);
                }
            });
        }
        tokio::time::sleep_until(from.into()).await;
        println!("begin");
        tokio::time::sleep_until(until.into()).await;
        println!("{}", serde_json::to_string(&window.measured(load.seconds)).unwrap());
    });
}

impl Window {
    fn measured(&self, seconds: f64) -> Measured {
        let mut seen = self.seen.borrow_mut();
        seen.latencies.sort_unstable();
        let quantile = |part: f64| {
            let at = (part * seen.latencies.len() as f64) as usize;
            seen.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
        };
        let (p50_us, p99_us, p999_us) = (quantile(0.5), quantile(0.99), quantile(0.999));
        Measured { seconds, count: seen.count, p50_us, p99_us, p999_us }
    }
}

/// When a connection sends.
struct Pace {
    /// When the next is due, and how much later the one after it; none in a closed loop.
    due: Option<(Instant, Duration)>,
}

impl Pace {
    fn new(load: &Load, connection: usize) -> Self {
        let due = load.rate.map(|rate| {
            let between_all = Duration::from_secs(1) / rate;
            let connections = u32::try_from(load.connections).unwrap();
            (Instant::now() + between_all * u32::try_from(connection).unwrap(), between_all * connections)
        });
        Self { due }
    }

    /// Waits until the next request is due; since when it takes time.
    async fn next(&mut self) -> Instant {
        let now = Instant::now();
        let Some((due, every)) = &mut self.due else { return now };
        let this = std::mem::replace(due, *due + *every);
        if this < now {
            return this;
        }
        tokio::time::sleep_until(this.into()).await;
        // How late a timer wakes us is no concern of those we measure.
        Instant::now()
    }
}

async fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn http(to: SocketAddr, mut pace: Pace, window: &Window) -> io::Result<()> {
    let request = request(to);
    let mut stream = open(to).await?;
    loop {
        let began_at = pace.next().await;
        if window.is_over() {
            return Ok(());
        }
        ask(&mut stream, &request).await?;
        window.add(1, began_at);
    }
}

fn request(to: SocketAddr) -> String {
    format!("GET /item HTTP/1.1\r\nhost: web.shop:{}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n", to.port())
}

async fn ask(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    let mut answer = [0; 8 * PAYLOAD];
    stream.write_all(request.as_bytes()).await?;
    let mut filled = 0;
    loop {
        let read = stream.read(&mut answer[filled..]).await?;
        if read == 0 {
            return Err(io::Error::other("the server hung up"));
        }
        filled += read;
        let head = answer[..filled].windows(4).position(|end| end == b"\r\n\r\n");
        if head.is_some_and(|head| filled == head + 4 + PAYLOAD) {
            break;
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(&answer[..filled]).into_owned()));
    }
    Ok(())
}

/// Opens connections one after another, each used once.
async fn open_all(load: &Load) -> io::Result<Vec<TcpStream>> {
    let request = request(load.to);
    let mut opened = Vec::new();
    for _ in 0..load.connections {
        let mut stream = open(load.to).await?;
        match load.kind {
            Kind::IdleHttp => ask(&mut stream, &request).await?,
            _ => exchange(&mut stream).await?,
        }
        opened.push(stream);
    }
    Ok(opened)
}

async fn grpc(to: SocketAddr, mut pace: Pace, window: &Window) -> io::Result<()> {
    let broke = |error: h2::Error| io::Error::other(error);
    let (mut sender, connection) = h2::client::handshake(open(to).await?).await.map_err(broke)?;
    tokio::task::spawn_local(connection);
    loop {
        let began_at = pace.next().await;
        if window.is_over() {
            return Ok(());
        }
        sender = call(sender, to).await.map_err(broke)?;
        window.add(1, began_at);
    }
}

async fn call(sender: SendRequest<Bytes>, to: SocketAddr) -> Result<SendRequest<Bytes>, h2::Error> {
    let mut sender = sender.ready().await?;
    let request = Request::post(format!("http://web.shop:{}/bench.Ping/Ping", to.port()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "bench")
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(MESSAGE), true)?;
    let mut body = response.await?.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let trailers = body.trailers().await?.expect("gRPC ends with trailers");
    assert_eq!(trailers["grpc-status"], "0");
    Ok(sender)
}

async fn stream(to: SocketAddr, window: &Window) -> io::Result<()> {
    let mut stream = open(to).await?;
    let bytes = vec![7; CHUNK];
    while !window.is_over() {
        let began_at = Instant::now();
        let written = stream.write(&bytes).await?;
        window.add(written as u64, began_at);
    }
    Ok(())
}

async fn echo(to: SocketAddr, mut pace: Pace, window: &Window) -> io::Result<()> {
    let mut stream = open(to).await?;
    loop {
        let began_at = pace.next().await;
        if window.is_over() {
            return Ok(());
        }
        exchange(&mut stream).await?;
        window.add(1, began_at);
    }
}

async fn connect(to: SocketAddr, window: &Window) -> io::Result<()> {
    loop {
        let began_at = Instant::now();
        if window.is_over() {
            return Ok(());
        }
        exchange(&mut open(to).await?).await?;
        window.add(1, began_at);
    }
}

async fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; PAYLOAD];
    stream.write_all(&[b'x'; PAYLOAD]).await?;
    stream.read_exact(&mut answer).await?;
    Ok(())
}
