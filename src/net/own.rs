//! The connections that this process has made lately, to know one again that redirection brings back to it.
//!
//! A proxy whose own user is not exempt from redirection connects to itself whenever it connects to anybody, and nothing ever comes of it. In: both
//! addresses of each connection that is made, and of each that is accepted. Out: whether that is the same one. Redirection changes neither
//! the client's address nor, as the kernel tells it, where the client was going; and of two open connections one of these differs.
//!
//! Start at [`is_own`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;

use crate::mesh::connection::canonical;

/// As many as are made while one finds its way back, which is milliseconds.
const REMEMBERED_MAX: usize = 256;

/// Of the process, as its sockets are: client and server of each, the latest last.
static MADE: Mutex<VecDeque<(SocketAddr, SocketAddr)>> = Mutex::new(VecDeque::new());

/// Notes a connection that was made to `server`.
pub fn note(stream: &TcpStream, server: SocketAddr) {
    // A socket that has no address any more has no connection, either.
    let Ok(client) = stream.local_addr() else { return };
    let mut made = lock();
    if made.len() == REMEMBERED_MAX {
        made.pop_front();
    }
    made.push_back((canonical(client), canonical(server)));
}

/// Whether this process has made the connection that `client` meant for `server`.
pub fn is_own(client: SocketAddr, server: SocketAddr) -> bool {
    let sought = (canonical(client), canonical(server));
    lock().iter().rev().any(|made| *made == sought)
}

fn lock() -> MutexGuard<'static, VecDeque<(SocketAddr, SocketAddr)>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_known_again_by_both_its_addresses_until_many_others_were_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (client, server) = (stream.local_addr().unwrap(), "10.96.0.1:80".parse().unwrap());
        assert!(!is_own(client, server), "nobody has noted it");
        note(&stream, server);
        let mapped = format!("[::ffff:127.0.0.1]:{}", client.port()).parse().unwrap();
        assert!(is_own(client, server) && is_own(mapped, server));
        assert!(!is_own(client, "10.96.0.2:80".parse().unwrap()), "an app may use the same port to go elsewhere");
        for _ in 0..REMEMBERED_MAX {
            note(&stream, "10.96.0.3:80".parse().unwrap());
        }
        assert!(!is_own(client, server));
    }
}
