//! Roles and proxies on real sockets, without a cluster: in this process, on loopback, in network namespaces of the test.

mod destination;
mod identity;
mod inbound;
mod init;
mod outbound;
mod proxy;
