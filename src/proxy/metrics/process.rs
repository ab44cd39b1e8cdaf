//! What the kernel says of this process: memory, descriptors, CPU time.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// `process_*`, read from `/proc` when scraped.
#[derive(Debug)]
pub(super) struct Process;

/// The kernel's clock ticks a second in `/proc`: 100 on every platform hawser is built for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(metric)
        };
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            let kilobytes = |field| kilobytes(&status, field);
            if let Some(resident) = kilobytes("VmRSS:") {
                gauge("process_resident_memory_bytes", "Resident memory", resident * 1024.0)?;
            }
            if let Some(size) = kilobytes("VmSize:") {
                gauge("process_virtual_memory_bytes", "Virtual memory", size * 1024.0)?;
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors", open.count() as f64)?;
        }
        let Some((ticks, started_at)) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(times)
        else {
            return Ok(());
        };
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", started_at)?;
        let metric =
            encoder.encode_descriptor("process_cpu_seconds", "User and system CPU time", None, MetricType::Counter)?;
        ConstCounter::new(ticks / TICKS_PER_SECOND).encode(metric)
    }
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// CPU ticks used so far, and the second of the start, from `/proc/self/stat`.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The second field is the program's name in brackets, and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some((field(14)? + field(15)?, now - uptime + field(22)? / TICKS_PER_SECOND))
}
