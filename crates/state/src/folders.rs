//! Where stores lie: `<pipeline>/<partition>/<generation>/`.
//!
//! A store that is replaced by one of the next generation is deleted only then: if that is interrupted the newest counts. One that is
//! given up without another is renamed first. Beside the generations lies an empty file whose time says when the store was last in use.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::Name;

pub(crate) const LOCK: &str = "lock";
const TOUCHED: &str = "touched";
/// What the names of generations end with that count no more.
const GIVEN_UP: &str = ".gone";

/// Of a partition.
pub(crate) fn of(folder: &Path, name: &Name) -> PathBuf {
    let partition = name.partition.to_string();
    folder.join(encode(&name.pipeline)).join(partition)
}

/// The generation that counts.
pub(crate) fn newest(at: &Path) -> io::Result<Option<u64>> {
    let names = entries(at)?.into_iter();
    let generations = names.filter_map(|name| name.parse::<u64>().ok());
    Ok(generations.max())
}

/// Makes the folder of a new generation, and sees to it that it stays.
pub(crate) fn begin(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    match folder.parent() {
        Some(at) => File::open(at)?.sync_all(),
        None => Ok(()),
    }
}

/// Generations that do not count any more.
pub(crate) fn remove_others(at: &Path, folder: &Path) -> io::Result<()> {
    for name in entries(at)? {
        let path = at.join(&name);
        if (name.parse::<u64>().is_ok() || name.ends_with(GIVEN_UP)) && path != folder {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// A whole store; what is left of it after an interruption cannot be taken for one. Nothing is made for it: there may be no room.
pub(crate) fn remove(folder: &Path, name: &Name) -> io::Result<()> {
    let at = of(folder, name);
    if let Some(generation) = newest(&at)? {
        let newest = at.join(generation.to_string());
        // First, or one of them would count.
        remove_others(&at, &newest)?;
        fs::rename(&newest, at.join(format!("{generation}{GIVEN_UP}")))?;
        File::open(&at)?.sync_all()?;
    }
    match fs::remove_dir_all(&at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

pub(crate) fn touch(at: &Path, now_ms: i64) -> io::Result<()> {
    let file = File::create(at.join(TOUCHED))?;
    file.set_modified(time(now_ms))
}

/// Stores on disk, and when each was last touched. What has no such time was never opened, or is half deleted.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(Name, i64)>> {
    let mut stores = vec![];
    for pipeline in entries(folder)? {
        // Whatever else is there (lost+found) is not ours, and may not be ours to read.
        let Some(decoded) = decode(&pipeline).filter(|it| encode(it) == pipeline) else {
            continue;
        };
        for partition in entries(&folder.join(&pipeline))? {
            let touched = folder.join(&pipeline).join(&partition).join(TOUCHED);
            let Ok(partition) = partition.parse() else {
                continue;
            };
            let touched_ms = match fs::metadata(touched) {
                Ok(metadata) => millis(metadata.modified()?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => i64::MIN,
                Err(error) => return Err(error),
            };
            let pipeline = decoded.clone();
            let name = Name {
                pipeline,
                partition,
            };
            stores.push((name, touched_ms));
        }
    }
    Ok(stores)
}

/// Of folders, and nothing of a folder that is not there.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Small letters, digits and `-` stay, for file systems that do not know capital letters.
fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("_{byte:02x}")),
        }
    }
    encoded
}

fn decode(encoded: &str) -> Option<String> {
    let mut bytes = vec![];
    let mut rest = encoded.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first == b'_' {
            let digits = std::str::from_utf8(more.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}

fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
