//! Roles and proxies on real sockets, without a cluster: in this process, on loopback, in network namespaces of the test.

mod destination;
mod identity;
mod init;
mod outbound;
