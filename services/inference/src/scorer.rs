//! One pipeline's model, loaded and checked: from features to a probability and a decision.

use std::{path::Path, sync::Arc};

use quadrille_model::{Model, Package};
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;
use sha2::{Digest, Sha256};

/// Scores feature vectors of one pipeline. Shared by the stream and gRPC.
#[derive(Debug)]
pub struct Scorer {
    pipeline: Arc<Pipeline>,
    model: Arc<dyn Model>,
    name: String,
    version: String,
    config_hash: [u8; 32],
}

impl Scorer {
    /// Loads the package at `path`, or the one named after the pipeline below it.
    ///
    /// # Errors
    /// There is no package, it is damaged, or it does not fit the pipeline; the message names the difference.
    pub fn load(pipeline: Arc<Pipeline>, path: &Path) -> Result<Self, Error> {
        let own = path.join(pipeline.name());
        let dir = if own.join("manifest.json").is_file() {
            own
        } else {
            path.to_owned()
        };
        let package = Package::load(&dir).map_err(|error| {
            Error::Config(format!(
                "QUADRILLE_MODEL {}: {error}; `quadrille train` writes a model package",
                dir.display()
            ))
        })?;
        Self::new(pipeline, &package)
    }

    /// # Errors
    /// The package's inputs are not the pipeline's; the message names the difference.
    pub fn new(pipeline: Arc<Pipeline>, package: &Package) -> Result<Self, Error> {
        package.check_inputs(pipeline.inputs()).map_err(|error| {
            Error::Config(format!(
                "QUADRILLE_MODEL does not fit pipeline {}: {error}",
                pipeline.name()
            ))
        })?;
        let hash = Sha256::new()
            .chain_update(pipeline.canonical())
            .chain_update(package.hash());
        let manifest = package.manifest();
        tracing::info!(
            pipeline = pipeline.name(),
            model = manifest.name,
            version = manifest.version,
            "model loaded"
        );
        Ok(Scorer {
            model: package.model(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            config_hash: hash.finalize().into(),
            pipeline,
        })
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    pub fn model(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// SHA-256 of the canonical pipeline and the model package's hash.
    pub fn config_hash(&self) -> &[u8; 32] {
        &self.config_hash
    }

    /// Appends the probability of the positive class for each row; `rows` holds one row's model inputs after another.
    pub fn score(&self, rows: &[f64], probabilities: &mut Vec<f64>) {
        self.model.score(rows, probabilities);
    }
}
