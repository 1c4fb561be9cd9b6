//! The ingest service: records in from Kafka, HTTP and gRPC.

use std::process::ExitCode;

use ingest::Cli;
use quadrille_proto::Service;
use quadrille_service::{healthcheck, run_to_exit, shutdown_signal};

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Ingest).await;
        }
        ingest::run(cli.config()?, shutdown_signal()).await
    })
}
