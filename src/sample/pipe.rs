//! Joins standard input and output to a TCP connection: whoever can run a command in a network can speak TCP in it.
//!
//! Two threads that block: there is nothing to schedule.

use std::io;
use std::net::{Shutdown, TcpStream};

use anyhow::Context as _;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to connect to
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// Ends when the server has said its last byte.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let received = TcpStream::connect(&args.address).with_context(|| format!("cannot connect to {}", args.address))?;
    let sent = received.try_clone().context("cannot split the connection")?;
    std::thread::spawn(move || {
        // What goes wrong here ends the other direction too.
        let _ = copy(&mut io::stdin(), &mut &sent);
        let _ = sent.shutdown(Shutdown::Write);
    });
    copy(&mut &received, &mut io::stdout()).context("the connection broke")
}

/// Copies what there is at once, rather than wait for full buffers.
fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        to.flush()?;
    }
}
