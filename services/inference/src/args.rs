//! The command line of the inference service.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error};

use crate::{Config, Limits, serving::Batching};

/// Scores features: consumes `<pipeline>.features`, produces `<pipeline>.predictions`, answers PredictService.
#[derive(Debug, Parser)]
#[command(name = "inference", version)]
pub struct Cli {
    #[command(flatten)]
    pub args: Args,

    /// A model package's directory (`quadrille train` writes one), or a folder of packages named after their pipelines:
    /// it serves a pipeline until the pipeline has a deployment.
    #[arg(long, env = "QUADRILLE_MODEL", value_name = "DIR")]
    model: Option<PathBuf>,

    /// Names of further models to score in batches, stream and requests together, through one bounded queue per model.
    /// Large networks always are; other models are scored where the record or the request arrives.
    #[arg(
        long,
        env = "QUADRILLE_QUEUED_MODELS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    queued_models: Vec<String>,

    /// Threads of each queued model [default: one per core].
    #[arg(long, env = "QUADRILLE_MODEL_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    model_threads: Option<u16>,

    /// Rows that close a batch of a queued model.
    #[arg(long, env = "QUADRILLE_MODEL_BATCH", default_value_t = 64, value_name = "ROWS", value_parser = clap::value_parser!(u16).range(1..))]
    model_batch: u16,

    /// Longest time that a batch of a queued model is held open while more requests are expected.
    #[arg(long, env = "QUADRILLE_MODEL_DELAY_MS", default_value_t = 1, value_name = "MS", value_parser = clap::value_parser!(u16).range(..=10_000))]
    model_delay_ms: u16,

    /// Largest size of one request: a gRPC message or an HTTP body.
    #[arg(long, env = "QUADRILLE_REQUEST_BYTES", default_value_t = 20 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1_024..=1 << 30))]
    request_bytes: u32,

    /// Most rows in one request.
    #[arg(long, env = "QUADRILLE_REQUEST_ROWS", default_value_t = 65_536, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    request_rows: u32,

    /// Most values in one request, rows times inputs.
    #[arg(long, env = "QUADRILLE_REQUEST_VALUES", default_value_t = 1 << 21, value_name = "VALUES", value_parser = clap::value_parser!(u32).range(1..=1 << 27))]
    request_values: u32,
}

impl Cli {
    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn config(self) -> Result<Config, Error> {
        Ok(Config {
            service: self.args.resolve(Service::Inference)?,
            batching: self.batching(),
            limits: self.limits(),
            model: self.model,
        })
    }

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
