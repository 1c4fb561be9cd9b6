//! The cache of downloaded software: filled once, by one process, visible only when complete.

use std::env;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::scratch::{self, SeenBy};

/// The folder `name` in the cache; if it does not exist yet, `fill` is called on an empty folder. Different content needs a
/// different name.
pub(crate) fn install(
    name: &str,
    seen_by: SeenBy,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    let root = root(seen_by)?;
    let installed = root.join(name);
    if installed.is_dir() {
        return Ok(installed);
    }
    fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    let _alone = lock(&root.join(".lock"))?;
    if installed.is_dir() {
        return Ok(installed); // another process was faster
    }
    let partial = root.join(format!("{name}.partial"));
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &partial)(error));
        }
        _ => fs::create_dir(&partial).map_err(Error::io("create", &partial))?,
    }
    // Under whatever umask.
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("open to all", &partial))?;
    let filled = fill(&partial)
        .and_then(|()| fs::rename(&partial, &installed).map_err(Error::io("rename", &partial)));
    if let Err(error) = filled {
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(installed)
}

/// Released when the file is closed, also by a crash. One lock for the whole cache: Maven's local repository does not support two
/// processes writing to it.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(lock = %path.display(), "waiting for another process which is fetching");
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    file.lock().map_err(Error::io("lock", path))?;
    Ok(file)
}

fn root(seen_by: SeenBy) -> Result<PathBuf, Error> {
    if let Some(root) = usual_root() {
        // Root's home is not readable by the user that a database has to run as.
        if seen_by == SeenBy::Owner || scratch::is_reachable_by_all(&root) {
            return Ok(root);
        }
    }
    let root = PathBuf::from(format!("/var/tmp/quadrille-{}", scratch::effective_user()?));
    trusted(root)
}

fn usual_root() -> Option<PathBuf> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty());
    let root = folder("QUADRILLE_CACHE").map(PathBuf::from).or_else(|| {
        folder("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| folder("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|caches| caches.join("quadrille"))
    })?;
    std::path::absolute(root).ok()
}

/// Anyone can create a folder in /var/tmp: what we run from there must belong to us.
fn trusted(root: PathBuf) -> Result<PathBuf, Error> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    match DirBuilder::new().mode(0o755).create(&root) {
        Ok(()) => {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
                .map_err(Error::io("open to all", &root))?;
            return Ok(root);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("create", &root)(error)),
    }
    let found = fs::symlink_metadata(&root).map_err(Error::io("look at", &root))?;
    let is_ours = found.is_dir()
        && found.uid() == scratch::effective_user()?
        && found.mode() & WRITABLE_BY_OTHERS == 0;
    if is_ours {
        Ok(root)
    } else {
        Err(Error::Untrusted { path: root })
    }
}
