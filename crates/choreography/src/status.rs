//! What a stage's lanes and their surroundings share: the request to stop, and each lane's signs of life.

use std::{
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A loop that has not turned for this long is stuck: every wait in it is far shorter.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Asks lanes to end; wakes those that wait.
#[derive(Default)]
pub(crate) struct Stop {
    requested: AtomicBool,
    requested_at: OnceLock<Instant>,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Whether it was requested that long ago.
    pub fn requested_for(&self, time: Duration) -> bool {
        self.requested_at
            .get()
            .is_some_and(|at| at.elapsed() >= time)
    }

    pub fn request(&self) {
        self.requested_at.get_or_init(Instant::now);
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
    /// At any time.
    has_joined: AtomicBool,
    assigned: AtomicUsize,
    ended: AtomicBool,
}

impl LaneStatus {
    pub fn new() -> Self {
        LaneStatus {
            started: Instant::now(),
            progress_ms: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            has_joined: AtomicBool::new(false),
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
        self.has_joined.store(true, Ordering::Release);
    }

    pub fn left(&self) {
        self.joined.store(false, Ordering::Release);
        self.assigned.store(0, Ordering::Release);
    }

    /// The lane's thread is over.
    pub fn ended(&self) {
        self.left();
        self.ended.store(true, Ordering::Release);
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
    pub(crate) fn new(pipeline: &str, lanes: Arc<[Arc<LaneStatus>]>) -> Self {
        Health {
            pipeline: pipeline.into(),
            lanes,
        }
    }

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
        self.wait_for(|lane| &lane.joined)
    }

    /// Whether the group has given this replica its share at any time, whatever has become of it.
    ///
    /// # Errors
    /// What it waits for.
    pub fn has_been_ready(&self) -> Result<(), String> {
        self.wait_for(|lane| &lane.has_joined)
    }

    fn wait_for(&self, sign: impl Fn(&LaneStatus) -> &AtomicBool) -> Result<(), String> {
        let is_there = |lane: &Arc<LaneStatus>| sign(lane).load(Ordering::Acquire);
        match self.lanes.iter().any(is_there) {
            true => Ok(()),
            false => Err(format!(
                "pipeline {}: waiting for partitions to be assigned",
                self.pipeline
            )),
        }
    }

    /// Partitions this replica holds now.
    pub fn assigned_partitions(&self) -> usize {
        self.lanes
            .iter()
            .map(|lane| lane.assigned.load(Ordering::Acquire))
            .sum()
    }
}
