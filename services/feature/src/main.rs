//! The feature service: records in, features out.

use std::process::ExitCode;

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, healthcheck, run_to_exit, shutdown_signal};

/// Computes features: consumes <pipeline>.records, produces <pipeline>.features, answers FeatureService.
#[derive(Parser)]
#[command(name = "feature", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Feature).await;
        }
        let config = cli.args.resolve(Service::Feature)?;
        feature::run(config, shutdown_signal()).await
    })
}
