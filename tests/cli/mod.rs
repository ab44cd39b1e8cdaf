//! The binary as users run it: arguments in; stdout, stderr and exit code out.

mod generated;
mod image;
mod sample;
mod version;
