//! Histories of a store against a sorted map.

use proptest::prelude::*;
use quadrille_state::{Batch, Opened, Store};

use crate::{MIB, Model, all, open, stores};

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Persist,
    Close,
    /// What was not persisted is lost.
    Drop,
    Read {
        prefix: Vec<u8>,
        rows_max: usize,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 7, 254, 255]), 2..5)
}

fn prefix() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 7, 254, 255]), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..300));
    let change = (key(), value);
    prop_oneof![
        8 => prop::collection::vec(change, 0..40).prop_map(Step::Apply),
        2 => Just(Step::Persist),
        1 => Just(Step::Close),
        1 => Just(Step::Drop),
        3 => (prefix(), 1..20usize).prop_map(|(prefix, rows_max)| Step::Read { prefix, rows_max }),
    ]
}

/// What the store holds after each offset.
struct History(Vec<Model>);

impl History {
    fn now(&self) -> &Model {
        self.0.last().unwrap()
    }

    fn next_offset(&self) -> i64 {
        self.0.len() as i64 - 1
    }

    /// What was lost is not in the history.
    fn reopened(&mut self, opened: &Opened, at_least: i64) {
        match opened {
            Opened::New => {
                assert_eq!(at_least, 0);
                self.0.truncate(1);
            }
            Opened::Kept { next_offset } => {
                assert!(*next_offset >= at_least && *next_offset <= self.next_offset());
                self.0.truncate(*next_offset as usize + 1);
            }
            Opened::Discarded { why } => panic!("{why}"),
        }
    }
}

fn read(store: &Store, model: &Model, prefix: &[u8], rows_max: usize) {
    let mut rows = Model::new();
    let scanned = store.scan(prefix, |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
    });
    scanned.unwrap();
    let expected = model.iter().filter(|(key, _)| key.starts_with(prefix));
    assert!(rows.iter().eq(expected));

    let mut from = Some(prefix.to_vec());
    let mut swept = vec![];
    while let Some(key) = from {
        let mut rows = 0;
        let next = store.scan_from(&key, rows_max, |key, value| {
            rows += 1;
            swept.push((key.to_vec(), value.to_vec()));
        });
        from = next.unwrap();
        assert!(rows <= rows_max);
        assert!(from.as_ref().is_none_or(|next| *next > key));
    }
    let expected = model.range(prefix.to_vec()..);
    assert!(swept.iter().map(|(key, value)| (key, value)).eq(expected));
}

fn run(steps: Vec<Step>, memory_bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), memory_bytes);
    let (mut store, opened) = open(&stores);
    assert_eq!(opened, Opened::New);
    let mut history = History(vec![Model::new()]);
    let mut persisted = 0;
    let mut batch = Batch::new();
    for step in steps {
        match step {
            Step::Apply(changes) => {
                batch.clear();
                let mut model = history.now().clone();
                for (key, value) in changes {
                    match value {
                        Some(value) => {
                            batch.put(&key, &value);
                            model.insert(key, value);
                        }
                        None => {
                            batch.delete(&key);
                            model.remove(&key);
                        }
                    }
                }
                history.0.push(model);
                store.apply(&batch, history.next_offset()).unwrap();
                assert_eq!(store.next_offset(), Some(history.next_offset()));
            }
            Step::Persist => {
                store.persist().unwrap();
                persisted = history.next_offset();
            }
            Step::Close => {
                store.close().unwrap();
                persisted = history.next_offset();
                let reopened = open(&stores);
                store = reopened.0;
                history.reopened(&reopened.1, persisted);
            }
            Step::Drop => {
                drop(store);
                let reopened = open(&stores);
                store = reopened.0;
                history.reopened(&reopened.1, persisted);
            }
            Step::Read { prefix, rows_max } => read(&store, history.now(), &prefix, rows_max),
        }
    }
    assert_eq!(all(&store).unwrap(), *history.now());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_that_is_flushed_all_the_time_reads_like_a_sorted_map(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(steps, 16 << 10);
    }

    #[test]
    fn a_store_with_memory_enough_reads_like_a_sorted_map(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(steps, 64 * MIB);
    }
}
