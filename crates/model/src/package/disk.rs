//! A package's files: bounded reads, and saving all or nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, MANIFEST_FILE};

/// What to do when there is a package already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    Refuse,
    /// Replace it; but only a package, nothing else.
    Replace,
}

pub(super) fn check_size(what: &'static str, found: u64, max: u64) -> Result<(), Error> {
    if found > max {
        return Err(Error::TooLarge { what, max });
    }
    Ok(())
}

/// Reads a regular file of at most `max` bytes.
pub(super) fn read(path: &Path, what: &'static str, max: u64) -> Result<Vec<u8>, Error> {
    let failed = io_error("read", path);
    // Asked before opening: opening a pipe would wait for its other end.
    let metadata = fs::metadata(path).map_err(&failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    check_size(what, metadata.len(), max)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let file = File::open(path).map_err(&failed)?;
    // The file may have grown meanwhile.
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(&failed)?;
    check_size(what, bytes.len() as u64, max)?;
    Ok(bytes)
}

/// Writes `files` (name and bytes) as the directory `dir`.
pub(super) fn save(dir: &Path, files: &[(&str, &[u8])], overwrite: Overwrite) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Error::Place(dir.to_owned()));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let exists = check_place(dir, overwrite)?;
    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    let beside = |purpose| parent.join(format!(".{}.{purpose}-{}", name.display(), unique()));

    let new = Scratch(beside("new"));
    fs::create_dir(&new.0).map_err(io_error("create", &new.0))?;
    for (name, bytes) in files {
        let path = new.0.join(name);
        write_through(&path, bytes).map_err(io_error("write", &path))?;
    }
    sync_directory(&new.0);

    if exists {
        // A directory cannot be renamed over another: for a moment there is none, and after a crash right then the former
        // one is beside, under its other name.
        let old = Scratch(beside("old"));
        fs::rename(dir, &old.0).map_err(io_error("move away", dir))?;
        if let Err(error) = fs::rename(&new.0, dir) {
            // Bring the former one back; when even that fails, do not remove it.
            if fs::rename(&old.0, dir).is_err() {
                std::mem::forget(old);
            }
            return Err(io_error("replace", dir)(error));
        }
    } else {
        fs::rename(&new.0, dir).map_err(|error| match error.kind() {
            // Somebody was faster.
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                Error::Exists(dir.to_owned())
            }
            _ => io_error("create", dir)(error),
        })?;
    }
    sync_directory(parent);
    Ok(())
}

/// Whether there is a package at `dir` that is to be replaced.
fn check_place(dir: &Path, overwrite: Overwrite) -> Result<bool, Error> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", dir)(error)),
        Ok(_) if overwrite == Overwrite::Refuse => Err(Error::Exists(dir.to_owned())),
        Ok(metadata) if metadata.is_dir() && dir.join(MANIFEST_FILE).is_file() => Ok(true),
        Ok(_) => Err(Error::NotAPackage(dir.to_owned())),
    }
}

/// A directory of ours that is removed when it goes out of scope, if it is still there.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to be done about a failure: the name says that it is left over.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes names durable where the system can (not all can open a directory).
fn sync_directory(dir: &Path) {
    if let Ok(dir) = File::open(dir) {
        let _ = dir.sync_all();
    }
}

/// Tells apart what this and other processes write at the same time.
fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}", std::process::id())
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path: path.clone(),
        source,
    }
}
