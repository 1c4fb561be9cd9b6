//! Where packages and deployments come from: the log, or what a test holds in memory.

use std::{collections::BTreeMap, time::Duration};

use quadrille_registry::{Deployment, ModelId};
use tokio::sync::watch;

use super::status::{ModelStatus, PipelineStatus};

/// What is on the log, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Each version there is, by the SHA-256 of its package.
    pub models: BTreeMap<ModelId, [u8; 32]>,
    /// By pipeline, the valid ones, the newest first; the oldest may be left out.
    pub deployments: BTreeMap<String, Vec<Deployment>>,
}

/// A package's two files.
#[derive(Debug, Clone)]
pub struct Files {
    pub manifest: Vec<u8>,
    pub artefact: Vec<u8>,
}

/// Why a package was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It may be had later.
    #[error("{0}")]
    Unreachable(String),
    /// What is there is not what was pushed.
    #[error("{0}")]
    Damaged(String),
}

/// What a replica reports of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub models: Vec<ModelStatus>,
    pub pipelines: Vec<PipelineStatus>,
}

/// Packages and deployments. `caught_up` and `age` are asked by requests, `fetch` and `bytes` by several threads at once.
pub trait Source: Send + Sync + 'static {
    fn view(&self) -> View;

    /// # Errors
    /// The view may be behind; why.
    fn caught_up(&self) -> Result<(), String>;

    /// How long ago the log was last read to its end; None if it never was.
    fn age(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    /// The size of a version's package, as far as it is known.
    fn bytes(&self, _id: &ModelId) -> u64 {
        0
    }

    /// Changes whenever the view does.
    fn changed(&self) -> watch::Receiver<u64>;

    /// A version's package. Blocks.
    ///
    /// # Errors
    /// Why it cannot be had now.
    fn fetch(&self, id: &ModelId) -> Result<Files, Error>;

    /// Publishes how this replica is doing; called on every change, and now and then.
    fn report(&self, _report: &Report) {}

    /// Takes the last report back: this replica stops for good. Blocks, not for long.
    fn withdraw(&self) {}
}

/// No log: only local packages serve.
#[derive(Debug)]
pub struct NoLog(watch::Sender<u64>);

impl Default for NoLog {
    fn default() -> Self {
        NoLog(watch::Sender::new(0))
    }
}

impl Source for NoLog {
    fn view(&self) -> View {
        View::default()
    }

    fn caught_up(&self) -> Result<(), String> {
        Ok(())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn fetch(&self, _: &ModelId) -> Result<Files, Error> {
        Err(Error::Unreachable("there is no log of models".to_owned()))
    }
}
