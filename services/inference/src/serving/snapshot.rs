//! What serves at one moment. The loader replaces it as a whole; lanes and requests read it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quadrille_pipeline::Pipeline;
use quadrille_registry::{Deployment, Pick, Role, Route, Split};
use quadrille_telemetry::metrics::{ServingMetrics, VariantMetrics};

use super::status::{ModelStatus, PipelineStatus};
use crate::engine::Loaded;

/// A route with the model behind it.
pub struct Variant {
    pub name: String,
    pub loaded: Arc<Loaded>,
    /// Of a row of its outputs.
    pub width: usize,
    /// SHA-256 of the canonical pipeline and the model package's hash.
    pub config_hash: [u8; 32],
    pub metrics: VariantMetrics,
}

/// Counts the [`Routes`] that this process has made.
static MADE: AtomicU64 = AtomicU64::new(0);

/// A deployment in effect: every route's model is ready.
pub struct Routes {
    /// Distinguishes these from all others of this process, which a revision does not: those of a log that is made anew begin again.
    pub(crate) made: u64,
    pub revision: u64,
    /// What is in effect.
    pub(super) deployment: Deployment,
    pub split: Split,
    /// In the deployment's order.
    pub variants: Vec<Variant>,
}

impl Routes {
    /// `loaded` are the routes' models, in their order.
    pub(super) fn new(
        pipeline: &Pipeline,
        deployment: &Deployment,
        split: Split,
        loaded: Vec<Arc<Loaded>>,
        metrics: &ServingMetrics,
    ) -> Self {
        let variant = |(route, loaded): (&Route, Arc<Loaded>)| {
            let id = loaded.id();
            Variant {
                name: route.name.clone(),
                config_hash: pipeline.config_hash(loaded.hash()),
                width: loaded.model().outputs().width(),
                metrics: metrics.variant(pipeline.name(), &route.name, &id.name, &id.version),
                loaded,
            }
        };
        Routes {
            made: MADE.fetch_add(1, Ordering::Relaxed),
            deployment: deployment.clone(),
            revision: deployment.revision,
            split,
            variants: deployment.routes.iter().zip(loaded).map(variant).collect(),
        }
    }

    /// What answers all keys that no canary takes.
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<Loaded>> {
        let routes = self.deployment.routes.iter().zip(&self.variants);
        let live = routes.filter(|(route, _)| matches!(route.role, Role::Live { weight: 1.. }));
        live.map(|(_, variant)| &variant.loaded)
    }

    pub fn variant(&self, pick: Pick) -> &Variant {
        // A split is made of the same routes.
        &self.variants[pick.route]
    }
}

/// What serves at one moment.
pub(super) struct Snapshot {
    /// Whether the log was read to its end once.
    pub begun: bool,
    /// One for each pipeline, in their order.
    pub routes: Vec<Option<Arc<Routes>>>,
    /// Every version that is ready, by name, then from the lowest version to the highest.
    pub models: Vec<Arc<Loaded>>,
    pub statuses: Vec<ModelStatus>,
    /// One for each pipeline, in their order.
    pub pipelines: Vec<PipelineStatus>,
}

impl Snapshot {
    pub fn empty(pipelines: &[Arc<Pipeline>]) -> Self {
        let status = |pipeline: &Arc<Pipeline>| PipelineStatus {
            pipeline: pipeline.name().to_owned(),
            seen: None,
            serving: None,
            why: Some("the log of deployments was not read yet".to_owned()),
        };
        Snapshot {
            begun: false,
            routes: pipelines.iter().map(|_| None).collect(),
            models: Vec::new(),
            statuses: Vec::new(),
            pipelines: pipelines.iter().map(status).collect(),
        }
    }
}
