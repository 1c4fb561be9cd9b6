//! The command line of the feature service.

use std::path::PathBuf;

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error};

use crate::{Config, StateSettings};

/// Computes features: consumes `<pipeline>.records`, produces `<pipeline>.features`, answers FeatureService.
#[derive(Debug, Parser)]
#[command(name = "feature", version)]
pub struct Cli {
    #[command(flatten)]
    pub args: Args,

    /// Where the state of pipelines that look back is kept on disk; each replica needs a folder of its own. It is a cache of
    /// the topic `<pipeline>.feature-state`: with it, a restart reads only what came since; without the setting, state
    /// is held in memory and restored from the topic at each start.
    #[arg(long, env = "QUADRILLE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Memory for state, in MiB, of all pipelines and partitions together: keys in use, and what is not on disk yet. Without
    /// QUADRILLE_STATE_DIR the state itself comes on top of it.
    #[arg(long, env = "QUADRILLE_STATE_MEMORY_MB", default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    state_memory_mb: u32,
}

impl Cli {
    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn config(self) -> Result<Config, Error> {
        Ok(Config {
            service: self.args.resolve(Service::Feature)?,
            state: StateSettings {
                folder: self.state_dir,
                memory_bytes: (self.state_memory_mb as usize) << 20,
            },
        })
    }
}
