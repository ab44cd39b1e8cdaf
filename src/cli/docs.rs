//! `hawser docs`, hidden: the reference of the command line, made from clap's own description of it.
//!
//! Out: Markdown for docs/cli.md (`make docs` writes it, and a test fails where it is stale), or manual pages for packages.
//! Commands that are hidden are not in it, but for `run`: the settings of the roles are worth looking up.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::{Cli, Outcome};

/// Print the reference of all commands as Markdown, or write manual pages
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write manual pages into this folder instead
    #[arg(long, value_name = "FOLDER")]
    man: Option<PathBuf>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut hawser = Cli::command();
    hawser.build();
    match &args.man {
        None => out.write_all(reference(&hawser).as_bytes()).context("cannot print the reference")?,
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
                .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
        }
    }
    Ok(Outcome::Yes)
}

fn reference(hawser: &Command) -> String {
    let mut text = String::from(
        "# The command line\n\n\
         Made by `make docs` from what `--help` says; do not edit it.\n\n\
         Every command exits with 0 when it did its work and the answer is yes, with 1 when the answer is no (a check failed, \
         a certificate is bad), and with 2 when it could not do its work or was used wrongly. Data goes to standard output, \
         everything else to standard error.\n",
    );
    let commands: Vec<&Command> = hawser.get_subcommands().filter(|command| is_shown(command)).collect();
    for command in &commands {
        let (name, about) = (command.get_name(), styled(command.get_about()));
        let _ = write!(text, "\n- [`hawser {name}`](#hawser-{name}): {about}");
    }
    text.push_str("\n\n## Flags of every command\n\n");
    text.push_str(&flags(hawser.get_arguments().filter(|arg| arg.is_global_set())));
    for command in commands {
        section(command, 2, &mut text);
    }
    text
}

fn is_shown(command: &Command) -> bool {
    command.get_name() == "run" || !(command.is_hide_set() || command.get_name() == "help")
}

fn section(command: &Command, depth: usize, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let about = styled(command.get_long_about().or_else(|| command.get_about()));
    let _ = write!(text, "\n{} {name}\n\n{about}\n", "#".repeat(depth));
    let mut own = command.get_arguments().filter(|arg| !arg.is_global_set() && !arg.is_hide_set()).peekable();
    if own.peek().is_some() {
        let mut usage = command.clone();
        let _ = write!(text, "\n    {}\n\n", usage.render_usage().to_string().trim_start_matches("Usage: ").trim());
        text.push_str(&flags(own));
    }
    for command in command.get_subcommands().filter(|command| is_shown(command)) {
        section(command, depth + 1, text);
    }
}

fn flags<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = String::new();
    for argument in arguments.filter(|argument| !is_everywhere(argument)) {
        let mut names: Vec<String> = Vec::new();
        names.extend(argument.get_short().map(|short| format!("-{short}")));
        names
            .extend(argument.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")));
        let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let value = argument.get_value_names().filter(|_| takes_value).unwrap_or_default().join(" ");
        let form = match (names.is_empty(), value.is_empty()) {
            (true, _) => value,
            (false, true) => names.join(", "),
            (false, false) => format!("{} {value}", names.join(", ")),
        };
        let _ = write!(text, "- `{form}`");
        if let Some(variable) = argument.get_env() {
            let _ = write!(text, ", `${}`", variable.to_string_lossy());
        }
        let help = styled(argument.get_long_help().or_else(|| argument.get_help()));
        let _ = write!(text, ": {}", help.replace('\n', "\n  ").replace("\n  \n", "\n\n"));
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let defaults = defaults.join(",");
        if takes_value && !defaults.is_empty() {
            let _ = write!(text, " (default: `{defaults}`)");
        }
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if takes_value && !values.is_empty() {
            let _ = write!(text, " (one of {})", values.join(", "));
        }
        text.push('\n');
    }
    text
}

/// Flags that clap adds to each command.
fn is_everywhere(argument: &Arg) -> bool {
    argument.get_id() == "help" || argument.get_id() == "version" || argument.is_hide_set()
}

fn styled(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| text.to_string().trim_end().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_command_and_the_variables_of_roles_but_nothing_hidden() {
        let mut hawser = Cli::command();
        hawser.build();
        let text = reference(&hawser);
        for shown in ["## hawser install\n", "### hawser run init\n", "--incoming-proxy-port", "`$HAWSER_NAMESPACE`"] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
        for hidden in ["hawser docs", "hawser run sample", "--firewall-bin-path"] {
            assert!(!text.contains(hidden), "{hidden}");
        }
    }
}
