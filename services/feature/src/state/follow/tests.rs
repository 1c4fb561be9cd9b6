use std::{collections::BTreeMap, ops::Range};

use proptest::prelude::*;

use super::*;
use crate::state::{committed::SharedCommitted, committed::lock, layout, rows::Memory};

type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// Of a key's only row.
fn row_key(key: u8) -> Vec<u8> {
    let mut row = Vec::new();
    layout::prefix_into(1, &[key], &mut row);
    row.extend([0; 4]);
    row
}

/// A changelog, as batches of its owner and the topic's cleaner leave it.
#[derive(Default)]
struct Log {
    records: Vec<(i64, Vec<u8>, Option<Vec<u8>>)>,
    end: i64,
    now: State,
    input_next: i64,
    number: u64,
    /// By the input's offset that a progress row named.
    states: BTreeMap<i64, State>,
}

impl Log {
    fn push(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        self.records.push((self.end, key, row));
        self.end += 1;
    }

    fn rows(&mut self, changes: &[(u8, Option<u8>)]) -> u32 {
        for (key, row) in changes {
            let (key, row) = (row_key(*key), row.map(|row| vec![row]));
            match &row {
                Some(row) => self.now.insert(key.clone(), row.clone()),
                None => self.now.remove(&key),
            };
            self.push(key, row);
        }
        self.input_next += changes.len() as i64 + 1;
        changes.len() as u32
    }

    fn batch(&mut self, changes: &[(u8, Option<u8>)]) {
        let rows = self.rows(changes);
        self.number += 1;
        let progress = Progress {
            input_next: self.input_next,
            number: self.number,
            rows,
        };
        self.push(PROGRESS.to_vec(), Some(progress.write().to_vec()));
        self.states.insert(self.input_next, self.now.clone());
        // The transaction's marker.
        self.end += 1;
    }

    /// Of each key the newest record before `to` stays, and what lies in no segment that is cleaned.
    fn clean(&mut self, to: i64, segments: Range<i64>) {
        let mut newest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for (offset, key, _) in self.records.iter().filter(|it| it.0 < to) {
            newest.insert(key.clone(), *offset);
        }
        self.records.retain(|(offset, key, _)| {
            *offset >= to || newest[key] == *offset || !segments.contains(offset)
        });
    }
}

struct Reader {
    committed: SharedCommitted,
    follow: Follow,
    next: i64,
}

impl Reader {
    fn new() -> Self {
        let rows = Memory::default();
        Reader {
            follow: Follow::over(&rows).unwrap(),
            committed: Committed::over(Box::new(rows)),
            next: 0,
        }
    }

    fn read(&mut self, log: &Log, count: usize) {
        self.push(log, count);
        self.follow.ends(log.end);
        let mut committed = lock(&self.committed);
        self.follow.apply(&mut committed, Some(self.next)).unwrap();
    }

    fn push(&mut self, log: &Log, count: usize) {
        let unread = log.records.iter().filter(|it| it.0 >= self.next);
        let mut count = count;
        let mut next = log.end;
        for (offset, key, row) in unread {
            if count == 0 {
                next = *offset;
                break;
            }
            count -= 1;
            self.follow.push(*offset, key, row.as_deref());
        }
        self.next = self.next.max(next);
    }

    fn continues(&mut self, log: &Log) {
        self.next = lock(&self.committed).rows.next_offset().unwrap_or(0);
        self.follow.ends(log.end);
    }

    /// What it shows, if it shows anything.
    fn shown(&self) -> Option<(i64, State)> {
        let committed = lock(&self.committed);
        let input_next = committed.input_next?;
        let mut state = State::new();
        let mut add = |key: &[u8], row: &[u8]| {
            if key != PROGRESS {
                state.insert(key.to_vec(), row.to_vec());
            }
        };
        committed.rows.scan(&[], &mut add).unwrap();
        Some((input_next, state))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(u8, Option<u8>)>),
    /// The cleaner works on some of the segments before a place; or, in a log that it never cleans, an owner writes no progress row.
    CleanOrSilent([u8; 3], Vec<(u8, Option<u8>)>),
    Read(usize),
    CatchUp,
    /// Another reader goes on, while some of what came is not applied.
    Rewind(usize),
    /// The store is opened anew, perhaps by another process.
    Reopen,
    /// A lane has it for a while.
    Lane,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || prop::collection::vec((0..6u8, prop::option::weighted(0.8, 0..9u8)), 1..6);
    prop_oneof![
        6 => changes().prop_map(Step::Batch),
        2 => (any::<[u8; 3]>(), changes()).prop_map(|(at, changes)| Step::CleanOrSilent(at, changes)),
        6 => (0..12usize).prop_map(Step::Read),
        1 => Just(Step::CatchUp),
        1 => (0..12usize).prop_map(Step::Rewind),
        1 => Just(Step::Reopen),
        1 => Just(Step::Lane),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// However far the reader is behind, and whatever the cleaner takes from before it: what is shown is the state at the input's offset
    /// that is stated with it. And in the end something is shown.
    #[test]
    fn what_is_shown_is_the_state_at_the_offset_that_is_stated(
        steps in prop::collection::vec(step(), 1..80),
        is_cleaned in any::<bool>(),
    ) {
        let (mut log, mut reader) = (Log::default(), Reader::new());
        reader.continues(&log);
        for step in steps {
            match step {
                Step::Batch(changes) => log.batch(&changes),
                Step::CleanOrSilent(places, _) if is_cleaned => {
                    let [to, from, until] = places.map(|it| log.end * i64::from(it) / 255);
                    log.clean(to, from.min(until)..from.max(until));
                }
                Step::CleanOrSilent(_, changes) => {
                    log.rows(&changes);
                    log.end += 1;
                }
                Step::Read(count) => reader.read(&log, count),
                Step::CatchUp => {
                    reader.read(&log, usize::MAX);
                    reader.follow.caught_up();
                    reader.read(&log, 0);
                }
                Step::Rewind(count) => {
                    let before = reader.follow.is_exact();
                    reader.push(&log, count);
                    reader.follow.rewind();
                    prop_assert_eq!(reader.follow.is_exact(), before);
                    reader.continues(&log);
                }
                Step::Reopen => {
                    reader.follow = Follow::over(&*lock(&reader.committed).rows).unwrap();
                    lock(&reader.committed).input_next = None;
                    reader.continues(&log);
                }
                Step::Lane => {
                    reader.follow.rewind();
                    reader.continues(&log);
                    for (offset, key, row) in log.records.iter().filter(|it| it.0 >= reader.next) {
                        reader.follow.push(*offset, key, row.as_deref());
                    }
                    let mut committed = lock(&reader.committed);
                    reader.follow.finish(&mut committed, log.end).unwrap();
                    reader.follow = Follow::left_by_owner(&*committed.rows).unwrap();
                    committed.input_next = None;
                    drop(committed);
                    reader.continues(&log);
                }
            }
            if let Some((input_next, state)) = reader.shown() {
                prop_assert_eq!(Some(&state), log.states.get(&input_next));
            }
        }
        for _ in 0..2 {
            log.batch(&[(1, Some(1))]);
            reader.read(&log, usize::MAX);
        }
        prop_assert_eq!(reader.shown(), Some((log.input_next, log.now)));
    }
}

#[test]
fn rows_without_a_progress_row_are_held_back_only_so_long() {
    let mut reader = Reader::new();
    let mut log = Log::default();
    reader.continues(&log);
    log.batch(&[(1, Some(1))]);
    reader.read(&log, usize::MAX);
    assert!(reader.shown().is_some());
    let row = vec![0; HELD_BACK_MAX / 4];
    for offset in log.end..log.end + 4 {
        let before = lock(&reader.committed).rows.next_offset();
        assert_eq!(before, Some(2), "nothing of it is applied");
        reader.follow.push(offset, &row_key(2), Some(&row));
        let mut committed = lock(&reader.committed);
        reader
            .follow
            .apply(&mut committed, Some(offset + 1))
            .unwrap();
    }
    assert_eq!(reader.shown(), None);
    assert!(reader.follow.tail.is_empty() && reader.follow.ready.is_empty());
}

#[test]
fn what_somebody_else_wrote_into_the_changelog_is_stepped_over() {
    let (mut reader, mut log) = (Reader::new(), Log::default());
    reader.continues(&log);
    let foreign = [&b""[..], b"\x01", b"\x01junk", b"test"];
    for _ in 0..3 {
        for key in foreign {
            log.push(key.to_vec(), Some(b"what".to_vec()));
        }
        log.batch(&[(1, Some(1)), (2, Some(2))]);
        reader.read(&log, usize::MAX);
    }
    assert_eq!(reader.shown(), Some((log.input_next, log.now)));
}
