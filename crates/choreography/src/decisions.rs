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
    /// The first fatal failure.
    pub fn decide<H: Handler<Record = R>>(
        &mut self,
        handler: &mut H,
        incoming: &[Incoming<'_>],
        known: KnownFailures<'_>,
    ) -> Result<(), Cause> {
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
    ) -> Result<(), Cause> {
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
                Err(handler::Error::Fatal(cause)) => return Err(cause),
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
            return Err(Cause {
                class: "handler",
                message,
            });
        }
        self.collect_failures()
    }

    /// Failures of `handle` become verdicts; a fatal one ends the batch.
    fn collect_failures(&mut self) -> Result<(), Cause> {
        for result in &mut self.results {
            if let RecordResult::Handled(index) = result
                && let Some(Outcome::Fail(failure)) = self.output.outcomes.get(*index)
            {
                if let handler::Error::Fatal(cause) = failure {
                    return Err(cause.clone());
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
    ) -> Result<(), Cause> {
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

    /// Counts dead letters and absorbed records, by reason, once the batch is committed; returns how many
    /// dead letters there are.
    pub fn count(&self, metrics: &StageMetrics) -> u64 {
        let mut dead: Vec<(&'static str, u64)> = Vec::new();
        let mut absorbed: Vec<(&'static str, u64)> = Vec::new();
        for result in &self.results {
            let (counts, reason) = match result {
                RecordResult::Failed(
                    handler::Error::Retry(c)
                    | handler::Error::DeadLetter(c)
                    | handler::Error::Fatal(c),
                    _,
                ) => (&mut dead, c.class),
                RecordResult::Handled(outcome) => match self.output.outcomes[*outcome] {
                    Outcome::Absorb(reason) => (&mut absorbed, reason),
                    _ => continue,
                },
            };
            match counts.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => counts.push((reason, 1)),
            }
        }
        for (reason, count) in absorbed {
            metrics.absorbed(reason, count);
        }
        let mut letters = 0;
        for (reason, count) in dead {
            metrics.dead_letters(reason, count);
            letters += count;
        }
        letters
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::Headers;

    struct Picky;

    impl Handler for Picky {
        type Record = Vec<u8>;

        fn decode(
            &mut self,
            incoming: &Incoming<'_>,
            record: &mut Vec<u8>,
        ) -> Result<(), handler::Error> {
            let payload = incoming
                .payload
                .ok_or_else(|| handler::Error::dead_letter("tombstone", "no value"))?;
            record.clear();
            record.extend_from_slice(payload);
            Ok(())
        }

        fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
            for item in items {
                match item.record.as_slice() {
                    b"panic" => panic!("boom"),
                    b"retry" => output.fail(handler::Error::retry("busy", "later")),
                    b"absorb" => output.absorb("late"),
                    b"fatal" => output.fail(handler::Error::fatal("broken", "stop")),
                    b"dead with two" => {
                        output.fail(handler::Error::dead_letter("poison", "no"));
                        output.also(|bytes| bytes.extend_from_slice(b"1"));
                    }
                    b"two" => {
                        output.emit(|bytes| bytes.extend_from_slice(b"two"));
                        output.also(|bytes| bytes.extend_from_slice(b"1"));
                        output.also(|bytes| bytes.extend_from_slice(b"2"));
                    }
                    b"absorb with one" => {
                        output.absorb("late");
                        output.also(|bytes| bytes.extend_from_slice(b"3"));
                    }
                    b"one, then panic" => {
                        output.emit(|bytes| bytes.extend_from_slice(b"x"));
                        output.also(|bytes| bytes.extend_from_slice(b"x"));
                        panic!("boom");
                    }
                    other => output.emit(|bytes| bytes.extend_from_slice(other)),
                }
            }
        }
    }

    fn batch(payloads: &[Option<&'static str>]) -> Vec<Incoming<'static>> {
        let one = |(offset, payload): (usize, &Option<&'static str>)| Incoming {
            topic: "t",
            partition: 0,
            offset: offset as i64,
            key: None,
            payload: payload.map(str::as_bytes),
            timestamp_ms: None,
            headers: Headers::default(),
            polled_at: Instant::now(),
        };
        payloads.iter().enumerate().map(one).collect()
    }

    fn nothing() -> KnownFailures<'static> {
        static BURIED: std::sync::LazyLock<ConfirmedLetters> =
            std::sync::LazyLock::new(ConfirmedLetters::new);
        static REFUSED: std::sync::LazyLock<HashMap<(i32, i64), Cause>> =
            std::sync::LazyLock::new(HashMap::new);
        KnownFailures {
            letters_confirmed: &BURIED,
            refused: &REFUSED,
        }
    }

    fn decided(payloads: &[Option<&'static str>]) -> Vec<String> {
        let mut decisions = Decisions::default();
        decisions
            .decide(&mut Picky, &batch(payloads), nothing())
            .unwrap();
        (0..payloads.len())
            .map(|index| match decisions.decision(index) {
                Decision::Emit(emitted) => {
                    String::from_utf8(emitted.payload.unwrap().to_vec()).unwrap()
                }
                Decision::Dead { cause, .. } => format!("dead:{}", cause.class),
                Decision::Absorbed => "absorbed".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_record_that_does_not_decode_leaves_its_neighbours_alone() {
        assert_eq!(
            decided(&[Some("a"), None, Some("absorb"), Some("b")]),
            ["a", "dead:tombstone", "absorbed", "b"]
        );
    }

    #[test]
    fn a_record_that_panics_is_found_and_dead_lettered_alone() {
        assert_eq!(
            decided(&[Some("a"), None, Some("panic"), Some("b")]),
            ["a", "dead:tombstone", "dead:panic", "b"]
        );
    }

    #[test]
    fn what_is_beside_an_outcome_goes_with_it_and_not_with_a_dead_letter() {
        let payloads = [
            Some("a"),
            Some("two"),
            None,
            Some("dead with two"),
            Some("absorb with one"),
            Some("one, then panic"),
            Some("b"),
        ];
        let beside = |payloads: &[Option<&'static str>]| {
            let mut decisions = Decisions::default();
            decisions
                .decide(&mut Picky, &batch(payloads), nothing())
                .unwrap();
            let extras = |index| {
                let payloads = decisions.extras(index).filter_map(|it| it.payload);
                payloads.flatten().copied().collect()
            };
            (0..payloads.len()).map(extras).collect::<Vec<Vec<u8>>>()
        };
        let alone = beside(&payloads);
        assert_eq!(alone, [&b""[..], b"12", b"", b"", b"3", b"", b""]);
        assert_eq!(beside(&payloads[..5]), alone[..5]);
    }

    /// Panics where it is told to, and notes what it hears of it.
    #[derive(Default)]
    struct Panicky(Vec<&'static str>);

    impl Handler for Panicky {
        type Record = ();

        fn decode(&mut self, incoming: &Incoming<'_>, (): &mut ()) -> Result<(), handler::Error> {
            assert_ne!(incoming.payload, Some(&b"decode"[..]), "boom");
            Ok(())
        }

        fn begin(&mut self) {
            self.0.push("begin");
        }

        fn handle(&mut self, items: &[Item<'_, ()>], output: &mut Output) {
            for item in items {
                self.0.push("handle");
                assert_ne!(item.incoming.payload, Some(&b"handle"[..]), "boom");
                output.absorb("done");
            }
        }

        fn aborted(&mut self) {
            self.0.push("aborted");
        }

        fn panicked(&mut self) {
            self.0.push("panicked");
        }
    }

    #[test]
    fn a_handler_hears_of_a_panic_of_its_own_and_not_of_one_in_decoding() {
        let heard = |payloads: &[Option<&'static str>]| {
            let mut handler = Panicky::default();
            let batch = batch(payloads);
            let mut decisions = Decisions::default();
            decisions.decide(&mut handler, &batch, nothing()).unwrap();
            handler.0
        };
        let alone = ["begin", "aborted", "begin", "handle"];
        assert_eq!(heard(&[Some("a"), Some("decode")]), alone);
        assert_eq!(
            heard(&[Some("a"), Some("handle")]),
            [
                "begin", "handle", "handle", "aborted", "begin", "handle", "handle", "panicked"
            ]
        );
    }

    #[test]
    fn a_retriable_failure_is_seen() {
        let mut decisions = Decisions::default();
        decisions
            .decide(&mut Picky, &batch(&[Some("a"), Some("retry")]), nothing())
            .unwrap();
        assert!(decisions.wants_retry());
    }

    #[test]
    fn a_fatal_failure_ends_the_batch() {
        let mut decisions = Decisions::default();
        let cause = decisions
            .decide(&mut Picky, &batch(&[Some("a"), Some("fatal")]), nothing())
            .unwrap_err();
        assert_eq!(cause.class, "broken");
    }
}
