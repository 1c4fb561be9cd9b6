//! The commands: a file for each, and a folder with a file per verb where one has several.

mod completions;
mod deploy;
mod dlq;
mod doctor;
mod explain;
mod features;
mod model;
mod pipeline;
mod predict;
mod produce;
mod results;
mod scale_advice;
mod topics;
mod train;
mod up;

use clap::CommandFactory;
use quadrille_service::Error;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run all four services in this process (the default).
    Up(up::Args),
    /// Train a model on a CSV file and write it as a package.
    Train(train::Args),
    /// Compute the features of a CSV file's records as the stream would have, and write them.
    Features(features::Args),
    /// Create a pipeline's topics, or check them.
    #[command(subcommand)]
    Topics(topics::Command),
    /// Check pipeline files, say what they mean, describe them for editors.
    #[command(subcommand)]
    Pipeline(pipeline::Command),
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
    /// Look at everything a pipeline needs, and say what to mend: Kafka, topics, groups, models, database, ports.
    Doctor(doctor::Args),
    /// Print what a shell needs to complete these commands.
    Completions(completions::Args),
}

impl Command {
    /// # Errors
    /// The command's own.
    pub async fn run(self) -> Result<(), Error> {
        match self {
            Command::Up(args) => up::run(args).await,
            Command::Train(args) => train::run(args).await,
            Command::Features(args) => features::run(args).await,
            Command::Topics(command) => topics::run(command).await,
            Command::Pipeline(command) => pipeline::run(&command),
            Command::Produce(args) => produce::run(args).await,
            Command::Predict(args) => predict::run(args).await,
            Command::Model(command) => model::run(command).await,
            Command::Deploy(command) => deploy::run(command).await,
            Command::Results(command) => results::run(command).await,
            Command::Explain(args) => explain::run(args).await,
            Command::ScaleAdvice(args) => scale_advice::run(args).await,
            Command::Dlq(command) => dlq::run(command).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Completions(args) => completions::run(&args, &crate::Cli::command()),
        }
    }
}
