//! Models of tests: what they answer, how long they take, and when, is the test's.

use std::{fmt, sync::Arc};

use quadrille_model::Outputs;
use quadrille_registry::ModelId;
use quadrille_telemetry::{Registry, metrics::ServingMetrics};

use crate::engine::{Batching, Loaded};

/// Rows that close a batch of a queue's one thread; a piece is half of it.
pub(crate) const ROWS_MAX: usize = 8;

type Score = dyn Fn(&[f64], &mut Vec<f64>) + Send + Sync;

pub(crate) struct Model {
    inputs: Vec<String>,
    outputs: Outputs,
    score: Box<Score>,
}

impl Model {
    pub fn new(
        inputs: usize,
        outputs: Outputs,
        score: impl Fn(&[f64], &mut Vec<f64>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Model {
            inputs: (0..inputs).map(|at| format!("x{at}")).collect(),
            outputs,
            score: Box::new(score),
        })
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

impl quadrille_model::Model for Model {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        (self.score)(rows, outputs);
    }
}

pub(crate) fn value() -> Outputs {
    Outputs::Values(vec!["y".to_owned()])
}

pub(crate) fn loaded(model: Arc<Model>, queued: bool, registry: &Registry) -> Loaded {
    let id = ModelId {
        name: "m".to_owned(),
        version: "1".to_owned(),
    };
    let batching = Batching {
        models: queued.then(|| id.name.clone()).into_iter().collect(),
        workers: 1,
        rows_max: ROWS_MAX,
        ..Batching::default()
    };
    let metrics = ServingMetrics::register(registry);
    Loaded::of(id, [0; 32], model, &batching, &metrics).expect("threads")
}

/// A core is busy for this long.
pub(crate) fn work(time: std::time::Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
