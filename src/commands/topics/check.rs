//! `quadrille topics check`: whether the topics are there, fit, and are the ones of the pipeline.

use std::collections::HashSet;

use quadrille_choreography::{Admin, FactsLog, TopicSpec, admin};
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;
use serde_json::{Value, json};

use super::{
    Which,
    survey::{Found, survey},
};
use crate::output::{self, Output, OutputArg, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// Kafka does not answer; or topics are missing or do not fit ([`Error::Config`]).
pub fn run(args: &Args) -> Result<(), Error> {
    let pipelines = args.which.pipeline.all()?;
    let admin = Admin::connect(&args.which.kafka.cluster()?)?;
    let mut topics = Vec::new();
    let mut listed = HashSet::new();
    let mut faults = Vec::new();
    for pipeline in &pipelines {
        let state = pipeline.keeps_state().into();
        let survey = survey(&admin, TopicSpec::of_pipeline(pipeline.name(), state, 1, 0))?;
        let mut found = survey.faults(pipeline.name());
        if !found.iter().any(admin::Error::is_missing) {
            found.extend(changed(&admin, pipeline)?);
        }
        faults.extend(found.iter().map(admin::Error::to_string));
        let new = |found: &Found| listed.insert(found.spec.name.clone());
        topics.extend(survey.topics.into_iter().filter(new));
    }
    let _ = match args.output.get() {
        Output::Text => output::print(table(&topics))?,
        Output::Json => output::print(to_json(&topics, &faults))?,
    };
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Error::Config(faults.join("\nerror: "))),
    }
}

fn table(topics: &[Found]) -> Table {
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "MESSAGE BYTES MAX"]);
    for found in topics {
        let partitions = found.partitions.map(|count| count.to_string());
        let limit = found.message_bytes_max.map(|bytes| bytes.to_string());
        table.row(vec![
            found.spec.name.clone(),
            partitions.unwrap_or_else(|| "missing".to_owned()),
            limit.unwrap_or_default(),
        ]);
    }
    table
}

fn to_json(topics: &[Found], faults: &[String]) -> Value {
    let topics = topics.iter().map(|found| {
        json!({
            "topic": found.spec.name,
            "partitions": found.partitions,
            "message_bytes_max": found.message_bytes_max,
        })
    });
    json!({ "topics": topics.collect::<Vec<Value>>(), "faults": faults })
}

/// What of a pipeline's topics is not as its facts say.
pub fn changed(admin: &Admin, pipeline: &Pipeline) -> Result<Option<admin::Error>, admin::Error> {
    let log = FactsLog::open(admin.cluster())?;
    let Some(facts) = log.current(pipeline.name()) else {
        return Ok(None);
    };
    if facts.draining {
        return Ok(Some(admin::Error::Draining {
            pipeline: facts.pipeline,
        }));
    }
    Ok(facts
        .compare(&admin.pipeline_topics(pipeline.name(), pipeline.keeps_state().into())?)
        .err())
}
