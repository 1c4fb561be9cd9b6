//! Temporary folders, and who can read them.

use std::env;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Error;

pub(crate) const ROOT: u32 = 0;

/// A new folder, readable by this user only. The caller removes it.
pub(crate) fn create(base: &Path, what: &str) -> Result<PathBuf, Error> {
    loop {
        let unique = RandomState::new().hash_one(what);
        let path = base.join(format!("quadrille-{what}-{unique:016x}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", &path)(error)),
        }
    }
}

/// The system's temporary folder; or another one, if every user must reach it and that is private.
pub(crate) fn base(seen_by: SeenBy) -> PathBuf {
    let usual = env::temp_dir();
    if seen_by == SeenBy::Owner || is_reachable_by_all(&usual) {
        return usual;
    }
    PathBuf::from("/var/tmp")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenBy {
    Owner,
    Everyone,
}

/// Whether every user may traverse the folder and its (existing) ancestors.
pub(crate) fn is_reachable_by_all(path: &Path) -> bool {
    const PASS: u32 = 0o001;
    path.ancestors()
        .filter_map(|folder| fs::metadata(folder).ok())
        .all(|folder| folder.mode() & PASS != 0)
}

/// The effective user: the owner of files we create.
pub(crate) fn effective_user() -> Result<u32, Error> {
    if let Ok(this_process) = fs::metadata("/proc/self") {
        return Ok(this_process.uid());
    }
    let probe = create(&env::temp_dir(), "user")?;
    let user = fs::metadata(&probe).map(|folder| folder.uid());
    fs::remove_dir(&probe).map_err(Error::io("remove", &probe))?;
    user.map_err(Error::io("look at", &probe))
}
