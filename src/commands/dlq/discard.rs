//! `quadrille dlq discard`: dead letters given up.

use quadrille_choreography::redrive::Action;
use quadrille_service::Error;

use super::settle::{Settling, note, settle};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settling: Settling,

    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: String,

    /// All that are open: needed where no filter is given.
    #[arg(long)]
    all: bool,
}

/// # Errors
/// Nothing says which letters, the topic cannot be one, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.settling.which.filter.is_empty() && !args.all {
        return Err(Error::Config(
            "nothing says which dead letters to discard; give a filter (--reason, --from, --to, --id, --place), or --all"
                .to_owned(),
        ));
    }
    settle(&args.settling, Action::Discard, &args.note)
}
