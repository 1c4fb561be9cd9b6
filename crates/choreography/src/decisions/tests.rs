//! Decisions of handlers that fail, panic, absorb and emit beside their outcomes.

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
                b"restart" => output.fail(handler::Error::restart("state", "again")),
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
    let undecided = decisions
        .decide(&mut Picky, &batch(&[Some("a"), Some("fatal")]), nothing())
        .unwrap_err();
    assert!(matches!(undecided, Undecided::Fatal(cause) if cause.class == "broken"));
}

#[test]
fn a_failure_that_is_no_records_ends_the_batch_and_makes_no_dead_letter() {
    let mut decisions = Decisions::default();
    let undecided = decisions
        .decide(&mut Picky, &batch(&[Some("a"), Some("restart")]), nothing())
        .unwrap_err();
    assert!(matches!(undecided, Undecided::Restart(cause) if cause.class == "state"));
}
