//! hawser: the mesh that makes secure communication in Kubernetes easier than insecure communication.
//!
//! Three floors; doors lead only downward. `ARCHITECTURE.md` walks through them.
//!
//! - **Roles** own sockets, the clock and the terminal, and never import each other; [`cli::run`] is the one door
//!   from the command line to the other roles.
//! - **Machinery** is async and does I/O, but knows no role.
//! - **Knowledge** is values in, values out: no sockets, no cluster, no clock.

// Roles.
pub mod cli;
pub mod control;
pub mod init;
pub mod proxy;
pub mod sample;

// Machinery.
pub mod cluster;
pub mod net;
pub mod telemetry;
pub mod wire;

// Knowledge.
pub mod checks;
pub mod manifest;
pub mod mesh;
pub mod pki;
