//! Listens on an address, and on "any address" whatever families the kernel has.
//!
//! In: an address, or one per family. Out: listeners, or the kernel's reason. `[::]` means IPv4 as well as IPv6, whatever the node's
//! defaults say; where the kernel has no IPv6 it means IPv4 alone. So settings that are right for clusters with IPv6 break nothing in one
//! without, and no pod with an IPv6 address is left without a proxy for it.
//!
//! Start at [`listen`] and [`listen_where_possible`].

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// How many connections wait to be accepted: as tokio's listeners have it.
const BACKLOG: i32 = 1024;

/// Listens on `address`.
///
/// # Errors
/// Where the address is taken or not of this machine, or may not be listened on.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    by(bind, address)
}

fn by<L>(bind: impl Fn(SocketAddr) -> io::Result<L>, address: SocketAddr) -> io::Result<L> {
    match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_family_missing(&error) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::info!(%error, %address, "there is no IPv6 here: listening for IPv4 alone");
            bind(address)
        }
        bound => bound,
    }
}

/// Listens on each of `addresses`, but for IPv6 ones that are not there.
///
/// # Errors
/// Those of [`listen`], and where none of the addresses is there; with the address.
pub fn listen_where_possible(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners = Vec::new();
    let mut missing = None;
    for &address in addresses {
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() && is_family_missing(&error) => {
                tracing::info!(%error, %address, "there is no IPv6 here: not listening for it");
                missing = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match missing {
        Some(missing) if listeners.is_empty() => Err(missing),
        _ => Ok(listeners),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the process before.
    socket.set_reuse_address(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // A node's net.ipv6.bindv6only would leave IPv4 out.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether an address could not be listened on because its family is not there: not in the kernel, or switched off.
fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// An address of nobody's, and so not of this machine: as `[::1]` is where IPv6 is switched off.
    const NOT_HERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    #[tokio::test]
    async fn leaves_out_an_ipv6_address_that_is_not_there_and_keeps_the_other() {
        let listeners = listen_where_possible(&[(Ipv4Addr::LOCALHOST, 0).into(), (NOT_HERE, 0).into()]).unwrap();
        assert_eq!(listeners.len(), 1);
        assert!(listeners[0].local_addr().unwrap().is_ipv4());
    }

    #[tokio::test]
    async fn no_address_at_all_is_an_error_and_so_is_one_that_is_taken() {
        let (address, _) = listen_where_possible(&[(NOT_HERE, 0).into()]).unwrap_err();
        assert_eq!(address.ip(), NOT_HERE);
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let taken = listener.local_addr().unwrap();
        let (address, error) = listen_where_possible(&[taken]).unwrap_err();
        assert_eq!((address, error.kind()), (taken, io::ErrorKind::AddrInUse));
    }

    #[test]
    fn any_address_is_any_of_ipv4_where_the_kernel_has_no_other_and_an_error_where_the_port_is_taken() {
        let kernel = |errno: i32| {
            move |address: SocketAddr| {
                if address.is_ipv4() { Ok(address) } else { Err(io::Error::from_raw_os_error(errno)) }
            }
        };
        let (any, own) = ("[::]:4143".parse().unwrap(), "[::1]:4143".parse().unwrap());
        for errno in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert_eq!(by(kernel(errno), any).unwrap(), "0.0.0.0:4143".parse().unwrap());
            assert_eq!(
                by(kernel(errno), own).unwrap_err().raw_os_error(),
                Some(errno),
                "an address means that address"
            );
        }
        for errno in [libc::EADDRINUSE, libc::EACCES] {
            assert_eq!(by(kernel(errno), any).unwrap_err().raw_os_error(), Some(errno));
        }
    }
}
