//! What a service costs when nothing happens, and whether its memory stays where it is when much does.
//! Each runs as the process users start.

use std::time::{Duration, Instant};

use anyhow::ensure;
use quadrille_model::package::Overwrite;
use quadrille_proto::{Service, Topics};

use crate::{
    broker::{Broker, NewFlow, tag},
    forest, process,
    report::verdict,
    services::{Process, binaries},
    workload::{self, Workload},
};

/// Records a service may be behind while it is loaded: more than its buffers take, little enough for a small disk.
const AHEAD_MAX: u64 = 400_000;
const CHUNK: u64 = 100_000;
/// Bytes a partition of the loaded topics keeps, four times what lies in `AHEAD_MAX` records.
const RETENTION_BYTES: u64 = 64 << 20;
const PAYLOAD_BYTES: usize = 256;

const READY_TARGET: Duration = Duration::from_secs(1);
const CPU_TARGET_PERCENT: f64 = 2.0;
const IDLE_TARGET_MIB: f64 = 30.0;
const LOADED_TARGET_MIB: f64 = 128.0;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records pushed through feature
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10..=100_000_000))]
    records: u64,

    /// Seconds before memory is read
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,

    /// Seconds over which idle CPU is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = binaries()?;
    // Passed records leave the disk soon.
    let mut broker = Broker::start(&[("log.retention.check.interval.ms", "2000")])?;
    let folder = tempfile::tempdir()?;
    let name = format!("bench-{}-idle", tag());
    broker.create(&NewFlow::of_pipeline(&name, Some(RETENTION_BYTES)))?;
    for service in Service::ALL {
        broker.will_leave_group(&service.group(&name));
    }
    std::fs::write(
        folder.path().join("bench.toml"),
        workload::pipeline_text(&name)?,
    )?;
    let package = forest::train_forest(&*workload::pipeline(&name)?, "1")?;
    package.save(&folder.path().join("model"), Overwrite::Refuse)?;

    let start = |service| Process::start(service, &binaries, broker.servers(), folder.path(), &[]);
    // With the first group and transaction the broker makes topics of its own: not a service's second.
    drop(start(Service::Ingest)?);
    let mut services = Service::ALL
        .map(start)
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    idle(options, &services)?;
    let feature = services.remove(
        Service::ALL
            .iter()
            .take_while(|s| **s != Service::Feature)
            .count(),
    );
    drop(services);
    load(options, &broker, &name, &feature)
}

/// Prints what each costs while nothing happens.
fn idle(options: &Options, services: &[Process]) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_secs(options.settle));
    let before = services
        .iter()
        .map(|s| process::cpu_of(s.pid()))
        .collect::<Result<Vec<_>, _>>()?;
    let memory = services
        .iter()
        .map(|s| process::memory_of(s.pid()))
        .collect::<Result<Vec<_>, _>>()?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    println!(
        "service     ready ms  idle CPU %  resident MiB  targets: ready ≤ 1 s, CPU ≤ 2 %, ≤ 30 MiB"
    );
    for ((replica, before), memory) in services.iter().zip(before).zip(memory) {
        let cpu = process::cpu_of(replica.pid())?.saturating_sub(before);
        let percent = cpu.as_secs_f64() / options.seconds as f64 * 100.0;
        println!(
            "{:<10} {:>9.0}  {percent:>10.2}  {:>12.1}  {}, {}, {}",
            replica.service.name(),
            replica.ready.as_secs_f64() * 1e3,
            memory.now_mib,
            verdict(replica.ready <= READY_TARGET),
            verdict(percent <= CPU_TARGET_PERCENT),
            verdict(memory.now_mib <= IDLE_TARGET_MIB),
        );
    }
    Ok(())
}

/// Pushes records through feature, with always some waiting for it, and prints its memory as it goes.
fn load(
    options: &Options,
    broker: &Broker,
    pipeline: &str,
    feature: &Process,
) -> anyhow::Result<()> {
    let total = options.records;
    let mut workload = Workload::new(workload::pipeline(pipeline)?, PAYLOAD_BYTES)?;
    let topic = Topics::of(pipeline).records;
    println!("\nfeature under load, {total} records\n  done  resident MiB  peak MiB");
    let (mut pushed, mut step) = (0, 0);
    let mut residents = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(120) + Duration::from_micros(total * 200);
    while step < 10 {
        let done = feature.consumed()?;
        while step < 10 && done >= total * (step + 1) / 10 {
            step += 1;
            let memory = process::memory_of(feature.pid())?;
            println!(
                "{:>5}%  {:>12.1}  {:>8.1}",
                step * 10,
                memory.now_mib,
                memory.peak_mib
            );
            residents.push(memory);
        }
        if pushed < total && pushed < done + AHEAD_MAX {
            let to = (pushed + CHUNK).min(total);
            workload.preload(broker.servers(), &topic, Service::Feature, pushed..to)?;
            pushed = to;
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(
            Instant::now() < deadline,
            "feature took {done} of {pushed} records in all this time"
        );
    }
    if let [first, .., last] = residents[..] {
        println!(
            "peak {:.1} MiB: ≤ {LOADED_TARGET_MIB} {}; from the first tenth to the last {:+.1} MiB",
            last.peak_mib,
            verdict(last.peak_mib <= LOADED_TARGET_MIB),
            last.now_mib - first.now_mib,
        );
    }
    Ok(())
}
