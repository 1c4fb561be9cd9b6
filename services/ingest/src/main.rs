//! The ingest service: records in from Kafka, HTTP and gRPC.

use std::process::ExitCode;

use clap::Parser;
use ingest::Bounds;
use quadrille_proto::Service;
use quadrille_service::{Args, healthcheck, run_to_exit, shutdown_signal};

/// Takes records in: consumes <pipeline>.inbox, answers HTTP and IngestService, produces <pipeline>.records.
#[derive(Parser)]
#[command(name = "ingest", version)]
struct Cli {
    #[command(flatten)]
    args: Args,

    /// Bytes of one record, at most.
    #[arg(long, env = "QUADRILLE_RECORD_BYTES", default_value_t = Bounds::default().record_bytes_max, value_name = "BYTES")]
    record_bytes: usize,

    /// Bytes of one HTTP body, at most.
    #[arg(long, env = "QUADRILLE_BODY_BYTES", default_value_t = Bounds::default().body_bytes_max, value_name = "BYTES")]
    body_bytes: usize,

    /// Records in one HTTP body, at most.
    #[arg(long, env = "QUADRILLE_BODY_RECORDS", default_value_t = Bounds::default().batch_records_max, value_name = "RECORDS")]
    body_records: usize,
}

fn main() -> ExitCode {
    run_to_exit(|cli: Cli| async move {
        if cli.args.healthcheck {
            return healthcheck(&cli.args, Service::Ingest).await;
        }
        let service = cli.args.resolve(Service::Ingest)?;
        let bounds = Bounds {
            record_bytes_max: cli.record_bytes,
            body_bytes_max: cli.body_bytes,
            batch_records_max: cli.body_records,
        };
        ingest::run(ingest::Config { service, bounds }, shutdown_signal()).await
    })
}
