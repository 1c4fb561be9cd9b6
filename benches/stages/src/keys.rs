//! The feature service with more keys than its memory holds: memory, disk, rate, and how soon it is back after `kill -9`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use quadrille_proto::{Service, Topics};

use crate::{
    broker::{Broker, NewFlow, tag},
    cgroup::Cgroup,
    process,
    services::{Process, Start, binaries},
    stateful::{Payments, folder_bytes, pipeline, pipeline_text},
};

/// Records after the restart.
const AFTERWARDS: u64 = 8_000;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The slowest machine's rate.
const RECORD_TAKES_MAX: Duration = Duration::from_micros(500);
const STEPS: u64 = 10;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Different keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(8..=20_000_000))]
    keys: u64,

    /// Records; default: two for each key
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    records: Option<u64>,

    /// Memory of the service's cgroup, caches of files included, MiB; default: none, and no cgroup
    #[arg(long, value_parser = clap::value_parser!(u64).range(64..=65_536))]
    limit_mib: Option<u64>,

    /// The service's memory for state, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=65_536))]
    memory_mib: u64,
}

struct Arena<'a> {
    options: &'a Options,
    broker: Broker,
    name: String,
    records: u64,
    folder: tempfile::TempDir,
    cgroup: Option<Cgroup>,
    binaries: std::path::PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = binaries()?;
    let mut broker = Broker::start(&[("group.initial.rebalance.delay.ms", "0")])?;
    let name = format!("bench-{}-keys", tag());
    broker.create(&NewFlow::of_stateful_pipeline(&name))?;
    broker.will_leave_group(&Service::Feature.group(&name));
    let limit = options.limit_mib.map(|mib| mib << 20);
    let arena = Arena {
        cgroup: limit
            .map(|bytes| Cgroup::with_memory(&name, bytes))
            .transpose()?,
        folder: tempfile::tempdir()?,
        records: options.records.unwrap_or(options.keys * 2),
        binaries,
        broker,
        name,
        options,
    };
    let text = pipeline_text(&arena.name);
    std::fs::write(arena.folder.path().join("bench.toml"), text)?;
    let mut payments = Payments::new(pipeline(&arena.name)?, options.keys, 256);
    payments.preload(arena.broker.servers(), &arena.topic(), 0..arena.records)?;
    println!(
        "{} records of 256 bytes, {} keys; memory for state {} MiB, cgroup {}",
        arena.records,
        options.keys,
        options.memory_mib,
        options
            .limit_mib
            .map_or("none".to_owned(), |mib| format!("{mib} MiB")),
    );
    let service = arena.start()?;
    arena.load(&service)?;
    // What was not on disk yet is gone.
    service.kill()?;
    payments.preload(
        arena.broker.servers(),
        &arena.topic(),
        arena.records..arena.records + AFTERWARDS,
    )?;
    arena.restart()
}

impl Arena<'_> {
    fn topic(&self) -> String {
        Topics::of(&self.name).records
    }

    fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    fn start(&self) -> anyhow::Result<Process> {
        let state: &Path = &self.state();
        Process::launch(&Start {
            service: Service::Feature,
            binaries: &self.binaries,
            servers: self.broker.servers(),
            folder: self.folder.path(),
            arguments: &[
                format!("--state-dir={}", state.display()),
                format!("--state-memory-mb={}", self.options.memory_mib),
                "--instance=bench".to_owned(),
            ],
            cgroup: self.cgroup.as_ref(),
        })
    }

    fn load(&self, service: &Process) -> anyhow::Result<()> {
        println!("  done  records/s  CPU s/M  resident MiB  peak MiB  disk GB");
        let (mut since, mut before, mut cpu) = (Instant::now(), 0, Duration::ZERO);
        let begun = since;
        let deadline = since + RECORD_TAKES_MAX * u32::try_from(self.records)?;
        for step in 1..=STEPS {
            let goal = self.records * step / STEPS;
            let done = loop {
                let done = service.consumed()?;
                if done >= goal {
                    break done;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{done} of {} records were handled in all this time",
                    self.records
                );
                std::thread::sleep(LOOK_EVERY);
            };
            let (now, cpu_now) = (Instant::now(), process::cpu_of(service.pid())?);
            let memory = process::memory_of(service.pid())?;
            let more = (done - before) as f64;
            println!(
                "{:>5}%  {:>9.0}  {:>7.2}  {:>12.1}  {:>8.1}  {:>7.2}",
                step * 100 / STEPS,
                more / (now - since).as_secs_f64(),
                (cpu_now - cpu).as_secs_f64() / more * 1e6,
                memory.now_mib,
                memory.peak_mib,
                folder_bytes(&self.state())? as f64 / 1e9,
            );
            (since, before, cpu) = (now, done, cpu_now);
        }
        println!(
            "all: {:.0} records/s, CPU {:.2} s/M",
            self.records as f64 / begun.elapsed().as_secs_f64(),
            cpu.as_secs_f64() / self.records as f64 * 1e6
        );
        if let Some(cgroup) = &self.cgroup {
            let peak = cgroup.peak_bytes()? as f64 / f64::from(1 << 20);
            println!("the cgroup's peak, caches of files included: {peak:.0} MiB");
        }
        Ok(())
    }

    fn restart(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        let service = self.start()?;
        let ready = since.elapsed();
        let deadline = since + RECORD_TAKES_MAX * u32::try_from(self.records)?;
        while service.consumed()? < AFTERWARDS {
            ensure!(Instant::now() < deadline, "the service does not go on");
            std::thread::sleep(LOOK_EVERY);
        }
        let gone_on = since.elapsed();
        let sum = service.metric("quadrille_restore_duration_seconds_sum")?;
        let count = service.metric("quadrille_restore_duration_seconds_count")?;
        println!(
            "after kill -9: ready after {:.2} s, {AFTERWARDS} more records committed after {:.2} s; {count} partitions, restored in {:.2} s each on average",
            ready.as_secs_f64(),
            gone_on.as_secs_f64(),
            sum / count,
        );
        Ok(())
    }
}
