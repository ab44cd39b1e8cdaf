//! `make bench-mesh`: what a pair of proxies costs, beside nothing between the same two apps.
//!
//! Two network namespaces with the real redirection rules, a client's app, two real proxy processes, and a server's app. Each kind of
//! load ([`CASES`]) runs over each path in turn, several times over, so that what else the machine does hits all alike. The steady
//! figure is CPU per request: time of the proxy's process, by `/proc`, over what was carried meanwhile.
//!
//! Start at [`bench`]. It needs root, and perf for `--syscalls`.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program of its own")]
#![allow(clippy::unwrap_used, reason = "in a benchmark, a panic is the report")]

mod apps;
mod load;
mod nginx;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;
mod usage;
mod world;

use std::io::BufRead as _;

use clap::Parser;

use self::apps::port;
use self::load::{Kind, Load, Measured};
use self::usage::{Cpu, Memory, Syscalls};
use self::world::{Between, World, told};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Which cases: those whose name contains one of these; all without
    #[arg(long)]
    only: Vec<String>,
    /// What lies between the apps
    #[arg(long, value_enum, default_values_t = [Between::Nothing, Between::Hawser])]
    between: Vec<Between>,
    /// How long each case is measured, after a second of warm-up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often all is measured; the table has the medians
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Counts system calls too, which slows the proxies a little
    #[arg(long)]
    syscalls: bool,
    /// Measures memory under so many idle connections too; 10,000 take a minute to open
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// What Cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// The server's app
    Serve,
    /// The client's app
    Load(Load),
}

struct Case {
    name: &'static str,
    kind: Kind,
    port: u16,
    connections: usize,
    rate: Option<u32>,
}

const CASES: [Case; 9] = [
    Case { name: "HTTP/1.1, 32 connections", kind: Kind::Http, port: port::HTTP, connections: 32, rate: None },
    Case { name: "HTTP/1.1 at 500/s", kind: Kind::Http, port: port::HTTP, connections: 8, rate: Some(500) },
    Case { name: "gRPC, 16 connections", kind: Kind::Grpc, port: port::GRPC, connections: 16, rate: None },
    Case { name: "gRPC at 500/s", kind: Kind::Grpc, port: port::GRPC, connections: 8, rate: Some(500) },
    Case { name: "TCP stream, 1 connection", kind: Kind::Stream, port: port::SINK, connections: 1, rate: None },
    Case { name: "TCP stream, 8 connections", kind: Kind::Stream, port: port::SINK, connections: 8, rate: None },
    Case { name: "TCP echo at 500/s", kind: Kind::Echo, port: port::ECHO, connections: 8, rate: Some(500) },
    Case { name: "new opaque connections", kind: Kind::Connect, port: port::ECHO, connections: 8, rate: None },
    Case { name: "the same, to a foreign peer", kind: Kind::Connect, port: port::FOREIGN, connections: 8, rate: None },
];

fn main() {
    let args = Args::parse();
    match &args.role {
        Some(Role::Serve) => apps::serve(),
        Some(Role::Load(load)) => load::run(load),
        None => bench(&args),
    }
}

/// What one run of a case over one path gave.
struct Outcome {
    measured: Measured,
    proxies: Vec<Proxy>,
}

struct Proxy {
    cpu: Cpu,
    memory: Memory,
    syscalls: Option<f64>,
}

fn bench(args: &Args) {
    let worlds: Vec<World> = args.between.iter().map(|between| World::new(*between)).collect();
    for (world, between) in worlds.iter().zip(&args.between) {
        for (proxy, side) in world.proxies.iter().zip(["client", "server"]) {
            let Memory { resident, own } = Memory::of(proxy.0.id());
            eprintln!("{between:?}, {side} side, at rest: {resident:.1} MB resident, {own:.1} MB its own");
        }
    }
    let is_wanted = |case: &&Case| args.only.is_empty() || args.only.iter().any(|part| case.name.contains(part));
    println!("{HEAD}");
    for case in CASES.iter().filter(is_wanted) {
        let mut outcomes: Vec<Vec<Outcome>> = worlds.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.runs {
            for (world, outcomes) in worlds.iter().zip(&mut outcomes) {
                outcomes.push(measure(world, case, args));
            }
        }
        for (between, outcomes) in args.between.iter().zip(&outcomes) {
            println!("{}", row(case, *between, outcomes));
        }
    }
    if args.idle > 0 {
        println!("{IDLE_HEAD}");
        for (between, world) in args.between.iter().zip(&worlds) {
            for (name, kind, port) in [("HTTP/1.1", Kind::IdleHttp, port::HTTP), ("opaque", Kind::IdleEcho, port::ECHO)]
            {
                let before = world.proxies.iter().map(|proxy| Memory::of(proxy.0.id()).own).collect::<Vec<_>>();
                let case = Case { name, kind, port, connections: args.idle, rate: None };
                let outcome = measure(world, &case, args);
                let each = outcome.proxies.iter().zip(before).map(|(proxy, before)| {
                    format!(
                        "{:.1} KB ({:.1} MB)",
                        (proxy.memory.own - before) * 1e3 / args.idle as f64,
                        proxy.memory.own
                    )
                });
                println!("| {} {name} | {between:?} | {} |", args.idle, each.collect::<Vec<_>>().join(" | "));
            }
        }
    }
}

fn measure(world: &World, case: &Case, args: &Args) -> Outcome {
    let kind = clap::ValueEnum::to_possible_value(&case.kind).unwrap();
    let (to, connections) = (world.target(case.port).to_string(), case.connections.to_string());
    let is_idle = matches!(case.kind, Kind::IdleHttp | Kind::IdleEcho);
    let seconds = if is_idle { args.seconds.max(IDLE_SECONDS) } else { args.seconds };
    let (seconds, rate) = (seconds.to_string(), case.rate.map(|rate| rate.to_string()));
    let mut arguments = vec!["--kind", kind.get_name(), "--to", &to, "--connections", &connections];
    arguments.extend(["--seconds", &seconds]);
    arguments.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
    let (_load, _begin, mut lines) = told(world.load(&arguments));
    let pids: Vec<u32> = world.proxies.iter().map(|proxy| proxy.0.id()).collect();
    let syscalls: Vec<_> = pids.iter().filter(|_| args.syscalls).map(|pid| Syscalls::of(*pid)).collect();
    let before: Vec<Cpu> = pids.iter().map(|pid| Cpu::of(*pid)).collect();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let cpu = pids.iter().zip(before).map(|(pid, before)| Cpu::of(*pid).since(before));
    let mut proxies: Vec<Proxy> =
        cpu.zip(&pids).map(|(cpu, pid)| Proxy { cpu, memory: Memory::of(*pid), syscalls: None }).collect();
    for (proxy, syscalls) in proxies.iter_mut().zip(syscalls) {
        proxy.syscalls = Some(syscalls.counted());
    }
    let measured = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line:?}", case.name));
    Outcome { measured, proxies }
}

/// After that, a connection is idle in the eyes of a proxy.
const IDLE_SECONDS: f64 = 8.0;
const IDLE_HEAD: &str = "\
| idle connections | between | each costs the client side (own memory then) | the server side |
|---|---|---|---|";
const HEAD: &str = "\
| load | between | rate | p50 / p99 / p99.9 | CPU client side: all (user + system) | CPU server side | system calls | memory (own) |
|---|---|---|---|---|---|---|---|";

fn row(case: &Case, between: Between, outcomes: &[Outcome]) -> String {
    let is_stream = case.kind == Kind::Stream;
    // Of a stream the unit is a gigabyte, and its CPU is told in seconds.
    let units = |outcome: &Outcome| outcome.measured.count as f64 / if is_stream { 1e9 } else { 1.0 };
    let per_unit = |outcome: &Outcome, micros: f64| micros / units(outcome) / if is_stream { 1e6 } else { 1.0 };
    let rate =
        spread(outcomes, |outcome| units(outcome) / outcome.measured.seconds * if is_stream { 8.0 } else { 1.0 });
    let rate = if is_stream { format!("{} Gbit/s", rate.show(2)) } else { format!("{} /s", rate.show(0)) };
    let latency = if is_stream {
        String::new()
    } else {
        let quantile = |of: fn(&Measured) -> f64| spread(outcomes, |outcome| of(&outcome.measured) / 1e3).median;
        let (p50, p99, p999) = (quantile(|m| m.p50_us), quantile(|m| m.p99_us), quantile(|m| m.p999_us));
        format!("{p50:.2} / {p99:.2} / {p999:.2} ms")
    };
    let side = |at: usize| {
        if outcomes[0].proxies.len() <= at {
            return String::new();
        }
        let of = |pick: fn(Cpu) -> f64| spread(outcomes, |outcome| per_unit(outcome, pick(outcome.proxies[at].cpu)));
        let (unit, digits) = if is_stream { ("s/GB", 2) } else { ("µs", 0) };
        let (user, system) = (of(|cpu| cpu.user).median, of(|cpu| cpu.system).median);
        format!("{} {unit} ({user:.digits$} + {system:.digits$})", of(Cpu::total).show(digits))
    };
    let both = |of: &dyn Fn(&Outcome, &Proxy) -> Option<f64>, digits: usize| {
        let median = |at: usize| {
            let is_known = outcomes.iter().all(|outcome| of(outcome, &outcome.proxies[at]).is_some());
            let median = || spread(outcomes, |outcome| of(outcome, &outcome.proxies[at]).unwrap_or_default()).median;
            is_known.then(|| format!("{:.digits$}", median()))
        };
        (0..outcomes[0].proxies.len()).filter_map(median).collect::<Vec<_>>().join(" / ")
    };
    let syscalls = both(&|outcome, proxy| Some(proxy.syscalls? / units(outcome)), 1);
    let resident = both(&|_, proxy| Some(proxy.memory.resident), 1);
    let own = both(&|_, proxy| Some(proxy.memory.own), 1);
    let memory = if own.is_empty() { own } else { format!("{resident} MB ({own})") };
    format!("| {} | {between:?} | {rate} | {latency} | {} | {} | {syscalls} | {memory} |", case.name, side(0), side(1))
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} [{:.digits$}–{:.digits$}]", self.median, self.least, self.most)
    }
}

fn spread(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> Spread {
    let mut values: Vec<f64> = outcomes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    Spread { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
}
