//! `quadrille topics`: a pipeline's topics made, or looked at.

mod accept;
mod migrate;

use quadrille_choreography::{
    Admin, AdminError, Facts, FactsLog, TopicSpec, dead_letter_bytes_min,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Topics, dlq_of};
use quadrille_service::Error;

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Table},
    pipelines::PipelineArg,
    registry,
};

/// Partitions of new topics: room for eight lanes.
const PARTITIONS_DEFAULT: i32 = 8;

const CREATE_EXAMPLES: &str = "\
Examples:
  quadrille topics create
  quadrille topics create --pipeline pipelines/diabetes.toml --partitions 24
  quadrille topics create --bootstrap-servers kafka:9092";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create the topics that are missing, dead letters and shared ones included.
    Create(CreateArgs),
    /// Check that the topics are there, fit each other, and are the ones the pipeline was made with.
    Check(CheckArgs),
    /// Accept topics that were deleted and created again: a new generation of the pipeline.
    Accept(accept::Args),
    /// Change the number of partitions: drain, then change, so that every key keeps its order.
    Migrate(migrate::Args),
}

/// Who changes what a pipeline is made with, and why.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Change")]
struct Author {
    /// Who asks [default: user@host].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    /// Why; kept with the facts.
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    reason: String,
}

impl Author {
    fn by(&self) -> String {
        registry::author(self.by.as_deref())
    }
}

/// Writes facts; of two writers the first wins.
///
/// # Errors
/// Another writer won, or Kafka does not answer.
fn written(log: &mut FactsLog, facts: &Facts) -> Result<Facts, Error> {
    let standing = log.write(facts).map_err(AdminError::from)?;
    match standing == *facts {
        true => Ok(standing),
        false => Err(Error::Failed(format!(
            "pipeline {}: another change by {} came first, generation {}; look at it with `quadrille topics check`",
            facts.pipeline, standing.by, standing.generation
        ))),
    }
}

#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    pipeline: PipelineArg,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
pub struct CreateArgs {
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
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    which: Which,
}

/// # Errors
/// Kafka does not answer; or topics are missing or do not fit ([`Error::Config`]).
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::Create(args) => create(&args),
        Command::Check(args) => check(&args),
        Command::Accept(args) => accept::run(&args),
        Command::Migrate(args) => migrate::run(&args),
    })
    .await
}

/// A topic as it should be, and what there is.
#[derive(Debug)]
struct Found {
    spec: TopicSpec,
    partitions: Option<i32>,
    message_bytes_max: Option<usize>,
}

/// The topics of a pipeline before anything is changed.
#[derive(Debug)]
struct Survey {
    topics: Vec<Found>,
}

impl Survey {
    fn partitions(&self, topic: &str) -> Option<i32> {
        let found = self.topics.iter().find(|found| found.spec.name == topic);
        found.and_then(|found| found.partitions)
    }

    fn limit(&self, topic: &str) -> Option<usize> {
        let found = self.topics.iter().find(|found| found.spec.name == topic);
        found.and_then(|found| found.message_bytes_max)
    }

    /// The topics that must agree in partitions: all but the shared ones.
    fn own(&self) -> impl Iterator<Item = &Found> {
        self.topics
            .iter()
            .filter(|found| !found.spec.is_compacted())
    }

    /// What keeps a pipeline from running, each with what to do.
    fn faults(&self, pipeline: &str) -> Vec<AdminError> {
        let mut faults = Vec::new();
        let missing = self
            .topics
            .iter()
            .filter(|found| found.partitions.is_none());
        let missing: Vec<String> = missing.map(|found| found.spec.name.clone()).collect();
        if !missing.is_empty() {
            faults.push(AdminError::Missing { topics: missing });
        }
        faults.extend(self.disagreements());
        faults.extend(self.tight_limits(pipeline));
        faults
    }

    fn disagreements(&self) -> Vec<AdminError> {
        let mut there = self
            .own()
            .filter_map(|found| Some((&found.spec.name, found.partitions?)));
        let Some((reference, expected)) = there.next() else {
            return Vec::new();
        };
        let others = there.filter(|(_, partitions)| *partitions != expected);
        let fault = |(topic, partitions): (&String, i32)| AdminError::Partitions {
            topic: topic.clone(),
            partitions,
            reference: reference.clone(),
            expected,
        };
        others.map(fault).collect()
    }

    /// Dead-letter topics that cannot hold every message of their source.
    fn tight_limits(&self, pipeline: &str) -> Vec<AdminError> {
        let mut faults = Vec::new();
        for source in Topics::of(pipeline).flow() {
            let dlq = dlq_of(source);
            let (Some(given), Some(limit)) = (self.limit(source), self.limit(&dlq)) else {
                continue;
            };
            let needed = dead_letter_bytes_min(given);
            if limit < needed {
                faults.push(AdminError::Limit {
                    topic: dlq,
                    source_topic: source.to_owned(),
                    limit,
                    needed,
                });
            }
        }
        faults
    }
}

fn survey(admin: &Admin, specs: Vec<TopicSpec>) -> Result<Survey, AdminError> {
    let mut topics = Vec::new();
    for spec in specs {
        let partitions = admin.partitions(&spec.name)?;
        let message_bytes_max = match partitions {
            Some(_) => Some(admin.message_bytes_max(&spec.name)?),
            None => None,
        };
        topics.push(Found {
            spec,
            partitions,
            message_bytes_max,
        });
    }
    Ok(Survey { topics })
}

fn create(args: &CreateArgs) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let admin = Admin::connect(&args.which.kafka.cluster()?)?;
    let mut table = Table::new(&["TOPIC", "PARTITIONS", ""]);
    let mut listed = std::collections::HashSet::new();
    for pipeline in &pipelines {
        let (specs, there) = to_create(&admin, pipeline, args)?;
        let created = admin.create(&specs)?;
        for spec in specs
            .into_iter()
            .filter(|spec| listed.insert(spec.name.clone()))
        {
            let found = there.partitions(&spec.name);
            let state = match created.contains(&spec.name) {
                true => "created",
                false => "was there",
            };
            let partitions = found.unwrap_or(spec.partitions).to_string();
            table.row(vec![spec.name, partitions, state.to_owned()]);
        }
    }
    let _ = output::print(table)?;
    remember(&admin, &pipelines)
}

/// Writes down what pipelines are made with, where nothing is written yet.
///
/// # Errors
/// Topics are not the ones their pipeline was made with, or Kafka does not answer.
fn remember(admin: &Admin, pipelines: &[Pipeline]) -> Result<(), Error> {
    let mut log = FactsLog::open(admin.cluster()).map_err(AdminError::from)?;
    for pipeline in pipelines {
        let topics = admin.pipeline_topics(pipeline.name())?;
        let facts = match log.current(pipeline.name()) {
            Some(facts) => facts,
            None => {
                let by = registry::author(None);
                let facts = Facts::first(pipeline.name(), pipeline.hash(), &topics, &by)?;
                log.write(&facts).map_err(AdminError::from)?
            }
        };
        if !facts.draining {
            facts.compare(&topics)?;
        }
    }
    Ok(())
}

/// What of a pipeline's topics is not as its facts say.
fn changed(admin: &Admin, pipeline: &Pipeline) -> Result<Option<AdminError>, AdminError> {
    let log = FactsLog::open(admin.cluster())?;
    let Some(facts) = log.current(pipeline.name()) else {
        return Ok(None);
    };
    if facts.draining {
        return Ok(Some(AdminError::Draining {
            pipeline: facts.pipeline,
        }));
    }
    Ok(facts
        .compare(&admin.pipeline_topics(pipeline.name())?)
        .err())
}

/// The topics as they should be; refused before anything is made where those there are do not fit.
fn to_create(
    admin: &Admin,
    pipeline: &Pipeline,
    args: &CreateArgs,
) -> Result<(Vec<TopicSpec>, Survey), Error> {
    let limit = args.message_bytes_max as usize;
    let specs = |partitions| TopicSpec::of_pipeline(pipeline.name(), partitions, limit);
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

fn check(args: &CheckArgs) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let admin = Admin::connect(&args.which.kafka.cluster()?)?;
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "MESSAGE BYTES MAX"]);
    let mut listed = std::collections::HashSet::new();
    let mut faults = Vec::new();
    for pipeline in &pipelines {
        let survey = survey(&admin, TopicSpec::of_pipeline(pipeline.name(), 1, 0))?;
        let mut found = survey.faults(pipeline.name());
        if !found.iter().any(AdminError::is_missing) {
            found.extend(changed(&admin, pipeline)?);
        }
        faults.extend(found.iter().map(AdminError::to_string));
        for found in survey.topics {
            if listed.insert(found.spec.name.clone()) {
                let partitions = found
                    .partitions
                    .map_or("missing".to_owned(), |n| n.to_string());
                let limit = found
                    .message_bytes_max
                    .map_or(String::new(), |n| n.to_string());
                table.row(vec![found.spec.name, partitions, limit]);
            }
        }
    }
    let _ = output::print(table)?;
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Error::Config(faults.join("\nerror: "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `topics create` makes them, then changed.
    fn made(change: impl Fn(&mut Found)) -> Survey {
        let found = |spec: TopicSpec| {
            let mut found = Found {
                partitions: Some(spec.partitions),
                message_bytes_max: Some(spec.message_bytes_max.unwrap_or(1_048_588)),
                spec,
            };
            change(&mut found);
            found
        };
        let specs = TopicSpec::of_pipeline("p", 8, 1_048_588);
        Survey {
            topics: specs.into_iter().map(found).collect(),
        }
    }

    fn faults(change: impl Fn(&mut Found)) -> Vec<String> {
        let faults = made(change).faults("p");
        faults.iter().map(AdminError::to_string).collect()
    }

    #[test]
    fn topics_as_they_are_created_are_found_fit() {
        assert_eq!(faults(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let faults = faults(|found| {
            if found.spec.name == "p.records" {
                (found.partitions, found.message_bytes_max) = (None, None);
            }
        });
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("p.records") && faults[0].contains("topics create"));
    }

    #[test]
    fn a_topic_of_another_width_is_named() {
        let faults = faults(|found| {
            if found.spec.name == "p.features.dlq" {
                found.partitions = Some(4);
            }
        });
        assert!(
            faults[0].contains("p.features.dlq has 4 partitions"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_dead_letter_topic_without_headroom_is_named() {
        let faults = faults(|found| found.message_bytes_max = Some(1_048_588));
        assert_eq!(faults.len(), 4);
        assert!(
            faults[0].contains("p.inbox.dlq") && faults[0].contains("1114124"),
            "{faults:?}"
        );
    }
}
