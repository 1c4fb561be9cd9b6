//! `quadrille`: the whole system in one process, and the tools around it.
//!
//! `commands/` has one file per command, or one per verb where a command has several; beside it is what commands share.
//! What a command does beyond talking to a person (Kafka, models, pipelines) lives in the crates; here are flags, files,
//! progress and words.
//!
//! A library beside a `main.rs` of three lines, so that the reference manual is generated from, and checked against, the same
//! definition of the command line that the binary has. Beside that it has [`services`], for whoever runs all four in one process.

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
pub mod services;
mod time;
mod training;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use quadrille_service::Error;

use self::commands::Command;

const EXAMPLES: &str = "\
Examples:
  quadrille                                    the whole system, with nothing installed
  quadrille pipeline check                     whether the files in ./pipelines are right
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
  quadrille doctor                             what is wrong, and what to do

Exit codes: 0 done, 64 wrong usage or configuration, 1 anything else.";

/// Choreography of machine-learning services over Kafka. Without a command: `up`.
#[derive(Debug, Parser)]
#[command(name = "quadrille", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// The command line, to be documented.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What the binary does.
pub fn main() -> ExitCode {
    // What is no UTF-8 is a file's name, and no command.
    let words = std::env::args_os().skip(1);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    quadrille_service::run_to_exit_logging(log_filter(&words), run)
}

/// Messages for people are printed; the log is for what goes wrong. Of what Kafka's client says of its connections a command makes a
/// sentence: its error, or a note that it waits. `up` runs services, and their log has it.
fn log_filter(words: &[&str]) -> &'static str {
    match words {
        [] | ["up", ..] => "warn,quadrille_local=info",
        [flag, ..] if flag.starts_with('-') => "warn,quadrille_local=info",
        _ => "warn,librdkafka=off",
    }
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
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    /// Every command, with its path.
    fn all(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        found.push((path.clone(), command.clone()));
        for inner in command.get_subcommands() {
            all(inner, &path, found);
        }
    }

    fn commands() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        all(&Cli::command(), "", &mut found);
        found
    }

    #[test]
    fn a_commands_own_options_stand_before_kafkas() {
        let of_kafka = ["bootstrap_servers", "kafka_properties"];
        for (path, mut command) in commands() {
            for arg in command.get_arguments() {
                let kafka = arg.get_help_heading() == Some("Kafka");
                let expected = of_kafka.contains(&arg.get_id().as_str());
                assert_eq!(kafka, expected, "{path} {}", arg.get_id());
            }
            let help = command.render_help().to_string();
            if let Some(kafka) = help.find("\nKafka:") {
                let options = help.find("\nOptions:");
                assert!(options.is_some_and(|at| at < kafka), "{help}");
            }
        }
    }

    #[test]
    fn output_is_text_or_json_wherever_data_are_printed() {
        let without = [
            "quadrille",
            "quadrille up",
            "quadrille topics",
            "quadrille model",
            "quadrille model watch",
            "quadrille pipeline",
            "quadrille pipeline schema",
            "quadrille deploy",
            "quadrille results",
            "quadrille dlq",
            "quadrille completions",
        ];
        for (path, command) in commands() {
            let output = command.get_arguments().find(|it| it.get_id() == "output");
            let values = output.map(|it| it.get_possible_values());
            let names = values.map(|all| {
                let names = all.iter().map(|it| it.get_name().to_owned());
                names.collect::<Vec<String>>()
            });
            let expected = match without.contains(&path.as_str()) {
                true => None,
                false => Some(vec!["text".to_owned(), "json".to_owned()]),
            };
            assert_eq!(names, expected, "{path}");
        }
    }

    #[test]
    fn flags_that_scripts_have_are_taken_as_ever() {
        for line in [
            "model list --json",
            "model show m 1 --json",
            "model show m 1 --manifest",
            "model delete m 1",
            "deploy show --json",
            "deploy history p --json",
            "scale-advice --json",
            "results list --output table",
            "explain x --output table --address http://127.0.0.1:7004",
            "model import m.onnx --pipeline p.toml --version 1 --out o",
            "model import m.onnx --pipeline p.toml --model-version 1 --out o",
        ] {
            let words = ["quadrille"].into_iter().chain(line.split(' '));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn only_services_log_what_kafkas_client_says() {
        let filter = |line: &str| log_filter(&line.split(' ').collect::<Vec<&str>>());
        for command in [
            "produce f.csv",
            "model watch models",
            "topics migrate --partitions 8",
            "deploy set p --live m:1 --wait",
            "model list",
            "doctor",
        ] {
            assert!(filter(command).contains("librdkafka=off"), "{command}");
        }
        for up in ["up", "up --kafka", "--help"] {
            assert!(filter(up).contains("quadrille_local=info"), "{up}");
            assert!(!filter(up).contains("librdkafka"), "{up}");
        }
        assert!(log_filter(&[]).contains("quadrille_local=info"));
    }

    #[test]
    fn without_a_command_it_is_up() {
        let cli = Cli::try_parse_from(["quadrille"]).unwrap();
        assert!(cli.command.is_none());
        assert!(matches!(default_command(), Ok(Command::Up(_))));
    }
}
