//! The binary as users run it: arguments in; stdout, stderr and exit code out.

mod bad_input;
mod generated;
mod image;
mod inject;
mod install;
mod install_sh;
mod proxy_flags;
mod reading;
mod sample;
mod trust_create;
mod uninstall;
mod version;
