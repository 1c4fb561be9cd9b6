//! `quadrille topics migrate`: another number of partitions without losing a key's order: drain, then change.

use std::time::{Duration, Instant};

use quadrille_choreography::{Admin, Facts, FactsLog, TopicState, admin};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{KeyedState, STAGES, Service};
use quadrille_service::Error;

use super::{Author, Outcome, Which};
use crate::{
    kafka,
    output::{self, OutputArg},
};

/// Between looks at the groups.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  quadrille topics migrate --pipeline pipelines/diabetes.toml --partitions 16
  quadrille topics migrate --pipeline pipelines/diabetes.toml             topics that were altered already

It waits until ingest is stopped and the other services have worked off what is there, then changes all topics and
writes the new number down. So stop the producers, let ingest drain the inbox, stop ingest. The other services end by
themselves when the topics have changed (exit code 64); start all of them again. Cut short, it goes on when run again.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    author: Author,

    #[command(flatten)]
    output: OutputArg,

    /// Partitions of each topic from then on; Kafka adds partitions and takes none away
    /// [default: the most that one of the topics has].
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Option<i32>,

    /// How long to wait for the services.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    within: u64,
}

pub fn run(args: &Args) -> Result<(), Error> {
    let pipeline = args.which.pipeline.one()?;
    let cluster = args.which.kafka.cluster()?;
    kafka::reach(&cluster)?;
    let admin = Admin::connect(&cluster)?;
    migrate(&admin, &pipeline, args)?.print(args.output.get())
}

fn migrate(admin: &Admin, pipeline: &Pipeline, args: &Args) -> Result<Outcome, Error> {
    let (name, state) = (pipeline.name(), pipeline.keeps_state().into());
    check_state(name, state)?;
    let topics = admin.pipeline_topics(name, state)?;
    let target = target(&topics, args.partitions)?;
    let mut log = FactsLog::open(admin.cluster()).map_err(admin::Error::from)?;
    let facts = log.current(name);
    if let Some(facts) = &facts {
        match facts.compare(&topics) {
            Ok(()) if facts.partitions == target && !facts.draining => {
                return Ok(Outcome {
                    facts: facts.clone(),
                    text: format!("has {target} partitions"),
                });
            }
            Ok(()) | Err(admin::Error::Repartitioned { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let draining = match facts {
        Some(facts) if facts.draining => facts,
        facts => {
            let next = drain(facts.as_ref(), pipeline, &topics, &args.author)?;
            super::written(&mut log, &next)?
        }
    };
    wait_drained(admin, name, Duration::from_secs(args.within))?;
    admin.add_partitions(&topics, target)?;
    let topics = admin.pipeline_topics(name, state)?;
    let next = draining.next(&topics, &args.author.by(), &args.author.reason)?;
    let facts = super::written(&mut log, &next)?;
    let text = format!(
        "{} partitions, generation {}; start its services",
        facts.partitions, facts.generation
    );
    Ok(Outcome { facts, text })
}

/// # Errors
/// The pipeline keeps state by key, which would stay on the partitions that its keys leave.
fn check_state(pipeline: &str, state: KeyedState) -> Result<(), Error> {
    match state {
        KeyedState::None => Ok(()),
        KeyedState::Kept => Err(Error::Config(format!(
            "pipeline {pipeline} keeps state by key, and that cannot be moved to other partitions; create new topics with the number you want, for a pipeline of another name, and send the records there"
        ))),
    }
}

/// # Errors
/// A topic has more already.
fn target(topics: &[TopicState], wanted: Option<i32>) -> Result<i32, Error> {
    let most = topics.iter().max_by_key(|topic| topic.partitions);
    match (most, wanted) {
        (Some(most), Some(wanted)) if most.partitions > wanted => Err(Error::Config(format!(
            "--partitions is {wanted}, but topic {} has {} partitions; Kafka takes none away: create new topics (a pipeline of another name)",
            most.name, most.partitions
        ))),
        (_, Some(wanted)) => Ok(wanted),
        (Some(most), None) => Ok(most.partitions),
        (None, None) => Ok(1),
    }
}

/// The record after which ingest does not start.
fn drain(
    facts: Option<&Facts>,
    pipeline: &Pipeline,
    topics: &[TopicState],
    author: &Author,
) -> Result<Facts, Error> {
    // The topics may disagree already: it is the number they had that is drained.
    let before = facts.map(|facts| facts.partitions);
    let least = topics.iter().map(|topic| topic.partitions).min();
    let partitions = before.or(least).unwrap_or(1);
    let mut alike = topics.to_vec();
    alike.iter_mut().for_each(|it| it.partitions = partitions);
    let next = match facts {
        Some(facts) => facts.next(&alike, &author.by(), &author.reason)?,
        None => Facts::first(pipeline.name(), pipeline.hash(), &alike, &author.by())?,
    };
    Ok(Facts {
        draining: true,
        ..next
    })
}

/// Waits until ingest is stopped and everything behind it is worked off.
fn wait_drained(admin: &Admin, pipeline: &str, within: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    let mut said = String::new();
    loop {
        let waits = match waits_for(admin, pipeline) {
            Ok(None) => return Ok(()),
            Ok(Some(waits)) => waits,
            // A broker that restarts does not end a wait of minutes.
            Err(error) if error.is_retriable() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if waits != said {
            output::note(format_args!("waiting: {waits}"));
            said.clone_from(&waits);
        }
        if Instant::now() > deadline {
            let seconds = within.as_secs();
            return Err(Error::Failed(format!(
                "not drained within {seconds} s: {waits}; nothing was changed, ingest does not start until `quadrille topics migrate` has ended"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn waits_for(admin: &Admin, pipeline: &str) -> Result<Option<String>, admin::Error> {
    for stage in &STAGES {
        let (group, input) = (stage.group(pipeline), stage.input(pipeline));
        let progress = admin.progress(&group, &input)?;
        let (members, lag) = (progress.members.len(), progress.lag());
        if stage.service == Service::Ingest {
            if members > 0 {
                return Ok(Some(format!(
                    "ingest runs with {members} lanes, and {lag} records of {input} wait; stop the producers, then ingest when none wait"
                )));
            }
        } else if admin.has_records(&input, &progress)? {
            return Ok(Some(format!(
                "{lag} records of {input} wait for {}, which has {members} lanes",
                stage.label()
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(partitions: &[i32]) -> Vec<TopicState> {
        let topic = |partitions: &i32| TopicState {
            name: format!("t{partitions}"),
            id: None,
            partitions: *partitions,
        };
        partitions.iter().map(topic).collect()
    }

    #[test]
    fn a_pipeline_that_keeps_state_is_not_migrated() {
        check_state("p", KeyedState::None).unwrap();
        let refused = check_state("p", KeyedState::Kept).unwrap_err();
        assert!(refused.to_string().contains("keeps state by key"));
    }

    #[test]
    fn topics_grow_to_what_is_asked_or_to_the_widest_and_never_shrink() {
        assert_eq!(target(&topics(&[4, 8]), None).unwrap(), 8);
        assert_eq!(target(&topics(&[4, 8]), Some(16)).unwrap(), 16);
        let error = target(&topics(&[4, 8]), Some(4)).unwrap_err().to_string();
        assert!(
            error.contains("t8") && error.contains("another name"),
            "{error}"
        );
    }
}
