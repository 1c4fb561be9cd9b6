//! A group of processes that may take only so much memory, caches of files included.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

const MOUNT: &str = "/sys/fs/cgroup";

/// Removed when dropped; its processes must have ended by then.
pub struct Cgroup {
    folder: PathBuf,
    peak: &'static str,
}

impl Cgroup {
    /// # Errors
    /// Cgroups are not to be had here: it takes root, or a delegated one.
    pub fn with_memory(name: &str, bytes: u64) -> anyhow::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path_of = |controller: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let controllers = parts.next()?;
                let path = parts.next()?;
                let mut controllers = controllers.split(',');
                controllers.any(|it| it == controller).then_some(path)
            })
        };
        let (parent, limit, peak) = match path_of("memory") {
            Some(path) => (
                format!("{MOUNT}/memory{path}"),
                "memory.limit_in_bytes",
                "memory.max_usage_in_bytes",
            ),
            None => (
                format!("{MOUNT}{}", path_of("").unwrap_or("/")),
                "memory.max",
                "memory.peak",
            ),
        };
        let folder = Path::new(&parent).join(name);
        fs::create_dir(&folder).with_context(|| format!("no cgroup {}", folder.display()))?;
        let cgroup = Cgroup { folder, peak };
        let limit = cgroup.folder.join(limit);
        fs::write(&limit, bytes.to_string()).with_context(|| limit.display().to_string())?;
        Ok(cgroup)
    }

    /// A process that writes its id there belongs to it from then on, and so do those it starts.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most that was taken at a time, caches of files included.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.folder.join(self.peak))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("left behind: {} ({error})", self.folder.display());
        }
    }
}
