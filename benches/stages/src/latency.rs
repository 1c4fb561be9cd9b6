//! Latency end to end, inbox to SQL: from the moment a record was due to be sent to the moment its row is
//! visible to a reader of the database. A stall is charged to every record that was due in it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use quadrille_choreography::{Delivery, Limits};
use quadrille_model::package::Overwrite;
use quadrille_proto::{Service, Topics};

use crate::{
    broker::{Broker, NewFlow, tag, wait_until},
    forest,
    inbox::{self, Schedule},
    process, quartet,
    quartet::Quartet,
    report::{median, percentile, verdict},
    sink::Sink,
    watcher::{self, Watcher},
    workload,
};

/// The last row is there this long after its record was sent, or the round has failed. A group that breaks
/// up takes half a minute: that is to be seen as a figure.
const ROWS_WITHIN: Duration = Duration::from_secs(120);

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,

    /// Seconds measured in each round
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Seconds before that
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=60))]
    warm_up: u32,

    /// Rounds of each delivery that count; another one goes before them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Lanes of each service [default: as the services have it]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: Option<u32>,

    /// Milliseconds between a busy lane's batches, at most [default: as the services have it]
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    linger: Option<u64>,

    /// Trace every record, to a collector that forgets; says how many spans were taken and dropped
    #[arg(long)]
    traced: bool,

    /// Only this delivery
    #[arg(long, value_enum)]
    only: Option<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    ExactlyOnce,
    AtLeastOnce,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::ExactlyOnce => "exactly-once",
            Mode::AtLeastOnce => "at-least-once",
        }
    }

    fn delivery(self) -> Delivery {
        match self {
            Mode::ExactlyOnce => Delivery::ExactlyOnce,
            Mode::AtLeastOnce => Delivery::AtLeastOnce,
        }
    }

    /// At most, in ms: p50 where there is a target, and p99.
    fn target(self) -> (Option<f64>, f64) {
        match self {
            Mode::ExactlyOnce => (Some(80.0), 250.0),
            Mode::AtLeastOnce => (None, 30.0),
        }
    }
}

/// Milliseconds of one round.
#[derive(Debug, Clone, Copy)]
struct Latencies {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let ms = |share| percentile(&all, share).as_secs_f64() * 1e3;
        Latencies {
            p50: ms(0.5),
            p99: ms(0.99),
            p999: ms(0.999),
            max: ms(1.0),
        }
    }

    fn row(&self) -> String {
        format!(
            "{:>7.1} {:>7.1} {:>7.1} {:>7.1}",
            self.p50, self.p99, self.p999, self.max
        )
    }
}

struct Arena<'a> {
    options: &'a Options,
    broker: Broker,
    folder: tempfile::TempDir,
    tag: String,
}

/// Where services find their collector.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.traced && std::env::var_os(COLLECTOR).is_none() {
        return run_traced();
    }
    let broker = Broker::start(&[])?;
    let folder = tempfile::tempdir()?;
    let package = forest::train_forest(&*workload::pipeline("bench")?, "1")?;
    package.save(&folder.path().join("model"), Overwrite::Refuse)?;
    let mut arena = Arena {
        options,
        broker,
        folder,
        tag: tag(),
    };
    let modes: Vec<Mode> = match options.only {
        Some(mode) => vec![mode],
        None => vec![Mode::ExactlyOnce, Mode::AtLeastOnce],
    };
    println!(
        "{} records/s for {} s after {} s, four services of {} lanes in one process, SQLite; rows are seen within {:?}",
        options.rate,
        options.seconds,
        options.warm_up,
        arena.lanes(),
        watcher::EVERY
    );
    println!(
        "round  delivery           p50     p99   p99.9     max ms  services' CPU  sent late at most"
    );
    let mut rounds = Vec::new();
    // The first round is the Java compiler's: shown, not counted.
    for round in 0..=options.rounds {
        for mode in &modes {
            let latencies = arena.round(round, *mode)?;
            if round > 0 {
                rounds.push((*mode, latencies));
            }
        }
    }
    print_summary(&modes, &rounds);
    Ok(())
}

/// Runs this very command again where a collector is set.
fn run_traced() -> anyhow::Result<()> {
    let sink = Sink::start()?;
    let ended = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(COLLECTOR, sink.endpoint())
        .status()?;
    ensure!(ended.success(), "the traced run ended with {ended}");
    Ok(())
}

impl Arena<'_> {
    fn lanes(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        self.options
            .lanes
            .map_or(cores.max(2), |lanes| lanes as usize)
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        if let Some(linger) = self.options.linger {
            limits.linger_max = Duration::from_millis(linger);
        }
        limits
    }

    /// One round on topics, groups and a database of its own.
    fn round(&mut self, round: u32, mode: Mode) -> anyhow::Result<Latencies> {
        let name = format!("bench-{}-{}-{round}", self.tag, mode.name());
        let flows = NewFlow::of_pipeline(&name, None);
        self.broker.create(&flows)?;
        for service in Service::ALL {
            self.broker.will_leave_group(&service.group(&name));
        }
        let database = self.folder.path().join(format!("{name}.db"));
        let quartet = Quartet::start(&quartet::Options {
            cluster: self.broker.cluster()?,
            pipeline: workload::pipeline(&name)?,
            delivery: mode.delivery(),
            lanes: self.lanes(),
            limits: self.limits(),
            model: &self.folder.path().join("model"),
            database_url: format!("sqlite:{}", database.display()),
        })?;
        let cpu = process::cpu_of(std::process::id())?;
        let started = Instant::now();
        let measured = self.measure(&name, &database);
        let cpu = process::cpu_of(std::process::id())?.saturating_sub(cpu);
        let busy = cpu.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
        let spans = quartet.spans()?;
        quartet.stop()?;
        let (latencies, late) = measured?;
        self.broker.delete_pipeline(&name)?;
        println!(
            "{round:>5}  {:<13} {}      {busy:>6.1} %  {late:>8.1?}",
            mode.name(),
            latencies.row(),
        );
        spans.iter().for_each(|line| println!("       {line}"));
        Ok(latencies)
    }

    fn measure(&self, name: &str, database: &Path) -> anyhow::Result<(Latencies, Duration)> {
        let options = self.options;
        let total = u64::from(options.rate) * u64::from(options.warm_up + options.seconds);
        let watcher = Watcher::start(database, total)?;
        let schedule = Schedule {
            start: Instant::now() + Duration::from_millis(100),
            per_second: options.rate,
        };
        let inbox = Topics::of(name).inbox;
        let late = inbox::send(self.broker.servers(), &inbox, schedule, total)?;
        let all_there = || Ok(watcher.has_ended() || watcher.seen() >= total);
        let waited = wait_until(
            "rows in the database",
            ROWS_WITHIN,
            watcher::EVERY,
            all_there,
        );
        let seen = watcher.finish();
        waited?;
        let seen = seen?;
        ensure!(
            seen.len() as u64 == total,
            "{} rows, {total} records",
            seen.len()
        );
        let first = u64::from(options.rate) * u64::from(options.warm_up);
        let latency = |n: u64| seen[n as usize].saturating_duration_since(schedule.due(n));
        Ok((Latencies::of((first..total).map(latency).collect()), late))
    }
}

/// Medians of the rounds' percentiles; of the maxima the largest.
fn print_summary(modes: &[Mode], rounds: &[(Mode, Latencies)]) {
    println!("\nmedians              p50     p99   p99.9     max ms  target");
    for mode in modes {
        let own = || rounds.iter().filter(|(who, _)| who == mode).map(|(_, l)| l);
        let all = Latencies {
            p50: median(own().map(|l| l.p50)),
            p99: median(own().map(|l| l.p99)),
            p999: median(own().map(|l| l.p999)),
            max: own().map(|l| l.max).fold(0.0, f64::max),
        };
        let (p50, p99) = mode.target();
        let first = p50.map_or(String::new(), |most| {
            format!("p50 ≤ {most} {}, ", verdict(all.p50 <= most))
        });
        let second = format!("p99 ≤ {p99} {}", verdict(all.p99 <= p99));
        println!("{:<13}     {}      {first}{second}", mode.name(), all.row());
    }
}
