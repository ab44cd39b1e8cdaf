//! Roles and proxies on real sockets, without a cluster: in this process, on loopback, in network namespaces of the test.

mod annotations;
mod apps;
mod destination;
mod gateway;
mod http1;
mod identity;
mod inbound;
mod init;
mod outbound;
mod pair;
mod proxy;
mod replicas;
mod rotation;
