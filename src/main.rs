//! argv in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;

// musl's own allocator takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = hawser::cli::Cli::parse_from(hawser::cli::arguments(std::env::args_os()));
    hawser::cli::main(cli)
}
