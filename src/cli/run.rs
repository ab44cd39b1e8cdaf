//! `hawser run <role>`: what pods start. The one door from the command line to the other roles.

use super::Outcome;

/// Run a role of the mesh; what pods start
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Waits until the proxy of this pod is ready; what a container's hook runs
    Await(crate::proxy::await_ready::Args),
    /// Discovery and policy: tells proxies where services are, and who may call whom
    Destination(Box<crate::control::destination::Args>),
    /// The certificate authority: signs the certificates of proxies
    Identity(Box<crate::control::identity::Args>),
    /// Sets up the packet redirection of a pod, then exits
    Init(Box<crate::init::Args>),
    /// The admission webhook: adds the proxy to pods
    Injector(crate::control::injector::Args),
    /// The data plane, beside each app
    Proxy(Box<crate::proxy::Settings>),
    #[command(hide = true)]
    Sample(Box<crate::sample::Args>),
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    match args.role {
        Role::Await(args) => crate::proxy::await_ready::run(&args)?,
        Role::Destination(args) => crate::control::destination::run(*args)?,
        Role::Identity(args) => crate::control::identity::run(*args)?,
        Role::Init(args) => crate::init::run(&args)?,
        Role::Injector(args) => crate::control::injector::run(args)?,
        Role::Proxy(args) => crate::proxy::run(*args)?,
        Role::Sample(args) => crate::sample::run(*args)?,
    }
    Ok(Outcome::Yes)
}

/// What to do about an error of a role; here, for this is the only door to them.
pub(super) fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    cause.downcast_ref::<crate::init::Error>().and_then(crate::init::Error::hint)
}
