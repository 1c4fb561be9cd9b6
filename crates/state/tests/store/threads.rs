//! Others read while one applies.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use quadrille_state::Batch;

use crate::{open, stores};

const ROWS: u32 = 20;

#[test]
fn a_scan_sees_all_rows_of_a_batch_or_none_through_flushes_and_merges() {
    let folder = tempfile::tempdir().unwrap();
    let stores = stores(folder.path(), 32 << 10);
    let (store, _) = open(&stores);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = store.clone();
                    let (mut last, mut seen) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let mut versions = vec![];
                        let scanned = store.scan(b"rows", |_, value| {
                            versions.push(u32::from_be_bytes(value[..4].try_into().unwrap()));
                        });
                        scanned.unwrap();
                        let Some(first) = versions.first() else {
                            continue;
                        };
                        assert_eq!(versions, vec![*first; ROWS as usize]);
                        assert!(*first >= last);
                        seen += u32::from(*first > last);
                        last = *first;
                    }
                    seen
                })
            })
            .collect();
        let mut batch = Batch::new();
        for version in 1..300_u32 {
            batch.clear();
            for row in 0..ROWS {
                let mut key = b"rows".to_vec();
                key.extend(row.to_be_bytes());
                let mut value = version.to_be_bytes().to_vec();
                value.resize(200, 0);
                batch.put(&key, &value);
                batch.put(&[&version.to_be_bytes()[..], &key].concat(), &value);
            }
            store.apply(&batch, i64::from(version)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 1);
        }
    });
}
