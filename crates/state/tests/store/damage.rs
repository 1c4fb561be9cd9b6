//! What is damaged begins anew.

use std::fs;

use quadrille_state::{Batch, Error, Opened, Why};

use crate::{MIB, Model, files, open, put, stores};

/// A store of two flushes with blocks enough that opening it reads only some.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), MIB);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    for flush in 0..2 {
        batch.clear();
        for number in 0..500 {
            put(&mut batch, &mut Model::new(), number, flush);
        }
        store.apply(&batch, i64::from(flush) + 1).unwrap();
        store.persist().unwrap();
    }
    folder
}

#[test]
fn damage_that_is_found_when_it_is_opened_begins_anew() {
    for file in ["current", "v2", "tables/1"] {
        let folder = folder();
        let path = folder.path().join("fraud/0/0").join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let stores = stores(folder.path(), MIB);
        let (store, opened) = open(&stores);
        let Opened::Discarded { why } = opened else {
            panic!("{file}: {opened:?}");
        };
        assert!(matches!(why, Why::Damaged(_)), "{file}: {why}");
        assert_eq!(store.next_offset(), None);
        store.close().unwrap();
        // Nothing of it is left.
        let generations = fs::read_dir(folder.path().join("fraud/0")).unwrap();
        assert_eq!(generations.count(), 2, "one, and when it was touched");
    }
}

#[test]
fn damage_that_is_found_later_is_said_by_every_call_until_it_is_discarded() {
    let folder = folder();
    for file in files(folder.path()) {
        let path = folder.path().join(file);
        if path.parent().unwrap().ends_with("tables") {
            let mut bytes = fs::read(&path).unwrap();
            bytes[9_000] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let stores = stores(folder.path(), MIB);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::Kept { next_offset: 2 });
    let mut batch = Batch::new();
    put(&mut batch, &mut Model::new(), 7, 7);
    store.apply(&batch, 3).unwrap();
    let damaged = |result| assert!(matches!(result, Err(Error::Damaged { .. })));
    damaged(store.scan(&[], |_, _| {}));
    damaged(store.get(b"other", &mut vec![]).map(|_| ()));
    damaged(store.apply(&batch, 4));
    damaged(store.persist());
    // Rows that serve nothing any more are not held.
    let held = stores.usage().stores[0].memory_bytes;
    assert!(held < 4_096, "{held}");
    stores.discard("fraud", 0).unwrap();
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::New);
    store.apply(&batch, 3).unwrap();
    store.close().unwrap();
}
