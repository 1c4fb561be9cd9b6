//! The fold against a model that knows what resolution of every record.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const TOPIC: &str = "p.inbox.dlq";

fn settlement(resolution: Resolution, through: i64) -> Settlement {
    Settlement {
        resolution,
        by: "me@here".to_owned(),
        at_ms: 1_700_000_000_000,
        reason: String::new(),
        through,
    }
}

fn entry(partition: i32, case: Option<CaseId>, settlement: &Settlement) -> Entry<'_> {
    Entry {
        partition,
        case,
        origin: String::new(),
        class: String::new(),
        settlement,
    }
}

fn case(record: usize) -> CaseId {
    CaseId::of(&format!("p.inbox-0-{record}"), None, Some(b"x"))
}

/// What a record's history has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// On its way through the pipeline, for the first time or again.
    Sent,
    Failed,
    Discarded,
}

#[derive(Debug, Clone)]
enum Step {
    /// The record fails, if it is on its way; a crash may write its letter several times.
    Fail {
        record: usize,
        letters: usize,
    },
    /// A redrive of the open cases whose bits are set, in one transaction or none.
    Redrive {
        chosen: u16,
        committed: bool,
    },
    Discard {
        chosen: u16,
    },
    /// Retention takes so many letters.
    Expire {
        letters: i64,
    },
    /// Compaction keeps the last record of each key.
    Compact,
    /// The dead-letter topic is deleted and created again.
    Recreate,
}

const RECORDS: usize = 6;

/// A dead-letter topic, its ledger, and what really happened.
#[derive(Default)]
struct World {
    generation: u32,
    records: [Option<State>; RECORDS],
    /// The record of each letter, by offset.
    letters: BTreeMap<i64, usize>,
    next_offset: i64,
    log: Vec<(String, Option<Vec<u8>>)>,
}

impl World {
    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::new(TOPIC, Some(format!("id-{}", self.generation)));
        for (key, value) in &self.log {
            ledger.apply(key.as_bytes(), value.as_deref());
        }
        ledger
    }

    fn selected(&self, ledger: &Ledger, chosen: u16) -> SelectedLetters {
        let mut open = OpenCases::default();
        for (offset, record) in &self.letters {
            let case = case(*record);
            if ledger.settlement(0, case, *offset).is_none() {
                open.add(0, case, *offset, chosen & (1 << record) != 0);
            }
        }
        open.into_selected()
    }

    fn first(&self) -> i64 {
        let first = self.letters.keys().next().copied();
        first.unwrap_or(self.next_offset)
    }

    /// A redrive or a discard; returns the records it settled.
    fn settle(&mut self, chosen: u16, resolution: &Resolution, to: State) {
        let ledger = self.ledger();
        let gone = ledger.expired(|_| Some(self.first()));
        self.log.extend(gone.into_iter().map(|key| (key, None)));
        for (offset, case) in self.selected(&ledger, chosen).into_values().flatten() {
            let settlement = settlement(resolution.clone(), offset);
            let (key, value) = ledger.encode(&entry(0, Some(case), &settlement));
            self.log.push((key, Some(value)));
            let record = self.letters[&offset];
            assert_eq!(self.records[record], Some(State::Failed), "sent twice");
            self.records[record] = Some(to);
        }
    }

    fn step(&mut self, step: &Step) {
        let sent_back = Resolution::SentBack {
            topic: "p.inbox".to_owned(),
            partition: 0,
            attempts: 1,
        };
        match *step {
            Step::Fail { record, letters } => {
                let state = &mut self.records[record];
                if matches!(state, None | Some(State::Sent)) {
                    *state = Some(State::Failed);
                    for _ in 0..letters {
                        self.letters.insert(self.next_offset, record);
                        // A marker of the transaction takes an offset, too.
                        self.next_offset += 2;
                    }
                }
            }
            Step::Redrive { chosen, committed } => {
                if committed {
                    self.settle(chosen, &sent_back, State::Sent);
                }
            }
            Step::Discard { chosen } => {
                self.settle(chosen, &Resolution::Discarded, State::Discarded)
            }
            Step::Expire { letters } => {
                let first = self.first() + 2 * letters;
                self.letters = self.letters.split_off(&first);
            }
            Step::Compact => {
                let mut last = BTreeMap::new();
                for (at, (key, _)) in self.log.iter().enumerate() {
                    last.insert(key.clone(), at);
                }
                let keep: BTreeSet<usize> = last.into_values().collect();
                let log = std::mem::take(&mut self.log).into_iter().enumerate();
                let kept = log.filter(|(at, _)| keep.contains(at));
                // Tombstones go in the end.
                self.log = kept
                    .map(|(_, record)| record)
                    .filter(|(_, value)| value.is_some())
                    .collect();
            }
            Step::Recreate => {
                self.generation += 1;
                self.letters.clear();
                self.next_offset = 0;
                self.records = Default::default();
            }
        }
    }

    /// The records that failed and whose letters are there still.
    fn failed(&self) -> BTreeSet<usize> {
        let there = self.letters.values().copied();
        let failed = |record: &usize| self.records[*record] == Some(State::Failed);
        there.filter(failed).collect()
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..RECORDS, 1..3_usize).prop_map(|(record, letters)| Step::Fail { record, letters }),
        4 => (any::<u16>(), any::<bool>())
            .prop_map(|(chosen, committed)| Step::Redrive { chosen, committed }),
        1 => any::<u16>().prop_map(|chosen| Step::Discard { chosen }),
        1 => (0..4_i64).prop_map(|letters| Step::Expire { letters }),
        2 => Just(Step::Compact),
        1 => Just(Step::Recreate),
    ]
}

proptest! {
    #[test]
    fn whatever_happened_the_open_cases_are_the_records_that_failed_last(
        steps in prop::collection::vec(steps(), 0..60),
    ) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            let ledger = world.ledger();
            let selected = world.selected(&ledger, u16::MAX);
            let open: Vec<usize> = selected
                .into_values()
                .flatten()
                .map(|(offset, _)| world.letters[&offset])
                .collect();
            let distinct: BTreeSet<usize> = open.iter().copied().collect();
            prop_assert_eq!(open.len(), distinct.len(), "one case, one letter: {:?}", step);
            prop_assert_eq!(distinct, world.failed(), "after {:?}", step);
        }
    }

    #[test]
    fn a_settlement_is_read_back_as_it_was_written(
        through in any::<i64>(),
        at_ms in any::<i64>(),
        partition in 0..i32::MAX,
        attempts in any::<u32>(),
        texts in any::<(String, String, String)>(),
        kind in 0..4,
        of_a_case in any::<bool>(),
    ) {
        let resolution = match kind {
            0 => Resolution::SentBack { topic: texts.0, partition, attempts },
            1 => Resolution::Discarded,
            2 => Resolution::SentBackBefore,
            _ => Resolution::Unknown,
        };
        let written = Settlement { resolution, by: texts.1, at_ms, reason: texts.2, through };
        let case = case(0);
        let mut ledger = Ledger::new(TOPIC, Some("id".to_owned()));
        let (key, value) = ledger.encode(&entry(partition, of_a_case.then_some(case), &written));
        ledger.apply(key.as_bytes(), Some(&value));
        prop_assert_eq!(ledger.settlement(partition, case, through), Some(&written));
        prop_assert_eq!(through == i64::MAX || ledger.settlement(partition, case, through + 1).is_none(), true);
        ledger.apply(key.as_bytes(), None);
        prop_assert_eq!(ledger, Ledger::new(TOPIC, Some("id".to_owned())));
    }

    #[test]
    fn garbage_on_the_ledger_never_panics_and_settles_nothing_of_others(
        key in prop::collection::vec(any::<u8>(), 0..60),
        value in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut ledger = Ledger::new(TOPIC, None);
        ledger.apply(&key, Some(&value));
        ledger.apply(format!("{TOPIC}/0/{}", case(1)).as_bytes(), Some(&value));
        prop_assert_eq!(ledger.settlement(0, case(0), 0), None);
    }
}

#[test]
fn a_floor_settles_every_case_below_it_and_none_above() {
    let mut ledger = Ledger::new(TOPIC, None);
    ledger.raise_floor(0, settlement(Resolution::SentBackBefore, 4));
    assert!(ledger.settlement(0, case(0), 4).is_some());
    assert!(ledger.settlement(0, case(0), 5).is_none());
    assert!(
        ledger.settlement(1, case(0), 0).is_none(),
        "another partition"
    );
    assert!(ledger.covers(0, 4) && !ledger.covers(0, 5) && !ledger.covers(1, 0));
}

#[test]
fn what_another_topics_name_begins_with_is_not_its_ledger() {
    let mut ledger = Ledger::new("p.inbox", None);
    let other = Ledger::new("p.inbox.dlq", None);
    let discarded = settlement(Resolution::Discarded, 9);
    let (key, value) = other.encode(&entry(0, None, &discarded));
    ledger.apply(key.as_bytes(), Some(&value));
    assert!(ledger.settlement(0, case(0), 0).is_none());
}
