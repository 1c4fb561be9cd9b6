//! `quadrille deploy rollback`: the routes of an earlier revision, as a new event.

use quadrille_registry::{Action, rollback};
use quadrille_service::Error;

use super::change::{Change, Next, change, unclear};
use crate::{kafka::Kafka, pipelines};

const ROLLBACK_HELP: &str = "\
Without --to it goes back through what served before the current revision, one step each time, and never to what an
earlier rollback left. With --to it restores any revision, also a later one.";

#[derive(Debug, clap::Args)]
#[command(after_help = ROLLBACK_HELP)]
pub struct Args {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// The revision whose routes to restore [default: what served before the current one].
    #[arg(long, value_name = "REVISION")]
    to: Option<u64>,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no such revision, another change came first, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        let history = view.deployments.get(&pipeline).cloned().unwrap_or_default();
        let past = rollback(&pipeline, &history, args.to).map_err(unclear)?;
        // Its ranges, too: each key has the route that it had then.
        Ok(Next {
            action: Action::Rollback,
            routes: past.routes.clone(),
            ranges: past.ranges.clone(),
        })
    })
}
