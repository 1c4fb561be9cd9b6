//! A reader that follows the log: one thread per topic, and a view that is replaced as a whole.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quadrille_choreography::{Cluster, TableEvent, TableReader, TableState, fetch_records};
use quadrille_proto::Topics;
use tokio::sync::watch;

use crate::{
    ARTEFACT_BYTES_MAX, Error, ModelEntry, ModelId, PackageBytes, S3Settings, Store, Uri, View,
    compare_versions,
    fold::{Deployments, DeploymentsView, Models, ModelsView},
    store, wire,
};

/// A view older than this is not fresh: the end of the log is queried every 2 s.
pub const FRESH_WITHIN: Duration = Duration::from_secs(10);
/// How long a thread waits for records; they wake it, so this only bounds how soon it stops.
const NEWS_WAIT: Duration = Duration::from_millis(500);

/// The state that a thread builds from what it reads.
pub(crate) trait Fold: Default + Send + 'static {
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>);
}

/// Follows one table until stopped. `publish` gets the fold whenever it is complete and has changed; `report` gets the position.
pub(crate) fn follow<F: Fold>(
    cluster: &Cluster,
    topic: &'static str,
    stop: Arc<AtomicBool>,
    mut report: impl FnMut(&TableState, i64) + Send + 'static,
    mut publish: impl FnMut(&F) + Send + 'static,
) -> Result<(), Error> {
    let mut table = TableReader::new(cluster, topic);
    let run = move || {
        let mut fold = F::default();
        // Complete: read to the end since its beginning. Until then nothing is published.
        let (mut whole, mut news) = (false, true);
        while !stop.load(Ordering::Acquire) {
            table.read(NEWS_WAIT, |event| match event {
                TableEvent::Restarted => {
                    fold = F::default();
                    (whole, news) = (false, true);
                }
                TableEvent::Record(record) => {
                    fold.apply(record.offset, record.key, record.value);
                    news = true;
                }
            });
            whole |= matches!(table.state(), TableState::Complete { .. });
            if whole && news {
                publish(&fold);
                news = false;
            }
            report(table.state(), table.next_offset());
        }
    };
    std::thread::Builder::new()
        .name(topic.to_owned())
        .spawn(run)
        .map_err(Error::Thread)?;
    Ok(())
}

impl Fold for Models {
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        Models::apply(self, offset, key, value);
    }
}

impl Fold for Deployments {
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        Deployments::apply(self, offset, key, value);
    }
}

/// How far one topic has been read.
pub(crate) struct Progress {
    state: Mutex<TableState>,
    began: Instant,
    /// Milliseconds from `began` until it was last read to its end, plus one; 0: never. Atomic, since requests read it.
    complete_ms: AtomicU64,
    missing: AtomicBool,
    offset: AtomicI64,
}

impl Progress {
    pub fn new() -> Self {
        Progress {
            state: Mutex::new(TableState::Reading),
            began: Instant::now(),
            complete_ms: AtomicU64::new(0),
            missing: AtomicBool::new(false),
            offset: AtomicI64::new(0),
        }
    }

    pub fn set(&self, state: &TableState, offset: i64) {
        let mut kept = lock(&self.state);
        if *kept != *state {
            kept.clone_from(state);
        }
        if let TableState::Complete { as_of } = state {
            let ms = as_of.saturating_duration_since(self.began).as_millis() as u64;
            self.complete_ms.store(ms + 1, Ordering::Relaxed);
        }
        let missing = matches!(state, TableState::Missing { .. });
        self.missing.store(missing, Ordering::Relaxed);
        self.offset.store(offset, Ordering::Release);
    }

    /// How long ago it was last read to its end; None: never. A missing topic has nothing to read.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        if self.missing.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let as_of = self.complete_ms.load(Ordering::Relaxed).checked_sub(1)?;
        let now = now.saturating_duration_since(self.began);
        Some(now.saturating_sub(Duration::from_millis(as_of)))
    }

    pub fn state(&self) -> TableState {
        lock(&self.state).clone()
    }

    /// Why the topic's latest records may be missing; None if they are known.
    pub fn behind(&self, topic: &str) -> Option<String> {
        match self.state() {
            TableState::Complete { as_of } if as_of.elapsed() <= FRESH_WITHIN => None,
            TableState::Complete { as_of } => {
                let seconds = as_of.elapsed().as_secs();
                Some(format!("{topic} was last read to its end {seconds} s ago"))
            }
            TableState::Reading => Some(format!("{topic} is being read")),
            TableState::Missing { .. } => Some(format!("there is no topic {topic}")),
            TableState::Unreadable { since, why } => {
                let seconds = since.elapsed().as_secs();
                Some(format!(
                    "{topic} has not been readable for {seconds} s: {why}"
                ))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folds of both topics, and the view made of them.
#[derive(Default)]
struct Parts {
    models: ModelsView,
    deployments: DeploymentsView,
}

impl Parts {
    fn view(&self) -> View {
        let void = self.models.void.iter().chain(&self.deployments.void);
        View {
            models: self.models.models.clone(),
            deployments: self.deployments.deployments.clone(),
            void: void.cloned().collect(),
        }
    }
}

struct Shared {
    parts: Mutex<Parts>,
    view: RwLock<Arc<View>>,
    changed: watch::Sender<u64>,
    models: Progress,
    deployments: Progress,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = lock(&self.parts);
        change(&mut parts);
        let view = Arc::new(parts.view());
        let mut kept = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if **kept == *view {
            return;
        }
        *kept = view;
        drop(kept);
        self.changed.send_modify(|count| *count += 1);
    }
}

struct Inner {
    cluster: Cluster,
    store: Store,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Follows `quadrille.models` and `quadrille.deployments`. Cheap to clone; it ends with its last clone.
///
/// ```no_run
/// use std::time::Duration;
///
/// use quadrille_choreography::Cluster;
/// use quadrille_registry::{Follower, Split};
///
/// let cluster = Cluster::new("127.0.0.1:9092", "")?;
/// let follower = Follower::start(&cluster)?;
/// follower.wait_caught_up(Duration::from_secs(30))?;
/// let view = follower.view();
/// if let Some(deployment) = view.current("diabetes") {
///     let pick = Split::of(deployment)?.pick("patient-17");
///     println!("revision {}: {}", deployment.revision, deployment.routes[pick.route].model);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Follower(Arc<Inner>);

impl Follower {
    /// Starts reading. An unreachable Kafka or missing topics are not errors: they may appear later. Packages outside the log
    /// are fetched with the [`S3Settings`] of the environment.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(cluster: &Cluster) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            parts: Mutex::default(),
            view: RwLock::default(),
            changed: watch::channel(0).0,
            models: Progress::new(),
            deployments: Progress::new(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let inner = Inner {
            cluster: cluster.clone(),
            store: Store::new(S3Settings::from_env()),
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
        };
        let (told, published) = (Arc::clone(&shared), Arc::clone(&shared));
        follow(
            cluster,
            Topics::MODELS,
            Arc::clone(&stop),
            move |state, offset| told.models.set(state, offset),
            move |fold: &Models| {
                let view = fold.view();
                published.change(|parts| parts.models = view);
            },
        )?;
        let (told, published) = (Arc::clone(&shared), shared);
        follow(
            cluster,
            Topics::DEPLOYMENTS,
            stop,
            move |state, offset| told.deployments.set(state, offset),
            move |fold: &Deployments| {
                let view = fold.view();
                published.change(|parts| parts.deployments = view);
            },
        )?;
        Ok(Follower(Arc::new(inner)))
    }

    /// The current view. Empty until both logs have been read to their ends for the first time; while a recreated topic is being
    /// read, it is the one from before.
    pub fn view(&self) -> Arc<View> {
        let view = self.0.shared.view.read();
        Arc::clone(&view.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether both topics were read to their ends within [`FRESH_WITHIN`].
    pub fn caught_up(&self) -> bool {
        self.behind().is_none()
    }

    /// Why the view may be out of date, in words; None if it is not.
    pub fn behind(&self) -> Option<String> {
        let shared = &self.0.shared;
        shared
            .models
            .behind(Topics::MODELS)
            .or_else(|| shared.deployments.behind(Topics::DEPLOYMENTS))
    }

    /// How long ago both topics were last read to their ends; None if one never was.
    pub fn age(&self) -> Option<Duration> {
        let (shared, now) = (&self.0.shared, Instant::now());
        Some(shared.models.age(now)?.max(shared.deployments.age(now)?))
    }

    /// The topics that do not exist.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = |progress: &Progress| matches!(progress.state(), TableState::Missing { .. });
        let topics = [
            (Topics::MODELS, &self.0.shared.models),
            (Topics::DEPLOYMENTS, &self.0.shared.deployments),
        ];
        let missing = topics.into_iter().filter(|(_, progress)| missing(progress));
        missing.map(|(topic, _)| topic).collect()
    }

    /// The next offsets to read: of models and of deployments.
    pub fn offsets(&self) -> (i64, i64) {
        let shared = &self.0.shared;
        let offset = |progress: &Progress| progress.offset.load(Ordering::Acquire);
        (offset(&shared.models), offset(&shared.deployments))
    }

    /// The number of the current view: it grows with each new one.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.shared.changed.subscribe()
    }

    /// Blocks until both topics have been read to their ends.
    ///
    /// # Errors
    /// Topics are missing, or it took longer than `within`.
    pub fn wait_caught_up(&self, within: Duration) -> Result<(), Error> {
        let found = self.wait(within, || {
            let topics = self.missing();
            match (self.caught_up(), topics.is_empty()) {
                (true, _) => Some(Ok(())),
                (false, false) => Some(Err(Error::Missing { topics })),
                (false, true) => None,
            }
        });
        found.unwrap_or_else(|| {
            let why = self.behind().unwrap_or_default();
            Err(Error::Unreadable { within, why })
        })
    }

    /// Blocks until `look` returns something, polling it; None after `within`.
    pub(crate) fn wait<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Fetches a version's package and checks its hash. Blocks.
    ///
    /// # Errors
    /// There is no such version, Kafka or the store does not respond, or the package is damaged.
    pub fn fetch(&self, id: &ModelId) -> Result<PackageBytes, Error> {
        let entry = self.entry(id)?;
        match entry.artefact_uri() {
            None => fetch(&self.0.cluster, &entry),
            Some(uri) => self.fetch_by_uri(&entry, uri),
        }
    }

    fn fetch_by_uri(&self, entry: &ModelEntry, uri: &str) -> Result<PackageBytes, Error> {
        let broken = |reason| Error::Broken {
            id: entry.id.clone(),
            reason: format!("the artefact's URI: {reason}"),
        };
        let uri = Uri::parse(uri).map_err(broken)?;
        let manifest = self.manifest_of(entry)?;
        let changed = |difference| Error::Changed {
            id: entry.id.clone(),
            uri: uri.clone(),
            difference,
        };
        let wanted = (entry.artefact_bytes, entry.sha256);
        let artefact = match self.0.store.read(&uri, wanted.0) {
            Err(store::Error::TooLong { max, .. }) => {
                return Err(changed(format!("has more than the {max} bytes expected")));
            }
            read => read?,
        };
        let package = PackageBytes { manifest, artefact };
        let found = (package.artefact.len() as u64, package.sha256());
        match found == wanted {
            true => Ok(package),
            false => Err(changed(format!(
                "makes a package of SHA-256 {} ({} bytes), expected {} ({})",
                found.1, found.0, wanted.1, wanted.0
            ))),
        }
    }

    /// The `manifest.json` of a version's package, unchecked and without the artefact. Blocks.
    ///
    /// # Errors
    /// As [`Follower::fetch`].
    pub fn manifest(&self, id: &ModelId) -> Result<Vec<u8>, Error> {
        self.manifest_of(&self.entry(id)?)
    }

    fn manifest_of(&self, entry: &ModelEntry) -> Result<Vec<u8>, Error> {
        let offsets = [entry.manifest_offset];
        let mut manifest = Vec::new();
        fetch_records(&self.0.cluster, Topics::MODELS, &offsets, |record| {
            let broken = |reason| Error::Broken {
                id: entry.id.clone(),
                reason,
            };
            manifest = wire::manifest_json(record.value.unwrap_or_default()).map_err(broken)?;
            Ok::<(), Error>(())
        })?;
        Ok(manifest)
    }

    fn entry(&self, id: &ModelId) -> Result<ModelEntry, Error> {
        let view = self.view();
        view.models.get(id).cloned().ok_or_else(|| Error::Unknown {
            id: id.clone(),
            known: known(&view, &id.name),
        })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// Stops reading, for all clones; the threads end within half a second.
    pub fn stop(self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

/// The known versions of a model, in words.
pub(crate) fn known(view: &View, name: &str) -> String {
    let versions = view.versions(name);
    let mut versions: Vec<&str> = versions.map(|entry| entry.id.version.as_str()).collect();
    versions.sort_by(|a, b| compare_versions(a, b));
    match versions.is_empty() {
        false => format!("versions of {name} are: {}", versions.join(", ")),
        true => format!("there is no model {name}; push it with `quadrille model push`"),
    }
}

fn fetch(cluster: &Cluster, entry: &ModelEntry) -> Result<PackageBytes, Error> {
    let broken = |reason: String| Error::Broken {
        id: entry.id.clone(),
        reason,
    };
    // Chunks in order: each is appended in place, and the artefact is held once.
    let offsets: Vec<i64> = (entry.chunk_offsets.iter().copied())
        .chain([entry.manifest_offset])
        .collect();
    let reserve = entry.artefact_bytes.min(ARTEFACT_BYTES_MAX) as usize;
    let (mut manifest, mut artefact) = (Vec::new(), Vec::with_capacity(reserve));
    fetch_records(cluster, Topics::MODELS, &offsets, |record| {
        let value = record
            .value
            .ok_or_else(|| broken(format!("the record at offset {} is empty", record.offset)))?;
        match record.offset == entry.manifest_offset {
            true => manifest = wire::manifest_json(value).map_err(broken)?,
            false => artefact.extend_from_slice(value),
        }
        Ok::<(), Error>(())
    })?;
    let package = PackageBytes { manifest, artefact };
    let found = package.sha256();
    match found == entry.sha256 {
        true => Ok(package),
        false => Err(Error::Corrupt {
            id: entry.id.clone(),
            expected: entry.sha256,
            found,
        }),
    }
}
