//! State on disk: a restart reads what came since; where the folder is lost or damaged, all of the changelog is read. No
//! vector is ever another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::harness::{
    PATIENCE,
    cards::{Cards, PARTITIONS},
    eventually_or_show,
    process::Process,
};

/// Of each partition how many records of its changelog were read since the replica's start, markers included; waits until all
/// are restored.
#[track_caller]
fn restored(replica: &Process) -> BTreeMap<i32, u64> {
    eventually_or_show("all partitions are restored", PATIENCE, || {
        let mut restored = BTreeMap::new();
        for event in replica.events("state restored") {
            let number = |field: &str| event[field].as_u64().expect("a number");
            // One lane may have given it to another.
            *restored.entry(number("partition") as i32).or_default() += number("records");
        }
        match restored.len() == PARTITIONS as usize {
            true => Ok(restored),
            false => Err(format!("{restored:?}")),
        }
    })
}

/// The partitions whose stores a replica said it cannot use.
fn unusable(replica: &Process) -> BTreeSet<i32> {
    let found = [
        "the state on disk cannot be used; restoring it from the changelog",
        "the state is restored from the beginning of its changelog",
    ];
    let events = found.iter().flat_map(|message| replica.events(message));
    let partition =
        |event: serde_json::Value| event["partition"].as_i64().expect("a number") as i32;
    events.map(partition).collect()
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Damages the store of each partition in another way, in place: files that are open are the same files.
fn damage(folder: &Path) {
    for path in files(folder) {
        let within = path.strip_prefix(folder).expect("below it");
        let partition = within.iter().nth(1).and_then(|it| it.to_str());
        let partition = partition.and_then(|it| it.parse::<i32>().ok());
        let is_table = within.iter().any(|it| it == "tables");
        match (partition, is_table) {
            (Some(0), true) => flip(&path),
            (Some(1), true) => cut(&path),
            (Some(2), false) => flip(&path),
            (Some(3), _) => {
                flip(&path);
                cut(&path);
            }
            _ => {}
        }
    }
}

fn open(path: &Path) -> (File, u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("a file");
    let length = file.metadata().expect("its length").len();
    (file, length)
}

/// Some bytes all over it.
fn flip(path: &Path) {
    let (file, length) = open(path);
    for at in (0..length).step_by((length / 16).max(1) as usize) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[!byte[0]], at).expect("written");
    }
}

fn cut(path: &Path) {
    let (file, length) = open(path);
    file.set_len(length / 2).expect("cut");
}

#[test]
fn a_store_is_read_on_where_it_was_left_and_restored_where_it_is_lost_or_damaged() {
    let mut cards = Cards::new();
    let launch = cards.replica_on_disk("a");
    let state = cards.state("a");
    let again = |replica: &mut Process| {
        *replica = launch.start();
        replica.ready();
    };
    let mut replica = launch.start();
    replica.ready();
    cards.send(1_500, 500, |_| {});
    cards.check();

    // What was drained is all on disk, but for the last commits' markers.
    replica.drain();
    again(&mut replica);
    let read = restored(&replica);
    assert!(read.values().all(|read| *read <= 1), "{read:?}");

    // A killed one reads what came since; the less, the more of it was flushed meanwhile.
    cards.send(300, 300, |n| {
        if n == 150 {
            replica.kill();
            replica = launch.start();
        }
    });
    cards.check();
    let (read, all) = (restored(&replica), cards.changelog());
    println!("after kill -9 {read:?} records were read of {all:?}");
    let tail = |partition: &i32| read[partition] < all[partition] / 4;
    assert!(all.keys().all(tail), "{read:?} of {all:?}");

    replica.drain();
    fs::remove_dir_all(&state).expect("deleted");
    let all = cards.changelog();
    again(&mut replica);
    assert_eq!(restored(&replica), all);
    cards.send(200, 400, |_| {});
    cards.check();

    replica.drain();
    damage(&state);
    again(&mut replica);
    cards.send(200, 400, |_| {});
    cards.check();
    assert_eq!(unusable(&replica), (0..PARTITIONS).collect());

    // Its files are open, and histories not in memory yet.
    replica.drain();
    again(&mut replica);
    assert_eq!(unusable(&replica), BTreeSet::new());
    damage(&state);
    cards.send(200, 400, |_| {});
    cards.check();
    println!("damaged under way: {:?}", unusable(&replica));
    assert!(unusable(&replica).is_superset(&[0, 1, 3].into()));
    replica.drain();

    // Whatever was found or not found of it.
    again(&mut replica);
    cards.send(200, 400, |_| {});
    cards.check();
    replica.drain();
}
