//! From a batch to one decision a record: decode each, hand the good ones over together, and isolate what
//! panics, so that one bad record never costs its neighbours.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use quadrille_telemetry::StageMetrics;

use crate::{
    Cause, Handler, Incoming, Item, Output,
    dlq::FailedAt,
    handler,
    handler::{Emitted, Outcome},
    spans::Step,
    status::LaneStatus,
};

/// Why a batch is not decided: what failed is not a record's.
#[derive(Debug)]
pub(crate) enum Undecided {
    Fatal(Cause),
    /// The lane begins again.
    Restart(Cause),
}

/// Records whose dead letters are confirmed, by partition and offset, and why: they are decided for good, however often
/// their batch is tried.
pub(crate) type ConfirmedLetters = HashMap<(i32, i64), (Cause, FailedAt)>;

/// What is known of records of the batch before it is decided, by partition and offset.
#[derive(Clone, Copy)]
pub(crate) struct KnownFailures<'a> {
    pub letters_confirmed: &'a ConfirmedLetters,
    /// Their outputs cannot be sent, and why: they are dead letters.
    pub refused: &'a HashMap<(i32, i64), Cause>,
}

impl KnownFailures<'_> {
    fn result(&self, one: &Incoming<'_>) -> Option<RecordResult> {
        if self.letters_confirmed.is_empty() && self.refused.is_empty() {
            return None;
        }
        let place = (one.partition, one.offset);
        let (cause, at) = match self.letters_confirmed.get(&place) {
            Some((cause, at)) => (cause, *at),
            None => (self.refused.get(&place)?, FailedAt::Send),
        };
        Some(RecordResult::Failed(
            handler::Error::DeadLetter(cause.clone()),
            at,
        ))
    }
}

/// What is to be done with one record.
pub(crate) enum Decision<'a> {
    Emit(Emitted<'a>),
    Dead { cause: &'a Cause, at: FailedAt },
    Absorbed,
}

/// One record's decision as kept.
enum RecordResult {
    /// The index of its outcome.
    Handled(usize),
    Failed(handler::Error, FailedAt),
}

/// The decisions on a batch; buffers are reused from batch to batch.
pub(crate) struct Decisions<R> {
    records: Vec<R>,
    results: Vec<RecordResult>,
    output: Output,
    /// The handler was given decoded records since this was reset.
    is_handling: bool,
}

impl<R> Default for Decisions<R> {
    fn default() -> Self {
        Decisions {
            records: Vec::new(),
            results: Vec::new(),
            output: Output::default(),
            is_handling: false,
        }
    }
}

impl<R: Default> Decisions<R> {
    /// Of a lane, whose handler can show that it lives.
    pub fn of(status: &Arc<LaneStatus>) -> Self {
        let mut decisions = Decisions::default();
        decisions.output.status = Some(Arc::clone(status));
        decisions
    }

    /// Decides a batch, but for what is known of it already.
    ///
    /// # Errors
    /// The first failure that is not a record's.
    pub fn decide<H: Handler<Record = R>>(
        &mut self,
        handler: &mut H,
        incoming: &[Incoming<'_>],
        known: KnownFailures<'_>,
    ) -> Result<(), Undecided> {
        if self.records.len() < incoming.len() {
            self.records.resize_with(incoming.len(), R::default);
        }
        let together = catch_unwind(AssertUnwindSafe(|| {
            self.start(handler);
            self.decide_together(handler, incoming, known)
        }));
        match together {
            Ok(result) => result?,
            Err(_) => {
                handler.aborted();
                self.start(handler);
                for one in incoming {
                    self.decide_alone(handler, one, known)?;
                }
            }
        }
        debug_assert_eq!(self.results.len(), incoming.len());
        Ok(())
    }

    fn start<H: Handler<Record = R>>(&mut self, handler: &mut H) {
        self.results.clear();
        self.output.clear();
        handler.begin();
    }

    fn decide_together<H: Handler<Record = R>>(
        &mut self,
        handler: &mut H,
        incoming: &[Incoming<'_>],
        known: KnownFailures<'_>,
    ) -> Result<(), Undecided> {
        let first = self.output.outcomes.len();
        let mut next = first;
        for (one, record) in incoming.iter().zip(&mut self.records) {
            if let Some(result) = known.result(one) {
                self.results.push(result);
                continue;
            }
            let result = match handler.decode(one, record) {
                Ok(()) => {
                    next += 1;
                    RecordResult::Handled(next - 1)
                }
                Err(handler::Error::Fatal(cause)) => return Err(Undecided::Fatal(cause)),
                Err(handler::Error::Restart(cause)) => return Err(Undecided::Restart(cause)),
                Err(failure) => RecordResult::Failed(failure, FailedAt::Decode),
            };
            self.results.push(result);
        }
        let from = self.results.len() - incoming.len();
        let good = |(result, _): &(&RecordResult, _)| matches!(result, RecordResult::Handled(_));
        let items: Vec<Item<'_, R>> = self.results[from..]
            .iter()
            .zip(self.records.iter().zip(incoming))
            .filter(good)
            .map(|(_, (record, incoming))| Item { record, incoming })
            .collect();
        let expected = items.len();
        if expected > 0 {
            self.is_handling = true;
            handler.handle(&items, &mut self.output);
        }
        let decided = self.output.outcomes.len() - first;
        if decided != expected {
            let message =
                format!("the handler decided {decided} of {expected} records; this is a bug");
            return Err(Undecided::Fatal(Cause {
                class: "handler",
                message,
            }));
        }
        self.collect_failures()
    }

    /// Failures of `handle` become verdicts; one that is not the record's ends the batch.
    fn collect_failures(&mut self) -> Result<(), Undecided> {
        for result in &mut self.results {
            if let RecordResult::Handled(index) = result
                && let Some(Outcome::Fail(failure)) = self.output.outcomes.get(*index)
            {
                match failure {
                    handler::Error::Fatal(cause) => return Err(Undecided::Fatal(cause.clone())),
                    handler::Error::Restart(cause) => {
                        return Err(Undecided::Restart(cause.clone()));
                    }
                    handler::Error::Retry(_) | handler::Error::DeadLetter(_) => {}
                }
                *result = RecordResult::Failed(failure.clone(), FailedAt::Handle);
            }
        }
        Ok(())
    }

    /// Decides one record on its own; a panic is that record's dead letter.
    fn decide_alone<H: Handler<Record = R>>(
        &mut self,
        handler: &mut H,
        one: &Incoming<'_>,
        known: KnownFailures<'_>,
    ) -> Result<(), Undecided> {
        let (results, outcomes) = (self.results.len(), self.output.outcomes.len());
        self.is_handling = false;
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.decide_together(handler, std::slice::from_ref(one), known)
        }));
        match result {
            Ok(result) => result,
            Err(panic) => {
                self.results.truncate(results);
                self.output.truncate(outcomes);
                // Where its decoding did, the last call was another record's.
                if self.is_handling {
                    handler.panicked();
                }
                let failure = handler::Error::dead_letter("panic", panic_text(&*panic));
                self.results
                    .push(RecordResult::Failed(failure, FailedAt::Handle));
                Ok(())
            }
        }
    }

    /// Records that failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Cause)> {
        self.results
            .iter()
            .enumerate()
            .filter_map(|(index, result)| match result {
                RecordResult::Failed(
                    handler::Error::Retry(cause)
                    | handler::Error::DeadLetter(cause)
                    | handler::Error::Restart(cause)
                    | handler::Error::Fatal(cause),
                    _,
                ) => Some((index, cause)),
                RecordResult::Handled(_) => None,
            })
    }

    /// The named parts of the batch's handling.
    pub fn steps(&self) -> &[Step] {
        &self.output.steps
    }

    /// Whether any record asks to be tried again.
    pub fn wants_retry(&self) -> bool {
        self.results
            .iter()
            .any(|v| matches!(v, RecordResult::Failed(handler::Error::Retry(_), _)))
    }

    /// Overrides a decision: the output cannot be sent.
    pub fn reject_output(&mut self, index: usize, cause: Cause) {
        if let Some(result) = self.results.get_mut(index)
            && !matches!(result, RecordResult::Failed(..))
        {
            *result = RecordResult::Failed(handler::Error::DeadLetter(cause), FailedAt::Send);
        }
    }

    /// The decision on one record; attempts are used up when this is asked, so a retry is a dead letter.
    pub fn decision(&self, index: usize) -> Decision<'_> {
        match &self.results[index] {
            RecordResult::Failed(
                handler::Error::Retry(cause)
                | handler::Error::DeadLetter(cause)
                | handler::Error::Restart(cause)
                | handler::Error::Fatal(cause),
                at,
            ) => Decision::Dead { cause, at: *at },
            RecordResult::Handled(outcome) => match &self.output.outcomes[*outcome] {
                Outcome::Emit(emission) => Decision::Emit(self.output.emitted(emission, true)),
                Outcome::Absorb(_) | Outcome::Fail(_) => Decision::Absorbed,
            },
        }
    }

    /// Notes the records that are dead letters.
    pub fn note_letters(
        &self,
        incoming: &[Incoming<'_>],
        letters_confirmed: &mut ConfirmedLetters,
    ) {
        for (index, record) in incoming.iter().enumerate() {
            if let Decision::Dead { cause, at } = self.decision(index) {
                let place = (record.partition, record.offset);
                letters_confirmed.insert(place, (cause.clone(), at));
            }
        }
    }

    /// What is to be sent beside a record's outcome; nothing where the record is a dead letter.
    pub fn extras(&self, index: usize) -> impl Iterator<Item = Emitted<'_>> {
        let outcome = match &self.results[index] {
            RecordResult::Handled(outcome) => Some(*outcome),
            RecordResult::Failed(..) => None,
        };
        outcome
            .into_iter()
            .flat_map(|outcome| self.output.extras_of(outcome))
    }

    /// Counts dead letters and absorbed records, by reason, once the batch is committed; returns how many dead letters there
    /// are of each reason.
    pub fn count(&self, metrics: &StageMetrics) -> Vec<(&'static str, u64)> {
        let mut dead: Vec<(&'static str, u64)> = Vec::new();
        let mut absorbed: Vec<(&'static str, u64)> = Vec::new();
        for result in &self.results {
            let (counts, reason) = match result {
                RecordResult::Failed(
                    handler::Error::Retry(c)
                    | handler::Error::DeadLetter(c)
                    | handler::Error::Restart(c)
                    | handler::Error::Fatal(c),
                    _,
                ) => (&mut dead, c.class),
                RecordResult::Handled(outcome) => match self.output.outcomes[*outcome] {
                    Outcome::Absorb(reason) => (&mut absorbed, reason),
                    _ => continue,
                },
            };
            add_count(counts, reason, 1);
        }
        for (reason, count) in absorbed {
            metrics.absorbed(reason, count);
        }
        for (reason, count) in &dead {
            metrics.dead_letters(reason, *count);
        }
        dead
    }
}

/// Adds to the count of a reason. There are few of them: a scan beats a map.
pub(crate) fn add_count(counts: &mut Vec<(&'static str, u64)>, reason: &'static str, more: u64) {
    match counts.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += more,
        None => counts.push((reason, more)),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests;
