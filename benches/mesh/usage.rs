//! What a process has used, from `/proc`, and how many system calls it makes, from perf.

use std::process::{Child, Command, Stdio};

/// `USER_HZ`: the ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

/// CPU time so far, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    pub(crate) fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The second field is the program's name in brackets, and may hold spaces.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let micros = |number: usize| fields[number - 3].parse::<f64>().unwrap() / TICKS * 1e6;
        Self { user: micros(14), system: micros(15) }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Memory now, in megabytes: all that is resident, and what of it is the process's own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) own: f64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let megabytes = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        Self { resident: megabytes("VmRSS:"), own: megabytes("RssAnon:") }
    }
}

/// Counts the system calls of a process until asked.
pub(crate) struct Syscalls(Child);

impl Syscalls {
    pub(crate) fn of(pid: u32) -> Self {
        let child = Command::new("perf")
            .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("perf (linux-perf) counts system calls");
        Self(child)
    }

    pub(crate) fn counted(self) -> f64 {
        // Interrupted, it tells what it counted.
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains("raw_syscalls"));
        let count = line.and_then(|line| line.split(',').next()).and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("perf counted nothing: {text}"))
    }
}
