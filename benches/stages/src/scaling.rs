//! Weak scaling: replicas and load grow in step, so each replica has the same to do. Where all replicas share
//! the cores, time says little; what a record costs in CPU seconds says whether replicas get in each other's way.

use std::time::{Duration, Instant};

use quadrille_proto::{Service, Topics};

use crate::{
    broker::{Broker, NewFlow, tag, wait_until},
    process,
    report::{median, verdict},
    services::{Process, binaries},
    workload::{self, Workload},
};

const REPLICAS: [usize; 3] = [1, 2, 4];
/// With four replicas every partition of eight has a lane of its own.
const LANES: usize = 2;
const PAYLOAD_BYTES: usize = 256;
/// The load is sent in portions.
const PORTION_EVERY: Duration = Duration::from_millis(250);
const DONE_WITHIN: Duration = Duration::from_secs(60);
const TARGET: f64 = 0.9;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records a second for each replica
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=100_000))]
    rate: u64,

    /// Seconds of load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Rounds, each with every number of replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
}

struct Measured {
    /// CPU seconds of all replicas for a million records.
    cpu: f64,
    broker_cpu: Option<f64>,
    /// From the first record sent to the last one committed.
    took: Duration,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = binaries()?;
    let mut broker = Broker::start(&[])?;
    let mut all: Vec<(usize, Measured)> = Vec::new();
    println!("round  replicas  seconds  CPU s/M  broker CPU s/M");
    for round in 1..=options.rounds {
        for replicas in REPLICAS {
            let measured = measure(options, &binaries, &mut broker, replicas)?;
            println!(
                "{round:>5}  {replicas:>8}  {:>7.2}  {:>7.2}  {:>14.2}",
                measured.took.as_secs_f64(),
                measured.cpu,
                measured.broker_cpu.unwrap_or(f64::NAN),
            );
            all.push((replicas, measured));
        }
    }
    let of = |replicas: usize, value: fn(&Measured) -> f64| {
        let own = all.iter().filter(|(n, _)| *n == replicas);
        median(own.map(|(_, measured)| value(measured)))
    };
    println!(
        "\nmedians  replicas  seconds  CPU s/M  efficiency by CPU  by time   target ≥ {TARGET} by CPU"
    );
    for replicas in REPLICAS {
        let (cpu, took) = (
            of(replicas, |m| m.cpu),
            of(replicas, |m| m.took.as_secs_f64()),
        );
        let by_cpu = of(1, |m| m.cpu) / cpu;
        let by_time = of(1, |m| m.took.as_secs_f64()) / took;
        println!(
            "         {replicas:>8}  {took:>7.2}  {cpu:>7.2}  {by_cpu:>17.2}  {by_time:>7.2}   {}",
            verdict(by_cpu >= TARGET)
        );
    }
    Ok(())
}

fn measure(
    options: &Options,
    binaries: &std::path::Path,
    broker: &mut Broker,
    replicas: usize,
) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir()?;
    let name = format!("bench-{}-scaling", tag());
    broker.create(&NewFlow::of_pipeline(&name, None))?;
    broker.will_leave_group(&Service::Feature.group(&name));
    let text = workload::pipeline_text(&name)?;
    std::fs::write(folder.path().join("bench.toml"), text)?;
    let services = (0..replicas)
        .map(|replica| {
            let arguments = [format!("--instance=r{replica}"), format!("--lanes={LANES}")];
            Process::start(
                Service::Feature,
                binaries,
                broker.servers(),
                folder.path(),
                &arguments,
            )
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let total = options.rate * options.seconds * replicas as u64;
    let mut workload = Workload::new(workload::pipeline(&name)?, PAYLOAD_BYTES)?;
    let topic = Topics::of(&name).records;
    // The group comes to rest before anything is measured.
    let warm = options.rate * replicas as u64;
    let producer = workload::producer(broker.servers())?;
    workload.feed(&producer, &topic, Service::Feature, 0..warm)?;
    until_consumed(&services, warm)?;

    let cpu_of =
        || -> anyhow::Result<Duration> { services.iter().map(|s| process::cpu_of(s.pid())).sum() };
    let (before, broker_before, began) = (cpu_of()?, broker.cpu(), Instant::now());
    let portion = PORTION_EVERY.as_millis() as u64 * options.rate * replicas as u64 / 1_000;
    let (mut sent, mut due) = (0, began);
    while sent < total {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let to = (sent + portion).min(total);
        let numbers = warm + sent..warm + to;
        workload.feed(&producer, &topic, Service::Feature, numbers)?;
        sent = to;
        due += PORTION_EVERY;
    }
    until_consumed(&services, warm + total)?;
    let took = began.elapsed();
    let million = total as f64 / 1e6;
    let broker_cpu = broker.cpu().zip(broker_before);
    let measured = Measured {
        cpu: cpu_of()?.saturating_sub(before).as_secs_f64() / million,
        broker_cpu: broker_cpu.map(|(now, then)| (now - then).as_secs_f64() / million),
        took,
    };
    drop(services);
    broker.delete_pipeline(&name)?;
    Ok(measured)
}

fn until_consumed(services: &[Process], records: u64) -> anyhow::Result<()> {
    wait_until("the load", DONE_WITHIN, Duration::from_millis(20), || {
        let consumed = services.iter().map(Process::consumed);
        Ok(consumed.sum::<anyhow::Result<u64>>()? >= records)
    })
}
