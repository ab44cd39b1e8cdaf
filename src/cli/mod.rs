//! The command line: one file per command, one match arm each.
//!
//! Start at [`main`]. Each command's file holds its `Args` (whose doc comments are its `--help`) and its `run`.

mod check;
mod completion;
mod docs;
mod edges;
mod identity;
mod image;
mod inject;
mod install;
mod manifests;
pub mod output;
mod passphrase;
mod proxy_flags;
pub mod run;
mod trust;
mod uninject;
mod uninstall;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Secure every connection between Kubernetes pods, and see that it is
///
/// `hawser install | kubectl apply -f -` installs the mesh. Annotate a namespace with `linkerd.io/inject: enabled`,
/// and its pods join as they are created.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that mean the same in every command.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// The namespace of the control plane
    #[arg(
        long,
        short = 'L',
        visible_alias = "linkerd-namespace",
        env = "HAWSER_NAMESPACE",
        default_value = "hawser",
        global = true,
        help_heading = "Cluster"
    )]
    pub hawser_namespace: String,
    /// The kubeconfig file, instead of the usual ones
    #[arg(long, value_name = "FILE", global = true, help_heading = "Cluster")]
    pub kubeconfig: Option<std::path::PathBuf>,
    /// The kubeconfig context to use
    #[arg(long, global = true, help_heading = "Cluster")]
    pub context: Option<String>,
    /// Act as this user (Kubernetes impersonation)
    #[arg(long = "as", value_name = "USER", global = true, help_heading = "Cluster")]
    pub impersonate: Option<String>,
    /// Act as a member of this group; repeatable
    #[arg(long = "as-group", value_name = "GROUP", global = true, help_heading = "Cluster")]
    pub impersonate_groups: Vec<String>,
    /// Log what is being done, to standard error
    #[arg(long, global = true)]
    pub verbose: bool,
}

impl Global {
    /// Which cluster these flags mean, for [`crate::cluster::client::connect`].
    pub fn cluster(&self) -> crate::cluster::client::Options {
        crate::cluster::client::Options {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            impersonate: self.impersonate.clone(),
            impersonate_groups: self.impersonate_groups.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Docs(docs::Args),
    Edges(edges::Args),
    Identity(identity::Args),
    Image(image::Args),
    Inject(inject::Args),
    Install(install::Args),
    #[command(hide = true)]
    Run(run::Args),
    Trust(trust::Args),
    Uninject(uninject::Args),
    Uninstall(uninstall::Args),
    Version(version::Args),
}

/// How a command ended, and its exit code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Done, or true: 0.
    Yes,
    /// Ran fine, and the answer is no (a check failed, a certificate is bad): 1.
    No,
    /// Ran fine, but what was asked could not be told of everything: 2.
    Unknown,
}

/// The exit code of a command that could not do its work; clap's usage errors have it too.
const COULD_NOT: u8 = 2;

/// What `--verbose` logs: our own steps and every request to the API server.
const VERBOSE: &str = "warn,hawser=debug,kube_client=debug";

/// Turns argv into what clap parses: in a pod that a stock injector made, the image is what the pod takes it for.
///
/// It answers to the entry points of the stock images by the name it is called with. Called by its own name, it is the proxy where nothing was asked and the
/// environment is a proxy's (stock proxies have no arguments), and init where the arguments are those that only init has.
pub fn arguments(argv: impl IntoIterator<Item = OsString>, set: impl Fn(&str) -> bool) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let called = argv
        .first()
        .and_then(|first| std::path::Path::new(first).file_name())
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let given: Vec<_> = argv.iter().skip(1).map(|arg| arg.to_string_lossy()).collect();
    let is_init = given.first().is_some_and(|first| first.starts_with("--"))
        && given.iter().any(|arg| arg.split('=').next() == Some("--incoming-proxy-port"));
    let role: &[&str] = match called {
        "linkerd2-proxy-identity" | "linkerd2-proxy" => &["run", "proxy"],
        "linkerd2-proxy-init" => &["run", "init"],
        "linkerd-await" => &["run", "await"],
        _ if given.is_empty() && set("LINKERD2_PROXY_IDENTITY_LOCAL_NAME") => &["run", "proxy"],
        _ if is_init => &["run", "init"],
        _ => &[],
    };
    argv.splice(1.min(argv.len())..1.min(argv.len()), role.iter().map(OsString::from));
    argv
}

/// Parses argv and the environment, or says what is wrong with them.
///
/// # Errors
/// The exit code: clap's own, but for the proxy the one that those who run it know.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, ExitCode> {
    use crate::proxy::settings::{EXIT_CODE_MALFORMED, variable};
    let is_proxy = argv.get(1).is_some_and(|arg| arg == "run") && argv.get(2).is_some_and(|arg| arg == "proxy");
    Cli::try_parse_from(argv).map_err(|error| {
        let code = if is_proxy && error.use_stderr() { EXIT_CODE_MALFORMED } else { error.exit_code() as u8 };
        // Nothing can be done where not even the error can be printed.
        let _ = error.print();
        let hint = error.get(clap::error::ContextKind::InvalidArg).filter(|_| is_proxy).map(variable);
        if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
            output::say(&hint);
        }
        ExitCode::from(code)
    })
}

/// Runs the command and reports its error, if any.
pub fn main(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Unknown) => ExitCode::from(COULD_NOT),
        Err(error) => {
            output::report(&error);
            ExitCode::from(COULD_NOT)
        }
    }
}

/// Runs the async part of a command.
///
/// On one thread: commands wait for the network, and starting threads would take longer than most of their work.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::Error::new(error).context("cannot start the async runtime"))?;
    let result = runtime.block_on(work);
    // A name look-up or a file read that still runs on a helper thread is nobody's business any more.
    runtime.shutdown_background();
    result
}

fn dispatch(cli: Cli) -> anyhow::Result<Outcome> {
    let Cli { global, command } = cli;
    // The roles have log settings of their own.
    if global.verbose && !matches!(command, Command::Run(_)) {
        crate::telemetry::start(VERBOSE, crate::telemetry::LogFormat::Plain)?;
    }
    let mut out = std::io::stdout().lock();
    match command {
        Command::Check(args) => check::run(&global, &args, &mut out),
        Command::Completion(args) => completion::run(&args, &mut out),
        Command::Docs(args) => docs::run(&args, &mut out),
        Command::Edges(args) => edges::run(&global, &args, &mut out),
        Command::Identity(args) => identity::run(&global, &args, &mut out),
        Command::Image(args) => image::run(&args, &mut out),
        Command::Inject(args) => inject::run(&global, &args, &mut out),
        Command::Install(args) => install::run(&global, &args, &mut out),
        Command::Run(args) => run::run(args),
        Command::Trust(args) => trust::run(&global, &args, &mut out),
        Command::Uninject(args) => uninject::run(&args, &mut out),
        Command::Uninstall(args) => uninstall::run(&global, &args, &mut out),
        Command::Version(args) => version::run(&global, &args, &mut out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role_of(argv: &[&str], environment: &[&str]) -> String {
        let argv = arguments(argv.iter().map(OsString::from), |name| environment.contains(&name));
        argv.iter().skip(1).take(2).map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn is_what_a_stock_pod_takes_it_for() {
        let environment = ["LINKERD2_PROXY_IDENTITY_LOCAL_NAME"];
        assert_eq!(role_of(&["/usr/lib/linkerd/linkerd2-proxy-identity"], &environment), "run proxy");
        assert_eq!(role_of(&["/hawser"], &environment), "run proxy");
        assert_eq!(role_of(&["/usr/lib/linkerd/linkerd2-proxy-init", "--simulate"], &[]), "run init");
        assert_eq!(role_of(&["/hawser", "--ipv6=false", "--incoming-proxy-port", "4143"], &[]), "run init");
        assert_eq!(role_of(&["/hawser", "--incoming-proxy-port=4143"], &[]), "run init");
    }

    #[test]
    fn is_the_command_line_for_everybody_else() {
        assert_eq!(role_of(&["hawser"], &[]), "");
        assert_eq!(role_of(&["hawser", "check", "--wait"], &["LINKERD2_PROXY_IDENTITY_LOCAL_NAME"]), "check --wait");
        assert_eq!(role_of(&["hawser", "--help"], &[]), "--help");
        assert_eq!(role_of(&["hawser", "install", "--set", "x=--incoming-proxy-port"], &[]), "install --set");
    }
}
