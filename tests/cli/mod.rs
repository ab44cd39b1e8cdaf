//! The binary as users run it: arguments in; stdout, stderr and exit code out.

mod sample;
