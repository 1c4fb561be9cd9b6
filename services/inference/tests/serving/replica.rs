//! A log in memory, and packages of which each version is known by what it answers.
#![allow(dead_code, reason = "each test binary uses a part of what they share")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use inference::serving::{
    Batching, Loader, Options, Serving,
    source::{Error, Files, Report, Source, View},
};
use quadrille_model::{
    Outputs, Package,
    import::{ImportOptions, import},
    package::{Activation, Digest, Labels},
};
use quadrille_pipeline::Pipeline;
use quadrille_registry::{Action, Deployment, ModelId, Role, Route};
use quadrille_telemetry::{Registry, metrics::ServingMetrics};
use serde_json::{Value, json};
use tokio::sync::watch;

const PIPELINE: &str = r#"name = "ward"
[record]
key = "bed"
[[record.fields]]
name = "a"
type = "number"
[[record.fields]]
name = "b"
type = "number"
[[features]]
name = "a"
kind = "pass"
field = "a"
[[features]]
name = "b"
kind = "pass"
field = "b"
[model]
inputs = ["a", "b"]
[decision]
threshold = 0.5
positive = "alarm"
negative = "fine"
"#;

pub fn pipeline() -> Arc<Pipeline> {
    named_pipeline("ward")
}

pub fn named_pipeline(name: &str) -> Arc<Pipeline> {
    let text = PIPELINE.replacen("ward", name, 1);
    Arc::new(Pipeline::parse("ward.toml", &text).expect("a pipeline"))
}

pub fn id(version: u32) -> ModelId {
    ModelId {
        name: "m".to_owned(),
        version: version.to_string(),
    }
}

/// What version `version` answers to everything.
pub fn answer(version: u32) -> f64 {
    let intercept = f64::from(version) / 100.0;
    1.0 / (1.0 + (-intercept).exp())
}

/// The package of a model that answers everything by [`answer`] of its version.
pub fn package(version: u32) -> Package {
    package_with(version, &["a", "b"])
}

pub fn package_with(version: u32, inputs: &[&str]) -> Package {
    let files = files_with(version, inputs);
    Package::from_bytes(files.manifest, files.artefact).expect("a package")
}

/// The files of a network that fills nothing: the logistic function of `a / 2 - b / 4 + 1 / 8`.
pub fn network(version: u32) -> Files {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/model/tests/golden/onnx/logistic-tiny.onnx");
    let options = ImportOptions {
        name: "m".to_owned(),
        version: version.to_string(),
        inputs: vec!["a".to_owned(), "b".to_owned()],
        outputs: Outputs::Binary(Labels {
            negative: "no".to_owned(),
            positive: "yes".to_owned(),
        }),
        output: None,
        activation: Activation::None,
        preprocess: None,
        warm_up: None,
        recorded: vec![],
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    let package = import(std::fs::read(golden).expect("the golden network"), options);
    let package = package.expect("a network");
    Files {
        manifest: package.manifest_bytes().to_vec(),
        artefact: package.artefact_bytes().to_vec(),
    }
}

pub fn files(version: u32) -> Files {
    files_with(version, &["a", "b"])
}

pub fn files_with(version: u32, inputs: &[&str]) -> Files {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/model/tests/golden/logistic-regression/manifest.json");
    let golden = std::fs::read(golden).expect("the golden package");
    let mut manifest: Value = serde_json::from_slice(&golden).expect("a manifest");
    let coefficients = vec![0.0; inputs.len()];
    let intercept = f64::from(version) / 100.0;
    let artefact =
        json!({"format": 1, "intercept": intercept, "coefficients": coefficients}).to_string();
    let artefact = artefact.into_bytes();
    let column = json!({"fill": 0.0, "scale": {"mean": 0.0, "deviation": 1.0}});
    manifest["name"] = json!("m");
    manifest["version"] = json!(version.to_string());
    manifest["inputs"] = json!(inputs);
    manifest["preprocess"]["columns"] = json!(vec![column; inputs.len()]);
    manifest["artefact"]["bytes"] = json!(artefact.len());
    manifest["artefact"]["sha256"] = json!(Digest::of(&artefact).to_string());
    Files {
        manifest: manifest.to_string().into_bytes(),
        artefact,
    }
}

/// The files of version `version` with the answers of another.
pub fn renamed(version: u32, other: u32) -> Files {
    let mut files = files(other);
    let mut manifest: Value = serde_json::from_slice(&files.manifest).expect("a manifest");
    manifest["version"] = version.to_string().into();
    files.manifest = manifest.to_string().into_bytes();
    files
}

fn hash(files: &Files) -> [u8; 32] {
    Digest::of(&[&*files.manifest, &*files.artefact].concat()).0
}

#[derive(Default)]
struct Inner {
    view: View,
    files: BTreeMap<ModelId, Files>,
    /// Not to be had for now.
    away: BTreeSet<ModelId>,
    /// Downloads that wait until they are let through.
    held: BTreeSet<ModelId>,
    /// Downloads that are under way, and the most there were at once.
    fetching: (usize, usize),
    behind: Option<String>,
    age: Duration,
    reports: Vec<Report>,
}

/// A log in memory.
pub struct Memory {
    inner: Mutex<Inner>,
    /// A download began, ended or was let through.
    fetches: Condvar,
    changed: watch::Sender<u64>,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::new(Memory {
            inner: Mutex::default(),
            fetches: Condvar::new(),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no test panics while it holds this")
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    pub fn push(&self, version: u32) {
        self.push_files(version, files(version));
    }

    pub fn push_files(&self, version: u32, files: Files) {
        self.change(|log| {
            log.view.models.insert(id(version), hash(&files));
            log.files.insert(id(version), files);
        });
    }

    /// Other files than the ones that were pushed are read.
    pub fn corrupt(&self, version: u32, files: Files) {
        self.change(|log| {
            log.files.insert(id(version), files);
        });
    }

    pub fn deploy(&self, revision: u64, routes: &[(&str, u32, Role)]) {
        self.deploy_to("ward", revision, routes);
    }

    /// The pipeline has no deployment any more.
    pub fn unset(&self, revision: u64) {
        self.deploy(revision, &[]);
        self.change(|log| {
            let events = log.view.deployments.get_mut("ward").expect("a history");
            events[0].action = Action::Unset;
        });
    }

    pub fn deploy_to(&self, pipeline: &str, revision: u64, routes: &[(&str, u32, Role)]) {
        let route = |(name, version, role): &(&str, u32, Role)| Route {
            name: (*name).to_owned(),
            model: id(*version),
            role: *role,
        };
        let deployment = Deployment {
            pipeline: pipeline.to_owned(),
            revision,
            routes: routes.iter().map(route).collect(),
            ranges: None,
            action: Action::Set,
            by: "test".to_owned(),
            at_ms: 0,
            reason: String::new(),
        };
        self.change(|log| {
            let history = log.view.deployments.entry(pipeline.to_owned());
            history.or_default().insert(0, deployment);
        });
    }

    /// The log of deployments is made anew: its revisions begin again.
    pub fn made_anew(&self) {
        self.change(|log| log.view.deployments.clear());
    }

    /// So that the log itself does not grow; what is loaded stays.
    pub fn drop_files(&self, version: u32) {
        self.lock().files.remove(&id(version));
        self.lock().view.models.remove(&id(version));
    }

    /// Without a change of the log: the network.
    pub fn away(&self, version: u32) {
        self.lock().away.insert(id(version));
    }

    pub fn back(&self, version: u32) {
        self.lock().away.remove(&id(version));
    }

    /// Its downloads take until [`Memory::let_through`].
    pub fn hold(&self, version: u32) {
        self.lock().held.insert(id(version));
    }

    pub fn let_through(&self, version: u32) {
        self.lock().held.remove(&id(version));
        self.fetches.notify_all();
    }

    /// Waits until so many downloads are under way; returns the most there have been at once.
    pub fn until_fetching(&self, count: usize) -> usize {
        let waits = |log: &mut Inner| log.fetching.0 != count;
        let log = self.fetches.wait_while(self.lock(), waits);
        log.expect("no test panics while it holds this").fetching.1
    }

    /// How long ago the log was read to its end.
    pub fn aged(&self, age: Duration) {
        self.lock().age = age;
    }

    pub fn behind(&self, why: Option<&str>) {
        self.lock().behind = why.map(str::to_owned);
    }

    pub fn reports(&self) -> Vec<Report> {
        self.lock().reports.clone()
    }
}

impl Source for Memory {
    fn view(&self) -> View {
        self.lock().view.clone()
    }

    fn caught_up(&self) -> Result<(), String> {
        self.lock().behind.clone().map_or(Ok(()), Err)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn fetch(&self, id: &ModelId) -> Result<Files, Error> {
        let mut log = self.lock();
        log.fetching.0 += 1;
        log.fetching.1 = log.fetching.1.max(log.fetching.0);
        self.fetches.notify_all();
        let log = self.fetches.wait_while(log, |log| log.held.contains(id));
        let mut log = log.expect("no test panics while it holds this");
        log.fetching.0 -= 1;
        self.fetches.notify_all();
        match log.files.get(id) {
            Some(files) if !log.away.contains(id) => Ok(files.clone()),
            _ => Err(Error::Unreachable("the broker does not answer".to_owned())),
        }
    }

    fn age(&self) -> Option<Duration> {
        Some(self.lock().age)
    }

    fn report(&self, report: &Report) {
        self.lock().reports.push(report.clone());
    }

    fn withdraw(&self) {
        self.lock().reports.clear();
    }
}

/// A replica whose loader looks at the log when the test says so.
pub struct Replica {
    pub log: Arc<Memory>,
    pub loader: Loader,
    pub serving: Serving,
    pub registry: Registry,
    pub now: Instant,
    /// When the loader wants to look again.
    pub again_at: Instant,
}

impl Replica {
    pub fn new(local: Option<u32>) -> Self {
        Self::of(vec![pipeline()], vec![local.map(package)])
    }

    pub fn of(pipelines: Vec<Arc<Pipeline>>, local: Vec<Option<Package>>) -> Self {
        Self::queueing(&[], pipelines, local)
    }

    /// Models of these names are scored through a queue.
    pub fn queueing(
        queued: &[&str],
        pipelines: Vec<Arc<Pipeline>>,
        local: Vec<Option<Package>>,
    ) -> Self {
        let (log, registry) = (Memory::new(), Registry::default());
        let loader = Loader::new(Options {
            pipelines,
            local,
            source: Arc::clone(&log) as Arc<dyn Source>,
            metrics: ServingMetrics::register(&registry),
            batching: Batching {
                models: queued.iter().map(|name| (*name).to_owned()).collect(),
                ..Batching::default()
            },
        })
        .expect("threads");
        let now = Instant::now();
        Replica {
            serving: loader.serving(),
            log,
            loader,
            registry,
            now,
            again_at: now,
        }
    }

    pub fn turn(&mut self) {
        self.again_at = self.loader.settle(self.now);
    }

    /// Follows the log without waiting for what is loaded.
    pub fn step(&mut self) {
        self.again_at = self.loader.reconcile(self.now);
    }

    /// The version that answers for an entity, known by its answer as well.
    pub fn version(&self, key: &str) -> u32 {
        let (version, outputs) = self.answers(key);
        assert_eq!(outputs, [answer(version)]);
        version
    }

    /// The version that answers for an entity, and what.
    pub fn answers(&self, key: &str) -> (u32, Vec<f64>) {
        let choice = self
            .serving
            .choose("ward", Some(key), None)
            .expect("served");
        let version: u32 = choice.loaded.id().version.parse().expect("a number");
        let mut outputs = Vec::new();
        choice.loaded.score_waiting(&[1.0, 2.0], &mut outputs);
        (version, outputs)
    }

    /// Why the newest deployment is not in effect.
    pub fn why(&self) -> String {
        self.serving.pipeline_statuses()[0]
            .why
            .clone()
            .unwrap_or_default()
    }
}

pub const LIVE: Role = Role::Live { weight: 1 };

pub fn canary(share: u32) -> Role {
    Role::Canary { share }
}
