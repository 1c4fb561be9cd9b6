//! `quadrille topics`: a pipeline's topics made, or looked at.

mod accept;
pub mod check;
mod create;
mod migrate;
pub mod survey;

use quadrille_choreography::{Facts, FactsLog, admin};
use quadrille_service::Error;
use serde_json::json;

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output},
    pipelines::PipelineArg,
    registry,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create the topics that are missing, dead letters and shared ones included.
    Create(create::Args),
    /// Check that the topics are there, fit each other, and are the ones the pipeline was made with.
    Check(check::Args),
    /// Accept topics that were deleted and created again: a new generation of the pipeline.
    Accept(accept::Args),
    /// Change the number of partitions: drain, then change, so that every key keeps its order.
    Migrate(migrate::Args),
}

/// Who changes what a pipeline is made with, and why.
#[derive(Debug, clap::Args)]
struct Author {
    /// Who makes the change [default: user@host].
    #[arg(long, help_heading = "Change", value_name = "WHO")]
    by: Option<String>,

    /// Why; kept with the facts.
    #[arg(
        long,
        help_heading = "Change",
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
    let standing = log.write(facts).map_err(admin::Error::from)?;
    match standing == *facts {
        true => Ok(standing),
        false => Err(Error::Failed(format!(
            "pipeline {}: another change by {} came first, generation {}; look at it with `quadrille topics check`",
            facts.pipeline, standing.by, standing.generation
        ))),
    }
}

/// What a pipeline is made with after a change.
#[derive(Debug)]
struct Outcome {
    facts: Facts,
    text: String,
}

impl Outcome {
    fn print(&self, output: Output) -> Result<(), Error> {
        let Outcome { facts, text } = self;
        match output {
            Output::Text => output::print(format_args!("{}: {text}", facts.pipeline)),
            Output::Json => output::print(json!({
                "pipeline": facts.pipeline,
                "generation": facts.generation,
                "partitions": facts.partitions,
                "outcome": text,
            })),
        }
        .map(drop)
    }
}

#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    pipeline: PipelineArg,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// Kafka does not answer; or topics are missing or do not fit ([`Error::Config`]).
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::Create(args) => create::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Accept(args) => accept::run(&args),
        Command::Migrate(args) => migrate::run(&args),
    })
    .await
}
