//! Whether anyone else still uses the network of this pod.
//!
//! In: the kernel's lists of TCP sockets, which show those of all containers of a pod, and their users. Out: yes or no.
//!
//! Start at [`others_are_left`].

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;

/// One file per IP family; the second is missing where the kernel has no IPv6.
const LISTS: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// States of `include/net/tcp_states.h`: connections in other states are on their way out, and some have no process any more.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// The user that this process runs as.
///
/// # Errors
/// Where there is no `/proc`.
pub fn own_user() -> io::Result<u32> {
    Ok(std::fs::metadata("/proc/self")?.uid())
}

/// Whether a process of another user than `own` listens, or has a connection.
///
/// # Errors
/// Where the kernel does not tell.
pub fn others_are_left(own: u32) -> io::Result<bool> {
    for list in LISTS {
        let file = match std::fs::File::open(list) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines() {
            if user(&line?).is_some_and(|user| user != own) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whose socket a line is about, if somebody has it open. Lines are as `proc_pid_net(5)` says.
fn user(line: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let state = fields.next()?;
    let user = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?;
    ((state == ESTABLISHED || state == LISTEN) && inode != "0").then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

    fn line(state: &str, user: u32, inode: u32) -> String {
        format!(
            "   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {user}        0 {inode} 1 0 100 0 0 10 0"
        )
    }

    #[test]
    fn sockets_that_somebody_has_open_have_a_user() {
        assert_eq!(user(&line(LISTEN, 1000, 77)), Some(1000));
        assert_eq!(user(&line(ESTABLISHED, 0, 78)), Some(0));
    }

    #[test]
    fn those_on_their_way_out_have_none() {
        assert_eq!(user(&line("06", 0, 0)), None, "TIME_WAIT");
        assert_eq!(user(&line("08", 1000, 77)), None, "CLOSE_WAIT");
        assert_eq!(user(&line(ESTABLISHED, 1000, 0)), None, "an orphan");
        assert_eq!(user(HEAD), None);
        assert_eq!(user(""), None);
    }
}
