//! `quadrille scale-advice`: what comes in, what is done, what is left, and how many replicas that needs.

use std::time::{Duration, Instant};

use quadrille_choreography::{Admin, GroupProgress, admin};
use quadrille_proto::{STAGES, StageSpec};
use quadrille_scaling::{Goal, Load, advise};
use quadrille_service::Error;
use serde_json::json;

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, OutputOrJson, Table},
    pipelines::PipelineArg,
};

const EXAMPLES: &str = "\
Examples:
  quadrille scale-advice
  quadrille scale-advice --window 60 --catch-up 300
  quadrille scale-advice --output json | jq '.[] | {service, replicas, needed}'

LAG and rates are offsets of the service's input: a transaction adds one to each partition it writes. KEDA is what
KEDA's Kafka scaler would set with this --lag-threshold; it knows the lag only, so it acts when records wait already.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    #[command(flatten)]
    kafka: Kafka,

    /// How long rates are measured.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    window: u64,

    /// Within which time what waits should be worked off.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    catch_up: u64,

    /// KEDA's `lagThreshold`: records that may wait for each replica.
    #[arg(long, default_value_t = 1_000, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    lag_threshold: u64,

    #[command(flatten)]
    output: OutputOrJson,
}

/// # Errors
/// Kafka does not answer, or topics are missing.
pub async fn run(args: Args) -> Result<(), Error> {
    let pipelines = args.pipeline.all()?;
    let names: Vec<String> = pipelines.iter().map(|p| p.name().to_owned()).collect();
    let cluster = args.kafka.cluster()?;
    let window = Duration::from_secs(args.window);
    if args.output.get() == Output::Text {
        output::note(format_args!("measuring for {window:?}"));
    }
    let looking = move || {
        let admin = Admin::connect(&cluster)?;
        Ok(look(&admin, &names)?)
    };
    let (first, began) = (blocking(looking.clone()).await?, Instant::now());
    tokio::time::sleep(window).await;
    let (second, elapsed) = (blocking(looking).await?, began.elapsed());
    let seen = first.into_iter().zip(second);
    let seen: Vec<Seen> = seen
        .map(|(before, after)| Seen::between(&before, after, elapsed))
        .collect();
    let goal = Goal {
        catch_up: Duration::from_secs(args.catch_up),
        lag_threshold: args.lag_threshold,
    };
    match args.output.get() {
        Output::Text => show(&seen, &goal),
        Output::Json => show_json(&seen, &goal),
    }
}

#[derive(Debug)]
struct Look {
    pipeline: String,
    stage: &'static StageSpec,
    progress: GroupProgress,
}

fn look(admin: &Admin, pipelines: &[String]) -> Result<Vec<Look>, admin::Error> {
    let mut looks = Vec::new();
    for pipeline in pipelines {
        for stage in &STAGES {
            let (group, input) = (stage.group(pipeline), stage.input(pipeline));
            looks.push(Look {
                pipeline: pipeline.clone(),
                stage,
                progress: admin.progress(&group, &input)?,
            });
        }
    }
    Ok(looks)
}

/// One stage of one pipeline over the window.
#[derive(Debug)]
struct Seen {
    pipeline: String,
    service: String,
    load: Load,
}

impl Seen {
    fn between(before: &Look, after: Look, elapsed: Duration) -> Self {
        Seen {
            service: after.stage.label(),
            load: Load::between(&before.progress, &after.progress, elapsed),
            pipeline: after.pipeline,
        }
    }
}

fn show(seen: &[Seen], goal: &Goal) -> Result<(), Error> {
    let header = [
        "PIPELINE", "SERVICE", "REPLICAS", "LANES", "LAG", "BEHIND", "IN/S", "OUT/S", "NEEDED",
        "KEDA", "WHY",
    ];
    let mut table = Table::new(&header);
    for stage in seen {
        let load = &stage.load;
        let advice = advise(load, goal);
        table.row(vec![
            stage.pipeline.clone(),
            stage.service.clone(),
            load.replicas.to_string(),
            load.lanes.to_string(),
            load.lag.to_string(),
            match load.behind() {
                Some(behind) => format!("{:.1} s", behind.as_secs_f64()),
                None => "-".to_owned(),
            },
            format!("{:.0}", load.incoming),
            format!("{:.0}", load.handled),
            advice.replicas.to_string(),
            advice.keda.to_string(),
            advice.reason.to_string(),
        ]);
    }
    output::print(table).map(drop)
}

fn show_json(seen: &[Seen], goal: &Goal) -> Result<(), Error> {
    let stages = seen.iter().map(|stage| {
        let load = &stage.load;
        let advice = advise(load, goal);
        json!({
            "pipeline": stage.pipeline,
            "service": stage.service,
            "partitions": load.partitions,
            "replicas": load.replicas,
            "lanes": load.lanes,
            "lag": load.lag,
            "lag_seconds": load.behind().map(|behind| behind.as_secs_f64()),
            "in_per_second": load.incoming,
            "out_per_second": load.handled,
            "needed": advice.replicas,
            "keda": advice.keda,
            "why": advice.reason.to_string(),
        })
    });
    let all: serde_json::Value = stages.collect();
    output::print(format_args!("{all:#}")).map(drop)
}
