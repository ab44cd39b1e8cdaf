//! argv in, exit code out.

use std::process::ExitCode;

// musl's own allocator takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let argv = hawser::cli::arguments(std::env::args_os(), |name| std::env::var_os(name).is_some());
    match hawser::cli::parse(argv) {
        Ok(cli) => hawser::cli::main(cli),
        Err(code) => code,
    }
}
