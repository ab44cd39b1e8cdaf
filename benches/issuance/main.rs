//! `make bench-issuance`: what a certificate costs the identity role, and what of that is what.
//!
//! The real service, in a process of its own: the gRPC listener, the limits, the CSR, the review, the signature and the line in the log, in
//! plaintext as in its pod, where the pod's own proxy ends TLS. Clients share one HTTP/2 connection, as that proxy's do. Asked are so many at once,
//! for two thousand service accounts, each request with a token of its own. CPU is the time of the service's process, by `/proc`, over what it
//! issued; the parts are loops in this process, each by its thread's time.
//!
//! Start at [`main`].
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program of its own")]
#![allow(clippy::unwrap_used, reason = "in a benchmark, a panic is the report")]

mod api;
mod parts;
mod server;
#[path = "../mesh/usage.rs"]
#[allow(dead_code, reason = "the benchmark of the mesh uses the rest")]
mod usage;

use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hawser::pki::LeafKey;
use hawser::wire::identity::CertifyRequest;
use hawser::wire::identity::identity_client::IdentityClient;
use tonic::transport::{Channel, Endpoint};

use self::server::Reviews;
use self::usage::{Cpu, Memory};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many service accounts ask.
const ACCOUNTS: usize = 2_000;
/// How many ask at once where memory is looked at.
const FLAT_CLIENTS: usize = 64;
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// How many ask at once
    #[arg(long, default_values_t = [1, 16, 256])]
    clients: Vec<usize>,
    /// How long each case is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long certificates are issued to see whether memory stays flat; 0 for not at all
    #[arg(long, default_value_t = 60.0)]
    memory_seconds: f64,
    /// Instead of all that: so many certificates, and the memory of the service on the way there
    #[arg(long, value_name = "CERTIFICATES")]
    flat: Option<u64>,
    /// What Cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// The identity service
    Serve(server::Args),
}

fn main() {
    let args = Args::parse();
    if let Some(Role::Serve(args)) = args.role {
        return server::serve(&args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(all) = args.flat {
        return flat(&runtime, all);
    }
    println!("| part | CPU |\n|---|---|");
    for (name, cost) in parts::costs() {
        println!("| {name} | {cost:.0} µs |");
    }
    println!(
        "| a mutual TLS handshake, connection included: the pod's proxy, once a certificate | {:.0} µs |",
        parts::tls_cost()
    );
    println!("\n| service | clients | certificates/s | CPU each |\n|---|---|---|---|");
    let api = runtime.block_on(api::start());
    let requests = Arc::new(requests());
    for (name, reviews, breaks) in [
        ("a request that is refused at once: gRPC, limits, log", Reviews::None, true),
        ("all but the token review", Reviews::None, false),
        ("all, with TokenReview by a fake API server", Reviews::Api, false),
    ] {
        for clients in &args.clients {
            let mut service = Service::start(reviews, &api);
            let channel = runtime.block_on(service.channel());
            let load = Load { requests: requests.clone(), channel, breaks };
            runtime.block_on(load.run_for(*clients, WARM_UP));
            let before = Cpu::of(service.pid());
            let (began, count) =
                (Instant::now(), runtime.block_on(load.run_for(*clients, Duration::from_secs_f64(args.seconds))));
            let cpu = Cpu::of(service.pid()).since(before).total() / count as f64;
            println!("| {name} | {clients} | {:.0} | {cpu:.0} µs |", count as f64 / began.elapsed().as_secs_f64());
        }
    }
    if args.memory_seconds > 0.0 {
        let mut service = Service::start(Reviews::None, &api);
        let channel = runtime.block_on(service.channel());
        let load = Load { requests, channel, breaks: false };
        println!("\n| issued | memory of its own |\n|---|---|");
        let mut issued = runtime.block_on(load.run_for(FLAT_CLIENTS, WARM_UP));
        println!("| {issued} | {:.1} MB |", Memory::of(service.pid()).own);
        for _ in 0..6 {
            issued += runtime.block_on(load.run_for(FLAT_CLIENTS, Duration::from_secs_f64(args.memory_seconds / 6.0)));
            println!("| {issued} | {:.1} MB |", Memory::of(service.pid()).own);
        }
    }
}

/// Issues so many certificates, and says how much memory the service has on the way.
fn flat(runtime: &tokio::runtime::Runtime, all: u64) {
    let mut service = Service::start(Reviews::None, &runtime.block_on(api::start()));
    let channel = runtime.block_on(service.channel());
    let load = Load { requests: Arc::new(requests()), channel, breaks: false };
    println!(
        "| issued | memory of its own | resident, with what it shares | CPU each | seconds |\n|---|---|---|---|---|"
    );
    let (began, before, mut issued) = (Instant::now(), Cpu::of(service.pid()), 0);
    for part in [0.0, 0.01, 0.1, 0.5, 1.0] {
        issued += runtime.block_on(load.run_times(FLAT_CLIENTS, (all as f64 * part) as u64 - issued));
        let (memory, cpu) = (Memory::of(service.pid()), Cpu::of(service.pid()).since(before).total());
        println!(
            "| {issued} | {:.1} MB | {:.1} MB | {:.0} µs | {:.0} |",
            memory.own,
            memory.resident,
            cpu / issued.max(1) as f64,
            began.elapsed().as_secs_f64(),
        );
    }
}

/// The service in its own process.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(reviews: Reviews, api: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", "--reviews", reviews.as_str(), "--api", api])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        Self { child, address }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn channel(&mut self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What proxies ask for, but for their tokens: made beforehand, for a proxy's key is not the service's to make.
fn requests() -> Vec<CertifyRequest> {
    let request = |number: usize| {
        let identity = format!("web{number}.shop.serviceaccount.identity.hawser.cluster.local");
        let csr = LeafKey::generate().unwrap().csr(&identity.parse().unwrap()).unwrap();
        CertifyRequest { identity, token: Vec::new(), certificate_signing_request: csr }
    };
    (0..ACCOUNTS).map(request).collect()
}

#[derive(Clone)]
struct Load {
    requests: Arc<Vec<CertifyRequest>>,
    channel: Channel,
    /// Whether requests are to be refused at once.
    breaks: bool,
}

impl Load {
    /// So many ask for so long, each again when it is answered; how many certificates came of it.
    async fn run_for(&self, clients: usize, time: Duration) -> u64 {
        let end = Instant::now() + time;
        self.run(clients, move || Instant::now() < end).await
    }

    /// The same until there are so many certificates.
    async fn run_times(&self, clients: usize, times: u64) -> u64 {
        let asked = Arc::new(AtomicU64::new(0));
        self.run(clients, move || asked.fetch_add(1, Ordering::Relaxed) < times).await
    }

    async fn run(&self, clients: usize, goes_on: impl Fn() -> bool + Clone + Send + 'static) -> u64 {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let client = || {
            let (load, goes_on) = (self.clone(), goes_on.clone());
            async move {
                let mut client = IdentityClient::new(load.channel.clone());
                let mut issued = 0;
                while goes_on() {
                    let number = ASKED.fetch_add(1, Ordering::Relaxed);
                    let account = number as usize % ACCOUNTS;
                    let mut asked = load.requests[account].clone();
                    // As long as those of Kubernetes are.
                    asked.token = format!("of.shop.web{account}_{number}_{}", "x".repeat(1_000)).into_bytes();
                    if load.breaks {
                        asked.identity.clear();
                    }
                    let mut request = tonic::Request::new(asked);
                    let [_, a, b, c] = (number as u32).to_be_bytes();
                    let source = format!("10.{a}.{b}.{c}").parse().unwrap();
                    request.metadata_mut().insert(hawser::manifest::names::CLIENT_IP, source);
                    let answer = client.certify(request).await;
                    assert!(answer.is_ok() != load.breaks, "{answer:?}");
                    issued += 1;
                }
                issued
            }
        };
        let asking: Vec<_> = (0..clients).map(|_| spawn(client())).collect();
        let mut issued = 0;
        for asking in asking {
            issued += asking.await.unwrap();
        }
        issued
    }
}

#[expect(clippy::disallowed_methods, reason = "no drain waits for a benchmark")]
fn spawn<F>(work: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(work)
}
