//! A process that applies, flushes and merges is killed at any moment.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use quadrille_state::{Batch, Opened, Store};

use crate::{Model, all, open, put, stores};

/// Names the folder for the process that is to be killed.
const FOLDER: &str = "QUADRILLE_STATE_KILLED_IN";
const MEMORY_BYTES: usize = 128 << 10;
const KILLS: u64 = 15;

/// The change that leads from `offset` to the next.
fn changes(offset: i64, batch: &mut Batch, model: &mut Model) {
    batch.clear();
    let offset = offset as u32;
    for number in 0..40 {
        put(batch, model, (offset * 31 + number * 17) % 1_000, offset);
    }
    for number in 0..10 {
        let key = ((offset * 7 + number * 101) % 1_000).to_be_bytes();
        batch.delete(&key);
        model.remove(&key[..]);
    }
}

fn model_at(next_offset: i64) -> Model {
    let (mut batch, mut model) = (Batch::new(), Model::new());
    for offset in 0..next_offset {
        changes(offset, &mut batch, &mut model);
    }
    model
}

/// Goes on for ever, saying how far it is.
fn work(folder: &Path) {
    let stores = stores(folder, MEMORY_BYTES);
    let (store, _) = open(&stores);
    let mut batch = Batch::new();
    loop {
        let offset = store.next_offset().unwrap_or(0);
        changes(offset, &mut batch, &mut Model::new());
        store.apply(&batch, offset + 1).unwrap();
        if offset % 97 == 0 {
            store.persist().unwrap();
            println!("persisted {}", offset + 1);
        }
        if offset % 4 == 0 {
            println!("applied {}", offset + 1);
        }
    }
}

#[test]
fn works_for_the_test_beside_it() {
    if let Some(folder) = env::var_os(FOLDER) {
        work(Path::new(&folder));
    }
}

fn check(store: &Store, opened: &Opened, persisted: i64) -> i64 {
    let next_offset = match opened {
        Opened::New => 0,
        Opened::Kept { next_offset } => *next_offset,
        Opened::Discarded { why } => panic!("{why}"),
    };
    assert!(next_offset >= persisted, "{next_offset} {persisted}");
    assert_eq!(all(store).unwrap(), model_at(next_offset));
    next_offset
}

#[test]
fn a_killed_process_leaves_a_state_of_the_past_with_its_offset() {
    let folder = tempfile::tempdir().unwrap();
    let (mut persisted, mut kept) = (0, 0);
    for kill in 0..KILLS {
        let mut worker = Command::new(env::current_exe().unwrap())
            .args([
                "kills::works_for_the_test_beside_it",
                "--exact",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        // At another point of its work each time.
        let mut left = 3 + kill * kill % 41;
        for line in lines {
            let line = line.unwrap();
            if let Some((_, offset)) = line.split_once("persisted ") {
                persisted = offset.parse().unwrap();
            }
            if line.contains("applied") {
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        let stores = stores(folder.path(), MEMORY_BYTES);
        let (store, opened) = open(&stores);
        kept = check(&store, &opened, persisted);
        persisted = persisted.max(kept);
    }
    assert!(kept > 0);
    let lists = fs::read_dir(folder.path().join("fraud/0/0")).unwrap();
    let names = lists.map(|entry| entry.unwrap().file_name());
    let temporary = names.filter(|name| name.as_encoded_bytes().starts_with(b".tmp"));
    assert_eq!(temporary.count(), 0);
}
