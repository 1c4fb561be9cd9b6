//! The feature service: records in, features out.

use std::process::ExitCode;

use feature::Cli;
use quadrille_proto::Service;
use quadrille_service::{healthcheck, run_to_exit, shutdown_signal};

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Feature).await;
        }
        feature::run(cli.config()?, shutdown_signal()).await
    })
}
