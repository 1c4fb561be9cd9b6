//! The results service: predictions into SQL, and the ways to read them.

use std::process::ExitCode;

use clap::Parser;
use quadrille_proto::Stage;
use quadrille_service::{Args, run_to_exit, shutdown_signal};

/// Keeps predictions: consumes <pipeline>.predictions, writes SQL, answers ResultsService, REST and a page.
#[derive(Parser)]
#[command(name = "results", version)]
struct Cli {
    #[command(flatten)]
    args: Args,

    /// sqlite:path/to/file.db (one replica) or postgres://user:password@host/database (any number).
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:results.db",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: String,
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        let service = cli.args.resolve(Stage::Results)?;
        let config = results::Config {
            service,
            database_url: cli.database_url,
        };
        results::run(config, shutdown_signal()).await
    })
}
