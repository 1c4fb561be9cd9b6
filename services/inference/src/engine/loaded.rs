//! A model version in memory, ready to score.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_model::{Cost, Model, Package};
use quadrille_registry::ModelId;
use quadrille_telemetry::metrics::{ModelTimes, ServingMetrics};

use super::{
    batch::{Batching, Pending, Queue},
    counts::{Counted, Counts, Statistics},
    direct::Direct,
    error::Error,
    verdict,
};

/// Numbers of one answer, 64 MiB: what a caller may ask for with 65,536 rows of a model of 128 outputs.
const ANSWER_NUMBERS_MAX: usize = 8 << 20;

/// What came of rows that somebody does not wait for as long as it takes.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Their outputs are there.
    Done,
    /// They are on their way through a expensive model's queue.
    Pending(Pending),
    /// That queue is full.
    Full,
}

/// A model version, ready to score.
#[derive(Debug)]
pub struct Loaded {
    id: ModelId,
    model: Arc<dyn Model>,
    hash: [u8; 32],
    /// Of requests by its own name.
    times: ModelTimes,
    /// Of its runs and requests.
    counts: Arc<Counts>,
    /// Where a row is expensive.
    queue: Option<Queue>,
    direct: Direct,
}

impl Loaded {
    /// Of a package that was checked when it was read.
    ///
    /// # Errors
    /// The system refuses a expensive model's threads.
    pub fn new(
        package: &Package,
        batching: &Batching,
        metrics: &ServingMetrics,
    ) -> std::io::Result<Self> {
        let manifest = package.manifest();
        let id = ModelId {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
        };
        Self::of(id, package.hash(), package.model(), batching, metrics)
    }

    /// # Errors
    /// As [`Loaded::new`].
    pub(crate) fn of(
        id: ModelId,
        hash: [u8; 32],
        model: Arc<dyn Model>,
        batching: &Batching,
        metrics: &ServingMetrics,
    ) -> std::io::Result<Self> {
        let (name, version) = (&id.name, &id.version);
        let counts = Arc::new(Counts::default());
        let model = Counted::wrap(model, &counts);
        let queued = model.cost() == Cost::Expensive || batching.models.contains(name);
        let queue = queued.then(|| {
            let metrics = metrics.queue(name, version);
            Queue::start(Arc::clone(&model), batching, metrics, Arc::clone(&counts))
        });
        Ok(Loaded {
            times: metrics.times(name, version),
            queue: queue.transpose()?,
            direct: Direct::new(Arc::clone(&model), &counts),
            counts,
            model,
            hash,
            id,
        })
    }

    pub fn id(&self) -> &ModelId {
        &self.id
    }

    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// The package's SHA-256.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub fn times(&self) -> &ModelTimes {
        &self.times
    }

    /// What it has done so far.
    pub(crate) fn statistics(&self) -> Statistics {
        self.counts.read()
    }

    /// What it runs on, as `<project>_<format>`.
    pub fn platform(&self) -> &'static str {
        "quadrille_package"
    }

    /// Scores rows (n × inputs) of the stream; to the outputs are added n × the model's width, of which [`Loaded::check`]
    /// says row by row whether they are predictions. Waits for an expensive model, so it is not for a runtime's thread.
    ///
    /// # Panics
    /// When the model does: the loop finds the record that it fails on.
    pub fn score_waiting(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        self.score_alive(rows, outputs, &mut || {});
    }

    /// As [`Loaded::score_waiting`]; calls `alive` now and then while it waits.
    ///
    /// # Panics
    /// When the model does.
    pub fn score_alive(&self, rows: &[f64], outputs: &mut Vec<f64>, alive: &mut dyn FnMut()) {
        match &self.queue {
            None => self.model.score(rows, outputs),
            Some(queue) => {
                if let Err(error) = queue.score_waiting(rows, outputs, alive) {
                    panic!("{error}");
                }
            }
        }
    }

    /// Scores rows of the stream for one who does not wait for an expensive model as long as it takes.
    ///
    /// # Panics
    /// When the model does.
    pub(crate) fn begin(&self, rows: &[f64], outputs: &mut Vec<f64>) -> Begun {
        match &self.queue {
            None => {
                self.model.score(rows, outputs);
                Begun::Done
            }
            Some(queue) => queue.begin(rows).map_or(Begun::Full, Begun::Pending),
        }
    }

    /// An answered request's rows took so long to be made.
    pub(crate) fn prepared(&self, took: Duration) {
        self.counts.prepared(took);
    }

    /// An answered request's answer took so long to be made of its scores.
    pub(crate) fn written(&self, took: Duration) {
        self.counts.written(took);
    }

    /// Checks that the outputs of one row of inputs are a prediction.
    ///
    /// # Errors
    /// They are none, and nothing may follow from them.
    pub fn check(&self, inputs: &[f64], outputs: &[f64]) -> Result<(), verdict::Error> {
        verdict::check(&*self.model, inputs, outputs)
    }

    /// Scores rows (n × inputs) of a request: where it is, or through the queue of an expensive model. All outputs are predictions.
    ///
    /// # Errors
    /// Too much waits, nobody waits for the answer any more, the model panicked, or what it answers to a row is no prediction.
    pub async fn score(
        &self,
        rows: Vec<f64>,
        deadline: Option<Instant>,
    ) -> Result<Vec<f64>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.counts.asked();
        let answer = self.answer(rows, deadline).await;
        asked.ends(&answer);
        answer
    }

    async fn answer(&self, rows: Vec<f64>, deadline: Option<Instant>) -> Result<Vec<f64>, Error> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::Expired);
        }
        let width = self.model.outputs().width();
        let count = rows.len() / self.model.inputs().len().max(1);
        if count.saturating_mul(width) > ANSWER_NUMBERS_MAX {
            return Err(Error::TooLarge {
                rows: ANSWER_NUMBERS_MAX / width.max(1),
            });
        }
        if let Some(queue) = &self.queue {
            // The queue takes the rows. Kept are those that may have to be spoken of: what is missing is mostly why a row fails.
            let lacks = rows.iter().any(|value| !value.is_finite());
            let kept = if lacks { rows.clone() } else { Vec::new() };
            let outputs = queue.score(rows, deadline).await?;
            verdict::check_all(&*self.model, &kept, &outputs)?;
            return Ok(outputs);
        }
        let (rows, outputs) = self.direct.score(rows, deadline).await?;
        verdict::check_all(&*self.model, &rows, &outputs)?;
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests {
    use quadrille_model::Outputs;
    use quadrille_telemetry::Registry;

    use super::*;
    use crate::fake;

    #[tokio::test]
    async fn an_answer_of_more_numbers_than_a_request_may_ask_for_is_refused_with_how_many_rows_it_may()
     {
        for queued in [false, true] {
            let names = (0..1_000).map(|at| at.to_string()).collect();
            let model = fake::Model::new(1, Outputs::Values(names), |_, _| {
                panic!("rows were scored whose answer is too large")
            });
            let loaded = fake::loaded(model, queued, &Registry::default());
            let refused = loaded.score(vec![1.0; 65_536], None).await;
            let refused = refused.expect_err("half a gigabyte");
            assert_eq!(refused, Error::TooLarge { rows: 8_388 });
            assert_eq!(
                (loaded.statistics().runs.0, loaded.statistics().refused.0),
                (0, 1)
            );
            let said = refused.to_string();
            assert!(said.contains("send at most 8388 rows"), "{said}");
        }
    }

    #[tokio::test]
    async fn runs_and_rows_are_counted_apart_and_each_request_once_with_how_long_it_waited() {
        let (told, batches) = std::sync::mpsc::channel();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new((told, gate));
        let model = fake::Model::new(1, fake::value(), move |rows, outputs| {
            let gate = gate.lock().expect("one thread");
            gate.0.send(rows.len()).expect("the test listens");
            gate.1.recv().expect("the test goes on");
            outputs.extend_from_slice(rows);
        });
        let registry = Registry::default();
        let loaded = Arc::new(fake::loaded(model, true, &registry));
        let ask = |rows: usize| {
            let loaded = Arc::clone(&loaded);
            tokio::spawn(async move { loaded.score(vec![1.0; rows], None).await })
        };
        let mut asked = vec![ask(1)];
        while loaded.statistics().queued.0 < 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(batches.recv(), Ok(1));
        // Four of one row are scored together; a large one in two pieces, one of which is scored with them.
        asked.extend([1, 1, 1, 1, fake::ROWS_MAX].map(ask));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            go.send(()).expect("a batch");
        }
        for answer in asked {
            assert!(answer.await.expect("answered").is_ok());
        }
        let so_far = loaded.statistics();
        assert_eq!(so_far.rows, 5 + fake::ROWS_MAX as u64);
        assert_eq!(so_far.runs.0, 3, "{so_far:?}");
        assert_eq!((so_far.answered.0, so_far.queued.0), (6, 6));
        assert!(
            so_far.queued.1 > 0 && so_far.queued.1 <= so_far.answered.1,
            "{so_far:?}"
        );
    }
}
