//! The feature stage with state, against a pump that writes as much and a store that is asked as much.

mod digest;
mod replay;
mod setup;
mod streams;
mod workload;

use std::{path::PathBuf, sync::Arc, time::Duration};

use quadrille_choreography::{Cluster, Limits};
use quadrille_pipeline::Pipeline;
use quadrille_state::Stores;
use quadrille_telemetry::{Registry, Tracing};

use self::{
    replay::{Changes, Place},
    streams::Streams,
};
pub use self::{
    setup::{Setup, folder_bytes, stores},
    workload::{Payments, pipeline, pipeline_text},
};
use crate::{
    broker::{Broker, Contents, NewFlow, PARTITIONS, tag},
    contest::Contest,
    reference::{Pump, Sizes, Writes},
    report::{self, Measured, median, verdict},
};

/// Clients that were dropped end within this: their threads' last poll.
pub const SETTLE: Duration = Duration::from_millis(1_500);
/// At most this multiple of the CPU of pump and store together, at no less than this share of the pump's rate.
const CPU_MAX: f64 = 1.3;
const RATE_MIN: f64 = 0.7;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records of the topic
    #[arg(long, default_value_t = 1_200_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    records: u64,

    /// Different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(8..=10_000_000))]
    keys: u64,

    /// Bytes of a payload, about
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    bytes: u64,

    /// Rounds that count; another one goes before them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Threads of each contender
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: u32,

    /// Memory for state, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    memory_mib: u64,

    /// State on disk, under this folder; otherwise in memory alone
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Also Kafka Streams: the folder benches/kafka-streams, built with `mvn -q package`
    #[arg(long)]
    kafka_streams: Option<PathBuf>,

    /// Settings of Kafka Streams, name=value
    #[arg(long, value_delimiter = ',')]
    streams_settings: Vec<String>,
}

/// Everything the rounds share.
struct Arena<'a> {
    options: &'a Options,
    broker: Broker,
    cluster: Cluster,
    pipeline: Arc<Pipeline>,
    tag: String,
    input: String,
}

/// What a round measured.
struct Round {
    stage: Measured,
    pump: Measured,
    store: Measured,
    streams: Option<streams::Figures>,
}

/// What the stage wrote.
struct Written {
    vectors: Contents,
    changes: Contents,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut broker = Broker::start(&[("group.initial.rebalance.delay.ms", "1000")])?;
    broker.create(&[NewFlow::schemas()])?;
    let tag = tag();
    let mut arena = Arena {
        options,
        cluster: broker.cluster()?,
        broker,
        pipeline: pipeline("bench")?,
        input: format!("bench-{tag}.records"),
        tag,
    };
    arena.preload()?;
    println!("round  contender   records/s  CPU s/M  broker CPU s/M");
    let mut rounds = Vec::new();
    // The first round is the Java compiler's: shown, not counted.
    for round in 0..=options.rounds {
        let measured = arena.round(round)?;
        if round > 0 {
            rounds.push(measured);
        }
    }
    print_summary(&rounds);
    Ok(())
}

impl Arena<'_> {
    fn preload(&mut self) -> anyhow::Result<()> {
        let Options {
            records,
            keys,
            bytes,
            lanes,
            ..
        } = *self.options;
        let topic = &self.input;
        self.broker.create(&NewFlow::with_dead_letters(topic))?;
        let mut payments = Payments::new(Arc::clone(&self.pipeline), keys, bytes);
        let mean = payments.preload(self.broker.servers(), topic, 0..records)?;
        println!(
            "{topic}: {records} records of {mean:.0} bytes, {keys} keys, {PARTITIONS} partitions; {lanes} lanes"
        );
        Ok(())
    }

    fn name(&self, contender: &str, round: u32) -> String {
        format!("bench-{}.{contender}-{round}", self.tag)
    }

    fn round(&mut self, round: u32) -> anyhow::Result<Round> {
        let (stage, written) = self.stage(round)?;
        let pump = self.pump(round, &written)?;
        let store = self.store(round)?;
        let streams = self.streams(round)?;
        let names = ["out", "changes"].map(|it| self.name(it, round));
        self.broker.delete(&names.each_ref().map(String::as_str))?;
        Ok(Round {
            stage,
            pump,
            store,
            streams,
        })
    }

    fn stage(&mut self, round: u32) -> anyhow::Result<(Measured, Written)> {
        let [output, changelog, group] = ["out", "changes", "stage"].map(|it| self.name(it, round));
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker
            .create(&[flow, NewFlow::changelog(&changelog)])?;
        self.broker.will_leave_group(&group);
        std::thread::sleep(SETTLE);
        let setup = Setup {
            cluster: self.cluster.clone(),
            pipeline: Arc::clone(&self.pipeline),
            input: self.input.clone(),
            output: output.clone(),
            changelog: changelog.clone(),
            group,
            lanes: self.options.lanes as usize,
            memory_bytes: self.memory_bytes(),
            stores: self.stores("stage", round)?,
        };
        let handlers = setup.handlers();
        let measured = Contest {
            broker: &self.broker,
            config: setup.config(),
            records: self.options.records,
            registry: &Registry::default(),
            tracing: &Tracing::off(),
        }
        .run(|| handlers.make())?;
        drop((setup, handlers));
        self.remove_folder("stage", round)?;
        std::thread::sleep(SETTLE);
        let written = Written {
            vectors: self
                .broker
                .verify(&output, &self.input, self.options.records)?,
            changes: self.broker.contents(&changelog)?,
        };
        print_line(round, "stage", &measured);
        if round == 0 {
            println!(
                "       vectors of {:.0} bytes; {:.3} changes of {:.0} bytes for each, their keys {:.0}",
                written.vectors.payload_mean(),
                written.changes.records as f64 / self.options.records as f64,
                written.changes.payload_mean(),
                written.changes.key_mean(),
            );
        }
        Ok((measured, written))
    }

    fn memory_bytes(&self) -> usize {
        self.options.memory_mib as usize * (1 << 20)
    }

    fn folder(&self, contender: &str, round: u32) -> Option<PathBuf> {
        let folder = self.options.folder.as_ref()?;
        Some(folder.join(self.name(contender, round)))
    }

    fn stores(&self, contender: &str, round: u32) -> anyhow::Result<Option<Stores>> {
        let folder = self.folder(contender, round);
        folder
            .map(|it| stores(&it, self.memory_bytes()))
            .transpose()
    }

    fn remove_folder(&self, contender: &str, round: u32) -> anyhow::Result<()> {
        match self.folder(contender, round) {
            Some(folder) => Ok(std::fs::remove_dir_all(folder)?),
            None => Ok(()),
        }
    }

    fn pump(&mut self, round: u32, written: &Written) -> anyhow::Result<Measured> {
        let [output, changelog, group] =
            ["pumped", "pumped-changes", "pump"].map(|it| self.name(it, round));
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker
            .create(&[flow, NewFlow::changelog(&changelog)])?;
        self.broker.will_leave_group(&group);
        std::thread::sleep(SETTLE);
        let sizes = Sizes {
            payload_bytes: written.vectors.payload_mean().round() as usize,
            changelog: changelog.clone(),
            changes: written.changes.records as f64 / self.options.records as f64,
            change_key_bytes: written.changes.key_mean().round() as usize,
            change_payload_bytes: written.changes.payload_mean().round() as usize,
        };
        let measured = Pump {
            broker: &self.broker,
            input: &self.input,
            output: &output,
            group: &group,
            lanes: self.options.lanes as usize,
            records: self.options.records,
            writes: Writes::Sized(sizes),
        }
        .run()?;
        std::thread::sleep(SETTLE);
        self.broker
            .verify(&output, &self.input, self.options.records)?;
        self.broker.delete(&[&output, &changelog])?;
        print_line(round, "pump", &measured);
        Ok(measured)
    }

    fn store(&self, round: u32) -> anyhow::Result<Measured> {
        let changes = Changes::read(&self.broker, &self.name("changes", round))?;
        let lanes = self.options.lanes as usize;
        // A lane's transaction is that of all its partitions.
        let batch = Limits::default().batch_records_max * lanes / PARTITIONS as usize;
        let place = match self.stores("replay", round)? {
            Some(stores) => Place::Disk(stores),
            None => Place::Memory,
        };
        let measured = changes.replay(&place, lanes, batch, self.options.records)?;
        drop(place);
        self.remove_folder("replay", round)?;
        print_line(round, "store", &measured);
        Ok(measured)
    }

    fn streams(&mut self, round: u32) -> anyhow::Result<Option<streams::Figures>> {
        let Some(folder) = &self.options.kafka_streams else {
            return Ok(None);
        };
        let [output, application] = ["streamed", "streams"].map(|it| self.name(it, round));
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker.create(&[flow])?;
        self.broker.will_leave_group(&application);
        std::thread::sleep(SETTLE);
        let streams = Streams {
            folder,
            settings: &self.options.streams_settings,
            input: &self.input,
            output: &output,
            application: &application,
            records: self.options.records,
        };
        let figures = streams.run(&self.broker)?;
        self.broker
            .verify(&output, &self.input, self.options.records)?;
        anyhow::ensure!(
            digest::of(&self.broker, &output)?
                == digest::of(&self.broker, &self.name("out", round))?,
            "Kafka Streams computed other vectors than the stage"
        );
        self.broker.delete(&[&output, &streams.changelog()])?;
        print_line(round, "streams", &figures.all);
        print_line(round, " 2nd half", &figures.second_half);
        Ok(Some(figures))
    }
}

fn print_line(round: u32, contender: &str, measured: &Measured) {
    println!(
        "{round:>5}  {contender:<10} {:>10.0}  {:>7.2}  {:>14}",
        measured.per_second,
        measured.cpu_per_million,
        report::broker_text(&[*measured]),
    );
}

/// Medians, and medians of the ratios of the same round.
fn print_summary(rounds: &[Round]) {
    println!("\nmedians     records/s  CPU s/M  broker CPU s/M");
    let line = |name: &str, of: &dyn Fn(&Round) -> Option<Measured>| {
        let own: Vec<Measured> = rounds.iter().filter_map(of).collect();
        if !own.is_empty() {
            println!(
                "{name:<10} {:>10.0}  {:>7.2}  {:>14}",
                median(own.iter().map(|it| it.per_second)),
                median(own.iter().map(|it| it.cpu_per_million)),
                report::broker_text(&own),
            );
        }
    };
    line("stage", &|round| Some(round.stage));
    line("pump", &|round| Some(round.pump));
    line("store", &|round| Some(round.store));
    line("streams", &|round| Some(round.streams.as_ref()?.all));
    line(" 2nd half", &|round| {
        Some(round.streams.as_ref()?.second_half)
    });
    let cpu = median(rounds.iter().map(|round| {
        let sum = round.pump.cpu_per_million + round.store.cpu_per_million;
        round.stage.cpu_per_million / sum
    }));
    let rate = median(
        rounds
            .iter()
            .map(|it| it.stage.per_second / it.pump.per_second),
    );
    println!(
        "stage / (pump + store), CPU: {cpu:.2} (≤ {CPU_MAX} {}); stage / pump, rate: {rate:.2} (≥ {RATE_MIN} {})",
        verdict(cpu <= CPU_MAX),
        verdict(rate >= RATE_MIN),
    );
    let streams = rounds
        .iter()
        .filter_map(|it| Some((it.stage, it.streams.as_ref()?.second_half)));
    let streams: Vec<(Measured, Measured)> = streams.collect();
    if !streams.is_empty() {
        let rate = median(
            streams
                .iter()
                .map(|(own, other)| other.per_second / own.per_second),
        );
        let cpu = median(
            streams
                .iter()
                .map(|(own, other)| other.cpu_per_million / own.cpu_per_million),
        );
        println!("streams' second half / stage: rate {rate:.2}, CPU {cpu:.1}");
    }
}
