//! The inference service: features in, predictions out, gRPC Predict.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use quadrille_proto::Stage;
use quadrille_service::{Args, healthcheck, run_to_exit, shutdown_signal};

/// Scores features: consumes <pipeline>.features, produces <pipeline>.predictions, answers PredictService.
#[derive(Parser)]
#[command(name = "inference", version)]
struct Cli {
    #[command(flatten)]
    args: Args,

    /// A model package's directory (`quadrille train` writes one), or a folder of packages named after their pipelines:
    /// what serves a pipeline until there is a deployment of it.
    #[arg(long, env = "QUADRILLE_MODEL", value_name = "DIR")]
    model: Option<PathBuf>,
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Stage::Inference).await;
        }
        let service = cli.args.resolve(Stage::Inference)?;
        inference::run(
            inference::Config {
                service,
                model: cli.model,
            },
            shutdown_signal(),
        )
        .await
    })
}
