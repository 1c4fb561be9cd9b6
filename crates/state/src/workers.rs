//! The two threads of a process: one writes rows to disk when memory runs short, and now and then anyway, one merges what was
//! written.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    Error,
    budget::{Budget, Wanted},
    inner::Inner,
    stores::Registry,
};

pub(crate) struct Workers {
    budget: Arc<Budget>,
    merges: Arc<Merges>,
    threads: Vec<JoinHandle<()>>,
}

/// Stores whose tables are to be merged: each at most once, so as many as there are stores.
#[derive(Default)]
struct Merges {
    state: Mutex<(VecDeque<Weak<Inner>>, Stop)>,
    changed: Condvar,
}

#[derive(Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    Yes,
}

impl Merges {
    fn push(&self, store: &Arc<Inner>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push_back(Arc::downgrade(store));
        self.changed.notify_all();
    }

    /// Waits; `None`: stopped.
    fn pop(&self) -> Option<Weak<Inner>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.1 == Stop::Yes {
                return None;
            }
            if let Some(store) = state.0.pop_front() {
                return Some(store);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Stop::Yes;
        self.changed.notify_all();
    }
}

impl Workers {
    pub fn start(
        budget: Arc<Budget>,
        registry: Arc<Registry>,
        flush_every: Duration,
    ) -> io::Result<Self> {
        let merges = Arc::<Merges>::default();
        let mut workers = Self {
            budget: budget.clone(),
            merges: merges.clone(),
            threads: vec![],
        };
        let flushes = {
            let merges = merges.clone();
            move || flush(&budget, &registry, &merges, flush_every)
        };
        workers.spawn("state-flush", flushes)?;
        workers.spawn("state-merge", move || merge(&merges))?;
        Ok(workers)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_string()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.budget.stop();
        self.merges.stop();
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn flush(budget: &Budget, registry: &Registry, merges: &Merges, every: Duration) {
    let mut all_at = Instant::now() + every;
    loop {
        match budget.flush_wanted(all_at) {
            Wanted::Nothing => return,
            Wanted::All => {
                for store in registry.open() {
                    flush_one(&store, budget, merges);
                }
                all_at = Instant::now() + every;
            }
            Wanted::Memory => match registry.largest() {
                Some(store) => flush_one(&store, budget, merges),
                // Nothing is held by a store that is open: its last rows are about to be given back.
                None => thread::yield_now(),
            },
        }
    }
}

fn flush_one(store: &Arc<Inner>, budget: &Budget, merges: &Merges) {
    match store.flush() {
        Ok(MergeDue::Yes) => merges.push(store),
        Ok(MergeDue::No) => {}
        Err(Error::Closed { .. }) => {}
        Err(error) => {
            tracing::warn!(store = %store.name, error = &error as &dyn std::error::Error, "keyed state not flushed");
            budget.flush_failed();
        }
    }
}

fn merge(merges: &Merges) {
    while let Some(store) = merges.pop() {
        let Some(store) = store.upgrade() else {
            continue;
        };
        match store.merge_all() {
            Ok(()) | Err(Error::Closed { .. }) => {}
            Err(error) => {
                tracing::warn!(store = %store.name, error = &error as &dyn std::error::Error, "keyed state not merged");
            }
        }
    }
}

/// Whether a flush left so many tables that they are to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergeDue {
    Yes,
    No,
}
