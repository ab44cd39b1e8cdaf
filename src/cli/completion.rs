//! `hawser completion`: shell completions, made from clap's own description of the flags.
//!
//! `make completions` writes them into completions/ too, for packages; a test fails where those are stale.

use std::io::Write;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{Cli, Outcome};

/// Print the completions of a shell
///
/// For the running shell: `source <(hawser completion bash)`, the same with `zsh`, or `hawser completion fish | source`.
/// To have them in each: `hawser completion bash > ~/.local/share/bash-completion/completions/hawser`;
/// zsh: a file `_hawser` in a folder of `$fpath`; fish: `~/.config/fish/completions/hawser.fish`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    // clap_complete panics where a pipe is closed early, so it writes to memory.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut text);
    out.write_all(&text).context("cannot print the completions")?;
    Ok(Outcome::Yes)
}
