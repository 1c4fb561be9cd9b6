//! What serves now, and who answers: each question from one consistent snapshot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use quadrille_pipeline::Pipeline;
use quadrille_registry::{FRESH_WITHIN, compare_versions};
use quadrille_telemetry::metrics::{ModelTimes, VariantRecords};

use super::{
    error::Error,
    snapshot::{Routes, Snapshot},
    source::Source,
    status::{ModelState, ModelStatus, PipelineStatus},
};
use crate::engine::Loaded;

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
    /// Counts requests that name no entity, which take routes in turn.
    unkeyed: AtomicU64,
}

/// What serves now. Cheap to clone; each question is answered from one consistent snapshot.
#[derive(Clone)]
pub struct Serving(Arc<Shared>);

impl Serving {
    pub(super) fn new(pipelines: Vec<Arc<Pipeline>>, source: Arc<dyn Source>) -> Self {
        let snapshot = ArcSwap::from_pointee(Snapshot::empty(&pipelines));
        Serving(Arc::new(Shared {
            pipelines,
            snapshot,
            source,
            unkeyed: AtomicU64::new(0),
        }))
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
        let mut statuses = snapshot.pipelines.iter();
        let unserved = statuses.find(|status| status.serving.is_none());
        unserved.map_or(Ok(()), |status| {
            let why = status.why.as_deref().unwrap_or("nothing is deployed");
            Err(format!("pipeline {}: {why}", status.pipeline))
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
    pub fn pipeline_statuses(&self) -> Vec<PipelineStatus> {
        self.0.snapshot.load().pipelines.clone()
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
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Loaded>, Error> {
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
    ) -> Result<Choice, Error> {
        let place = self.place(pipeline)?;
        let snapshot = self.0.snapshot.load();
        let Some(routes) = &snapshot.routes[place] else {
            let why = &snapshot.pipelines[place].why;
            let why = why.as_deref().unwrap_or("nothing is deployed");
            return Err(Error::NotReady {
                why: format!("pipeline {pipeline}: {why}"),
            });
        };
        let pick = match (variant, key) {
            (Some(variant), _) => {
                routes
                    .split
                    .named(variant)
                    .ok_or_else(|| Error::UnknownVariant {
                        pipeline: pipeline.to_owned(),
                        variant: variant.to_owned(),
                        known: routes.split.names().map(str::to_owned).collect(),
                    })?
            }
            (None, Some(key)) => routes.split.pick(key),
            (None, None) => {
                let turn = self.0.unkeyed.fetch_add(1, Ordering::Relaxed);
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
    pub fn place(&self, pipeline: &str) -> Result<usize, Error> {
        let pipelines = &self.0.pipelines;
        let place = pipelines.iter().position(|it| it.name() == pipeline);
        place.ok_or_else(|| Error::UnknownPipeline {
            name: pipeline.to_owned(),
            known: pipelines.iter().map(|it| it.name().to_owned()).collect(),
        })
    }

    /// The deployment in effect of the pipeline at `place`. To be held for one batch: what it holds is not dropped.
    pub fn routes(&self, place: usize) -> Option<Arc<Routes>> {
        self.0.snapshot.load().routes.get(place)?.clone()
    }

    pub(super) fn replace(&self, snapshot: Snapshot) {
        self.0.snapshot.store(Arc::new(snapshot));
    }
}

/// What to say of a model or version that is not ready.
fn not_served(snapshot: &Snapshot, name: &str, version: Option<&str>) -> Error {
    let of_model = || snapshot.statuses.iter().filter(|it| it.id.name == name);
    let named = of_model().find(|it| version.is_none_or(|version| version == it.id.version));
    if let Some(ModelStatus { id, state, .. }) = named {
        let why = match state {
            ModelState::Failed { why } => why,
            _ => "it is being loaded",
        };
        let why = format!("model {} {}: {why}", id.name, id.version);
        return Error::NotReady { why };
    }
    let name = name.to_owned();
    match version {
        Some(version) if of_model().next().is_some() => Error::UnknownVersion {
            known: of_model().map(|it| it.id.version.clone()).collect(),
            version: version.to_owned(),
            name,
        },
        _ => {
            let models = snapshot.models.iter();
            let mut known: Vec<String> = models.map(|it| it.id().name.clone()).collect();
            known.dedup();
            Error::UnknownModel { name, known }
        }
    }
}
