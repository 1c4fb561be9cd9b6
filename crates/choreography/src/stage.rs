//! A stage: its lanes' threads, their health, their end.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use quadrille_telemetry::{StageMetrics, Tracing};

use crate::{
    Cause, ConfigError, Handler, StageConfig,
    admin::StageTopics,
    lane::{Lane, LaneOptions},
};

/// A loop that has not turned for this long is stuck: every wait in it is far shorter.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// For handlers that keep offsets themselves: the next offset of each partition, None for the beginning.
/// Called on the lane's thread while partitions are assigned.
pub type ResumeFn = dyn Fn(&[i32]) -> Result<Vec<(i32, Option<i64>)>, String> + Send + Sync;

/// Why a stage ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{service} of pipeline {pipeline} cannot go on: {cause}")]
    Fatal {
        service: &'static str,
        pipeline: String,
        cause: Cause,
    },
    #[error("{service} of pipeline {pipeline}: a lane panicked; this is a bug")]
    Panicked {
        service: &'static str,
        pipeline: String,
    },
    #[error("could not start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Asks lanes to end; wakes those that wait.
#[derive(Default)]
pub(crate) struct Stop {
    requested: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    fn request(&self) {
        self.requested.store(true, Ordering::Release);
        drop(self.lock.lock());
        self.changed.notify_all();
    }

    /// Sleeps, or less when asked to stop.
    pub fn sleep(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let Ok(mut guard) = self.lock.lock() else {
            return;
        };
        while !self.requested() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match self.changed.wait_timeout(guard, left) {
                Ok((next, _)) => guard = next,
                Err(_) => return,
            }
        }
    }
}

/// One lane's signs of life.
pub(crate) struct LaneStatus {
    started: Instant,
    progress_ms: AtomicU64,
    joined: AtomicBool,
    assigned: AtomicUsize,
    ended: AtomicBool,
}

impl LaneStatus {
    fn new() -> Self {
        LaneStatus {
            started: Instant::now(),
            progress_ms: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            assigned: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        }
    }

    pub fn progress(&self) {
        self.progress_ms
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub fn joined(&self) {
        self.joined.store(true, Ordering::Release);
    }

    pub fn left(&self) {
        self.joined.store(false, Ordering::Release);
        self.assigned.store(0, Ordering::Release);
    }

    pub fn assigned(&self, partitions: usize) {
        self.assigned.store(partitions, Ordering::Release);
    }

    /// Partitions the lane holds.
    pub fn held(&self) -> usize {
        self.assigned.load(Ordering::Acquire)
    }

    fn silent_for(&self) -> Duration {
        let progress = Duration::from_millis(self.progress_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(progress)
    }
}

/// A stage's health. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    pipeline: Arc<str>,
    lanes: Arc<[Arc<LaneStatus>]>,
}

impl Health {
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Whether every lane's loop turns.
    ///
    /// # Errors
    /// What is stuck, for the answer of a health check.
    pub fn live(&self) -> Result<(), String> {
        for (index, lane) in self.lanes.iter().enumerate() {
            let silent = lane.silent_for();
            if silent > STUCK_AFTER && !lane.ended.load(Ordering::Acquire) {
                return Err(format!(
                    "pipeline {}: lane {index} made no progress for {} s",
                    self.pipeline,
                    silent.as_secs()
                ));
            }
        }
        Ok(())
    }

    /// Whether the group has given this replica its share.
    ///
    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        if self
            .lanes
            .iter()
            .any(|lane| lane.joined.load(Ordering::Acquire))
        {
            return Ok(());
        }
        Err(format!(
            "pipeline {}: waiting for partitions to be assigned",
            self.pipeline
        ))
    }

    /// Partitions this replica holds now.
    pub fn assigned_partitions(&self) -> usize {
        self.lanes
            .iter()
            .map(|lane| lane.assigned.load(Ordering::Acquire))
            .sum()
    }
}

/// What a stage is made of, besides its handler.
pub struct StageOptions {
    pub config: StageConfig,
    /// From [`crate::Admin::prepare`].
    pub topics: StageTopics,
    pub metrics: StageMetrics,
    pub tracing: Tracing,
    /// Set where the handler keeps offsets itself.
    pub resume: Option<Arc<ResumeFn>>,
}

/// A running stage of one pipeline.
pub struct Stage {
    service: &'static str,
    pipeline: String,
    stop: Arc<Stop>,
    health: Health,
    threads: Vec<JoinHandle<Result<(), Cause>>>,
}

impl Stage {
    /// Starts the lanes; `make` makes the handler of each.
    ///
    /// # Errors
    /// A setting is out of range, or the system refuses a thread.
    pub fn start<H: Handler>(
        options: StageOptions,
        mut make: impl FnMut(usize) -> H,
    ) -> Result<Stage, StageError> {
        let StageOptions {
            mut config,
            topics,
            metrics,
            tracing,
            resume,
        } = options;
        config.lanes = config.lanes.min(topics.partitions.max(1) as usize);
        config.validate()?;
        let config = Arc::new(config);
        let stop = Arc::new(Stop::default());
        let lanes: Arc<[Arc<LaneStatus>]> = (0..config.lanes)
            .map(|_| Arc::new(LaneStatus::new()))
            .collect();
        let mut threads = Vec::with_capacity(config.lanes);
        for (index, status) in lanes.iter().enumerate() {
            let lane = Lane::new(
                LaneOptions {
                    config: Arc::clone(&config),
                    index,
                    topics: topics.clone(),
                    metrics: metrics.clone(),
                    tracing: tracing.clone(),
                    status: Arc::clone(status),
                    stop: Arc::clone(&stop),
                    resume: resume.clone(),
                },
                make(index),
            );
            let status = Arc::clone(status);
            let name = format!("{}-{index}", config.service);
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                let result = lane.run();
                status.left();
                status.ended.store(true, Ordering::Release);
                result
            })?);
        }
        Ok(Stage {
            service: config.service,
            pipeline: config.pipeline.clone(),
            stop,
            health: Health {
                pipeline: config.pipeline.as_str().into(),
                lanes,
            },
            threads,
        })
    }

    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Whether a lane has ended, which unasked means that it failed.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Asks the lanes to finish the batch in hand and leave the group.
    pub fn stop(&self) {
        self.stop.request();
    }

    /// Waits for the lanes. Blocks.
    ///
    /// # Errors
    /// The first lane's that failed.
    pub fn join(self) -> Result<(), StageError> {
        let mut first = Ok(());
        for thread in self.threads {
            let result = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(cause)) => Err(StageError::Fatal {
                    service: self.service,
                    pipeline: self.pipeline.clone(),
                    cause,
                }),
                Err(_) => Err(StageError::Panicked {
                    service: self.service,
                    pipeline: self.pipeline.clone(),
                }),
            };
            // One lane's end ends all: the others drain.
            self.stop.request();
            first = first.and(result);
        }
        first
    }
}
