//! The passphrase of a key: never an argument, for every user of a machine can read those.
//!
//! In: the name of a file, or `-` for standard input. Out: the first line of it, or what a person types, which is not shown.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::output;

/// A longer line is no passphrase but another kind of file.
const BYTES_MAX: u64 = 4096;

/// Reads the passphrase; a person who makes up a new one types it twice.
pub(super) fn read(file: &Path, is_new: bool) -> anyhow::Result<String> {
    let is_stdin = file.as_os_str() == "-";
    let passphrase = if is_stdin && std::io::stdin().is_terminal() {
        let passphrase = output::ask_secret("passphrase of the key")?;
        if is_new && output::ask_secret("the same again")? != passphrase {
            bail!("the two passphrases are not the same");
        }
        passphrase
    } else if is_stdin {
        first_line(std::io::stdin().lock()).context("cannot read the passphrase from standard input")?
    } else {
        let cannot = || format!("cannot read the passphrase from `{}`", file.display());
        first_line(File::open(file).with_context(cannot)?).with_context(cannot)?
    };
    if passphrase.is_empty() {
        bail!("the passphrase is empty");
    }
    Ok(passphrase)
}

fn first_line(from: impl Read) -> anyhow::Result<String> {
    let mut line = String::new();
    BufReader::new(from.take(BYTES_MAX + 1)).read_line(&mut line)?;
    if line.len() as u64 > BYTES_MAX {
        bail!("its first line has more than {BYTES_MAX} bytes");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_first_line_with_all_its_spaces() {
        assert_eq!(first_line("correct horse \nbattery\n".as_bytes()).unwrap(), "correct horse ");
        assert_eq!(first_line("dos\r\n".as_bytes()).unwrap(), "dos");
        assert_eq!(first_line("".as_bytes()).unwrap(), "");
        assert!(first_line("x".repeat(5000).as_bytes()).is_err());
    }
}
