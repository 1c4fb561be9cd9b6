//! `quadrille dlq redrive`: dead letters sent back to the topic they came from.

use quadrille_choreography::redrive::Action;
use quadrille_service::Error;

use super::settle::{Settling, note, settle};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settling: Settling,

    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
    note: String,
}

/// # Errors
/// The topic cannot be one, Kafka does not answer, or letters could not be sent back.
pub fn run(args: &Args) -> Result<(), Error> {
    settle(&args.settling, Action::SendBack, &args.note)
}
