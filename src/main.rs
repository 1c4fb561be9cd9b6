//! `quadrille`: the whole system in one process, and the tools around it.
//!
//! `commands/` has one file per command, or one per verb where a command has several; beside it is what commands share.
//! What a command does beyond talking to a person (Kafka, models, pipelines) lives in the crates; here are flags, files,
//! progress and words.

mod commands;
mod files;
mod grpc;
mod kafka;
mod meter;
mod output;
mod pipelines;
mod preview;
mod registry;
mod rows;
mod time;
mod training;

use std::process::ExitCode;

use clap::Parser;
use quadrille_service::Error;

use self::commands::Command;

const EXAMPLES: &str = "\
Examples:
  quadrille                                    the whole system, with nothing installed
  quadrille topics create                      topics of the pipelines in ./pipelines
  quadrille train --pipeline pipelines/diabetes.toml --data data/pima.csv \\
      --algorithm random-forest --out models/diabetes
  quadrille produce data/pima.csv --rate 100
  quadrille model push models/diabetes
  quadrille deploy set diabetes --live diabetes:1 --canary diabetes:2@10% --wait
  quadrille predict pregnant=6 glucose=148 pressure=72 triceps=35 insulin=0 \\
      mass=33.6 pedigree=0.627 age=50
  quadrille results list --limit 10
  quadrille explain pima-1
  quadrille scale-advice --window 30
  quadrille dlq list --pipeline diabetes --stage inbox

Exit codes: 0 done, 64 wrong usage or configuration, 1 anything else.";

/// Choreography of machine-learning services over Kafka. Without a command: `up`.
#[derive(Debug, Parser)]
#[command(name = "quadrille", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    // Messages for people are printed; the log is for what goes wrong.
    quadrille_service::run_to_exit_logging("warn,quadrille_local=info", run)
}

async fn run(cli: Cli) -> Result<(), Error> {
    let command = match cli.command {
        Some(command) => command,
        None => default_command()?,
    };
    command.run().await
}

/// `up` as if it had been typed, so that its environment variables count.
fn default_command() -> Result<Command, Error> {
    let wrong = |message: String| Error::Config(message.trim_start_matches("error: ").to_owned());
    match Cli::try_parse_from(["quadrille", "up"]) {
        Ok(Cli {
            command: Some(command),
        }) => Ok(command),
        Ok(Cli { command: None }) => Err(wrong("no command; see `quadrille --help`".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_up() {
        let cli = Cli::try_parse_from(["quadrille"]).unwrap();
        assert!(cli.command.is_none());
        assert!(matches!(default_command(), Ok(Command::Up(_))));
    }
}
