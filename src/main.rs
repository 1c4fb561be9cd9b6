//! `quadrille`: the whole system in one process, and the tools around it.
//!
//! One file per command. What a command does beyond talking to a person (Kafka, models, pipelines) lives in
//! the crates; here are flags, files, progress and words.

mod deploy;
mod dlq;
mod explain;
mod grpc;
mod kafka;
mod meter;
mod model;
mod output;
mod pipelines;
mod predict;
mod preview;
mod produce;
mod record;
mod registry;
mod results;
mod rows;
mod scale_advice;
mod topics;
mod train;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quadrille_service::Error;

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all four services in this process (the default).
    Up(up::Args),
    /// Train a model on a CSV file and write it as a package.
    Train(train::Args),
    /// Create a pipeline's topics, or check them.
    #[command(subcommand)]
    Topics(topics::Command),
    /// Send the records of a file to a pipeline's inbox.
    Produce(produce::Args),
    /// Ask for the prediction of one record.
    Predict(predict::Args),
    /// Model packages on the log: push, list, show, delete, or watch a folder.
    #[command(subcommand)]
    Model(model::Command),
    /// Which model versions serve a pipeline: set, show, history, promote, rollback.
    #[command(subcommand)]
    Deploy(deploy::Command),
    /// Look at stored predictions.
    #[command(subcommand)]
    Results(results::Command),
    /// Compute a stored prediction again, and say what each input had to do with it.
    Explain(explain::Args),
    /// Say how many replicas each service needs, and why.
    ScaleAdvice(scale_advice::Args),
    /// Look at dead letters, send them back, or discard them.
    #[command(subcommand)]
    Dlq(dlq::Command),
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
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Train(args) => train::run(args).await,
        Command::Topics(command) => topics::run(command).await,
        Command::Produce(args) => produce::run(args).await,
        Command::Predict(args) => predict::run(args).await,
        Command::Model(command) => model::run(command).await,
        Command::Deploy(command) => deploy::run(command).await,
        Command::Results(command) => results::run(command).await,
        Command::Explain(args) => explain::run(args).await,
        Command::ScaleAdvice(args) => scale_advice::run(args).await,
        Command::Dlq(command) => dlq::run(command).await,
    }
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
