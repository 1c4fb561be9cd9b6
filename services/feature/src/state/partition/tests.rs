use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use quadrille_history::{
    Aggregate, Current, Definition, Event, Function, History, Pushed, Settings, Window,
};

use super::*;
use crate::state::rows::Memory;

fn definition(forget_after_ms: Option<i64>) -> Definition {
    let aggregate = |function, column, window| Aggregate {
        function,
        column,
        window,
        filter: None,
        current: Current::Seen,
    };
    let window = Window::Time {
        from_ms: 0,
        to_ms: 50_000,
    };
    let settings = Settings {
        columns: 1,
        aggregates: vec![
            aggregate(Function::Count, None, Window::All),
            aggregate(Function::Sum, Some(0), window),
            aggregate(Function::Last, Some(0), Window::All),
        ],
        lateness_ms: 0,
        forget_after_ms,
        events_max: 100,
    };
    Definition::new(settings).expect("a definition")
}

fn partition(rows: Box<dyn Rows>, definition: &Definition) -> Partition {
    let committed = Committed::over(rows);
    let partition = Partition::new(committed, definition.fingerprint(), None);
    let mut partition = partition.expect("readable");
    partition.set_cache_bytes(10_000);
    partition
}

fn event(number: i64, seconds: i64, value: &f64) -> Event<'_> {
    Event {
        id: i128::from(number).to_be_bytes(),
        time_ms: seconds * 1_000,
        reset: false,
        values: std::slice::from_ref(value),
    }
}

type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A record of a key: its number is its id and value. Returns what goes to the changelog.
fn record(
    partition: &mut Partition,
    definition: &Definition,
    key: &str,
    number: i64,
    seconds: i64,
) -> Changes {
    let pushed = partition.update(definition, key.as_bytes(), |history| {
        history.push(definition, &event(number, seconds, &(number as f64)))
    });
    let (pushed, before) = pushed.expect("readable");
    assert!(matches!(pushed, Pushed::New(_)), "{pushed:?}");
    partition.handled(number);
    partition.advance(seconds * 1_000);
    partition.sweep_now_and_then(definition).expect("readable");
    let changes = partition.changes(before);
    changes
        .map(|(key, row)| (key.to_vec(), row.map(<[u8]>::to_vec)))
        .collect()
}

/// Count, sum of the window and last, as of the newest of the key's records; nothing where there is none.
fn look(partition: &mut Partition, definition: &Definition, key: &str) -> Vec<f64> {
    // As if it were not in memory.
    let lacks_changed = std::mem::replace(&mut partition.lacks_changed, true);
    let history = partition.load(definition, key.as_bytes());
    partition.lacks_changed = lacks_changed;
    seen(&history.expect("readable"), definition)
}

fn seen(history: &History, definition: &Definition) -> Vec<f64> {
    let mut out = Vec::new();
    if let Some(newest) = history.newest_ms() {
        let looked = history.look_at(definition, newest, &mut out);
        looked.expect("the newest is not too old");
    }
    out
}

/// Rows as they are in the changelog: of each key the newest, without those that are deleted.
#[derive(Default)]
struct Changelog {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    next: i64,
}

impl Changelog {
    fn write(&mut self, changes: Changes) {
        for (key, row) in changes {
            self.next += 1;
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }

    fn restored(&self) -> Box<dyn Rows> {
        let mut pending = Pending::default();
        for (key, row) in &self.rows {
            pending.push(key, Some(row));
        }
        let mut rows = Memory::default();
        rows.apply(&pending, self.next).expect("memory");
        Box::new(rows)
    }
}

#[test]
fn what_a_batch_changed_is_there_once_it_is_committed_and_gone_once_it_is_aborted() {
    let definition = definition(None);
    let mut partition = partition(Box::new(Memory::default()), &definition);
    partition.begin();
    record(&mut partition, &definition, "a", 1, 1);
    partition.apply(Some(2)).expect("memory");
    partition.begin();
    record(&mut partition, &definition, "a", 2, 2);
    record(&mut partition, &definition, "b", 3, 3);
    assert_eq!(look(&mut partition, &definition, "a"), [2.0, 3.0, 2.0]);
    partition.aborted();
    assert_eq!(look(&mut partition, &definition, "a"), [1.0, 1.0, 1.0]);
    assert!(look(&mut partition, &definition, "b").is_empty());
    assert_eq!(lock(&partition.committed).rows.next_offset(), Some(2));
    // Handled again.
    partition.begin();
    record(&mut partition, &definition, "a", 2, 2);
    partition.apply(Some(4)).expect("memory");
    assert_eq!(look(&mut partition, &definition, "a"), [2.0, 3.0, 2.0]);
}

#[test]
fn a_record_that_panics_leaves_no_trace_and_those_before_it_stay() {
    let definition = definition(None);
    let mut partition = partition(Box::new(Memory::default()), &definition);
    partition.begin();
    partition.save();
    let first = record(&mut partition, &definition, "a", 1, 1);
    assert_eq!(first.len(), 2, "a row and the marker: {first:?}");
    partition.save();
    record(&mut partition, &definition, "a", 2, 2);
    partition.panicked();
    partition.save();
    let third = record(&mut partition, &definition, "a", 3, 3);
    assert_eq!(third.len(), 1, "the marker was sent");
    partition.apply(Some(3)).expect("memory");
    assert_eq!(look(&mut partition, &definition, "a"), [2.0, 4.0, 3.0]);
}

#[test]
fn the_marker_comes_again_where_the_record_that_brought_it_is_undone() {
    let definition = definition(None);
    let mut partition = partition(Box::new(Memory::default()), &definition);
    for _ in 0..3 {
        partition.begin();
        partition.save();
        let changes = record(&mut partition, &definition, "a", 1, 1);
        assert!(changes.iter().any(|(key, _)| *key == MARKER));
        partition.aborted();
    }
    partition.begin();
    record(&mut partition, &definition, "a", 1, 1);
    partition.apply(Some(2)).expect("memory");
    partition.begin();
    let later = record(&mut partition, &definition, "a", 2, 2);
    assert!(later.iter().all(|(key, _)| *key != MARKER));
}

#[test]
fn a_progress_row_ends_what_a_batch_changed_and_says_how_much_that_is() {
    let definition = definition(None);
    let mut partition = partition(Box::new(Memory::default()), &definition);
    let ended = |partition: &mut Partition| {
        let ended = partition.end_changes()?;
        let (outcome, key, progress) = ended;
        assert_eq!(key, PROGRESS);
        Some((outcome, progress.input_next, progress.number, progress.rows))
    };
    partition.begin();
    assert_eq!(ended(&mut partition), None, "nothing has changed");
    partition.save();
    assert_eq!(record(&mut partition, &definition, "a", 1, 1).len(), 2);
    partition.changed(4);
    // What comes behind it and changes nothing is told of as well.
    partition.handled(9);
    assert_eq!(ended(&mut partition), Some((4, 10, 1, 2)));
    assert_eq!(ended(&mut partition), None, "until something changes again");
    // As when records are handled one by one, one of which panics.
    partition.save();
    record(&mut partition, &definition, "a", 10, 2);
    partition.changed(5);
    partition.panicked();
    assert_eq!(ended(&mut partition), None);
    partition.save();
    record(&mut partition, &definition, "a", 11, 3);
    partition.changed(6);
    assert_eq!(ended(&mut partition), Some((6, 12, 2, 1)));
    partition.aborted();
    // Handled again.
    partition.begin();
    record(&mut partition, &definition, "a", 1, 1);
    partition.changed(0);
    assert_eq!(ended(&mut partition), Some((0, 2, 1, 2)));
    partition.apply(Some(7)).expect("memory");
    let stored = value(&*lock(&partition.committed).rows, &PROGRESS);
    let stored = stored.expect("memory").expect("a progress row");
    assert_eq!(Progress::stored_next(&stored), Some(7));
    partition.begin();
    record(&mut partition, &definition, "a", 3, 3);
    partition.changed(0);
    assert_eq!(ended(&mut partition), Some((0, 4, 2, 1)));
}

#[test]
fn records_that_would_count_twice_are_noticed_when_a_partition_is_taken_over() {
    let definition = definition(None);
    let mut first = partition(Box::new(Memory::default()), &definition);
    first.begin();
    record(&mut first, &definition, "a", 41, 1);
    first.changed(0);
    first.end_changes();
    first.apply(Some(3)).expect("memory");
    assert_eq!(first.counted_beyond(), None);
    let committed = first.into_committed();
    let taken_over = |next: Option<i64>| {
        let taken = Partition::new(Arc::clone(&committed), definition.fingerprint(), next);
        taken.expect("readable").counted_beyond()
    };
    assert_eq!(taken_over(Some(42)), None);
    assert_eq!(
        taken_over(Some(43)),
        None,
        "what came since changed nothing"
    );
    for committed in [None, Some(41)] {
        let counted_to = 42;
        let beyond = CountedBeyond {
            committed,
            counted_to,
        };
        assert_eq!(taken_over(committed), Some(beyond));
    }
}

#[test]
fn another_definition_begins_with_nothing_and_deletes_what_was_there() {
    let (one, other) = (definition(None), definition(Some(1_000_000_000)));
    let mut changelog = Changelog::default();
    let mut first = partition(changelog.restored(), &one);
    assert!(!first.begins_anew(), "nothing was there");
    for n in 0..50 {
        changelog.write(record(&mut first, &one, &format!("k{n}"), n, n));
    }
    assert!(!partition(changelog.restored(), &one).begins_anew());
    let mut second = partition(changelog.restored(), &other);
    assert!(second.begins_anew());
    assert!(look(&mut second, &other, "k1").is_empty());
    for n in 50..60 {
        changelog.write(record(&mut second, &other, "k1", n, n));
    }
    second.apply(Some(changelog.next)).expect("memory");
    assert_eq!(look(&mut second, &other, "k1")[0], 10.0);

    // Back again: what was missed meanwhile would be missing in what it had.
    let mut third = partition(changelog.restored(), &one);
    assert!(look(&mut third, &one, "k1").is_empty());
    for n in 60..200 {
        changelog.write(record(&mut third, &one, "k2", n, n));
        third.apply(Some(changelog.next)).expect("memory");
        third.begin();
    }
    let epochs = changelog.rows.keys().filter_map(|key| RowKey::read(key));
    let epochs: Vec<u32> = epochs.map(|it| it.epoch).collect();
    assert!(epochs.iter().all(|epoch| *epoch == 3), "{epochs:?}");
}

#[test]
fn a_key_that_is_forgotten_leaves_the_changelog() {
    let definition = definition(Some(60_000));
    let mut changelog = Changelog::default();
    let mut partition = partition(changelog.restored(), &definition);
    let day = 24 * 3_600;
    for n in 0..100 {
        changelog.write(record(&mut partition, &definition, &format!("k{n}"), n, n));
        partition.apply(Some(changelog.next)).expect("memory");
        partition.begin();
    }
    assert_eq!(changelog.rows.len(), 101);
    for n in 100..2_000 {
        let changes = record(&mut partition, &definition, "busy", n, 2 * day + n);
        changelog.write(changes);
        partition.apply(Some(changelog.next)).expect("memory");
        partition.begin();
    }
    let keys = changelog.rows.keys().filter_map(|key| RowKey::read(key));
    assert!(keys.map(|it| it.key).all(|key| key == b"busy"));
    let Committed { rows, .. } = &*lock(&partition.committed);
    let mut left = 0;
    rows.scan(&[], &mut |_, _| left += 1).expect("memory");
    assert_eq!(left, changelog.rows.len(), "the store is as the changelog");
}

#[test]
fn a_record_that_is_undone_makes_no_other_key_old() {
    let definition = definition(Some(60_000));
    let mut partition = partition(Box::new(Memory::default()), &definition);
    let day = 24 * 3_600;
    partition.begin();
    record(&mut partition, &definition, "old", 1, 1);
    partition.apply(Some(1)).expect("memory");
    partition.begin();
    record(&mut partition, &definition, "new", 2, 3 * day);
    partition.aborted();
    partition.begin();
    for number in 3..40 {
        record(&mut partition, &definition, "other", number, number);
    }
    partition.apply(Some(40)).expect("memory");
    assert_eq!(look(&mut partition, &definition, "old"), [1.0, 1.0, 1.0]);
}

#[test]
fn what_somebody_else_wrote_between_the_rows_does_not_stop_the_sweep() {
    let definition = definition(Some(60_000));
    let mut foreign = Pending::default();
    for key in [&b"\x01"[..], b"\x01junk", b"test"] {
        foreign.push(key, Some(b"what"));
    }
    let mut rows = Memory::default();
    rows.apply(&foreign, 1).expect("memory");
    let mut partition = partition(Box::new(rows), &definition);
    partition.begin();
    record(&mut partition, &definition, "old", 1, 1);
    partition.apply(Some(2)).expect("memory");
    partition.begin();
    for number in 2..100 {
        record(&mut partition, &definition, "new", number, 200_000 + number);
    }
    partition.apply(Some(100)).expect("memory");
    assert!(look(&mut partition, &definition, "old").is_empty());
}

#[test]
fn a_key_is_forgotten_once_in_a_batch_however_often_the_sweep_comes_by() {
    let definition = definition(Some(60_000));
    let mut partition = partition(Box::new(Memory::default()), &definition);
    partition.begin();
    record(&mut partition, &definition, "old", 1, 1);
    partition.apply(Some(2)).expect("memory");
    partition.begin();
    let mut deleted = 0;
    for number in 2..200 {
        let changes = record(&mut partition, &definition, "new", number, 200_000 + number);
        let of_old = |key: &[u8]| RowKey::read(key).is_some_and(|it| it.key == b"old");
        let gone = changes
            .iter()
            .filter(|(key, row)| row.is_none() && of_old(key));
        deleted += gone.count();
        assert!(partition.pending.len() < 1_000);
    }
    assert_eq!(deleted, 1);
}

#[test]
fn rows_that_could_not_be_changed_are_not_read_until_they_are_restored() {
    let definition = definition(None);
    let mut changelog = Changelog::default();
    let mut partition = partition(changelog.restored(), &definition);
    // Nothing stays in memory.
    partition.set_cache_bytes(0);
    partition.begin();
    changelog.write(record(&mut partition, &definition, "a", 1, 1));
    // Where it stands in the changelog is not known: as when the disk is full.
    assert!(partition.apply(None).is_err());
    partition.begin();
    partition.begin();
    let read = partition.update(&definition, b"b", |_| ());
    assert!(matches!(read, Err(Unusable::Rows(_))));
    let mut partition = self::partition(changelog.restored(), &definition);
    assert_eq!(look(&mut partition, &definition, "a"), [1.0, 1.0, 1.0]);
}

#[test]
fn a_batch_with_more_keys_than_there_is_memory_for_stays_within_it() {
    let definition = definition(None);
    let mut partition = partition(Box::new(Memory::default()), &definition);
    partition.begin();
    for number in 0..2_000 {
        // Some keys come again, when their history is in memory no more.
        record(
            &mut partition,
            &definition,
            &format!("k{}", number % 700),
            number,
            number,
        );
        assert!(
            partition.cache.bytes() <= 20_000,
            "{}",
            partition.cache.bytes()
        );
    }
    partition.apply(Some(2_000)).expect("memory");
    let seen = look(&mut partition, &definition, "k0");
    assert_eq!((seen[0], seen[2]), (3.0, 1_400.0));
}

/// Rows after so many records, so many of each key and a minute after the one before; every batch of `aborted` is handled twice.
fn rows_of_passing_keys(records: i64, of_each: i64, aborted: i64) -> usize {
    let definition = definition(Some(60_000));
    let mut partition = partition(Box::new(Memory::default()), &definition);
    for number in 0..records {
        if number % 50 == 0 {
            partition.begin();
        }
        record(
            &mut partition,
            &definition,
            &format!("k{:06}", number / of_each),
            number,
            number * 60,
        );
        if number % 50 == 49 {
            if (number / 50) % aborted == 0 {
                partition.aborted();
                partition.begin();
                for number in number - 49..=number {
                    record(
                        &mut partition,
                        &definition,
                        &format!("k{:06}", number / of_each),
                        number,
                        number * 60,
                    );
                }
            }
            partition.apply(Some(number)).expect("memory");
        }
    }
    let mut left = 0;
    lock(&partition.committed)
        .rows
        .scan(&[], &mut |_, _| left += 1)
        .expect("memory");
    left
}

#[test]
fn keys_of_which_nothing_comes_any_more_do_not_pile_up_however_many_there_are() {
    // Of two rows, a bucket and a prefix, at most: those of the minute and the day that are kept, and as many again.
    let kept = 2 * 2 * (24 * 60 + 2);
    for (records, of_each, aborted) in [
        (8_000, 1, 3),
        (60_000, 1, 1_000),
        (60_000, 2, 1_000),
        (60_000, 6, 1_000),
    ] {
        let left = rows_of_passing_keys(records, of_each, aborted);
        assert!(
            left <= kept,
            "{left} rows of {kept}: {records} records, {of_each} of each key"
        );
    }
}

#[test]
fn a_marker_that_cannot_be_read_is_an_error_and_without_one_old_rows_count_for_nothing() {
    let definition = definition(None);
    let mut changelog = Changelog::default();
    let mut first = partition(changelog.restored(), &definition);
    first.begin();
    changelog.write(record(&mut first, &definition, "a", 1, 1));
    let marker = changelog.rows.remove(&MARKER[..]).expect("a marker");
    let mut partition = self::partition(changelog.restored(), &definition);
    assert!(partition.begins_anew());
    assert!(look(&mut partition, &definition, "a").is_empty());
    partition.begin();
    changelog.write(record(&mut partition, &definition, "a", 2, 2));
    assert_eq!(look(&mut partition, &definition, "a"), [1.0, 2.0, 2.0]);
    let newer = [&marker[..], b"more"].concat();
    changelog.rows.insert(MARKER.to_vec(), newer);
    let committed = Committed::over(changelog.restored());
    let refused = Partition::new(committed, definition.fingerprint(), None);
    assert!(matches!(refused, Err(NoEpoch::Marker { bytes: 16 })));
}

#[derive(Debug, Clone)]
enum Step {
    Record { key: u8, gap: i64 },
    Panic { key: u8 },
    Commit,
    Abort,
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 0..30i64).prop_map(|(key, gap)| Step::Record { key, gap }),
        1 => (0..6u8).prop_map(|key| Step::Panic { key }),
        3 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::TakeOver),
    ]
}

proptest! {
    /// Whatever is aborted, panics or moves to another lane: each key's history is what its committed records make of it.
    #[test]
    fn the_state_is_that_of_the_committed_records(
        steps in prop::collection::vec(step(), 1..150),
        cache_bytes in prop_oneof![Just(0), Just(3_000), Just(10_000)],
    ) {
        let definition = definition(None);
        let mut model: BTreeMap<String, History> = BTreeMap::new();
        let mut batch: Vec<(String, i64, i64)> = Vec::new();
        let mut changes = Vec::new();
        let mut changelog = Changelog::default();
        let mut state = partition(changelog.restored(), &definition);
        state.set_cache_bytes(cache_bytes);
        let (mut number, mut time) = (0, 0);
        state.begin();
        for step in steps {
            match step {
                Step::Record { key, gap } => {
                    let key = format!("k{key}");
                    (number, time) = (number + 1, time + gap);
                    state.save();
                    changes.extend(record(&mut state, &definition, &key, number, time));
                    batch.push((key, number, time));
                }
                Step::Panic { key } => {
                    state.save();
                    record(&mut state, &definition, &format!("k{key}"), number + 1, time);
                    state.panicked();
                }
                Step::Commit => {
                    changelog.write(std::mem::take(&mut changes));
                    state.apply(Some(changelog.next)).expect("memory");
                    for (key, number, time) in batch.drain(..) {
                        let value = number as f64;
                        let history = model.entry(key).or_default();
                        let pushed = history.push(&definition, &event(number, time, &value));
                        prop_assert!(matches!(pushed, Pushed::New(_)));
                    }
                    state.begin();
                }
                Step::Abort => state.aborted(),
                Step::TakeOver => state = partition(changelog.restored(), &definition),
            }
            if matches!(step, Step::Abort | Step::TakeOver) {
                changes.clear();
                batch.clear();
                state.begin();
            }
            if batch.is_empty() {
                for (key, history) in &model {
                    prop_assert_eq!(look(&mut state, &definition, key), seen(history, &definition));
                }
            }
        }
    }
}
