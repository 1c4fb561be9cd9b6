//! The memory that all stores of a process share, and when it has to be given back.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// After a flush failed (a full disk), the next is tried when somebody has to wait for it, or after this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Of the budget, rows in memory get this share, blocks read from disk the rest.
const ROWS_SHARE: f64 = 0.5;

pub(crate) struct Budget {
    /// Of rows in memory, those being flushed included.
    rows_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Of rows that no flush has begun with.
    active: usize,
    sealed: usize,
    /// Those who can add no row before a flush has ended.
    waiting: usize,
    /// Flushes that have failed so far.
    failures: u64,
    retry_at: Option<Instant>,
    stopped: bool,
}

impl State {
    fn rows(&self) -> usize {
        self.active + self.sealed
    }
}

/// What should be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever gives back most memory.
    Memory,
    /// All: it is time.
    All,
    /// Nothing any more.
    Nothing,
}

/// A wait ended because a flush failed.
#[derive(Debug)]
pub(crate) struct FlushFailed;

impl Budget {
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            rows_max: (memory_bytes as f64 * ROWS_SHARE) as usize,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub fn cache_bytes(memory_bytes: usize) -> u64 {
        (memory_bytes as f64 * (1.0 - ROWS_SHARE)) as u64
    }

    /// Waits until there is room for so many bytes more. What is larger than the budget gets in alone.
    pub fn wait_for(&self, bytes: usize) -> Result<(), FlushFailed> {
        let mut state = self.lock();
        let failures = state.failures;
        while state.rows() > 0 && state.rows() + bytes > self.rows_max && !state.stopped {
            state.waiting += 1;
            self.changed.notify_all();
            state = self.wait(state);
            state.waiting -= 1;
            if state.failures != failures {
                return Err(FlushFailed);
            }
        }
        Ok(())
    }

    pub fn active_changed(&self, before: usize, after: usize) {
        let mut state = self.lock();
        state.active = (state.active + after).saturating_sub(before);
        if self.is_flush_due(&state) || state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    pub fn sealed(&self, bytes: usize) {
        let mut state = self.lock();
        state.active = state.active.saturating_sub(bytes);
        state.sealed += bytes;
    }

    /// Sealed rows are on disk, or given up.
    pub fn freed(&self, bytes: usize) {
        let mut state = self.lock();
        state.sealed = state.sealed.saturating_sub(bytes);
        state.retry_at = None;
        self.changed.notify_all();
    }

    pub fn flush_failed(&self) {
        let mut state = self.lock();
        state.failures += 1;
        state.retry_at = Some(Instant::now() + RETRY_AFTER);
        self.changed.notify_all();
    }

    /// Waits until something should be flushed; all at `all_at`.
    pub fn flush_wanted(&self, all_at: Instant) -> Wanted {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Wanted::Nothing;
            }
            let now = Instant::now();
            if all_at <= now {
                return Wanted::All;
            }
            if state.waiting > 0 && state.rows() > 0 {
                return Wanted::Memory;
            }
            let at = match self.is_flush_due(&state) {
                true => state.retry_at.filter(|at| *at > now),
                false => Some(all_at),
            };
            let Some(at) = at else {
                return Wanted::Memory;
            };
            let wait = at.min(all_at).saturating_duration_since(now);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Half of what there may be: while one half is written, the other is filled.
    fn is_flush_due(&self, state: &State) -> bool {
        state.active > self.rows_max / 2
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
