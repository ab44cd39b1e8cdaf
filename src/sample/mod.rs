//! `hawser run sample <what>`: small servers and clients, which the demo and the cluster tests run in pods.
//!
//! They are in the product's binary because a cluster without a registry then needs no other image. Three protocols, one file
//! each: HTTP, gRPC, and one in which the server speaks first. [`client`] calls any of them by URL, once or at a steady
//! rate; what it counts can be read over HTTP. Nothing here knows the mesh: a sample is what an app would be.
//!
//! Start at [`run`].

mod client;
mod grpc;
mod http;
mod pipe;
mod smtp;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::net::drain::{self, Drain};
use crate::telemetry::{self, LogFormat};

/// How long open calls may take to end after SIGTERM: well below any pod's grace period.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// More connections than any demo or test opens at once.
const CONNECTIONS_MAX: usize = 4096;

/// Sample apps for demos and tests
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// An HTTP server that answers with the request it got, as JSON
    Http(Server),
    /// A gRPC server that repeats what it is told
    Grpc(Server),
    /// A server that speaks first: it greets, then answers line by line
    Smtp(Server),
    /// Calls a server at a steady rate, and counts
    Load(client::LoadArgs),
    /// Calls a server once, prints the answer, and fails if there is none
    Once(client::OnceArgs),
    /// Joins standard input and output to a TCP connection
    Pipe(pipe::Args),
}

#[derive(Debug, clap::Args)]
struct Server {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// What the server calls itself in answers
    #[arg(long, env = "HOSTNAME", default_value = "sample")]
    name: String,
}

/// Runs a sample until it is done or told to end.
///
/// # Errors
/// Where a server cannot start, or a client gets no answer.
pub fn run(args: Args) -> anyhow::Result<()> {
    telemetry::start("warn,hawser=info", LogFormat::Plain)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        match args.what {
            What::Http(server) => serve(server, http::serve).await,
            What::Grpc(server) => serve(server, grpc::serve).await,
            What::Smtp(server) => serve(server, smtp::serve).await,
            What::Load(args) => client::load(args).await,
            What::Once(args) => client::once(args).await,
            What::Pipe(args) => pipe::run(&args),
        }
    })
}

/// Listens, serves, and drains on SIGTERM.
async fn serve(server: Server, serve: impl FnOnce(TcpListener, String, &Drain)) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(server.listen).await.with_context(|| format!("cannot listen on {}", server.listen))?;
    tracing::info!(listen = %server.listen, name = server.name, "serving");
    let drain = Drain::new();
    serve(listener, server.name, &drain);
    drain::signal().await.context("cannot wait for signals")?;
    tracing::info!("draining");
    drain.start();
    if !drain.finish(DRAIN_GRACE).await {
        tracing::warn!(grace = ?DRAIN_GRACE, "leaving before all calls have ended");
    }
    Ok(())
}
