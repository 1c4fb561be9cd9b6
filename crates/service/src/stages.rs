//! The running stages of a service: those that have started are stopped and joined even if the service is never assembled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quadrille_choreography::{Health, RunningStage};

use crate::{Error, blocking::blocking};

#[derive(Default)]
struct Inner {
    running: Mutex<Vec<RunningStage>>,
    /// Of stages that have ended, too.
    health: Mutex<Vec<Health>>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Stages(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stages {
    pub fn add(&self, stage: RunningStage) {
        lock(&self.0.health).push(stage.health());
        lock(&self.0.running).push(stage);
    }

    pub fn health(&self) -> Vec<Health> {
        lock(&self.0.health).clone()
    }

    /// Whether one has ended; if it was not asked to, it has failed.
    pub fn has_ended(&self) -> bool {
        lock(&self.0.running).iter().any(RunningStage::has_ended)
    }

    /// Asks all stages to finish their current batch and leave their groups, and waits for them.
    ///
    /// # Errors
    /// The first that failed.
    pub async fn drain(&self) -> Result<(), Error> {
        let running = std::mem::take(&mut *lock(&self.0.running));
        running.iter().for_each(RunningStage::stop);
        let join = move || running.into_iter().map(RunningStage::join).collect();
        let ended: Vec<Result<(), _>> = blocking(join).await?;
        let mut first = Ok(());
        for result in ended {
            if let Err(error) = &result {
                tracing::error!(%error, "stage failed");
            }
            first = first.and(result);
        }
        first.map_err(Error::from)
    }
}
