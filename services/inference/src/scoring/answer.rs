//! From rows to scores.

use std::{sync::Arc, time::Instant};

use quadrille_model::Outputs;
use quadrille_pipeline::Pipeline;
use quadrille_registry::ModelId;
use quadrille_telemetry::metrics::{ModelTimes, VariantRecords};

use crate::engine::Loaded;

/// The pipeline that was asked, and the variant that it chose.
pub(crate) struct Through {
    pub pipeline: Arc<Pipeline>,
    pub variant: String,
}

/// Rows, and the model that is to score them.
pub(crate) struct Prepared {
    pub loaded: Arc<Loaded>,
    pub times: ModelTimes,
    /// Of the variant that counts what it answers.
    pub records: Option<VariantRecords>,
    /// Of the model's inputs, one after another.
    pub rows: Vec<f64>,
    /// When its rows began to be made.
    pub asked_at: Instant,
}

impl Prepared {
    pub fn outputs(&self) -> &Outputs {
        self.loaded.model().outputs()
    }
}

/// Scores, and the model that gave them.
pub(crate) struct Answer {
    pub loaded: Arc<Loaded>,
    /// Row by row.
    pub scores: Vec<f64>,
    pub scored_at: Instant,
    pub(super) times: ModelTimes,
}

impl Answer {
    pub fn id(&self) -> &ModelId {
        self.loaded.id()
    }

    pub fn outputs(&self) -> &Outputs {
        self.loaded.model().outputs()
    }

    /// Rows of scores.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.scores.chunks_exact(self.outputs().width().max(1))
    }

    /// The answer has been written, in the time since it was scored.
    pub fn written(&self) {
        let took = self.scored_at.elapsed();
        self.times.output(took);
        self.loaded.written(took);
    }
}
