//! What serves now: models, and the routes to them.
//!
//! One thread, the [`loader`], follows the log of models and deployments and brings versions into service; who
//! scores reads one consistent [`snapshot`] and never waits for it. A route never leads to a version that is not
//! ready: a deployment takes effect when all its versions are, and until then the one before it goes on.

mod counts;
mod direct;
mod loaded;
mod loader;
pub mod local;
mod log;
mod snapshot;
pub mod source;
mod verdict;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use quadrille_model::Package;
use quadrille_pipeline::{Pipeline, quote::quote};
use quadrille_registry::{FRESH_WITHIN, ModelId, compare_versions};
use quadrille_service::Error;
use quadrille_telemetry::metrics::{ModelTimes, ServingMetrics, VariantRecords};

pub use crate::batch::Batching;
pub(crate) use counts::{Counts, Statistics};
pub(crate) use loaded::Begun;
pub use loaded::{Failed, Loaded, Step, check};
pub use loader::{Loader, Options};
pub use log::Log;
use snapshot::Snapshot;
pub use snapshot::{Routes, Variant};
use source::{NoLog, Source};
pub use verdict::{NoPrediction, NotScored};

// What a package may hold its way to it has room for; neither crate knows the other.
const _: () =
    assert!(quadrille_model::package::ARTEFACT_BYTES_MAX == quadrille_registry::ARTEFACT_BYTES_MAX);

/// Where a version is on its way into service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    Wanted,
    Loading,
    Ready,
    Failed { why: String },
}

/// A version that this replica serves, or should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    pub id: ModelId,
    pub state: ModelState,
    /// What kind of model it is, once it is loaded.
    pub platform: Option<&'static str>,
}

/// Which deployment of a pipeline is in effect on this replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub pipeline: String,
    /// The newest revision on the log; 0 is the local model.
    pub seen: Option<u64>,
    pub serving: Option<u64>,
    /// Where they differ, or nothing serves.
    pub why: Option<String>,
}

/// Why there is nothing to score with; the message says what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    #[error("no model {} is served; there is {}", quote(name), list(known))]
    UnknownModel { name: String, known: Vec<String> },
    #[error(
        "no version {} of model {} is served; there is {}",
        quote(version),
        quote(name),
        list(known)
    )]
    UnknownVersion {
        name: String,
        version: String,
        known: Vec<String>,
    },
    #[error("not ready: {why}")]
    NotReady { why: String },
    #[error("no pipeline {} is served; there is {}", quote(name), list(known))]
    UnknownPipeline { name: String, known: Vec<String> },
    #[error(
        "pipeline {} has no variant {} that answers; there is {}",
        quote(pipeline),
        quote(variant),
        list(known)
    )]
    UnknownVariant {
        pipeline: String,
        variant: String,
        known: Vec<String>,
    },
}

fn list(known: &[String]) -> String {
    match known {
        [] => "none".to_owned(),
        known => known.join(", "),
    }
}

/// Why rows were not scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "more rows wait for this model than its queue holds; try again, or ask another replica"
    )]
    Overloaded,
    #[error("the call's deadline has passed; its rows were not scored")]
    Expired,
    #[error(
        "the answer would have too many numbers; send at most {rows} rows in a request to this model"
    )]
    TooLarge { rows: usize },
    #[error("the model failed on these rows; this is a bug of the model or of its package")]
    Failed,
}

/// The model that answers, and by which route.
#[derive(Debug, Clone)]
pub struct Choice {
    pub variant: String,
    pub loaded: Arc<Loaded>,
    /// SHA-256 of the canonical pipeline and the model package's hash.
    pub config_hash: [u8; 32],
    /// Of the model in this pipeline.
    pub times: ModelTimes,
    /// Counts what this route answers, once it has.
    pub records: VariantRecords,
}

struct Shared {
    pipelines: Vec<Arc<Pipeline>>,
    snapshot: ArcSwap<Snapshot>,
    source: Arc<dyn Source>,
    /// Of requests that name no entity.
    turn: AtomicU64,
}

/// What serves now. Cheap to clone; each question is answered from one consistent snapshot.
#[derive(Clone)]
pub struct Serving(Arc<Shared>);

impl Serving {
    fn new(pipelines: Vec<Arc<Pipeline>>, source: Arc<dyn Source>) -> Self {
        let snapshot = ArcSwap::from_pointee(Snapshot::empty(&pipelines));
        Serving(Arc::new(Shared {
            pipelines,
            snapshot,
            source,
            turn: AtomicU64::new(0),
        }))
    }

    /// One package a pipeline, for as long as it lives: no log, no thread.
    ///
    /// # Errors
    /// A package does not fit its pipeline; the message names the difference.
    pub fn fixed(
        models: Vec<(Arc<Pipeline>, Package)>,
        metrics: ServingMetrics,
    ) -> Result<Self, Error> {
        for (pipeline, package) in &models {
            loaded::check(pipeline, &*package.model()).map_err(Error::Config)?;
        }
        let (pipelines, local) = models
            .into_iter()
            .map(|(pipeline, package)| (pipeline, Some(package)))
            .unzip();
        let options = Options {
            pipelines,
            local,
            source: Arc::new(NoLog::default()),
            metrics,
            batching: Batching::default(),
        };
        let mut loader = Loader::new(options).map_err(|error| Error::Failed(error.to_string()))?;
        loader.turn(Instant::now());
        Ok(loader.serving())
    }

    /// A log that cannot be read any more is no reason: what serves goes on, and answers say how old the view is.
    ///
    /// # Errors
    /// Why this replica should not be asked.
    pub fn ready(&self) -> Result<(), String> {
        let snapshot = self.0.snapshot.load();
        if !snapshot.begun {
            self.0.source.caught_up()?;
        }
        let mut unserved = snapshot
            .standings
            .iter()
            .filter(|standing| standing.serving.is_none());
        unserved.next().map_or(Ok(()), |standing| {
            let why = standing.why.as_deref().unwrap_or("nothing is deployed");
            Err(format!("pipeline {}: {why}", standing.pipeline))
        })
    }

    pub fn is_ready(&self) -> bool {
        self.ready().is_ok()
    }

    /// How old the view of the log is, where that is too old to be called fresh.
    pub fn stale(&self) -> Option<Duration> {
        self.0.source.age().filter(|age| *age > FRESH_WITHIN)
    }

    /// Every version that serves or is wanted.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.0.snapshot.load().statuses.clone()
    }

    /// Which deployment of each pipeline is in effect here.
    pub fn standings(&self) -> Vec<Standing> {
        self.0.snapshot.load().standings.clone()
    }

    pub fn pipelines(&self) -> &[Arc<Pipeline>] {
        &self.0.pipelines
    }

    /// A version of a model. Where none is named, the highest that a live route in effect leads to: one that is tried beside it, as a
    /// canary or a shadow, or whose deployment never took effect, answers nobody who did not ask for it. Without such a route, the highest
    /// that is ready.
    ///
    /// # Errors
    /// It is not served, or not yet.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Loaded>, NotServed> {
        let snapshot = self.0.snapshot.load();
        let versions = snapshot.models.iter().filter(|it| it.id().name == name);
        let live = snapshot.routes.iter().flatten().flat_map(|it| it.live());
        let live = live.filter(|it| it.id().name == name);
        let higher =
            |a: &&Arc<Loaded>, b: &&Arc<Loaded>| compare_versions(&a.id().version, &b.id().version);
        let found = match version {
            None => live.max_by(higher).or_else(|| versions.max_by(higher)),
            Some(version) => versions.into_iter().find(|it| it.id().version == version),
        };
        found
            .cloned()
            .ok_or_else(|| not_served(&snapshot, name, version))
    }

    /// What answers a request for `pipeline` about the entity `key`, or by the route `variant`.
    ///
    /// # Errors
    /// There is no such pipeline or variant, or nothing serves it yet.
    pub fn choose(
        &self,
        pipeline: &str,
        key: Option<&str>,
        variant: Option<&str>,
    ) -> Result<Choice, NotServed> {
        let place = self.place(pipeline)?;
        let snapshot = self.0.snapshot.load();
        let Some(routes) = &snapshot.routes[place] else {
            let why = &snapshot.standings[place].why;
            let why = why.as_deref().unwrap_or("nothing is deployed");
            return Err(NotServed::NotReady {
                why: format!("pipeline {pipeline}: {why}"),
            });
        };
        let pick = match (variant, key) {
            (Some(variant), _) => {
                routes
                    .split
                    .named(variant)
                    .ok_or_else(|| NotServed::UnknownVariant {
                        pipeline: pipeline.to_owned(),
                        variant: variant.to_owned(),
                        known: routes.split.names().map(str::to_owned).collect(),
                    })?
            }
            (None, Some(key)) => routes.split.pick(key),
            (None, None) => {
                let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
                routes.split.pick_any(turn)
            }
        };
        let variant = routes.variant(pick);
        Ok(Choice {
            variant: variant.name.clone(),
            loaded: Arc::clone(&variant.loaded),
            config_hash: variant.config_hash,
            times: variant.metrics.times.clone(),
            records: variant.metrics.records(),
        })
    }

    /// The place of a pipeline among [`Serving::pipelines`].
    ///
    /// # Errors
    /// There is none of this name.
    pub fn place(&self, pipeline: &str) -> Result<usize, NotServed> {
        let pipelines = &self.0.pipelines;
        let place = pipelines.iter().position(|it| it.name() == pipeline);
        place.ok_or_else(|| NotServed::UnknownPipeline {
            name: pipeline.to_owned(),
            known: pipelines.iter().map(|it| it.name().to_owned()).collect(),
        })
    }

    /// The deployment in effect of the pipeline at `place`. To be held for one batch: what it holds is not dropped.
    pub fn routes(&self, place: usize) -> Option<Arc<Routes>> {
        self.0.snapshot.load().routes.get(place)?.clone()
    }

    fn replace(&self, snapshot: Snapshot) {
        self.0.snapshot.store(Arc::new(snapshot));
    }
}

/// What to say of a model or version that is not ready.
fn not_served(snapshot: &Snapshot, name: &str, version: Option<&str>) -> NotServed {
    let of_model = || snapshot.statuses.iter().filter(|it| it.id.name == name);
    let named = of_model().find(|it| version.is_none_or(|version| version == it.id.version));
    if let Some(ModelStatus { id, state, .. }) = named {
        let why = match state {
            ModelState::Failed { why } => why,
            _ => "it is being loaded",
        };
        let why = format!("model {} {}: {why}", id.name, id.version);
        return NotServed::NotReady { why };
    }
    let name = name.to_owned();
    match version {
        Some(version) if of_model().next().is_some() => NotServed::UnknownVersion {
            known: of_model().map(|it| it.id.version.clone()).collect(),
            version: version.to_owned(),
            name,
        },
        _ => {
            let models = snapshot.models.iter();
            let mut known: Vec<String> = models.map(|it| it.id().name.clone()).collect();
            known.dedup();
            NotServed::UnknownModel { name, known }
        }
    }
}
