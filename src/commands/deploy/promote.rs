//! `quadrille deploy promote`: the canary serves everything.

use quadrille_registry::{Action, promote};
use quadrille_service::Error;

use super::change::{Change, Next, change, current, unclear};
use crate::{kafka::Kafka, pipelines};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// The route to promote [default: the only canary].
    #[arg(value_name = "VARIANT")]
    variant: Option<String>,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no canary to promote, another change came first, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        let current = current(view, &pipeline)?;
        let routes = promote(current, args.variant.as_deref()).map_err(unclear)?;
        Ok(Next::routes(Action::Promote, Some(current), routes))
    })
}
