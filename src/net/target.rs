//! Asks the kernel where a redirected connection was going before the redirection (`SO_ORIGINAL_DST`).

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address the client meant to reach.
///
/// # Errors
/// `ENOENT` where no redirection rule (no conntrack entry) has touched the connection: it came to the proxy's port itself
/// in a network without rules.
pub fn target(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    // A dual-stack listener sees IPv4 peers as mapped addresses, whose conntrack entry is an IPv4 one.
    let is_v4 = match stream.local_addr()? {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(local) => local.ip().to_ipv4_mapped().is_some(),
    };
    let address = if is_v4 { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    address
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the original destination is no IP address"))
}
