//! What a change of models costs those who use them: the latency of the stream and of Predict in windows in which versions
//! are pushed, tried on a share of the keys, promoted, rolled back and shadowed, beside quiet windows of the same run.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use quadrille_choreography::{Delivery, Limits};
use quadrille_model::package::Overwrite;
use quadrille_proto::{Service, Topics};
use quadrille_registry::{
    Action, Deployment, ModelId, PackageBytes, Registry, Role, Route, SHARE_WHOLE, WEIGHT_DEFAULT,
    promote, rollback,
};

use crate::{
    broker::{Broker, NewFlow, tag, wait_until},
    callers::{Call, Callers},
    forest,
    inbox::{self, Schedule},
    quartet::{self, Quartet},
    report::{median, percentile, verdict},
    watcher::{self, Watcher},
    workload,
};

/// The last row is there this long after its record was sent.
const ROWS_WITHIN: Duration = Duration::from_secs(120);
/// Records as fast as they go, for the greatest rate.
const FLOOD: u64 = 200_000;
/// In a hundred, of the keys that a canary has.
const CANARY_PERCENT: u32 = 10;
/// Of a window's 99th percentile to a quiet one's, at most.
const TARGET: f64 = 1.5;
/// Windows take turns.
const KINDS: [&str; 2] = ["quiet", "changing"];

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records a second [default: half of what the services do at most, which is measured first]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,

    /// Predict calls a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    calls: u32,

    /// Seconds of a window
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: u32,

    /// Quiet windows, each with one of changes after it
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    windows: u32,

    /// Seconds before the first window
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=600))]
    warm_up: u32,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let broker = Broker::start(&[])?;
    let folder = tempfile::tempdir()?;
    // Version 1, and two for each window of changes.
    let packages = (1..=1 + 2 * options.windows)
        .map(|version| forest::train_forest(&*workload::pipeline("bench")?, &version.to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    packages[0].save(&folder.path().join("model"), Overwrite::Refuse)?;
    let bytes = packages.iter().map(|package| PackageBytes {
        manifest: package.manifest_bytes().to_vec(),
        artefact: package.artefact_bytes().to_vec(),
    });
    let mut arena = Arena {
        options,
        packages: bytes.collect(),
        broker,
        model: folder.path().join("model"),
        folder: folder.path(),
        tag: tag(),
    };
    let rate = match options.rate {
        Some(rate) => rate,
        None => arena.rate_max()? / 2,
    };
    arena.measure(rate)
}

struct Arena<'a> {
    options: &'a Options,
    /// Of version 1 on.
    packages: Vec<PackageBytes>,
    broker: Broker,
    model: PathBuf,
    folder: &'a Path,
    tag: String,
}

impl Arena<'_> {
    /// Services on topics, groups and a database of their own.
    fn start(&mut self, name: &str) -> anyhow::Result<(Quartet, PathBuf)> {
        self.broker.create(&NewFlow::of_pipeline(name, None))?;
        for service in Service::ALL {
            self.broker.will_leave_group(&service.group(name));
        }
        let database = self.folder.join(format!("{name}.db"));
        let quartet = Quartet::start(&quartet::Options {
            cluster: self.broker.cluster()?,
            pipeline: workload::pipeline(name)?,
            delivery: Delivery::ExactlyOnce,
            lanes: std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            limits: Limits::default(),
            model: &self.model,
            database_url: format!("sqlite:{}", database.display()),
        })?;
        Ok((quartet, database))
    }

    /// Records a second from the inbox to SQL, at most.
    fn rate_max(&mut self) -> anyhow::Result<u32> {
        let name = format!("bench-{}-most", self.tag);
        let (quartet, database) = self.start(&name)?;
        let watcher = Watcher::start(&database, FLOOD)?;
        let schedule = Schedule {
            start: Instant::now(),
            per_second: u32::MAX,
        };
        inbox::send(
            self.broker.servers(),
            &Topics::of(&name).inbox,
            schedule,
            FLOOD,
        )?;
        await_rows(&watcher, FLOOD)?;
        let took = schedule.start.elapsed();
        watcher.finish()?;
        quartet.stop()?;
        self.broker.delete_pipeline(&name)?;
        let rate = FLOOD as f64 / took.as_secs_f64();
        println!("{rate:.0} records/s at most, inbox to SQL ({FLOOD} records)");
        Ok(rate as u32)
    }

    fn measure(&mut self, rate: u32) -> anyhow::Result<()> {
        let options = self.options;
        let name = format!("bench-{}-changes", self.tag);
        let (quartet, database) = self.start(&name)?;
        let operator = Operator {
            registry: Registry::open(&self.broker.cluster()?)?,
            packages: &self.packages,
            pipeline: name.clone(),
        };
        operator.push(1)?;
        operator.deploy(&[operator.live(1)], Action::Set)?;
        let (seconds, windows) = (u64::from(options.seconds), u64::from(options.windows));
        let all = u64::from(options.warm_up) + 2 * windows * seconds;
        let total = u64::from(rate) * all;
        let watcher = Watcher::start(&database, total)?;
        println!(
            "{rate} records/s and {} Predict calls/s; windows of {seconds} s",
            options.calls
        );
        let schedule = Schedule {
            start: Instant::now() + Duration::from_millis(100),
            per_second: rate,
        };
        let first = schedule.start + Duration::from_secs(options.warm_up.into());
        let window = Duration::from_secs(seconds);
        let (sent, calls) = std::thread::scope(|scope| {
            let servers = self.broker.servers();
            let inbox = Topics::of(&name).inbox;
            let sending = scope.spawn(move || inbox::send(servers, &inbox, schedule, total));
            let callers = Callers {
                address: quartet.address(Service::Inference)?,
                pipeline: name.clone(),
                schedule: Schedule {
                    per_second: options.calls,
                    ..schedule
                },
                total: u64::from(options.calls) * all,
            };
            let calling = scope.spawn(move || callers.run());
            let operated = (0..options.windows).try_for_each(|turn| {
                let begin = first + window * (2 * turn + 1);
                operator.change(2 + 2 * turn, begin, window)
            });
            let sent = sending.join().expect("the sender does not panic");
            let calls = calling.join().expect("the callers do not panic");
            operated?;
            anyhow::Ok((sent?, calls?))
        })?;
        await_rows(&watcher, total)?;
        let seen = watcher.finish()?;
        quartet.stop()?;
        self.broker.delete_pipeline(&name)?;
        println!("{total} rows of {total} records, each once; sent {sent:.1?} late at most");
        let stream = seen.iter().zip(0..).map(|(seen, n)| {
            let due = schedule.due(n);
            (due, seen.saturating_duration_since(due))
        });
        let stream: Vec<_> = stream.collect();
        let answers: Vec<_> = calls.iter().map(|call| (call.due, call.took)).collect();
        let windows = (0..2 * options.windows).map(|index| {
            let begin = first + window * index;
            let within = begin..begin + window;
            (
                Latencies::of(&stream, &within),
                Latencies::of(&answers, &within),
            )
        });
        print(&windows.collect::<Vec<_>>());
        check(&calls)
    }
}

/// Of each window, a quiet one first, what the stream and what the calls took.
fn print(windows: &[(Latencies, Latencies)]) {
    println!("window        stream p50     p99     max ms  Predict p50     p99     max ms");
    let line = |kind: &str, row: &(Latencies, Latencies)| {
        println!("{kind:<13}    {}         {}", row.0.text(), row.1.text());
    };
    for pair in windows.chunks(2) {
        pair.iter()
            .zip(KINDS)
            .for_each(|(row, kind)| line(kind, row));
    }
    println!("\nmedians; of the maxima the largest");
    let medians = [0, 1].map(|first| {
        let own = || windows.iter().skip(first).step_by(2);
        (
            Latencies::medians(own().map(|row| row.0)),
            Latencies::medians(own().map(|row| row.1)),
        )
    });
    medians
        .iter()
        .zip(KINDS)
        .for_each(|(row, kind)| line(kind, row));
    let [quiet, changing] = medians;
    let ratios = (changing.0.p99 / quiet.0.p99, changing.1.p99 / quiet.1.p99);
    println!(
        "p99 while models change: {:.2} times the quiet one in the stream, {:.2} times of Predict; ≤ {TARGET} {}",
        ratios.0,
        ratios.1,
        verdict(ratios.0 <= TARGET && ratios.1 <= TARGET)
    );
}

/// Fails where a call did, or where nothing changed.
fn check(calls: &[Call]) -> anyhow::Result<()> {
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for call in calls {
        match &call.answer {
            Ok(version) => *versions.entry(version).or_default() += 1,
            Err(status) => failed.push(status),
        }
    }
    println!(
        "{} calls, {} failed; answers by version: {versions:?}",
        calls.len(),
        failed.len()
    );
    if let Some(status) = failed.first() {
        bail!("calls failed, the first with {status}");
    }
    ensure!(versions.len() > 1, "no change took effect");
    Ok(())
}

fn await_rows(watcher: &Watcher, total: u64) -> anyhow::Result<()> {
    let all_there = || Ok(watcher.has_ended() || watcher.seen() >= total);
    wait_until(
        "rows in the database",
        ROWS_WITHIN,
        watcher::EVERY,
        all_there,
    )
}

/// Milliseconds.
#[derive(Clone, Copy)]
struct Latencies {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latencies {
    /// Of what was due within a window.
    fn of(all: &[(Instant, Duration)], window: &Range<Instant>) -> Self {
        let own = all.iter().filter(|(due, _)| window.contains(due));
        let mut all: Vec<Duration> = own.map(|(_, took)| *took).collect();
        all.sort_unstable();
        let ms = |share| percentile(&all, share).as_secs_f64() * 1e3;
        Latencies {
            p50: ms(0.5),
            p99: ms(0.99),
            max: ms(1.0),
        }
    }

    fn medians(all: impl Iterator<Item = Self> + Clone) -> Self {
        Latencies {
            p50: median(all.clone().map(|it| it.p50)),
            p99: median(all.clone().map(|it| it.p99)),
            max: all.map(|it| it.max).fold(0.0, f64::max),
        }
    }

    fn text(self) -> String {
        format!("{:>7.1} {:>7.1} {:>7.1}", self.p50, self.p99, self.max)
    }
}

/// Who pushes and deploys.
struct Operator<'a> {
    registry: Registry,
    packages: &'a [PackageBytes],
    pipeline: String,
}

impl Operator<'_> {
    /// All changes of a window: a version is tried, promoted and rolled back, the next one shadowed, and all as before.
    fn change(&self, version: u32, begin: Instant, window: Duration) -> anyhow::Result<()> {
        let at = |sixths: u32| {
            let due = begin + window / 6 * sixths;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        };
        at(0);
        self.push(version)?;
        let share = SHARE_WHOLE / 100 * CANARY_PERCENT;
        let canary = self.route("canary", version, Role::Canary { share });
        self.deploy(&[self.live(1), canary], Action::Set)?;
        at(1);
        self.deploy(&promote(&self.current()?, None)?, Action::Promote)?;
        at(2);
        let view = self.registry.view();
        let history = view.deployments.get(&self.pipeline);
        let history = history.context("deployments are on the log")?;
        let before = rollback(&self.pipeline, history, None)?;
        self.deploy(&before.routes, Action::Rollback)?;
        at(3);
        self.push(version + 1)?;
        let shadow = self.route("shadow", version + 1, Role::Shadow);
        self.deploy(&[self.live(1), shadow], Action::Set)?;
        at(5);
        self.deploy(&[self.live(1)], Action::Set)
    }

    fn id(&self, version: u32) -> ModelId {
        ModelId {
            name: forest::NAME.to_owned(),
            version: version.to_string(),
        }
    }

    fn route(&self, name: &str, version: u32, role: Role) -> Route {
        Route {
            name: name.to_owned(),
            model: self.id(version),
            role,
        }
    }

    fn live(&self, version: u32) -> Route {
        let weight = WEIGHT_DEFAULT;
        self.route("live", version, Role::Live { weight })
    }

    fn push(&self, version: u32) -> anyhow::Result<()> {
        let package = &self.packages[version as usize - 1];
        self.registry.push(&self.id(version), package, "bench", 0)?;
        Ok(())
    }

    fn current(&self) -> anyhow::Result<Deployment> {
        let view = self.registry.view();
        let history = view.deployments.get(&self.pipeline);
        let current = history.and_then(|history| history.current());
        current.cloned().context("there is no deployment")
    }

    fn deploy(&self, routes: &[Route], action: Action) -> anyhow::Result<()> {
        let deployment = Deployment {
            pipeline: self.pipeline.clone(),
            revision: self.current().map_or(1, |current| current.revision + 1),
            routes: routes.to_vec(),
            ranges: None,
            action,
            by: "bench".to_owned(),
            at_ms: 0,
            reason: String::new(),
        };
        Ok(self.registry.deploy(&deployment)?)
    }
}
