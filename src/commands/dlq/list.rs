//! `quadrille dlq list`: dead letters that are open.

use std::ops::ControlFlow;

use quadrille_choreography::{DeadLetter, DeadLetters, redrive::Scope};
use quadrille_service::Error;

use super::{Which, explain, show};
use crate::{
    kafka,
    meter::Letters,
    output::{self, Output, OutputArg},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// Show also those that were sent back or discarded, and what became of them.
    #[arg(long)]
    all: bool,

    /// Most dead letters to show.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// The topic cannot be one, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    kafka::reach(&cluster)?;
    let scope = match args.all {
        true => Scope::All,
        false => Scope::Open,
    };
    let mut left = args.limit;
    for topic in args.which.topics()? {
        let letters = DeadLetters {
            cluster: &cluster,
            topic: &topic,
        };
        let mut meter = Letters::new(&topic, "shown");
        let mut printed = Ok(ControlFlow::Continue(()));
        let select = |letter: &DeadLetter| args.which.matches(&topic, letter);
        let listed = letters.list(scope, &select, &mut |it| meter.show(it), |letter, state| {
            if left == 0 {
                let more = format!(
                    "there are more; --limit {} shows more",
                    args.limit.saturating_mul(10)
                );
                output::note(more);
                printed = Ok(ControlFlow::Break(()));
                return ControlFlow::Break(());
            }
            left -= 1;
            printed = output::print(match args.output.get() {
                Output::Json => show::to_json(&topic, &letter, &state).to_string(),
                Output::Text => show::paragraph(&topic, &letter, &state),
            });
            match &printed {
                Ok(flow) => *flow,
                Err(_) => ControlFlow::Break(()),
            }
        });
        listed.map_err(|error| explain(error, &cluster))?;
        if printed?.is_break() {
            return Ok(());
        }
    }
    if left == args.limit {
        output::note("no dead letters");
    }
    Ok(())
}
