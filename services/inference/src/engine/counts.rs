//! What a version has done since it was loaded: rows, runs, requests, and the time they took. For `ModelStatistics`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quadrille_model::{Contributions, Cost, Model, Outputs};

/// How many, and how long together.
#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Tally {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        // Five centuries of nanoseconds fit.
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.ns.fetch_add(ns, Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.count.load(Relaxed), self.ns.load(Relaxed))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    last_ms: AtomicU64,
    rows: AtomicU64,
    runs: Tally,
    answered: Tally,
    refused: Tally,
    queued: Tally,
    prepared: Tally,
    written: Tally,
}

/// A version's counts at one moment. Pairs are how many and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Milliseconds since 1970; 0: never.
    pub last_ms: u64,
    pub rows: u64,
    pub runs: (u64, u64),
    pub answered: (u64, u64),
    pub refused: (u64, u64),
    /// Requests of which rows were scored, and how long their first rows waited for that.
    pub queued: (u64, u64),
    /// Requests that were answered: making the model's rows of what they brought.
    pub prepared: (u64, u64),
    /// Requests that were answered: making what they asked for of the model's scores.
    pub written: (u64, u64),
}

impl Counts {
    /// A request is asked.
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            counts: self,
            at: Instant::now(),
            tally: &self.refused,
        }
    }

    /// A request's first rows are scored now, and waited so long for it.
    pub fn queued(&self, waited: Duration) {
        self.queued.add(waited);
    }

    pub fn prepared(&self, took: Duration) {
        self.prepared.add(took);
    }

    pub fn written(&self, took: Duration) {
        self.written.add(took);
    }

    pub fn read(&self) -> Statistics {
        Statistics {
            last_ms: self.last_ms.load(Relaxed),
            rows: self.rows.load(Relaxed),
            runs: self.runs.read(),
            answered: self.answered.read(),
            refused: self.refused.read(),
            queued: self.queued.read(),
            prepared: self.prepared.read(),
            written: self.written.read(),
        }
    }
}

/// A request that has no answer yet. It counts as refused if it never has one: its deadline passes, or its caller goes.
pub(crate) struct Asked<'a> {
    counts: &'a Counts,
    at: Instant,
    tally: &'a Tally,
}

impl Asked<'_> {
    pub fn ends<T, E>(mut self, answer: &Result<T, E>) {
        if answer.is_ok() {
            self.tally = &self.counts.answered;
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.tally.add(self.at.elapsed());
    }
}

/// A model whose runs are counted, whoever has it run: a lane, a request, or a queue's thread.
pub(super) struct Counted {
    model: Arc<dyn Model>,
    counts: Arc<Counts>,
}

impl Counted {
    pub fn wrap(model: Arc<dyn Model>, counts: &Arc<Counts>) -> Arc<dyn Model> {
        Arc::new(Counted {
            model,
            counts: Arc::clone(counts),
        })
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.model.fmt(f)
    }
}

impl Model for Counted {
    fn inputs(&self) -> &[String] {
        self.model.inputs()
    }

    fn outputs(&self) -> &Outputs {
        self.model.outputs()
    }

    /// A run that panics does not count.
    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        let start = Instant::now();
        self.model.score(rows, outputs);
        self.counts.runs.add(start.elapsed());
        let count = rows.len() / self.model.inputs().len().max(1);
        self.counts.rows.fetch_add(count as u64, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(0));
        self.counts.last_ms.store(now_ms, Relaxed);
    }

    fn cost(&self) -> Cost {
        self.model.cost()
    }

    fn contributions(&self, row: &[f64]) -> Option<Contributions> {
        self.model.contributions(row)
    }
}
