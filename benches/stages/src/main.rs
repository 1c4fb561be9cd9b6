//! The side-by-side benchmarks: the stages against a bare pump, end-to-end latency, idle cost.
//!
//! Figures of one machine at one time mean little; ratios of rounds taken in turn mean more, so
//! every comparison here is interleaved and every round is checked to have lost nothing.
//! It does not judge a model, and it does not measure the broker beyond its CPU, for context.

#![forbid(unsafe_code)]

mod broker;
mod callers;
mod cgroup;
mod changes;
mod contest;
mod forest;
mod http;
mod idle;
mod inbox;
mod keys;
mod latency;
mod process;
mod quartet;
mod reference;
mod report;
mod restore;
mod scaling;
mod services;
mod sink;
mod stages;
mod stateful;
mod watcher;
mod workload;

use clap::{Parser, Subcommand};

/// Benchmarks of Quadrille on a local Apache Kafka, or on the one KAFKA_BOOTSTRAP_SERVERS names.
///
/// Without a command all of them run with their defaults. Topics, groups, files and processes that it makes are removed.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Subcommand)]
enum Bench {
    /// Throughput and CPU of the feature and the inference stage, against a raw librdkafka copy pump
    Stages(stages::Options),
    /// The feature stage with state, against a pump that writes as much and a store that is asked as much
    Stateful(stateful::Options),
    /// Restore of state from its changelog, against a bare poll loop; and from a folder that was kept
    Restore(restore::Options),
    /// The feature service with more keys than its memory holds: memory, disk, rate, and its return after kill -9
    Keys(keys::Options),
    /// Latency from the inbox to SQL through all four services, at a fixed rate
    Latency(latency::Options),
    /// Start-up time, idle CPU and memory of each service's process, and memory under load
    Idle(idle::Options),
    /// CPU of a record with 1, 2 and 4 replicas of feature, the load grown in step
    Scaling(scaling::Options),
    /// Latency of stream and Predict while models change, beside quiet windows of the same run
    Changes(changes::Options),
    /// A collector that forgets what it takes
    #[command(hide = true)]
    Sink,
}

impl Bench {
    fn run(&self) -> anyhow::Result<()> {
        match self {
            Bench::Stages(options) => stages::run(options),
            Bench::Stateful(options) => stateful::run(options),
            Bench::Restore(options) => restore::run(options),
            Bench::Keys(options) => keys::run(options),
            Bench::Latency(options) => latency::run(options),
            Bench::Idle(options) => idle::run(options),
            Bench::Scaling(options) => scaling::run(options),
            Bench::Changes(options) => changes::run(options),
            Bench::Sink => sink::serve(),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    quadrille_telemetry::logs::init("warn").map_err(anyhow::Error::msg)?;
    match cli.bench {
        Some(bench) => bench.run(),
        None => [
            "stages", "stateful", "restore", "latency", "idle", "scaling", "changes",
        ]
        .into_iter()
        .filter_map(|name| Cli::parse_from(["bench-stages", name]).bench)
        .try_for_each(|bench| bench.run()),
    }
}
