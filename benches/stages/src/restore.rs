//! State that comes back: from its changelog, beside a bare loop that only polls it, and from a folder that was kept.

mod poll;
mod watch;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use quadrille_choreography::Cluster;
use quadrille_pipeline::Pipeline;
use quadrille_state::Stores;
use quadrille_telemetry::{Registry, Tracing};

use self::watch::{Restored, Restores};
use crate::{
    broker::{Broker, NewFlow, PARTITIONS, tag},
    contest::Contest,
    process,
    report::{Measured, median, verdict},
    stateful::{Payments, SETTLE, Setup, folder_bytes, pipeline, stores},
};

/// At least this share of the bare loop's rate, and at most so many seconds where the folder was kept.
const RATE_MIN: f64 = 0.4;
const KEPT_SECONDS_MAX: f64 = 2.0;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records of the topic: as many changes are in the changelog
    #[arg(long, default_value_t = 1_200_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    records: u64,

    /// Different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(8..=20_000_000))]
    keys: u64,

    /// Rounds that count; another one goes before them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Threads of each contender
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: u32,

    /// Memory for state, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    memory_mib: u64,
}

/// Everything the rounds share.
struct Arena<'a> {
    options: &'a Options,
    broker: Broker,
    cluster: Cluster,
    pipeline: Arc<Pipeline>,
    tag: String,
    changes: u64,
}

#[derive(Clone, Copy)]
struct Round {
    poll: Measured,
    memory: Measured,
    disk: Measured,
    kept: Restored,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut broker = Broker::start(&[("group.initial.rebalance.delay.ms", "0")])?;
    broker.create(&[NewFlow::schemas()])?;
    let mut arena = Arena {
        options,
        cluster: broker.cluster()?,
        broker,
        pipeline: pipeline("bench")?,
        tag: tag(),
        changes: 0,
    };
    let folder = tempfile::tempdir()?;
    arena.fill(folder.path())?;
    println!("round  contender  changes/s  CPU s/M");
    let mut rounds = Vec::new();
    for round in 0..=options.rounds {
        let measured = arena.round(folder.path())?;
        print(round, &measured);
        if round > 0 {
            rounds.push(measured);
        }
    }
    print_summary(&rounds);
    Ok(())
}

impl Arena<'_> {
    fn name(&self, of: &str) -> String {
        format!("bench-{}.{of}", self.tag)
    }

    /// Has a stage fill the changelog and a folder.
    fn fill(&mut self, folder: &Path) -> anyhow::Result<()> {
        let Options { records, keys, .. } = *self.options;
        let [input, output, changelog, group] =
            ["records", "out", "changes", "stage"].map(|it| self.name(it));
        self.broker.create(&NewFlow::with_dead_letters(&input))?;
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker
            .create(&[flow, NewFlow::changelog(&changelog)])?;
        self.broker.will_leave_group(&group);
        let mut payments = Payments::new(Arc::clone(&self.pipeline), keys, 0);
        payments.preload(self.broker.servers(), &input, 0..records)?;
        let setup = self.setup(Some(stores(folder, self.memory_bytes())?));
        let handlers = setup.handlers();
        let registry = Registry::default();
        self.contest(&setup, &registry, &Tracing::off())
            .run(|| handlers.make())?;
        drop((setup, handlers));
        std::thread::sleep(SETTLE);
        let changes = self.broker.contents(&changelog)?;
        self.broker.delete(&[&output])?;
        self.changes = changes.records;
        println!(
            "{changelog}: {} changes of {:.0} bytes, their keys {:.0}, of {keys} keys; {:.2} GB on disk",
            changes.records,
            changes.payload_mean(),
            changes.key_mean(),
            folder_bytes(folder)? as f64 / 1e9,
        );
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.options.memory_mib as usize * (1 << 20)
    }

    fn setup(&self, stores: Option<Stores>) -> Setup {
        let [input, output, changelog, group] =
            ["records", "out", "changes", "stage"].map(|it| self.name(it));
        Setup {
            cluster: self.cluster.clone(),
            pipeline: Arc::clone(&self.pipeline),
            input,
            output,
            changelog,
            group,
            lanes: self.options.lanes as usize,
            memory_bytes: self.memory_bytes(),
            stores,
        }
    }

    fn contest<'a>(
        &'a self,
        setup: &Setup,
        registry: &'a Registry,
        tracing: &'a Tracing,
    ) -> Contest<'a> {
        Contest {
            broker: &self.broker,
            config: setup.config(),
            records: self.options.records,
            registry,
            tracing,
        }
    }

    fn round(&mut self, kept: &Path) -> anyhow::Result<Round> {
        let output = self.name("out");
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker.create(&[flow])?;
        std::thread::sleep(SETTLE);
        let changelog = self.name("changes");
        let poll = poll::run(&self.broker, &changelog, self.options.lanes, self.changes)?;
        let memory = self.restore(None)?;
        let empty = tempfile::tempdir()?;
        let disk = self.restore(Some(empty.path()))?;
        let kept = self.restore(Some(kept))?;
        self.broker.delete(&[&output])?;
        let all = |restored: Restored| -> anyhow::Result<Measured> {
            anyhow::ensure!(
                restored.changes >= self.changes,
                "{} of {} changes were restored",
                restored.changes,
                self.changes
            );
            let changes = self.changes as f64;
            Ok(Measured {
                per_second: changes / restored.seconds,
                cpu_per_million: restored.cpu_seconds / changes * 1e6,
                broker_per_million: None,
            })
        };
        Ok(Round {
            poll,
            memory: all(memory)?,
            disk: all(disk)?,
            kept,
        })
    }

    /// The stage takes all partitions over; there are no new records.
    fn restore(&self, folder: Option<&Path>) -> anyhow::Result<Restored> {
        let stores = folder.map(|folder| stores(folder, self.memory_bytes()));
        let setup = self.setup(stores.transpose()?);
        let handlers = setup.handlers();
        let watch = Arc::new(Restores::default());
        let (registry, tracing) = (Registry::default(), Tracing::off());
        let cpu = process::cpu_of(std::process::id())?;
        let contest = self.contest(&setup, &registry, &tracing);
        let running = contest.start(|| handlers.make(), &watch)?;
        let done = running.wait(|_| watch.count() >= PARTITIONS as usize);
        let cpu = process::cpu_of(std::process::id())?.saturating_sub(cpu);
        running.end()?;
        done?;
        drop((setup, handlers));
        std::thread::sleep(SETTLE);
        let restored = watch.restored(cpu);
        restored.context("nothing was restored")
    }
}

fn print(round: u32, measured: &Round) {
    for (contender, it) in [
        ("poll", measured.poll),
        ("memory", measured.memory),
        ("disk", measured.disk),
    ] {
        println!(
            "{round:>5}  {contender:<9} {:>10.0}  {:>7.2}",
            it.per_second, it.cpu_per_million
        );
    }
    println!(
        "{round:>5}  kept: {:.3} s from the first call to the last partition, {} changes read",
        measured.kept.seconds, measured.kept.changes
    );
}

/// Medians, and medians of the ratios of the same round.
fn print_summary(rounds: &[Round]) {
    let rate = |of: fn(&Round) -> Measured| median(rounds.iter().map(|it| of(it).per_second));
    let share = |of: fn(&Round) -> Measured| {
        let shares = rounds.iter();
        median(shares.map(|it| of(it).per_second / it.poll.per_second))
    };
    println!(
        "\nmedians: poll {:.0} changes/s, memory {:.0}, disk {:.0}",
        rate(|it| it.poll),
        rate(|it| it.memory),
        rate(|it| it.disk)
    );
    for (name, share) in [
        ("memory", share(|it| it.memory)),
        ("disk", share(|it| it.disk)),
    ] {
        println!(
            "{name} / poll: {share:.2} (≥ {RATE_MIN} {})",
            verdict(share >= RATE_MIN)
        );
    }
    let seconds = median(rounds.iter().map(|it| it.kept.seconds));
    println!(
        "kept: {seconds:.3} s (≤ {KEPT_SECONDS_MAX} {})",
        verdict(seconds <= KEPT_SECONDS_MAX)
    );
}
