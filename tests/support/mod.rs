//! What the tests share: running the binary, and waiting for what will be true.

pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod identity;
pub(crate) mod metrics;
pub(crate) mod namespace;
pub(crate) mod objects;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Between two looks of [`eventually`]: short enough not to matter, long enough not to keep a core busy.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The binary under test: the one `make` built, where it says so; else the one Cargo built for these tests.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("HAWSER").map_or_else(|| env!("CARGO_BIN_EXE_hawser").into(), PathBuf::from)
}

/// A run of the binary: `Hawser::new(["install"]).succeeds()`.
#[must_use = "nothing has run yet"]
pub(crate) struct Hawser {
    command: Command,
    stdin: String,
}

impl Hawser {
    /// Nothing of this process's own surroundings gets in: neither a kubeconfig nor `HAWSER_*`.
    pub(crate) fn new<I>(args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut command = Command::new(binary());
        command.args(args.into_iter().map(Into::into)).env_clear();
        for kept in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("KUBECONFIG", "/nonexistent/kubeconfig");
        Self { command, stdin: String::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    pub(crate) fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Whatever comes of it.
    pub(crate) fn output(mut self) -> Output {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", self.command));
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            // A command that fails early does not read what it is given.
            let _ = stdin.write_all(self.stdin.as_bytes());
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Its standard output, after exit code 0.
    #[track_caller]
    pub(crate) fn succeeds(self) -> String {
        let shown = format!("{:?}", self.command);
        let output = self.output();
        assert!(output.status.success(), "{shown} failed with {}:\n{}", output.status, both(&output));
        text(&output.stdout)
    }

    /// Its standard error, after exactly this exit code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        let shown = format!("{:?}", self.command);
        let output = self.output();
        assert_eq!(output.status.code(), Some(code), "{shown}:\n{}", both(&output));
        text(&output.stderr)
    }

    /// Leaves it running until the guard is dropped.
    pub(crate) fn starts(mut self) -> Running {
        let child = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Running(child)
    }
}

/// A child process, which is killed where the test ends before it does.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until `look` has an answer; past the deadline, the test fails with what was seen last.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) if begin.elapsed() > within => panic!("not within {within:?}: {what}; last seen: {seen:#?}"),
            Err(_) => std::thread::sleep(LOOK_PAUSE),
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a process said, for messages of failed tests.
pub(crate) fn both(output: &Output) -> String {
    format!("--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// A port of this machine that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
