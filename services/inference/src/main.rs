//! The inference service: features in, predictions out, gRPC Predict.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use inference::{Limits, serving::Batching};
use quadrille_proto::Service;
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

    /// Names of more models that are scored in batches of stream and requests together, through one bounded queue a model.
    /// Large networks are anyway; the others are scored where a record or a request arrives.
    #[arg(
        long,
        env = "QUADRILLE_QUEUED_MODELS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    queued_models: Vec<String>,

    /// Threads of each queued model [default: one a core].
    #[arg(long, env = "QUADRILLE_MODEL_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    model_threads: Option<u16>,

    /// Rows that close a batch of a queued model.
    #[arg(long, env = "QUADRILLE_MODEL_BATCH", default_value_t = 64, value_name = "ROWS", value_parser = clap::value_parser!(u16).range(1..))]
    model_batch: u16,

    /// How long, at most, a batch of a queued model is held open while more requests are expected.
    #[arg(long, env = "QUADRILLE_MODEL_DELAY_MS", default_value_t = 1, value_name = "MS", value_parser = clap::value_parser!(u16).range(..=10_000))]
    model_delay_ms: u16,

    /// Bytes of one request, a gRPC message or an HTTP body, at most.
    #[arg(long, env = "QUADRILLE_REQUEST_BYTES", default_value_t = 20 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1_024..=1 << 30))]
    request_bytes: u32,

    /// Rows of one request, at most.
    #[arg(long, env = "QUADRILLE_REQUEST_ROWS", default_value_t = 65_536, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    request_rows: u32,

    /// Values of one request, rows times inputs, at most.
    #[arg(long, env = "QUADRILLE_REQUEST_VALUES", default_value_t = 1 << 21, value_name = "VALUES", value_parser = clap::value_parser!(u32).range(1..=1 << 27))]
    request_values: u32,
}

impl Cli {
    fn limits(&self) -> Limits {
        // Sizes of what fits into memory.
        let size = |it| usize::try_from(it).unwrap_or(usize::MAX);
        Limits {
            bytes_max: size(self.request_bytes),
            rows_max: size(self.request_rows),
            values_max: size(self.request_values),
        }
    }

    fn batching(&self) -> Batching {
        let default = Batching::default();
        let rows_max = usize::from(self.model_batch);
        Batching {
            models: self.queued_models.clone(),
            workers: self.model_threads.map_or(default.workers, usize::from),
            rows_max,
            // Room for as many batches as by default.
            queued_rows_max: rows_max * (default.queued_rows_max / default.rows_max),
            delay_max: Duration::from_millis(self.model_delay_ms.into()),
        }
    }
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Inference).await;
        }
        let batching = cli.batching();
        let limits = cli.limits();
        let service = cli.args.resolve(Service::Inference)?;
        inference::run(
            inference::Config {
                service,
                model: cli.model,
                batching,
                limits,
            },
            shutdown_signal(),
        )
        .await
    })
}
