//! The command line of the feature service.

use std::path::PathBuf;

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error};

use crate::{Config, Standby, StateSettings};

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

    /// Whether each replica also keeps up with the state of partitions that other replicas own, of pipelines that look back. With
    /// `all`, GetFeatures is answered while a partition moves, and its next owner goes on at once; it takes as much disk (or memory,
    /// without QUADRILLE_STATE_DIR) in each replica as the state of all partitions, and the work of writing it.
    #[arg(long, env = "QUADRILLE_STANDBY", value_enum, default_value_t = StandbyArg::None)]
    standby: StandbyArg,
}

/// As [`Standby`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StandbyArg {
    None,
    All,
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
                standby: match self.standby {
                    StandbyArg::None => Standby::None,
                    StandbyArg::All => Standby::All,
                },
            },
        })
    }
}
