//! The sample's client: calls an `http://`, `h2c://`, `grpc://` or `smtp://` URL once, or at a steady rate, and counts.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Request, StatusCode, Uri, Version};
use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::{self, Instant, MissedTickBehavior};

use super::{grpc, http, smtp};
use crate::net::drain::{self, Drain};
use crate::net::serve;

/// A call that takes longer has failed; longer than the 10 s that a stalled protocol detection would take, so that such a
/// stall shows as slow rather than as broken.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the counters are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Between two tries of [`once`].
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Whom to call, and how.
#[derive(Clone, Debug, clap::Args)]
struct Call {
    /// `http://HOST:PORT/PATH`, the same over HTTP/2 as `h2c://HOST:PORT/PATH`, `grpc://HOST:PORT` or `smtp://HOST:PORT`
    url: Url,
    /// What to send: an HTTP body, a gRPC text, a line
    #[arg(long, default_value = "")]
    payload: String,
    /// A header of HTTP requests, as NAME:VALUE; repeatable
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<Header>,
    /// Have gRPC stream that many messages back, instead of a unary call
    #[arg(long, default_value_t = 0)]
    stream: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct OnceArgs {
    #[command(flatten)]
    call: Call,
    /// Try again for so many seconds
    #[arg(long, default_value_t = 0)]
    within: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct LoadArgs {
    #[command(flatten)]
    call: Call,
    /// Calls a second
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Open a new connection for each call, rather than keep one
    #[arg(long)]
    new_connections: bool,
    /// Where to serve the counters, as JSON; /healthz is for probes
    #[arg(long, default_value = "0.0.0.0:9080", value_name = "IP:PORT")]
    report: SocketAddr,
}

/// What a client counted: the JSON it logs and serves.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Counters {
    calls: u64,
    failures: u64,
    /// Failures since the last success.
    failing: u64,
    connections: u64,
    slowest_ms: u64,
    last_answer: String,
    last_failure: String,
}

/// Calls until there is an answer, and prints it.
pub(super) async fn once(args: OnceArgs) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(args.within);
    let answer = loop {
        match bounded(async { args.call.clone().connect().await?.call().await }).await {
            Ok(answer) => break answer,
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("no answer from {}", args.call.url)));
            }
            Err(error) => {
                tracing::info!(error = format!("{error:#}"), "trying again");
                time::sleep(RETRY_PAUSE).await;
            }
        }
    };
    writeln!(std::io::stdout(), "{}", answer.trim_end()).context("cannot print the answer")
}

/// Calls at a steady rate until told to end.
pub(super) async fn load(args: LoadArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.rate > 0.0 && args.rate <= 10_000.0, "--rate must be above 0 and at most 10000");
    let counters = Arc::new(Mutex::new(Counters::default()));
    let drain = Drain::new();
    let report = TcpListener::bind(args.report).await.with_context(|| format!("cannot listen on {}", args.report))?;
    let reported = counters.clone();
    drain.spawn(serve::serve(report, super::CONNECTIONS_MAX, drain.clone(), move |stream, _peer| {
        let counters = reported.clone();
        async move {
            let service = service_fn(|request: Request<Incoming>| {
                // Probes cross the network; what was answered is for those who ask for it.
                let body = if request.uri().path() == "/healthz" { "ok\n".into() } else { json(&counters) };
                async move { Ok::<_, Infallible>(http::response(StatusCode::OK, body)) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    }));
    tracing::info!(url = %args.call.url, rate = args.rate, new_connections = args.new_connections, "calling");
    tokio::select! {
        () = call_steadily(&args, &counters) => {}
        signal = drain::signal() => signal.context("cannot wait for signals")?,
    }
    tracing::info!(counters = json(&counters), "done");
    drain.start();
    drain.finish(super::DRAIN_GRACE).await;
    Ok(())
}

async fn call_steadily(args: &LoadArgs, counters: &Mutex<Counters>) {
    let count = |count: &dyn Fn(&mut Counters)| count(&mut counters.lock().unwrap_or_else(PoisonError::into_inner));
    let mut ticks = time::interval(Duration::from_secs_f64(1.0 / args.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged_at = Instant::now();
    let mut connection: Option<Connection> = None;
    loop {
        ticks.tick().await;
        let begin = Instant::now();
        let kept = connection.take().filter(|_| !args.new_connections);
        let called = bounded(async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => {
                    count(&|counters| counters.connections += 1);
                    args.call.clone().connect().await?
                }
            };
            let answer = connection.call().await?;
            Ok((connection, answer))
        })
        .await;
        let took = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        match called {
            Ok((used, answer)) => {
                connection = Some(used);
                count(&|counters| {
                    counters.failing = 0;
                    counters.last_answer.clone_from(&answer);
                });
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "call failed");
                count(&|counters| {
                    counters.failures += 1;
                    counters.failing += 1;
                    counters.last_failure.clone_from(&error);
                });
            }
        }
        count(&|counters| {
            counters.calls += 1;
            counters.slowest_ms = counters.slowest_ms.max(took);
        });
        if logged_at.elapsed() >= LOG_INTERVAL {
            logged_at = Instant::now();
            tracing::info!(counters = json(counters), "so far");
        }
    }
}

fn json(counters: &Mutex<Counters>) -> String {
    let counters = counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
    serde_json::to_string(&counters).unwrap_or_else(|error| error.to_string())
}

async fn bounded<T>(call: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    time::timeout(CALL_TIMEOUT, call).await.with_context(|| format!("no answer within {CALL_TIMEOUT:?}"))?
}

/// A connection and what to send on it.
struct Connection {
    call: Call,
    client: Client,
}

enum Client {
    Grpc(grpc::Client),
    Http(http::Client),
    Smtp(smtp::Client),
}

impl Call {
    async fn connect(self) -> anyhow::Result<Connection> {
        let authority = &self.url.authority;
        let client = match self.url.scheme {
            Scheme::Grpc => Client::Grpc(grpc::Client::connect(authority).await?),
            Scheme::H2c => Client::Http(http::Client::connect(authority, Version::HTTP_2).await?),
            Scheme::Http => Client::Http(http::Client::connect(authority, Version::HTTP_11).await?),
            Scheme::Smtp => Client::Smtp(smtp::Client::connect(authority).await?),
        };
        Ok(Connection { call: self, client })
    }
}

impl Connection {
    async fn call(&mut self) -> anyhow::Result<String> {
        let call = &self.call;
        match &mut self.client {
            Client::Grpc(client) => client.call(&call.payload, call.stream).await,
            Client::Http(client) => {
                let headers: Vec<_> =
                    call.headers.iter().map(|Header(name, value)| (name.clone(), value.clone())).collect();
                client.call(&call.url.uri, &headers, &call.payload).await
            }
            Client::Smtp(client) => client.call(&call.payload).await,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Scheme {
    Grpc,
    H2c,
    Http,
    Smtp,
}

/// A URL of one of our protocols.
#[derive(Clone, Debug)]
struct Url {
    scheme: Scheme,
    /// With a port.
    authority: String,
    uri: Uri,
}

impl FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let uri: Uri = text.parse()?;
        let scheme = match uri.scheme_str() {
            Some("grpc") => Scheme::Grpc,
            Some("h2c") => Scheme::H2c,
            Some("http") => Scheme::Http,
            Some("smtp") => Scheme::Smtp,
            _ => anyhow::bail!("the scheme is not http, h2c, grpc or smtp"),
        };
        let authority = uri.authority().context("no host")?;
        let authority = match (authority.port_u16(), scheme) {
            (Some(_), _) => authority.to_string(),
            (None, Scheme::Http) => format!("{authority}:80"),
            (None, _) => anyhow::bail!("no port"),
        };
        Ok(Self { scheme, authority, uri })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[derive(Clone, Debug)]
struct Header(HeaderName, HeaderValue);

impl FromStr for Header {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, value) = text.split_once(':').context("not NAME:VALUE")?;
        Ok(Self(name.trim().parse()?, value.trim().parse()?))
    }
}

/// Spawns what a client needs beside it. Unlike a server's, its tasks end with the process: nobody waits for them.
#[expect(clippy::disallowed_methods, reason = "a client has nothing to drain")]
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}
