//! argv in, exit code out.

use std::process::ExitCode;

// musl's own allocator takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match hawser::cli::parse(hawser::cli::arguments(std::env::args_os())) {
        Ok(cli) => hawser::cli::main(cli),
        Err(code) => code,
    }
}
