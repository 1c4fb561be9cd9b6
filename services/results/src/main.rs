//! The results service: predictions into SQL, and the ways to read them.

use std::process::ExitCode;

use quadrille_proto::Service;
use quadrille_service::{healthcheck, run_to_exit, shutdown_signal};
use results::Cli;

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Results).await;
        }
        results::run(cli.config()?, shutdown_signal()).await
    })
}
