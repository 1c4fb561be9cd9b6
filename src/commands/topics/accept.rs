//! `quadrille topics accept`: the topics as they are become what their pipeline is made with.

use quadrille_choreography::{Admin, Facts, FactsLog, Schemas, TopicState, admin};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{STAGES, Service};
use quadrille_service::Error;

use super::{Author, Outcome, Which};
use crate::{kafka, output::OutputArg};

const EXAMPLES: &str = "\
Examples:
  quadrille topics accept --reason 'inbox created again after the incident'
  quadrille topics accept --pipeline pipelines/diabetes.toml --schemas

After a topic was deleted and created again, its offsets begin anew. Accepting that begins a new generation: ids made of a
record's place name it, so that they are never those of records from before, and the group that reads the topic begins at
its start. Another number of partitions is `quadrille topics migrate`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    author: Author,

    #[command(flatten)]
    output: OutputArg,

    /// Publish the file's schemas although they contradict what was published before: records that are still on their
    /// way in the old form become dead letters.
    #[arg(long)]
    schemas: bool,
}

pub fn run(args: &Args) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let cluster = args.which.kafka.cluster()?;
    kafka::reach(&cluster)?;
    let admin = Admin::connect(&cluster)?;
    for pipeline in &pipelines {
        let outcome = accept(&admin, pipeline, &args.author)?;
        if args.schemas {
            let schemas = Schemas::new(&cluster);
            let all = [
                pipeline.record_schema(),
                pipeline.feature_schema(),
                pipeline.prediction_schema(),
            ];
            for schema in all {
                let published = schemas.publish(schema);
                published.map_err(|error| Error::Failed(error.to_string()))?;
            }
        }
        outcome.print(args.output.get())?;
    }
    Ok(())
}

fn accept(admin: &Admin, pipeline: &Pipeline, author: &Author) -> Result<Outcome, Error> {
    let name = pipeline.name();
    let topics = admin.pipeline_topics(name, pipeline.keeps_state().into())?;
    let mut log = FactsLog::open(admin.cluster()).map_err(admin::Error::from)?;
    let Some(facts) = log.current(name) else {
        let facts = Facts::first(name, pipeline.hash(), &topics, &author.by())?;
        let facts = super::written(&mut log, &facts)?;
        let text = format!("written down with {} partitions", facts.partitions);
        return Ok(Outcome { facts, text });
    };
    if facts.draining {
        return Err(admin::Error::Draining {
            pipeline: name.to_owned(),
        }
        .into());
    }
    match facts.compare(&topics) {
        Ok(()) => {
            let text = format!("as written down, generation {}", facts.generation);
            return Ok(Outcome { facts, text });
        }
        Err(admin::Error::Recreated { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    let again = recreated(&facts, &topics);
    settled(admin, &facts, &topics, &again)?;
    for stage in &STAGES {
        let (group, input) = (stage.group(name), stage.input(name));
        if again.contains(&input) {
            admin.rewind(&group, &input)?;
        }
    }
    let next = Facts {
        file_sha256: pipeline.hash().to_vec(),
        ..facts.next(&topics, &author.by(), &author.reason)?
    };
    let facts = super::written(&mut log, &next)?;
    let text = format!(
        "generation {}, with {} created again",
        facts.generation,
        again.join(", ")
    );
    Ok(Outcome { facts, text })
}

fn recreated(facts: &Facts, topics: &[TopicState]) -> Vec<String> {
    let other = |topic: &&TopicState| {
        let made_with = facts.topics.get(&topic.name);
        made_with.is_some_and(|id| topic.id.as_ref().is_some_and(|now| now != id))
    };
    topics
        .iter()
        .filter(other)
        .map(|it| it.name.clone())
        .collect()
}

/// Nobody may be reading the topics that were created again, and nothing may be on its way where the number of
/// partitions changed as well.
fn settled(
    admin: &Admin,
    facts: &Facts,
    topics: &[TopicState],
    again: &[String],
) -> Result<(), Error> {
    let name = facts.pipeline.as_str();
    let wider = topics.iter().any(|it| it.partitions != facts.partitions);
    for stage in &STAGES {
        let input = stage.input(name);
        let progress = admin.progress(&stage.group(name), &input)?;
        let (members, lag) = (progress.members.len(), progress.lag());
        let again = again.contains(&input);
        if again && members > 0 {
            return Err(Error::Failed(format!(
                "{} still reads {input}, with {members} members; stop it, then accept",
                stage.label()
            )));
        }
        let follows = wider && !again && stage.service != Service::Ingest;
        if follows && admin.has_records(&input, &progress)? {
            return Err(Error::Failed(format!(
                "the number of partitions changed while {lag} records of {input} wait for {}; start it, and accept when they are worked off",
                stage.label()
            )));
        }
    }
    Ok(())
}
