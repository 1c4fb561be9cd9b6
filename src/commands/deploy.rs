//! `quadrille deploy`: which model versions serve a pipeline, and which did.

mod change;
mod history;
mod promote;
mod rollback;
mod routes;
mod set;
mod show;
mod unset;
pub mod wait;

use quadrille_service::Error;

use crate::kafka::blocking;

const EXAMPLES: &str = "\
Examples:
  quadrille deploy set diabetes --live diabetes:1
  quadrille deploy set diabetes --live diabetes:1 --canary diabetes:2@10% --wait
  quadrille deploy set diabetes --live champion=forest:3@70 --live net:1@30 --shadow net:2
  quadrille deploy promote diabetes --reason 'better for a week'
  quadrille deploy rollback diabetes
  quadrille deploy rollback diabetes --to 3
  quadrille deploy unset diabetes --reason 'a slip of the keyboard'
  quadrille deploy history diabetes

Every change is an event on quadrille.deployments, one revision after the one it changes. Of two at once the first
counts, and the other fails and names the one that came first.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Set which model versions serve a pipeline.
    Set(set::Args),
    /// Show what serves, and which replicas are ready.
    Show(show::Args),
    /// Show every event of a pipeline: who, when, why, what.
    History(history::Args),
    /// Make the canary live: it serves all keys.
    Promote(promote::Args),
    /// Restore the routes of an earlier revision, as a new event.
    Rollback(rollback::Args),
    /// Remove a pipeline's deployment, as a new event; its models may be deleted then.
    Unset(unset::Args),
}

/// # Errors
/// The change cannot be, another change came first, or Kafka does not answer.
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::Set(args) => set::run(args),
        Command::Show(args) => show::run(&args),
        Command::History(args) => history::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Unset(args) => unset::run(&args),
    })
    .await
}
