//! States in which a kill can leave the files of a flush and of a merge.

use std::{fs, path::Path};

use quadrille_state::{Batch, Opened};

use crate::{MIB, Model, all, copy, files, open, put, stores};

/// Applies one more change and writes it: copies of the folder before and after.
fn flush(folder: &Path, number: u32) -> (tempfile::TempDir, tempfile::TempDir) {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy(folder, before.path());
    let stores = stores(folder, MIB);
    let (store, _) = open(&stores);
    store
        .apply(&changes(number, &mut Model::new()), offset_after(number))
        .unwrap();
    store.persist().unwrap();
    copy(folder, after.path());
    (before, after)
}

fn offset_after(number: u32) -> i64 {
    i64::from(number) + 1
}

fn changes(number: u32, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for row in number * 3..number * 3 + 10 {
        put(&mut batch, model, row, number);
    }
    batch
}

fn model_at(next_offset: i64) -> Model {
    let mut model = Model::new();
    for number in 0..next_offset as u32 {
        changes(number, &mut model);
    }
    model
}

fn assert_at(folder: &Path, next_offset: i64, what: &str) {
    let stores = stores(folder, MIB);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::Kept { next_offset }, "{what}");
    assert_eq!(all(&store).unwrap(), model_at(next_offset), "{what}");
    // And it goes on from there.
    store
        .apply(
            &changes(next_offset as u32, &mut Model::new()),
            next_offset + 1,
        )
        .unwrap();
    store.close().unwrap();
    let (store, opened) = open(&stores);
    assert_eq!(
        opened,
        Opened::Kept {
            next_offset: next_offset + 1
        },
        "{what}"
    );
    assert_eq!(all(&store).unwrap(), model_at(next_offset + 1), "{what}");
}

#[test]
fn a_flush_that_was_interrupted_anywhere_leaves_the_state_before_it_or_after_it() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let (before, after) = flush(folder.path(), number);
        let known = files(before.path());
        let new: Vec<_> = files(after.path())
            .into_iter()
            .filter(|file| !known.contains(file))
            .collect();
        if number == 0 {
            continue;
        }
        assert!(new.len() >= 2, "a table and a list");
        // The files appear in some order, each in pieces; what counts is named in `current`, last.
        for present in 0..=new.len() {
            for pieces in 0..3 {
                let state = tempfile::tempdir().unwrap();
                copy(before.path(), state.path());
                for (at, file) in new.iter().enumerate().take(present + 1) {
                    let bytes = fs::read(after.path().join(file)).unwrap();
                    let length = if at == present {
                        bytes.len() * pieces / 3
                    } else {
                        bytes.len()
                    };
                    fs::write(state.path().join(file), &bytes[..length]).unwrap();
                }
                let temporary = state.path().join("fraud/0/0/.tmpAbCdEf");
                fs::write(&temporary, "half a name").unwrap();
                assert_at(
                    state.path(),
                    i64::from(number),
                    &format!("{present} of {new:?}, {pieces}/3"),
                );
                assert!(!temporary.exists());
            }
        }
        assert_at(after.path(), offset_after(number), "after");
    }
}

#[test]
fn files_that_a_merge_has_not_deleted_yet_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let mut older: Vec<tempfile::TempDir> = vec![];
    for number in 0..9 {
        let (before, after) = flush(folder.path(), number);
        older.push(before);
        // All files that ever were, and the newest `current`.
        let state = tempfile::tempdir().unwrap();
        for before in &older {
            copy(before.path(), state.path());
        }
        copy(after.path(), state.path());
        assert_at(
            state.path(),
            offset_after(number),
            &format!("after {number}"),
        );
    }
}

#[test]
fn a_store_that_was_never_begun_or_half_deleted_is_new() {
    let (before, after) = {
        let folder = tempfile::tempdir().unwrap();
        flush(folder.path(), 0)
    };
    assert_eq!(open(&stores(before.path(), MIB)).1, Opened::New);
    // A discard was interrupted: the next generation is there, without anything in it.
    fs::create_dir(after.path().join("fraud/0/1")).unwrap();
    let stores = stores(after.path(), MIB);
    let (store, opened) = open(&stores);
    assert_eq!(opened, Opened::New);
    assert_eq!(all(&store).unwrap(), Model::new());
    assert!(!after.path().join("fraud/0/0").exists());
}

#[test]
fn a_store_that_was_given_up_halfway_is_new_and_leaves_nothing() {
    let (_, after) = {
        let folder = tempfile::tempdir().unwrap();
        flush(folder.path(), 0)
    };
    let at = after.path().join("fraud/0");
    fs::rename(at.join("0"), at.join("0.gone")).unwrap();
    {
        let stores = stores(after.path(), MIB);
        let (store, opened) = open(&stores);
        assert_eq!(opened, Opened::New);
        assert_eq!(all(&store).unwrap(), Model::new());
        assert!(!at.join("0.gone").exists());
        drop(store);
        stores.discard("fraud", 0).unwrap();
    }
    assert!(!at.exists());
}
