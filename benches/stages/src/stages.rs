//! Throughput: the bare pump, the feature stage and the inference stage on preloaded topics, in turn.

use std::{sync::Arc, time::Duration};

use inference::serving::Serving;
use quadrille_choreography::{Cluster, CommitMode, Handler, Limits, Schemas, StageConfig};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use quadrille_telemetry::{Registry, Tracing, metrics::ServingMetrics};

use crate::{
    broker::{Broker, NewFlow, tag},
    contest::Contest,
    forest,
    reference::{Pump, Writes},
    report::{self, Measured, median, verdict},
    sink::Sink,
    workload::{self, Workload},
};

/// Clients that were dropped end within this: their threads' last poll.
const SETTLE: Duration = Duration::from_millis(1_500);

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Records of each topic
    #[arg(long, default_value_t = 1_200_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    records: u64,

    /// Bytes of a payload, about
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    bytes: u64,

    /// Rounds that count; another one goes before them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Threads of each contender
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: u32,

    /// Only these contenders; ratios need the reference
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contender>,

    /// Records of a stage's transaction, at most
    #[arg(long, default_value_t = Limits::default().batch_records_max)]
    batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Contender {
    Reference,
    Feature,
    Inference,
    /// Feature without a collector, on records with a trace context: the measure of the next three
    TracesOff,
    /// Feature with a collector, no record traced
    Traces0,
    /// One in a hundred
    Traces1,
    /// Every one; what the collector is too slow for is dropped
    Traces100,
}

impl Contender {
    const DEFAULT: [Contender; 3] = [
        Contender::Reference,
        Contender::Feature,
        Contender::Inference,
    ];

    /// Of how many records one is traced; 0: none. None where records have no context.
    fn traced(self) -> Option<u64> {
        match self {
            Contender::TracesOff | Contender::Traces0 => Some(0),
            Contender::Traces1 => Some(100),
            Contender::Traces100 => Some(1),
            _ => None,
        }
    }

    /// What it is compared with.
    fn measure(self) -> Self {
        match self {
            Contender::Reference | Contender::Feature | Contender::Inference => {
                Contender::Reference
            }
            _ => Contender::TracesOff,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Contender::Reference => "reference",
            Contender::Feature => "feature",
            Contender::Inference => "inference",
            Contender::TracesOff => "traces-off",
            Contender::Traces0 => "traces-0",
            Contender::Traces1 => "traces-1",
            Contender::Traces100 => "traces-100",
        }
    }

    /// At least this share of the reference's rate, at no more than this multiple of its CPU.
    fn target(self) -> Option<(f64, f64)> {
        match self {
            Contender::Reference | Contender::TracesOff | Contender::Traces100 => None,
            Contender::Traces0 => Some((0.98, 1.02)),
            Contender::Traces1 => Some((0.96, 1.04)),
            Contender::Feature => Some((0.6, 2.0)),
            Contender::Inference => Some((0.7, 2.3)),
        }
    }
}

/// Everything the rounds share.
struct Arena<'a> {
    options: &'a Options,
    broker: Broker,
    cluster: Cluster,
    pipeline: Arc<Pipeline>,
    serving: Serving,
    tag: String,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    // As any broker in earnest: members that come together join together.
    let mut broker = Broker::start(&[("group.initial.rebalance.delay.ms", "1000")])?;
    let pipeline = workload::pipeline("bench")?;
    let package = forest::train_forest(&pipeline, "1")?;
    let tag = tag();
    broker.create(&[NewFlow::schemas()])?;
    let mut arena = Arena {
        options,
        cluster: broker.cluster()?,
        broker,
        serving: Serving::fixed(
            vec![(Arc::clone(&pipeline), package)],
            ServingMetrics::register(&Registry::default()),
        )?,
        pipeline,
        tag,
    };
    let contenders = match options.only.is_empty() {
        true => Contender::DEFAULT.to_vec(),
        false => options.only.clone(),
    };
    arena.preload(&contenders)?;
    let mut rounds = Vec::new();
    println!("round  contender   records/s  CPU s/M  broker CPU s/M  bytes out");
    // The first round is the Java compiler's: shown, not counted.
    for round in 0..=options.rounds {
        for contender in &contenders {
            let measured = arena.round(round, *contender)?;
            if round > 0 {
                rounds.push((*contender, measured));
            }
        }
    }
    print_summary(&contenders, &rounds);
    Ok(())
}

impl Arena<'_> {
    fn input(&self, contender: Contender) -> String {
        let topic = match contender {
            Contender::Reference | Contender::Feature => "records",
            Contender::Inference => "features",
            _ => match contender.traced() {
                Some(100) => "traced1",
                Some(1) => "traced100",
                _ => "traced0",
            },
        };
        format!("bench-{}.{topic}", self.tag)
    }

    fn preload(&mut self, contenders: &[Contender]) -> anyhow::Result<()> {
        let (records, lanes) = (self.options.records, self.options.lanes);
        let bytes = self.options.bytes as usize;
        let mut workload = Workload::new(Arc::clone(&self.pipeline), bytes)?;
        let mut there: Vec<String> = Vec::new();
        for contender in contenders {
            let topic = self.input(*contender);
            if there.contains(&topic) {
                continue;
            }
            let service = match contender {
                Contender::Inference => Service::Inference,
                _ => Service::Feature,
            };
            self.broker.create(&NewFlow::with_dead_letters(&topic))?;
            workload.traced = contender.traced();
            let mean = workload.preload(self.broker.servers(), &topic, service, 0..records)?;
            there.push(topic.clone());
            println!(
                "{topic}: {records} records of {mean:.0} bytes, {} partitions; {lanes} lanes",
                crate::broker::PARTITIONS
            );
        }
        Ok(())
    }

    /// One contender from the topic's beginning to its end, checked.
    fn round(&mut self, round: u32, contender: Contender) -> anyhow::Result<Measured> {
        let input = self.input(contender);
        let output = format!("bench-{}.out-{}-{round}", self.tag, contender.name());
        let group = format!("bench-{}-{}-{round}", self.tag, contender.name());
        let [flow, _] = NewFlow::with_dead_letters(&output);
        self.broker.create(&[flow])?;
        self.broker.will_leave_group(&group);
        std::thread::sleep(SETTLE);
        let measured = match contender {
            Contender::Reference => Pump {
                broker: &self.broker,
                input: &input,
                output: &output,
                group: &group,
                lanes: self.options.lanes as usize,
                records: self.options.records,
                writes: Writes::Copies,
            }
            .run()?,
            _ => self.stage(contender, self.config(&input, &output, &group))?,
        };
        std::thread::sleep(SETTLE);
        let records = self.options.records;
        let out_bytes = self.broker.verify(&output, &input, records)?.payload_mean();
        self.broker.delete(&[&output])?;
        println!(
            "{round:>5}  {:<10} {:>10.0}  {:>7.2}  {:>14}  {out_bytes:>9.0}",
            contender.name(),
            measured.per_second,
            measured.cpu_per_million,
            report::broker_text(&[measured]),
        );
        Ok(measured)
    }

    fn config(&self, input: &str, output: &str, group: &str) -> StageConfig {
        StageConfig {
            cluster: self.cluster.clone(),
            service: "bench",
            pipeline: self.pipeline.name().to_owned(),
            group: group.to_owned(),
            input: input.to_owned(),
            outputs: vec![quadrille_choreography::OutputTopic {
                name: "out",
                topic: output.to_owned(),
            }],
            instance: "bench".to_owned(),
            lanes: self.options.lanes as usize,
            commit: CommitMode::Kafka,
            limits: Limits {
                batch_records_max: self.options.batch,
                ..Limits::default()
            },
            latency_objective: None,
        }
    }

    fn stage(&self, contender: Contender, config: StageConfig) -> anyhow::Result<Measured> {
        let schemas = Schemas::new(&self.cluster);
        match contender {
            Contender::Inference => {
                let serving = &self.serving;
                self.measure(config, false, || {
                    inference::InferenceHandler::new(serving.clone(), 0, schemas.clone())
                })
            }
            _ => self.measure(
                config,
                contender.measure() != contender && contender.traced().is_some(),
                || feature::FeatureHandler::new(Arc::clone(&self.pipeline), schemas.clone()),
            ),
        }
    }

    fn measure<H: Handler>(
        &self,
        config: StageConfig,
        traced: bool,
        make: impl Fn() -> H,
    ) -> anyhow::Result<Measured> {
        let sink = traced.then(Sink::start).transpose()?;
        let registry = Registry::default();
        let tracing = match &sink {
            Some(sink) => sink.tracing(&registry)?,
            None => Tracing::off(),
        };
        let measured = Contest {
            broker: &self.broker,
            config,
            records: self.options.records,
            registry: &registry,
            tracing: &tracing,
        }
        .run(make);
        tracing.shutdown();
        if traced {
            for line in registry
                .encode()
                .lines()
                .filter(|l| l.starts_with("otel_sdk"))
            {
                println!("       {line}");
            }
        }
        measured
    }
}

type Round = (Contender, Measured);

fn of(rounds: &[Round], contender: Contender) -> Vec<Measured> {
    let own = rounds.iter().filter(|(who, _)| *who == contender);
    own.map(|(_, measured)| *measured).collect()
}

/// Medians, and medians of the ratios to the reference, or to traces-off, of the same round.
fn print_summary(contenders: &[Contender], rounds: &[Round]) {
    println!("\nmedians     records/s  CPU s/M  broker CPU s/M   rate   CPU  target");
    for contender in contenders {
        let reference = of(rounds, contender.measure());
        let own = of(rounds, *contender);
        let ratio = |figure: fn(&Measured) -> f64| {
            median(
                own.iter()
                    .zip(&reference)
                    .map(|(a, b)| figure(a) / figure(b)),
            )
        };
        let (rate, cpu) = (ratio(|m| m.per_second), ratio(|m| m.cpu_per_million));
        let target = match contender.target() {
            Some(_) if reference.is_empty() => "no reference".to_owned(),
            Some((at_least, at_most)) => format!(
                "rate ≥ {at_least} {}, CPU ≤ {at_most} {}",
                verdict(rate >= at_least),
                verdict(cpu <= at_most)
            ),
            None => "".to_owned(),
        };
        println!(
            "{:<10} {:>10.0}  {:>7.2}  {:>14}  {rate:>5.2} {cpu:>5.2}  {target}",
            contender.name(),
            median(own.iter().map(|m| m.per_second)),
            median(own.iter().map(|m| m.cpu_per_million)),
            report::broker_text(&own),
        );
    }
}
