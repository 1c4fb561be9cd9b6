//! `quadrille model watch`: folders `<NAME>/<VERSION>/` pushed as they become whole.
//!
//! Looked at every few seconds: that works on every file system, network ones too, where notices of changes do not. A
//! package is whole when it loads and its hash is right; until then it is left alone.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use quadrille_choreography::Cluster;
use quadrille_model::Package;
use quadrille_registry::Registry;
use quadrille_service::{Error, shutdown_signal};

use super::package::{Published, check, publish};
use crate::{
    kafka::{Kafka, blocking},
    output, registry,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder with one folder a model, and in that one a version, named by a whole number.
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// How often the folder is looked at.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    every: f64,

    /// Push what is whole now, and end.
    #[arg(long)]
    once: bool,

    /// Who pushes [default: user@host].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// The folder cannot be read at the start, topics are missing, or Kafka does not answer a single look.
pub async fn run(args: Args) -> Result<(), Error> {
    if !(0.05..=86_400.0).contains(&args.every) {
        let every = args.every;
        let message = format!("--every is {every}; it must be 0.05 to 86400 seconds");
        return Err(Error::Config(message));
    }
    let every = Duration::from_secs_f64(args.every);
    let mut shutdown = std::pin::pin!(shutdown_signal());
    let (dir, once) = (args.dir.display(), args.once);
    versions(&args.dir)
        .map_err(|error| Error::Config(format!("{dir} cannot be read: {error}; name a folder")))?;
    let registry = tokio::select! {
        registry = open(args.kafka.cluster()?, every, once) => registry?,
        () = &mut shutdown => return Ok(()),
    };
    if !once {
        output::note(format_args!("watching {dir}; Ctrl-C ends it"));
    }
    let mut watcher = Watcher {
        dir: args.dir.clone(),
        registry,
        by: registry::author(args.by.as_deref()),
        once,
        seen: HashMap::new(),
    };
    loop {
        // A push that has begun is ended; it is a transaction.
        watcher = blocking(move || {
            watcher.look();
            Ok(watcher)
        })
        .await?;
        if once {
            return watcher.verdict();
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = &mut shutdown => return Ok(()),
        }
    }
}

/// The log; a Kafka that starts late is waited for, unless for a single look.
async fn open(cluster: Cluster, every: Duration, once: bool) -> Result<Registry, Error> {
    loop {
        let cluster = cluster.clone();
        match blocking(move || registry::open(&cluster)).await {
            Err(Error::Failed(reason)) if !once => {
                output::note(format_args!("{reason}; it is tried again"));
            }
            opened => return opened,
        }
        tokio::time::sleep(every).await;
    }
}

/// A version's folder at one look: the sizes and times of its files.
type Shape = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// What is known of a version's folder.
struct Seen {
    shape: Shape,
    /// Done with, until it changes.
    settled: bool,
    fault: Option<String>,
}

struct Watcher {
    dir: PathBuf,
    registry: Registry,
    by: String,
    once: bool,
    seen: HashMap<PathBuf, Seen>,
}

impl Watcher {
    /// Pushes every version that is whole and was not settled before.
    fn look(&mut self) {
        let folders = match versions(&self.dir) {
            Ok(folders) => folders,
            Err(error) => {
                // It may be a mount that comes back.
                output::note(format_args!(
                    "{} cannot be read: {error}; it is tried again",
                    self.dir.display()
                ));
                return;
            }
        };
        self.seen.retain(|folder, _| folders.contains(folder));
        for folder in folders {
            self.consider(folder);
        }
    }

    fn consider(&mut self, folder: PathBuf) {
        let shape = shape(&folder);
        let known = self.seen.get(&folder);
        let same = known.is_some_and(|seen| seen.shape == shape);
        if same && known.is_some_and(|seen| seen.settled) {
            return;
        }
        let (settled, fault) = match self.push(&folder) {
            Ok(published) => {
                let _ = output::print(published);
                (true, None)
            }
            // What has not changed since the last look will not become whole by itself; say why, once.
            Err(Fault::NotWhole(reason)) => (same, Some(reason)),
            Err(Fault::Refused(reason)) => (true, Some(reason)),
            Err(Fault::Later(reason)) => {
                output::note(format_args!(
                    "{} is not pushed: {reason}; it is tried again",
                    folder.display()
                ));
                (false, Some(reason))
            }
        };
        // A single look reports at its end.
        if let (true, Some(fault), false) = (settled, &fault, self.once) {
            output::note(format_args!("{}: {fault}", folder.display()));
        }
        let seen = Seen {
            shape,
            settled,
            fault,
        };
        self.seen.insert(folder, seen);
    }

    fn push(&self, folder: &Path) -> Result<Published, Fault> {
        let package = Package::load(folder).map_err(|error| Fault::NotWhole(error.to_string()))?;
        let checked = check(&package).map_err(Fault::Refused)?;
        let named = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_owned();
        let version = named(folder.file_name());
        let name = named(folder.parent().and_then(Path::file_name));
        if name != *checked.id.name || version != *checked.id.version {
            return Err(Fault::Refused(format!(
                "the package is {}; the folders say {}:{}; name them alike",
                checked.id,
                name.display(),
                version.display()
            )));
        }
        publish(&self.registry, &checked, &self.by).map_err(|error| match error {
            Error::Config(reason) => Fault::Refused(reason),
            Error::Failed(reason) => Fault::Later(reason),
        })
    }

    /// Of a single look.
    fn verdict(&self) -> Result<(), Error> {
        let faults: Vec<String> = self
            .seen
            .iter()
            .filter_map(|(folder, seen)| {
                let fault = seen.fault.as_ref()?;
                Some(format!("{}: {fault}", folder.display()))
            })
            .collect();
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Error::Failed(faults.join("\nerror: "))),
        }
    }
}

/// Why a version was not pushed.
enum Fault {
    /// It does not load: half-written, or broken.
    NotWhole(String),
    /// It never will be, as it is.
    Refused(String),
    /// Kafka's fault.
    Later(String),
}

/// The folders `<NAME>/<whole number>` in a folder, in order.
fn versions(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for model in folders(dir)? {
        // One that vanishes meanwhile has no versions.
        let versions = folders(&model).unwrap_or_default().into_iter();
        let mut numbered: Vec<(u64, PathBuf)> = versions
            .filter_map(|folder| Some((number(&folder)?, folder)))
            .collect();
        numbered.sort();
        found.extend(numbered.into_iter().map(|(_, folder)| folder));
    }
    Ok(found)
}

fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The version a folder's name says: digits, written as a number is.
fn number(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}

fn shape(folder: &Path) -> Shape {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut shape: Shape = entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.path(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    shape.sort();
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_folders_of_whole_numbers_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["m/10", "m/9", "m/v1", "m/01", "m/.tmp", "a/1", "empty"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("m/11"), "a file").unwrap();
        let found = versions(root.path()).unwrap();
        let expected = ["a/1", "m/9", "m/10"].map(|folder| root.path().join(folder));
        assert_eq!(found, expected);
        assert!(versions(&root.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_folder_has_another_shape_when_a_file_grows_or_comes() {
        let root = tempfile::tempdir().unwrap();
        let empty = shape(root.path());
        fs::write(root.path().join("a"), "1").unwrap();
        let one = shape(root.path());
        fs::write(root.path().join("a"), "12").unwrap();
        let longer = shape(root.path());
        assert!(empty != one && one != longer);
        assert_eq!(shape(root.path()), longer);
    }
}
