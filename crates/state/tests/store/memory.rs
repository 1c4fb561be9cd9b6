//! Memory stays within the budget, and what cannot be written stays in it.

use std::{fs, path::Path};

use quadrille_state::{Batch, Error, Opened};

use crate::{MIB, Model, NOW_MS, all, identity, open, put, stores};

#[test]
fn more_rows_than_memory_stay_within_the_budget_and_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let budget = 4 * MIB;
    let stores = stores(folder.path(), budget);
    let open: Vec<_> = (0..3)
        .map(|partition| stores.open(&identity(), partition, NOW_MS).unwrap().0)
        .collect();
    let mut batch = Batch::new();
    let mut most = 0;
    for first in (0..200_000_u32).step_by(500) {
        batch.clear();
        for number in first..first + 500 {
            // In no order.
            let key = number.wrapping_mul(2_654_435_761).to_be_bytes();
            batch.put(&key, &[number as u8; 200]);
        }
        let store = &open[first as usize / 500 % 3];
        store.apply(&batch, i64::from(first)).unwrap();
        most = most.max(stores.usage().memory_bytes);
    }
    assert!(most <= budget, "{most}");
    let mut rows = 0;
    for store in &open {
        let mut from = Some(vec![]);
        while let Some(key) = from {
            let next = store.scan_from(&key, 1_000, |_, _| rows += 1);
            from = next.unwrap();
            most = most.max(stores.usage().memory_bytes);
        }
    }
    assert_eq!(rows, 200_000);
    let mut value = vec![];
    for number in (0..200_000_u32).step_by(97) {
        let key = number.wrapping_mul(2_654_435_761).to_be_bytes();
        value.clear();
        assert!(
            open[number as usize / 500 % 3]
                .get(&key, &mut value)
                .unwrap()
        );
        assert_eq!(value, [number as u8; 200]);
    }
    most = most.max(stores.usage().memory_bytes);
    assert!(most <= budget, "{most}");
    let usage = stores.usage();
    assert_eq!(usage.stores.len(), 3);
    assert!(usage.disk_bytes > 40_000_000, "{}", usage.disk_bytes);
}

#[test]
fn rows_that_are_overwritten_all_the_time_do_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    for round in 0..400_i64 {
        batch.clear();
        for number in 0..2_000_u32 {
            batch.put(&number.to_be_bytes(), &[round as u8; 100]);
        }
        store.apply(&batch, round).unwrap();
    }
    store.persist().unwrap();
    // 280 kB of rows, written 400 times.
    let disk = stores.usage().disk_bytes;
    assert!(disk < 8_000_000, "{disk}");
}

#[test]
fn a_batch_that_is_larger_than_the_budget_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), 64 << 10);
    let (store, _) = open(&stores);
    let (mut batch, mut model) = (Batch::new(), Model::new());
    for round in 0..3 {
        batch.clear();
        for number in 0..2_000 {
            put(&mut batch, &mut model, number, round);
        }
        store.apply(&batch, i64::from(round)).unwrap();
    }
    assert_eq!(all(&store).unwrap(), model);
}

/// Nothing can be written to the store's folder while this is there.
struct Blocked<'a>(&'a Path);

impl<'a> Blocked<'a> {
    fn new(tables: &'a Path) -> Self {
        fs::rename(tables, tables.with_extension("aside")).unwrap();
        fs::write(tables, "not a folder").unwrap();
        Self(tables)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        fs::remove_file(self.0).unwrap();
        fs::rename(self.0.with_extension("aside"), self.0).unwrap();
    }
}

#[test]
fn what_cannot_be_written_stays_in_memory_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), 256 << 10);
    let (store, _) = open(&stores);
    let (mut batch, mut model) = (Batch::new(), Model::new());
    for number in 0..100 {
        put(&mut batch, &mut model, number, 0);
    }
    store.apply(&batch, 1).unwrap();
    store.persist().unwrap();
    let tables = folder.path().join("fraud/0/0/tables");
    let mut offset = 1;
    {
        let _blocked = Blocked::new(&tables);
        let refused = loop {
            batch.clear();
            let mut then = model.clone();
            for number in 0..100 {
                put(&mut batch, &mut then, offset as u32 * 100 + number, 1);
            }
            match store.apply(&batch, offset + 1) {
                Ok(()) => (model, offset) = (then, offset + 1),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        assert!(matches!(store.persist(), Err(Error::Io { .. })));
        assert!(offset > 2, "there was room for some");
        assert!(stores.usage().memory_bytes <= 256 << 10);
        // Nothing of the batch that was refused, and all of those that were not.
        assert_eq!(store.next_offset(), Some(offset));
        let mut value = vec![];
        assert!(
            store
                .get(&(offset as u32 * 100 - 1).to_be_bytes(), &mut value)
                .unwrap()
        );
        assert!(
            !store
                .get(&(offset as u32 * 100).to_be_bytes(), &mut value)
                .unwrap()
        );
    }
    store.apply(&batch, offset + 1).unwrap();
    for number in 0..100 {
        put(
            &mut Batch::new(),
            &mut model,
            offset as u32 * 100 + number,
            1,
        );
    }
    assert_eq!(all(&store).unwrap(), model);
    store.close().unwrap();
    let (store, opened) = open(&stores);
    let next_offset = offset + 1;
    assert_eq!(opened, Opened::Kept { next_offset });
    assert_eq!(all(&store).unwrap(), model);
}
