//! Network namespaces that a test makes for itself. They need root, and nothing of them is left when they are dropped.
//!
//! A socket stays in the namespace it was made in, so a test makes its sockets inside, by [`Namespace::enter`], and goes
//! on outside. Start at [`Namespace::new`] and [`Namespace::join`].

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_uid};

/// A network of its own, with loopback up.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        // A namespace lives as long as a process is in it, or a file of it is open.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo made && read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` (util-linux) runs");
        let mut made = [0; 5];
        let stdout = holder.stdout.as_mut().unwrap();
        stdout.read_exact(&mut made).expect("tests that make network namespaces run as root");
        let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        drop(holder.stdin.take());
        holder.wait().unwrap();
        Self(namespace)
    }

    /// Joins both by a cable, whose ends have these addresses (with prefix lengths).
    pub(crate) fn join(&self, addresses: &[&str], other: &Self, other_addresses: &[&str]) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add eth0 type veth peer name eth0 netns {there}"));
        for (namespace, addresses) in [(self, addresses), (other, other_addresses)] {
            for address in addresses {
                // Addresses would be unusable for a second while others are asked whether they have them.
                let no_check = if address.contains(':') { " nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev eth0{no_check}"));
            }
            namespace.ip("link set eth0 up");
        }
    }

    /// Does something inside, on a thread that nothing else runs on.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does something inside as another user.
    pub(crate) fn enter_as<T: Send>(&self, user: u32, work: impl FnOnce() -> T + Send) -> T {
        self.enter(|| {
            set_thread_uid(Uid::from_raw(user)).unwrap();
            work()
        })
    }

    /// Runs a program inside; returns what it wrote and whether it succeeded.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Ran {
        let output = self.enter(|| Command::new(program).args(args).output());
        let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ip(&self, line: &str) {
        self.run("ip", &line.split(' ').collect::<Vec<_>>()).succeeded();
    }
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// What it wrote to standard output, for it succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}
