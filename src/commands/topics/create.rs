//! `quadrille topics create`: the topics that are missing.

use std::collections::HashSet;

use quadrille_choreography::{Admin, Facts, FactsLog, TopicSpec, admin};
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;
use serde_json::{Value, json};

use super::{
    Which,
    survey::{Survey, survey},
};
use crate::{
    output::{self, Output, OutputArg, Table},
    registry,
};

/// Partitions of new topics: room for eight lanes.
const PARTITIONS_DEFAULT: i32 = 8;

const EXAMPLES: &str = "\
Examples:
  quadrille topics create
  quadrille topics create --pipeline pipelines/diabetes.toml --partitions 24
  quadrille topics create --bootstrap-servers kafka:9092";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// Partitions of each topic: the most lanes that can share the work. `topics migrate` changes it later
    /// [default: 8, or what the pipeline's topics have].
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Option<i32>,

    /// Largest message of a topic; a dead-letter topic takes twice as much and 64 KiB, as ours may compress worse than the
    /// sender did.
    #[arg(
        long,
        default_value_t = 1_048_588,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(1_024..=1_000_000_000)
    )]
    message_bytes_max: u32,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// Kafka does not answer, or the topics there are do not fit.
pub fn run(args: &Args) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let admin = Admin::connect(&args.which.kafka.cluster()?)?;
    let mut lines = Vec::new();
    let mut listed = HashSet::new();
    for pipeline in &pipelines {
        let (specs, there) = to_create(&admin, pipeline, args)?;
        let created = admin.create(&specs)?;
        for spec in specs
            .into_iter()
            .filter(|spec| listed.insert(spec.name.clone()))
        {
            let found = there.partitions(&spec.name);
            lines.push(Line {
                partitions: found.unwrap_or(spec.partitions),
                created: created.contains(&spec.name),
                topic: spec.name,
            });
        }
    }
    show(&lines, args.output.get())?;
    remember(&admin, &pipelines)
}

/// A topic after all is made.
struct Line {
    topic: String,
    partitions: i32,
    created: bool,
}

fn show(lines: &[Line], output: Output) -> Result<(), Error> {
    let _ = match output {
        Output::Text => {
            let mut table = Table::new(&["TOPIC", "PARTITIONS", ""]);
            for line in lines {
                table.row(vec![
                    line.topic.clone(),
                    line.partitions.to_string(),
                    if line.created { "created" } else { "was there" }.to_owned(),
                ]);
            }
            output::print(table)?
        }
        Output::Json => {
            let topics = lines.iter().map(|line| {
                json!({
                    "topic": line.topic,
                    "partitions": line.partitions,
                    "created": line.created,
                })
            });
            output::print(json!({ "topics": topics.collect::<Vec<Value>>() }))?
        }
    };
    Ok(())
}

/// Writes down what pipelines are made with, where nothing is written yet.
///
/// # Errors
/// Topics are not the ones their pipeline was made with, or Kafka does not answer.
fn remember(admin: &Admin, pipelines: &[Pipeline]) -> Result<(), Error> {
    let mut log = FactsLog::open(admin.cluster()).map_err(admin::Error::from)?;
    for pipeline in pipelines {
        let topics = admin.pipeline_topics(pipeline.name(), pipeline.keeps_state().into())?;
        let facts = match log.current(pipeline.name()) {
            Some(facts) => facts,
            None => {
                let by = registry::author(None);
                let facts = Facts::first(pipeline.name(), pipeline.hash(), &topics, &by)?;
                log.write(&facts).map_err(admin::Error::from)?
            }
        };
        if !facts.draining {
            facts.compare(&topics)?;
        }
    }
    Ok(())
}

/// The topics as they should be; refused before anything is made where those there are do not fit.
fn to_create(
    admin: &Admin,
    pipeline: &Pipeline,
    args: &Args,
) -> Result<(Vec<TopicSpec>, Survey), Error> {
    let limit = args.message_bytes_max as usize;
    let state = pipeline.keeps_state().into();
    let specs = |partitions| TopicSpec::of_pipeline(pipeline.name(), state, partitions, limit);
    let there = survey(admin, specs(1))?;
    if let Some(fault) = there.disagreements().into_iter().next() {
        return Err(fault.into());
    }
    let existing = there
        .own()
        .find_map(|found| Some((&found.spec.name, found.partitions?)));
    let partitions = match (existing, args.partitions) {
        (Some((topic, found)), Some(wanted)) if found != wanted => {
            return Err(Error::Config(format!(
                "--partitions is {wanted}, but topic {topic} has {found} partitions; leave the flag out to use {found}; \
                 `quadrille topics migrate --partitions {wanted}` changes the number without losing a key's order"
            )));
        }
        (Some((_, found)), _) => found,
        (None, wanted) => wanted.unwrap_or(PARTITIONS_DEFAULT),
    };
    Ok((specs(partitions), there))
}
