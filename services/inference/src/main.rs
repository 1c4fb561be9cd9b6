//! The inference service: features in, predictions out, gRPC Predict.

use std::process::ExitCode;

use inference::Cli;
use quadrille_proto::Service;
use quadrille_service::{healthcheck, run_to_exit, shutdown_signal};

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Inference).await;
        }
        inference::run(cli.config()?, shutdown_signal()).await
    })
}
