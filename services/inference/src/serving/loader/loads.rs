//! Versions on their way into memory: fetched, verified, loaded and warmed up beside each other, each on a thread of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use quadrille_registry::ModelId;
use quadrille_telemetry::metrics::ServingMetrics;
use tokio::sync::Notify;

use crate::{
    engine::{Batching, Loaded},
    serving::{
        load::{self, Step, load},
        source::{self, Source},
    },
};

/// Threads: one slow download, or one that nobody wants any more, leaves room for others.
const LOADS_MAX: usize = 4;
/// Of packages that are loaded at the same time, as they lie on the log; one alone may have more. In memory a package takes about twice its
/// bytes while it is read.
const LOADS_BYTES_MAX: u64 = 512 << 20;

/// Why a version was not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It may be had later.
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Failed(#[from] load::Error),
}

/// What became of a load.
pub(super) struct Finished {
    pub id: ModelId,
    pub result: Result<Loaded, Error>,
    pub took: Duration,
}

/// The loads that are under way.
pub(super) struct Loads {
    source: Arc<dyn Source>,
    batching: Batching,
    metrics: ServingMetrics,
    /// With the bytes of their packages.
    running: Vec<(ModelId, u64)>,
    results: mpsc::Receiver<Finished>,
    sender: mpsc::Sender<Finished>,
    finished: Arc<Notify>,
    /// Waited for and not taken yet.
    waiting: Vec<Finished>,
}

impl Loads {
    pub fn new(source: Arc<dyn Source>, batching: Batching, metrics: ServingMetrics) -> Self {
        // Bounded by the loads that run.
        let (sender, results) = mpsc::channel();
        Loads {
            source,
            batching,
            metrics,
            running: Vec::new(),
            results,
            sender,
            finished: Arc::default(),
            waiting: Vec::new(),
        }
    }

    /// Notified whenever a load is over.
    pub fn finished(&self) -> Arc<Notify> {
        Arc::clone(&self.finished)
    }

    /// The loads that are over.
    pub fn take(&mut self) -> Vec<Finished> {
        let mut finished = std::mem::take(&mut self.waiting);
        finished.extend(self.results.try_iter());
        for Finished { id, .. } in &finished {
            self.running.retain(|(running, _)| running != id);
        }
        finished
    }

    /// Waits for a load to be over; false where none runs.
    pub fn wait(&mut self) -> bool {
        if !self.waiting.is_empty() {
            return true;
        }
        if self.running.is_empty() {
            return false;
        }
        self.waiting.extend(self.results.recv());
        true
    }

    /// Begins to load a version; one whose load goes on since it was wanted before is not loaded twice. False where there is no room now:
    /// then a load that ends makes some.
    pub fn begin(&mut self, id: &ModelId, hash: &[u8; 32]) -> bool {
        if self.running.iter().any(|(running, _)| running == id) {
            return true;
        }
        let bytes = self.source.bytes(id);
        let so_far: u64 = self.running.iter().map(|(_, bytes)| bytes).sum();
        let is_alone = self.running.is_empty();
        if !is_alone
            && (self.running.len() >= LOADS_MAX || so_far.saturating_add(bytes) > LOADS_BYTES_MAX)
        {
            return false;
        }
        let (source, hash) = (Arc::clone(&self.source), *hash);
        let (batching, metrics) = (self.batching.clone(), self.metrics.clone());
        let (sender, finished) = (self.sender.clone(), Arc::clone(&self.finished));
        self.running.push((id.clone(), bytes));
        let own = id.clone();
        let work = move || {
            let started = Instant::now();
            let whole = || load_version(&*source, &own, &hash, &batching, &metrics);
            let result = catch_unwind(AssertUnwindSafe(whole))
                .unwrap_or_else(|_| Err(load::Error::at(Step::Fetch, "it panicked").into()));
            // Nobody takes it where the loader has ended.
            let _ = sender.send(Finished {
                id: own,
                result,
                took: started.elapsed(),
            });
            finished.notify_one();
        };
        let thread = std::thread::Builder::new().name("load".to_owned());
        if let Err(error) = thread.spawn(work) {
            self.waiting.push(Finished {
                id: id.clone(),
                result: Err(Error::Unreachable(format!("no thread: {error}"))),
                took: Duration::ZERO,
            });
            self.finished.notify_one();
        }
        true
    }
}

/// Takes a version all the way to being ready.
fn load_version(
    source: &dyn Source,
    id: &ModelId,
    hash: &[u8; 32],
    batching: &Batching,
    metrics: &ServingMetrics,
) -> Result<Loaded, Error> {
    let files = source.fetch(id).map_err(|error| match error {
        source::Error::Unreachable(why) => Error::Unreachable(why),
        source::Error::Damaged(why) => load::Error::at(Step::Verify, why).into(),
    })?;
    let package = load(id, hash, files)?;
    let loaded = Loaded::new(&package, batching, metrics);
    loaded.map_err(|error| load::Error::at(Step::Load, error).into())
}
