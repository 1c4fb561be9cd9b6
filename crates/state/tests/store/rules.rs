//! What is kept, what is not, and what is refused.

use std::{
    fs,
    time::{Duration, Instant},
};

use quadrille_state::{Batch, Error, Identity, Opened, Settings, Stores, Why};

use crate::{MIB, Model, NOW_MS, all, copy, identity, open, put, stores};

const HOUR_MS: i64 = 3_600_000;

/// A folder with one store of 100 rows that stands for offset 100.
fn folder() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), MIB);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::New);
    let (mut batch, mut model) = (Batch::new(), Model::new());
    for number in 0..100 {
        put(&mut batch, &mut model, number, 0);
    }
    store.apply(&batch, 100).unwrap();
    store.close().unwrap();
    (folder, model)
}

#[test]
fn a_closed_store_is_kept_with_its_offset() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::Kept { next_offset: 100 });
    assert_eq!(store.next_offset(), Some(100));
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn a_store_of_another_identity_begins_anew() {
    let others: [fn(&mut Identity); 3] = [
        |identity| identity.cluster.push('x'),
        |identity| identity.topic_id.push('x'),
        |identity| identity.definition[0] += 1,
    ];
    for change in others {
        let (folder, _) = folder();
        let stores = stores(folder.path(), MIB);
        let mut other = identity();
        change(&mut other);
        let (store, opened) = stores.open(&other, 0, NOW_MS).unwrap();
        let why = Why::Identity;
        assert_eq!(opened, Opened::Discarded { why });
        assert_eq!(store.next_offset(), None);
        assert_eq!(all(&store).unwrap(), Model::new());
        drop(store);
        // The first is gone for good.
        assert_eq!(open(&stores).1, Opened::New);
    }
}

#[test]
fn stores_of_other_partitions_and_pipelines_are_others() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let mut other = identity();
    other.pipeline = "Fraud_%/..".to_string();
    let (b, opened) = stores.open(&other, 0, NOW_MS).unwrap();
    assert_eq!(opened, Opened::New);
    let (c, opened) = stores.open(&identity(), 1, NOW_MS).unwrap();
    assert_eq!(opened, Opened::New);
    let (a, _) = open(&stores);
    assert_eq!(all(&a).unwrap(), model);
    assert_eq!(all(&b).unwrap(), Model::new());
    assert_eq!(all(&c).unwrap(), Model::new());
    let entries = fs::read_dir(folder.path()).unwrap();
    assert_eq!(entries.count(), 3, "two pipelines and the lock");
}

#[test]
fn a_store_that_is_too_old_begins_anew() {
    let (folder, _) = folder();
    let stores = stores(folder.path(), MIB);
    let later = NOW_MS + 12 * HOUR_MS;
    let (store, opened) = stores.open(&identity(), 0, later).unwrap();
    assert_eq!(opened, Opened::Kept { next_offset: 100 });
    drop(store);
    let (store, opened) = stores.open(&identity(), 0, later + 1).unwrap();
    let age_ms = 12 * HOUR_MS as u64 + 1;
    let why = Why::TooOld { age_ms };
    assert_eq!(opened, Opened::Discarded { why });
    assert_eq!(store.as_of_ms(), later + 1);
}

#[test]
fn a_store_that_caught_up_is_young_again_and_one_that_was_only_applied_to_is_not() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let ten = NOW_MS + 10 * HOUR_MS;
    let (store, _) = stores.open(&identity(), 0, ten).unwrap();
    store.apply(&Batch::new(), 200).unwrap();
    store.close().unwrap();
    let (store, opened) = stores.open(&identity(), 0, ten).unwrap();
    assert_eq!(opened, Opened::Kept { next_offset: 200 });
    assert_eq!(store.as_of_ms(), NOW_MS);
    store.caught_up(ten);
    store.close().unwrap();
    let twenty = NOW_MS + 20 * HOUR_MS;
    let (store, opened) = stores.open(&identity(), 0, twenty).unwrap();
    assert_eq!(opened, Opened::Kept { next_offset: 200 });
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn a_store_of_the_future_begins_anew() {
    let (folder, _) = folder();
    let stores = stores(folder.path(), MIB);
    let earlier = NOW_MS - 13 * HOUR_MS;
    let (_, opened) = stores.open(&identity(), 0, earlier).unwrap();
    assert!(matches!(opened, Opened::Discarded { .. }));
}

#[test]
fn what_was_not_persisted_is_forgotten_with_its_offset() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    put(&mut batch, &mut Model::new(), 5, 1);
    store.apply(&batch, 101).unwrap();
    drop(store);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::Kept { next_offset: 100 });
    assert_eq!(all(&store).unwrap(), model);
}

/// A process that is killed has what it had at most that long before.
#[test]
fn what_is_applied_is_on_disk_after_a_while_without_being_persisted() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path(), MIB);
    settings.flush_every = Duration::from_millis(10);
    let stores = Stores::open_folder(settings).unwrap();
    let (store, _) = open(&stores);
    let (mut batch, mut model) = (Batch::new(), Model::new());
    put(&mut batch, &mut model, 5, 1);
    store.apply(&batch, 100).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while stores.usage().disk_bytes == 0 {
        assert!(Instant::now() < deadline, "it stays in memory");
        std::thread::yield_now();
    }
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    let (store, opened) = open(&crate::stores(killed.path(), MIB));
    assert_eq!(opened, Opened::Kept { next_offset: 100 });
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn an_offset_does_not_go_back_and_nothing_is_applied() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    put(&mut batch, &mut Model::new(), 5, 1);
    let refused = store.apply(&batch, 99);
    assert!(matches!(refused, Err(Error::Offset { .. })));
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn a_batch_with_a_key_that_cannot_be_is_refused_as_a_whole() {
    let (folder, model) = folder();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    for bytes in [0, 1, 65_536] {
        let mut batch = Batch::new();
        put(&mut batch, &mut Model::new(), 5, 1);
        batch.delete(&vec![0; bytes]);
        let refused = store.apply(&batch, 101);
        assert!(matches!(refused, Err(Error::Key { .. })));
    }
    assert_eq!(store.next_offset(), Some(100));
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn the_longest_key_and_a_value_of_a_megabyte_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), 4 * MIB);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    let (long, short) = (vec![255; 65_535], vec![255, 255]);
    batch.put(&long, &vec![3; MIB]);
    batch.put(&short, &[]);
    store.apply(&batch, 1).unwrap();
    store.close().unwrap();
    let (store, _) = open(&stores);
    let mut value = vec![];
    assert!(store.get(&long, &mut value).unwrap());
    assert_eq!(value, vec![3; MIB]);
    assert!(store.get(&short, &mut value).unwrap());
    assert_eq!(all(&store).unwrap().len(), 2);
}

#[test]
fn a_folder_serves_one_process_and_a_store_one_opener() {
    let (folder, _) = folder();
    let first = stores(folder.path(), MIB);
    let second = Stores::open_folder(Settings::new(folder.path(), MIB));
    assert!(matches!(second, Err(Error::InUse { .. })));
    let (store, _) = open(&first);
    let again = first.open(&identity(), 0, NOW_MS);
    assert!(matches!(again, Err(Error::AlreadyOpen { .. })));
    // A store keeps the folder, even if nothing else does.
    drop(first);
    let second = Stores::open_folder(Settings::new(folder.path(), MIB));
    assert!(matches!(second, Err(Error::InUse { .. })));
    drop(store);
    stores(folder.path(), MIB);
}

#[test]
fn a_discarded_store_is_gone_and_its_handles_say_so() {
    let (folder, _) = folder();
    let stores = stores(folder.path(), MIB);
    let (old, _) = open(&stores);
    stores.discard("fraud", 0).unwrap();
    let closed = |result| assert!(matches!(result, Err(Error::Closed { .. })));
    closed(old.get(b"key", &mut vec![]).map(|_| ()));
    closed(old.scan(b"key", |_, _| {}));
    closed(old.apply(&Batch::new(), 300));
    closed(old.persist());
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::New);
    let (mut batch, mut model) = (Batch::new(), Model::new());
    put(&mut batch, &mut model, 1, 1);
    store.apply(&batch, 1).unwrap();
    store.persist().unwrap();
    // The old handle's end does not touch the new store.
    drop(old);
    assert_eq!(all(&store).unwrap(), model);
    drop(store);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::Kept { next_offset: 1 });
    assert_eq!(all(&store).unwrap(), model);
}

#[test]
fn a_sweep_deletes_what_is_neither_open_nor_was_lately() {
    let (folder, _) = folder();
    let stores = stores(folder.path(), MIB);
    let (a, opened) = open(&stores);
    assert!(matches!(opened, Opened::Kept { .. }));
    for (partition, opened_ms) in [(1, NOW_MS), (2, NOW_MS + HOUR_MS)] {
        let (store, _) = stores.open(&identity(), partition, opened_ms).unwrap();
        store.apply(&Batch::new(), 5).unwrap();
        store.close().unwrap();
    }
    let ttl = Duration::from_secs(1800);
    assert_eq!(stores.sweep(ttl, NOW_MS + 1_799_999).unwrap(), 0);
    assert_eq!(stores.sweep(ttl, NOW_MS + HOUR_MS).unwrap(), 1);
    let opened = |partition| stores.open(&identity(), partition, NOW_MS).unwrap().1;
    assert_eq!(opened(1), Opened::New);
    assert_eq!(opened(2), Opened::Kept { next_offset: 5 });
    drop(a);
    assert_eq!(open(&stores).1, Opened::Kept { next_offset: 100 });
}

#[test]
fn a_store_that_caught_up_is_not_swept() {
    let (folder, _) = folder();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    store.caught_up(NOW_MS + HOUR_MS);
    store.close().unwrap();
    let ttl = Duration::from_secs(1800);
    assert_eq!(stores.sweep(ttl, NOW_MS + HOUR_MS).unwrap(), 0);
}
