//! `quadrille deploy unset`: a pipeline without a deployment.

use quadrille_registry::Action;
use quadrille_service::Error;

use super::change::{Change, Next, change, current};
use crate::{kafka::Kafka, pipelines};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no deployment, another change came first, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        current(view, &pipeline)?;
        Ok(Next {
            action: Action::Unset,
            routes: Vec::new(),
            ranges: None,
        })
    })
}
