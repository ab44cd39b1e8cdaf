//! Everything people see that is not data: errors, progress, hints. The only place that prints to standard error.
//!
//! Data goes to standard output, through the `out` each command is given; the rest goes here.

use std::io::Write as _;

/// Prints the error with its causes, one a line.
pub fn report(error: &anyhow::Error) {
    // A closed pipe (`hawser edges | head`) is not worth a word.
    if error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }) {
        return;
    }
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "error: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(err, "  caused by: {cause}");
    }
}
