//! Packages that serve for as long as the process lives: no log, no thread.

use std::{sync::Arc, time::Instant};

use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;
use quadrille_telemetry::metrics::ServingMetrics;

use super::{
    current::Serving,
    fit,
    loader::{Loader, Options},
    source::NoLog,
};
use crate::engine::Batching;

impl Serving {
    /// One package for each pipeline.
    ///
    /// # Errors
    /// A package does not fit its pipeline; the message names the difference.
    pub fn fixed(
        models: Vec<(Arc<Pipeline>, Package)>,
        metrics: ServingMetrics,
    ) -> Result<Self, Error> {
        for (pipeline, package) in &models {
            fit::check(pipeline, &*package.model()).map_err(Error::Config)?;
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
        loader.settle(Instant::now());
        Ok(loader.serving())
    }
}
