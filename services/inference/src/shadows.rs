//! Shadows: models that score what others answer for. What they do, or do not, is never the pipeline's.
//!
//! A shadow's predictions go out in the transaction of the outcomes that they are beside, so that they too are there exactly once. So they
//! are made in the lane, before that transaction, and what they may cost it is bounded: all shadows of a lane have a [`SHARE`] of its time,
//! and of one batch [`BUDGET`]. What that is not enough for is missed, and counted.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use quadrille_telemetry::metrics::Missed;

use crate::{
    engine::{self, Begun, Pending},
    serving::{Routes, Variant},
};

/// One part in so many of a lane's time is the shadows': a pipeline keeps four fifths of its throughput however slow they are. A lane that
/// waits for records earns it as well, so a pipeline with time to spare has its shadows score everything.
const SHARE: u32 = 5;
/// What all shadows may add to a batch, and so to its records' latency: a third of what a record takes from inbox to SQL under load.
const BUDGET: Duration = Duration::from_millis(20);

/// A lane's shadows.
#[derive(Default)]
pub(crate) struct Shadows {
    /// [`Routes::made`] of the routes that they are of.
    of: Option<u64>,
    list: Vec<Shadow>,
}

impl Shadows {
    /// Has every shadow score the batch, as far as its time goes.
    pub fn score(&mut self, routes: &Routes, rows: &[f64], inputs: usize) {
        if self.of != Some(routes.made) {
            self.of = Some(routes.made);
            let shadows = routes.split.shadows();
            let now = Instant::now();
            let shadow = |route: &usize| Shadow::new(*route, shadows.len(), now);
            self.list = shadows.iter().map(shadow).collect();
        }
        for shadow in &mut self.list {
            shadow.score(&routes.variants[shadow.route], rows, inputs);
        }
    }

    /// The predictions beside the record at `index`: of which route, and its outputs.
    pub fn beside(
        &mut self,
        routes: &Routes,
        index: usize,
        row: &[f64],
    ) -> impl Iterator<Item = (usize, &[f64])> {
        self.list.iter_mut().filter_map(move |shadow| {
            let route = shadow.route;
            let outputs = shadow.prediction(&routes.variants[route], index, row)?;
            Some((route, outputs))
        })
    }

    /// The batch is decided.
    pub fn done(&mut self, routes: &Routes) {
        for shadow in &mut self.list {
            let failed = std::mem::take(&mut shadow.failed);
            let variant = &routes.variants[shadow.route];
            variant.metrics.missed(Missed::Failed, failed);
        }
    }
}

struct Shadow {
    route: usize,
    allowance: Allowance,
    pace: Pace,
    /// Of the batch's first records, as many as it came to.
    outputs: Vec<f64>,
    /// Records of the batch that it answered no prediction to.
    failed: u64,
    /// Rows in a queue that the lane did not wait for, and since when it does not.
    late: Option<(Pending, Instant)>,
    /// Whether it was logged already that it fails.
    logged: bool,
}

impl Shadow {
    fn new(route: usize, of: usize, now: Instant) -> Self {
        Shadow {
            route,
            allowance: Allowance::new(of, now),
            pace: Pace::default(),
            outputs: Vec::new(),
            failed: 0,
            late: None,
            logged: false,
        }
    }

    fn score(&mut self, variant: &Variant, rows: &[f64], inputs: usize) {
        self.outputs.clear();
        let inputs = inputs.max(1);
        let count = rows.len() / inputs;
        let start = Instant::now();
        let budget = match self.is_free(start) {
            true => self.allowance.left(start),
            false => Duration::ZERO,
        };
        if budget.is_zero() {
            variant.metrics.missed(Missed::Budget, count as u64);
            return;
        }
        let pace = self.pace;
        let work = || {
            within(budget, pace, rows, inputs, |piece| {
                self.piece(variant, piece, start + budget)
            })
        };
        let end = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(engine::Error::Failed));
        let took = start.elapsed();
        let scored = self.outputs.len() / variant.width.max(1);
        self.allowance.spent(self.pace.cost(scored, took));
        if end.is_err() {
            self.fails(variant, count);
            return;
        }
        if scored > 0 {
            self.pace.measured(scored, took);
            variant.metrics.times.compute(took);
            variant.metrics.scored(scored as u64);
        }
        let missed = count.saturating_sub(scored) as u64;
        variant.metrics.missed(Missed::Budget, missed);
    }

    /// Whether nothing of an earlier batch is at work for it still. What that took is its time as well, in a queue's thread: one piece at a
    /// time, so that it has no more of the cores than of the lane.
    fn is_free(&mut self, now: Instant) -> bool {
        let Some((pending, since)) = &mut self.late else {
            return true;
        };
        if pending.wait(now).is_none() {
            return false;
        }
        self.allowance.spent(now.saturating_duration_since(*since));
        self.late = None;
        true
    }

    fn piece(
        &mut self,
        variant: &Variant,
        rows: &[f64],
        until: Instant,
    ) -> ControlFlow<Result<(), engine::Error>> {
        let mut pending = match variant.loaded.begin(rows, &mut self.outputs) {
            Begun::Done => return ControlFlow::Continue(()),
            Begun::Full => return ControlFlow::Break(Ok(())),
            Begun::Pending(pending) => pending,
        };
        match pending.wait(until) {
            Some(Ok(outputs)) => {
                self.outputs.extend(outputs);
                ControlFlow::Continue(())
            }
            Some(Err(error)) => ControlFlow::Break(Err(error)),
            None => {
                self.late = Some((pending, until));
                ControlFlow::Break(Ok(()))
            }
        }
    }

    fn fails(&mut self, variant: &Variant, records: usize) {
        self.outputs.clear();
        self.failed += records as u64;
        if !std::mem::replace(&mut self.logged, true) {
            let id = variant.loaded.id();
            tracing::warn!(
                shadow = variant.name,
                model = id.name,
                version = id.version,
                "a shadow panicked; the batch has no predictions of it, and quadrille_shadow_missed_total counts what else it fails on"
            );
        }
    }

    /// Its outputs for a record of the batch, if they are a prediction.
    fn prediction(&mut self, variant: &Variant, index: usize, row: &[f64]) -> Option<&[f64]> {
        let width = variant.width;
        let outputs = self.outputs.get(index * width..(index + 1) * width)?;
        if variant.loaded.check(row, outputs).is_err() {
            self.failed += 1;
            return None;
        }
        Some(outputs)
    }
}

/// What a shadow may still take: a share of the time that passes, saved up to its part of [`BUDGET`]. What it took beyond is paid back first.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    /// One part in so many.
    share: u32,
    max: Duration,
    /// Its share of the time since then is left.
    from: Instant,
}

impl Allowance {
    /// Of one of so many shadows, all of it.
    fn new(of: usize, now: Instant) -> Self {
        let of = u32::try_from(of).unwrap_or(u32::MAX).max(1);
        let share = SHARE.saturating_mul(of);
        let max = BUDGET / of;
        Allowance {
            share,
            max,
            from: now.checked_sub(max * share).unwrap_or(now),
        }
    }

    fn left(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.from) / self.share;
        if earned <= self.max {
            return earned;
        }
        self.from = now.checked_sub(self.max * self.share).unwrap_or(now);
        self.max
    }

    fn spent(&mut self, took: Duration) {
        self.from += took * self.share;
    }
}

/// What a row takes, by the batches so far.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Smoothed; zero: not measured.
    row: Duration,
}

impl Pace {
    /// How many rows are scored in this time.
    fn rows(self, time: Duration) -> Option<usize> {
        let rows = time.as_nanos().checked_div(self.row.as_nanos())?;
        Some(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// What so many rows cost, where they took this long: no more than twice what they take mostly. A thread that lost its core meanwhile was
    /// held up by others.
    fn cost(self, rows: usize, took: Duration) -> Duration {
        match (rows, self.row) {
            (0, _) | (_, Duration::ZERO) => took,
            (rows, row) => took.min(row.saturating_mul(2).saturating_mul(rows as u32)),
        }
    }

    fn measured(&mut self, rows: usize, took: Duration) {
        let now = (took / rows.max(1) as u32).max(Duration::from_nanos(1));
        self.row = match self.row {
            Duration::ZERO => now,
            before => (before * 7 + now.min(before * 2)) / 8,
        };
    }
}

/// Hands over the first rows of a batch, as many as the budget is enough for: pieces are what fits by what rows have cost so far, in earlier
/// batches or in this one, so that a slow model takes little more than its budget, or one row.
fn within<T>(
    budget: Duration,
    pace: Pace,
    rows: &[f64],
    inputs: usize,
    mut score: impl FnMut(&[f64]) -> ControlFlow<Result<(), T>>,
) -> Result<(), T> {
    let start = Instant::now();
    let (mut rest, mut done) = (rows, 0_usize);
    while !rest.is_empty() {
        let took = start.elapsed();
        let Some(left) = budget.checked_sub(took).filter(|left| !left.is_zero()) else {
            break;
        };
        let count = match (done, pace.rows(left)) {
            (0, None) => 1,
            (0, Some(fit)) => fit.max(1),
            (done, _) => {
                let fit = (left.as_nanos() * done as u128).checked_div(took.as_nanos());
                let fit = fit.and_then(|fit| usize::try_from(fit).ok());
                fit.unwrap_or(usize::MAX).clamp(1, done * 4)
            }
        };
        let (now, later) = rest.split_at(rest.len().min(count.saturating_mul(inputs)));
        if let ControlFlow::Break(end) = score(now) {
            return end;
        }
        done += now.len() / inputs;
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
