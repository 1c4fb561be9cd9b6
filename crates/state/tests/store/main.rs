//! The store of keyed state, from outside.
#![forbid(unsafe_code)]

mod crashes;
mod damage;
mod kills;
mod memory;
mod model;
mod rules;
mod threads;

use std::{collections::BTreeMap, fs, path::Path};

use quadrille_state::{Batch, Error, Identity, Opened, Settings, Store, Stores};

pub const MIB: usize = 1 << 20;
pub const NOW_MS: i64 = 1_700_000_000_000;

pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub fn identity() -> Identity {
    Identity {
        pipeline: "fraud".to_string(),
        cluster: "cluster".to_string(),
        topic_id: "topic".to_string(),
        definition: [7; 8],
    }
}

pub fn stores(folder: &Path, memory_bytes: usize) -> Stores {
    Stores::open_folder(Settings::new(folder, memory_bytes)).unwrap()
}

pub fn open(stores: &Stores) -> (Store, Opened) {
    stores.open(&identity(), 0, NOW_MS).unwrap()
}

/// Everything in a store, read in both ways that there are.
pub fn all(store: &Store) -> Result<Model, Error> {
    let mut rows = Model::new();
    store.scan(&[], |key, value| {
        assert!(rows.insert(key.to_vec(), value.to_vec()).is_none());
    })?;
    let mut value = vec![];
    for (key, expected) in &rows {
        value.clear();
        assert!(store.get(key, &mut value)?);
        assert_eq!(&value, expected);
    }
    Ok(rows)
}

/// A row of `number`, its value as of `version`.
pub fn row(number: u32, version: u32) -> (Vec<u8>, Vec<u8>) {
    let key = number.to_be_bytes().to_vec();
    let mut value = version.to_be_bytes().to_vec();
    value.extend((0..number % 60).map(|byte| byte as u8));
    (key, value)
}

pub fn put(batch: &mut Batch, model: &mut Model, number: u32, version: u32) {
    let (key, value) = row(number, version);
    batch.put(&key, &value);
    model.insert(key, value);
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a folder, relative to it, in order.
pub fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}
