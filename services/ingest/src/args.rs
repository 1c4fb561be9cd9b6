//! The command line of the ingest service.

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error};

use crate::{Bounds, Config};

/// Takes records in: consumes `<pipeline>.inbox`, answers HTTP and IngestService, produces `<pipeline>.records`.
#[derive(Debug, Parser)]
#[command(name = "ingest", version)]
pub struct Cli {
    #[command(flatten)]
    pub args: Args,

    /// Largest size of one record.
    #[arg(long, env = "QUADRILLE_RECORD_BYTES", default_value_t = Bounds::default().record_bytes_max, value_name = "BYTES")]
    record_bytes: usize,

    /// Largest size of one HTTP body.
    #[arg(long, env = "QUADRILLE_BODY_BYTES", default_value_t = Bounds::default().body_bytes_max, value_name = "BYTES")]
    body_bytes: usize,

    /// Most records in one HTTP body.
    #[arg(long, env = "QUADRILLE_BODY_RECORDS", default_value_t = Bounds::default().batch_records_max, value_name = "RECORDS")]
    body_records: usize,
}

impl Cli {
    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn config(self) -> Result<Config, Error> {
        Ok(Config {
            service: self.args.resolve(Service::Ingest)?,
            bounds: Bounds {
                record_bytes_max: self.record_bytes,
                body_bytes_max: self.body_bytes,
                batch_records_max: self.body_records,
            },
        })
    }
}
