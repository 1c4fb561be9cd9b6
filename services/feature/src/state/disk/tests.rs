use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use quadrille_state::Settings;

use super::*;

const IDENTITY: &str = "p";

fn identity() -> Identity {
    Identity {
        pipeline: IDENTITY.to_owned(),
        cluster: "c".to_owned(),
        topic_id: "t".to_owned(),
        definition: *b"12345678",
    }
}

fn stores(folder: &Path) -> Stores {
    Stores::open_folder(Settings::new(folder, 256 << 10)).expect("a folder")
}

fn pending(changes: &[(&str, Option<&str>)]) -> Pending {
    let mut pending = Pending::default();
    for (key, row) in changes {
        pending.push(key.as_bytes(), row.map(str::as_bytes));
    }
    pending
}

fn text(key: Option<Vec<u8>>) -> Option<String> {
    key.map(|key| String::from_utf8(key).expect("text"))
}

fn scanned(rows: &dyn Rows, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    rows.scan(prefix.as_bytes(), &mut |key, row| {
        found.insert(String::from_utf8(key.to_vec()).expect("text"), row.to_vec());
    })
    .expect("readable");
    found
}

#[test]
fn the_first_row_is_found_behind_ones_that_are_deleted_in_memory_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rows = open(&stores(folder.path()), &identity(), 0).expect("open");
    let keys: Vec<String> = (0..200).map(|n| format!("k{n:03}")).collect();
    let all: Vec<_> = keys.iter().map(|key| (key.as_str(), Some("row"))).collect();
    rows.apply(&pending(&all), 1).expect("room");
    rows.persist();
    let gone: Vec<_> = keys[..150].iter().map(|key| (key.as_str(), None)).collect();
    rows.apply(&pending(&gone), 2).expect("room");
    assert_eq!(
        text(rows.first_from(b"k").expect("readable")).as_deref(),
        Some("k150")
    );
    assert_eq!(text(rows.first_from(b"k2").expect("readable")), None);
}

/// The folder of a store's tables, behind a link that can lead to a file instead: then nothing can be written. A link changes in one
/// step, whatever the store's threads do meanwhile.
struct Tables {
    path: PathBuf,
    real: PathBuf,
}

impl Tables {
    /// Of a store that was just opened.
    fn of(folder: &Path) -> Self {
        let path = folder.join(IDENTITY).join("0/0/tables");
        let real = path.with_extension("real");
        fs::rename(&path, &real).expect("moved");
        fs::write(path.with_extension("file"), "not a folder").expect("written");
        let tables = Tables { path, real };
        tables.lead_to(&tables.real);
        tables
    }

    fn lead_to(&self, target: &Path) {
        let link = self.path.with_extension("link");
        symlink(target, &link).expect("linked");
        fs::rename(&link, &self.path).expect("replaced");
    }

    fn block(&self) {
        self.lead_to(&self.path.with_extension("file"));
    }

    fn unblock(&self) {
        self.lead_to(&self.real);
    }

    /// The store is closed.
    fn put_back(self) {
        fs::remove_file(&self.path).expect("removed");
        fs::remove_file(self.path.with_extension("file")).expect("removed");
        fs::rename(&self.real, &self.path).expect("moved back");
    }
}

#[test]
fn rows_that_the_disk_has_no_room_for_are_there_all_the_same_and_written_once_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let stores = stores(folder.path());
    let mut rows = open(&stores, &identity(), 0).expect("open");
    let tables = Tables::of(folder.path());
    let mut model = BTreeMap::new();
    let large = "x".repeat(2_000);
    let mut next = 0;
    let mut put = |rows: &mut Box<dyn Rows>, batch: i64| {
        next += 1;
        let mut changes = Vec::new();
        for n in 0..40 {
            let key = format!("k{:04}", (batch * 17 + n * 7) % 900);
            let row = (n % 5 != 0).then(|| format!("{batch} {large}"));
            match &row {
                Some(row) => model.insert(key.clone(), row.clone().into_bytes()),
                None => model.remove(&key),
            };
            changes.push((key, row));
        }
        let changes: Vec<_> = changes
            .iter()
            .map(|(key, row)| (key.as_str(), row.as_deref()))
            .collect();
        rows.apply(&pending(&changes), next).expect("kept");
        assert_eq!(rows.next_offset(), Some(next));
        model.clone()
    };
    tables.block();
    for batch in 0..40 {
        let model = put(&mut rows, batch);
        assert_eq!(scanned(&*rows, "k"), model);
        let first = model.range("k0100".to_owned()..).next();
        let first = first.map(|(key, _)| key.clone());
        assert_eq!(text(rows.first_from(b"k0100").expect("readable")), first);
    }
    // More than the memory of stores: some of it is ahead of this one.
    rows.persist();
    assert!(rows.usage().unwritten > 0);
    tables.unblock();
    let model = put(&mut rows, 40);
    rows.persist();
    assert_eq!(rows.usage(), StateUsage::default());
    assert_eq!(scanned(&*rows, "k"), model);
    drop(rows);
    tables.put_back();
    let rows = open(&stores, &identity(), 0).expect("open");
    assert_eq!(
        (rows.next_offset(), scanned(&*rows, "k")),
        (Some(41), model)
    );
}

#[test]
fn a_store_stands_for_what_was_ahead_of_it_only_once_it_has_all_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let stores = stores(folder.path());
    let row = "x".repeat(1_000);
    let keys: Vec<String> = (0..1_000).map(|n| format!("k{n:04}")).collect();
    let all: Vec<_> = keys.iter().map(|key| (&**key, Some(&*row))).collect();
    let mut disk = opened(&stores, &identity(), 0).expect("open");
    disk.apply(&pending(&[("k0000", Some("old"))]), 5)
        .expect("room");
    disk.ahead = Some(Ahead::new(&pending(&all), 1_005));
    let bytes = disk.usage().unwritten;
    assert!(!disk.catch_up(1).expect("room"), "it is more than a piece");
    assert!((bytes / 2..bytes).contains(&disk.usage().unwritten));
    assert_eq!(disk.next_offset(), Some(1_005));
    assert_eq!(scanned(&disk, "k").len(), 1_000);
    // The rest is lost.
    disk.store.persist().expect("room");
    drop(disk);
    let mut disk = opened(&stores, &identity(), 0).expect("open");
    assert_eq!(disk.next_offset(), Some(5));
    disk.ahead = Some(Ahead::new(&pending(&all), 1_005));
    assert!(disk.catch_up(usize::MAX).expect("room"));
    assert_eq!(disk.usage().unwritten, 0);
    disk.store.persist().expect("room");
    drop(disk);
    let disk = opened(&stores, &identity(), 0).expect("open");
    assert_eq!(disk.next_offset(), Some(1_005));
    assert_eq!(scanned(&disk, "k").len(), 1_000);
}
