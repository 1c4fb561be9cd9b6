//! Every byte of a small store is changed, and every file cut: what is read is right, or it is damage.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::*;
use crate::{identity::Stamp, memory::Rows};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn caches() -> Caches {
    Caches {
        blocks: Arc::new(Cache::with_capacity_bytes(1 << 20)),
        files: Arc::new(DescriptorTable::new(16)),
    }
}

fn identity() -> Identity {
    Identity {
        pipeline: "fraud".to_string(),
        cluster: "cluster".to_string(),
        topic_id: "topic".to_string(),
        definition: [7; 8],
    }
}

/// Two flushes, with rows overwritten and deleted.
fn original() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path(), &caches()).unwrap();
    let mut model = Model::new();
    for flush in 0..2_u8 {
        let mut rows = Rows::default();
        for number in flush * 5..flush * 5 + 8 {
            let (key, value) = ([number, 0, 255], vec![flush; usize::from(number) * 9]);
            rows.set(&key, Some(&value));
            model.insert(key.to_vec(), value);
        }
        let deleted = [flush * 5, 0, 255];
        rows.set(&deleted, None);
        model.remove(&deleted[..]);
        let stamp = Stamp {
            next_offset: i64::from(flush),
            as_of_ms: 0,
        };
        disk.write(&identity(), 0, &Sealed { rows, stamp }).unwrap();
    }
    (folder, model)
}

/// All there is, read in both ways; the offset with it.
fn read(folder: &Path) -> Result<(Model, Option<i64>), Failure> {
    let disk = Disk::open(folder, &caches())?;
    let mut rows = Model::new();
    let all = disk.range(&(Bound::Unbounded, Bound::Unbounded))?;
    let mut keep = |key: &[u8], value: &[u8]| {
        rows.insert(key.to_vec(), value.to_vec());
    };
    merge(vec![], None, Some(all), usize::MAX, &mut keep)?;
    for number in 0..20 {
        let key = [number, 0, 255];
        let value = disk.get(&key)?;
        assert_eq!(value.as_deref(), rows.get(&key[..]).map(Vec::as_slice));
    }
    let stamp = disk.get(STAMP_KEY)?;
    let stamp = stamp.map(|row| identity().stamp(0, &row).unwrap().next_offset);
    // A merge reads in a third way.
    if disk.merge_once()? {
        assert_eq!(
            disk.get(&[7, 0, 255])?.as_deref(),
            rows.get(&[7, 0, 255][..]).map(Vec::as_slice)
        );
    }
    Ok((rows, stamp))
}

/// Files of a folder, relative to it, with what is in them.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let names = fs::read_dir(folder)
        .unwrap()
        .chain(fs::read_dir(folder.join(verify::TABLES)).unwrap());
    let paths = names
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let files = paths.map(|path| {
        (
            path.strip_prefix(folder).unwrap().to_path_buf(),
            fs::read(&path).unwrap(),
        )
    });
    files.collect()
}

/// Reads the store once for each content of a file that `changes` makes; how many there were, and how many were damage.
fn with_changes(changes: impl Fn(&[u8]) -> Vec<Option<Vec<u8>>>) -> (usize, usize) {
    let (original, model) = original();
    let files = files(original.path());
    let (mut tried, mut damaged) = (0, 0);
    for (changed, content) in &files {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(verify::TABLES)).unwrap();
        for change in changes(content) {
            for (file, bytes) in &files {
                let path = folder.path().join(file);
                match &change {
                    Some(change) if file == changed => fs::write(path, change).unwrap(),
                    None if file == changed => drop(fs::remove_file(path)),
                    // What was damaged the last time was deleted, perhaps.
                    _ if path.exists() => {}
                    _ => fs::write(path, bytes).unwrap(),
                }
            }
            let is_current = changed == Path::new("current");
            tried += 1;
            match read(folder.path()) {
                Ok((rows, _)) if is_current && change.is_none() => assert!(rows.is_empty()),
                Ok((rows, stamp)) => assert_eq!((&rows, stamp), (&model, Some(1)), "{changed:?}"),
                Err(Failure::Damaged(_)) => damaged += 1,
                Err(Failure::Io(error)) => panic!("{changed:?}: {error}"),
            }
        }
    }
    (tried, damaged)
}

#[test]
fn a_changed_byte_is_damage_or_changes_nothing() {
    let (tried, damaged) = with_changes(|bytes| {
        let flipped = (0..bytes.len()).map(|at| {
            let mut bytes = bytes.to_vec();
            // Lengths get large in their high bits; tags and text change in any.
            bytes[at] ^= if at % 2 == 0 { 0x80 } else { 0x01 };
            Some(bytes)
        });
        flipped.collect()
    });
    assert!(tried > 3_000, "{tried}");
    // Nobody reads the lists that were before.
    assert!(damaged * 10 > tried * 8, "{damaged} of {tried}");
}

#[test]
fn a_file_that_was_cut_or_zeroed_or_grew_or_is_missing_is_damage_or_changes_nothing() {
    let (tried, damaged) = with_changes(|bytes| {
        let cut = (0..bytes.len())
            .step_by(11)
            .map(|length| bytes[..length].to_vec());
        let zeroed = (0..bytes.len()).step_by(16).map(|at| {
            let mut bytes = bytes.to_vec();
            let end = bytes.len().min(at + 64);
            bytes[at..end].fill(0);
            bytes
        });
        let longer = [bytes, &[0]].concat();
        cut.chain(zeroed)
            .chain([longer])
            .map(Some)
            .chain([None])
            .collect()
    });
    assert!(damaged * 10 > tried * 7, "{damaged} of {tried}");
}

#[test]
fn a_list_of_tables_with_another_checksum_is_not_believed() {
    let (folder, _) = original();
    let list = folder.path().join("v2");
    let mut bytes = fs::read(&list).unwrap();
    bytes[20] ^= 1;
    fs::write(&list, bytes).unwrap();
    assert!(
        matches!(Disk::open(folder.path(), &caches()), Err(Failure::Damaged(why)) if why.contains("checksum"))
    );
}
