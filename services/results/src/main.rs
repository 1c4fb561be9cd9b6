//! The results service: predictions into SQL, and the ways to read them.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error, healthcheck, run_to_exit, shutdown_signal};

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

    /// A file that holds the URL, in place of --database-url: a secret that is mounted.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "PATH")]
    database_url_file: Option<PathBuf>,
}

impl Cli {
    fn database_url(&self) -> Result<String, Error> {
        let Some(path) = &self.database_url_file else {
            return Ok(self.database_url.clone());
        };
        let wrong = |reason: String| {
            let path = path.display();
            Error::Config(format!("DATABASE_URL_FILE {path}: {reason}"))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        match text.trim() {
            "" => Err(wrong("is empty; write the database's URL to it".to_owned())),
            url => Ok(url.to_owned()),
        }
    }
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Results).await;
        }
        let service = cli.args.resolve(Service::Results)?;
        let config = results::Config {
            service,
            database_url: cli.database_url()?,
        };
        results::run(config, shutdown_signal()).await
    })
}
