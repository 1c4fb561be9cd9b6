//! What Linux knows of a process: CPU time and resident memory, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, bail};

/// `/proc` counts CPU time in these on every architecture Linux runs Rust on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of a process so far, user and system, all threads. Resolution: 10 ms.
pub fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The second field, the command's name in brackets, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<u64> = (rest.split_whitespace().skip(11).take(2))
        .filter_map(|field| field.parse().ok())
        .collect();
    match ticks[..] {
        [user, system] => Ok(Duration::from_secs_f64(
            (user + system) as f64 / TICKS_PER_SECOND,
        )),
        _ => bail!("{path} has no CPU times"),
    }
}

/// Resident memory, MiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub now_mib: f64,
    pub peak_mib: f64,
}

/// Memory of a process.
pub fn memory_of(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let mib = |name| kib(name).map(|kib| kib / 1024.0);
    match (mib("VmRSS"), mib("VmHWM")) {
        (Some(now_mib), Some(peak_mib)) => Ok(Memory { now_mib, peak_mib }),
        _ => bail!("{path} tells no memory: the process has ended"),
    }
}
