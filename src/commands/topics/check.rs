//! `quadrille topics check`: whether the topics are there, fit, and are the ones of the pipeline.

use std::collections::HashSet;

use quadrille_choreography::{Admin, AdminError, FactsLog, TopicSpec};
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;

use super::{Which, survey::survey};
use crate::output::{self, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

/// # Errors
/// Kafka does not answer; or topics are missing or do not fit ([`Error::Config`]).
pub fn run(args: &Args) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let admin = Admin::connect(&args.which.kafka.cluster()?)?;
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "MESSAGE BYTES MAX"]);
    let mut listed = HashSet::new();
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

/// What of a pipeline's topics is not as its facts say.
pub fn changed(admin: &Admin, pipeline: &Pipeline) -> Result<Option<AdminError>, AdminError> {
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
