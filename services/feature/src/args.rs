//! The command line of the feature service.

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Config, Error};

/// Computes features: consumes `<pipeline>.records`, produces `<pipeline>.features`, answers FeatureService.
#[derive(Debug, Parser)]
#[command(name = "feature", version)]
pub struct Cli {
    #[command(flatten)]
    pub args: Args,
}

impl Cli {
    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn config(self) -> Result<Config, Error> {
        self.args.resolve(Service::Feature)
    }
}
