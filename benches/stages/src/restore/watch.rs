//! What the lanes' restores take, from the first call to the last partition.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quadrille_choreography::Restore;

use crate::contest::Watch;

#[derive(Default)]
pub struct Restores(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    begun: Option<Instant>,
    ended: Option<Instant>,
    done: usize,
    /// By partition, what was to be read.
    totals: BTreeMap<i32, u64>,
}

/// What it took.
#[derive(Clone, Copy)]
pub struct Restored {
    pub seconds: f64,
    /// Of the process, from before its clients connected.
    pub cpu_seconds: f64,
    /// Offsets read, of all partitions: changes, and the markers of transactions.
    pub changes: u64,
}

impl Restores {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Partitions that are restored.
    pub fn count(&self) -> usize {
        self.lock().done
    }

    pub fn restored(&self, cpu: Duration) -> Option<Restored> {
        let inner = self.lock();
        Some(Restored {
            seconds: (inner.ended? - inner.begun?).as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            changes: inner.totals.values().sum(),
        })
    }
}

impl Watch for Restores {
    fn restoring(&self) {
        self.lock().begun.get_or_insert_with(Instant::now);
    }

    fn restores(&self, partition: i32, restore: Restore) {
        let mut inner = self.lock();
        match restore {
            Restore::Pending { total, .. } => {
                inner.totals.insert(partition, total);
            }
            Restore::Done => {
                inner.done += 1;
                inner.ended = Some(Instant::now());
            }
        }
    }
}
