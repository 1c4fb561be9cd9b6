//! What a stage's lanes and their surroundings share: the request to stop, and each lane's signs of life.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A loop without progress for this long is stuck: every wait in it is far shorter.
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
    /// Of each partition whose state is being brought back: how much of it is, and of how much.
    restoring: Mutex<BTreeMap<i32, (u64, u64)>>,
    /// It holds partitions whose state is not back.
    awaits_state: AtomicBool,
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
            restoring: Mutex::default(),
            awaits_state: AtomicBool::new(false),
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
        self.awaits_state.store(false, Ordering::Release);
        self.assigned.store(0, Ordering::Release);
    }

    /// It was given partitions whose state is to be brought back. That keeps nobody from asking this replica, once it had its
    /// share: these partitions are one part of it.
    pub fn awaits_state(&self) {
        match self.has_joined.load(Ordering::Acquire) {
            true => self.joined.store(true, Ordering::Release),
            false => self.awaits_state.store(true, Ordering::Release),
        }
    }

    /// The state of all that it holds is there.
    pub fn restored_all(&self) {
        self.awaits_state.store(false, Ordering::Release);
        self.joined();
    }

    fn restoring(&self) -> MutexGuard<'_, BTreeMap<i32, (u64, u64)>> {
        let restoring = self.restoring.lock();
        restoring.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn restores(&self, partition: i32, done: u64, total: u64) {
        self.restoring().insert(partition, (done, total));
    }

    /// These partitions are restored, or no longer to be.
    pub fn restored(&self, partitions: &[i32]) {
        let mut restoring = self.restoring();
        for partition in partitions {
            restoring.remove(partition);
        }
    }

    /// The lane's thread is over.
    pub fn ended(&self) {
        self.left();
        self.ended.store(true, Ordering::Release);
    }

    pub fn assigned(&self, partitions: usize) {
        self.assigned.store(partitions, Ordering::Release);
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

    /// Whether every lane's loop makes progress.
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

    /// Whether the group has given this replica its share, and the state of the first one was restored.
    ///
    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        self.wait_for(|lane| &lane.joined)?;
        self.has_first_state()
    }

    /// Of all lanes: one may have nothing to restore, and another one for an hour.
    fn has_first_state(&self) -> Result<(), String> {
        let awaits = |lane: &Arc<LaneStatus>| lane.awaits_state.load(Ordering::Acquire);
        match self.lanes.iter().any(awaits) {
            true => Err(format!("pipeline {}: {}", self.pipeline, self.waits_for())),
            false => Ok(()),
        }
    }

    /// Whether the group has given this replica its share at any time, whatever has become of it, and the state of the first one
    /// was restored.
    ///
    /// # Errors
    /// What it waits for.
    pub fn has_been_ready(&self) -> Result<(), String> {
        self.wait_for(|lane| &lane.has_joined)?;
        self.has_first_state()
    }

    fn wait_for(&self, sign: impl Fn(&LaneStatus) -> &AtomicBool) -> Result<(), String> {
        let is_there = |lane: &Arc<LaneStatus>| sign(lane).load(Ordering::Acquire);
        match self.lanes.iter().any(is_there) {
            true => Ok(()),
            false => Err(format!("pipeline {}: {}", self.pipeline, self.waits_for())),
        }
    }

    fn waits_for(&self) -> String {
        let restoring = self.restoring();
        restoring.unwrap_or_else(|| "waiting for partitions to be assigned".to_owned())
    }

    /// Which partitions' state is being restored, and how far it is; for people. None where none is.
    pub fn restoring(&self) -> Option<String> {
        let mut partitions = Vec::new();
        let (mut done, mut total) = (0, 0);
        for lane in self.lanes.iter() {
            for (partition, (of_it, all_of_it)) in &*lane.restoring() {
                partitions.push(partition.to_string());
                done += of_it.min(all_of_it);
                total += all_of_it;
            }
        }
        if partitions.is_empty() {
            return None;
        }
        let percent = (100 * done).checked_div(total).unwrap_or(0);
        let partitions = partitions.join(", ");
        Some(format!(
            "restoring state of partitions {partitions}: {percent} %"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_without_partitions_makes_no_replica_ready_while_another_restores() {
        let lanes = [(); 2].map(|()| Arc::new(LaneStatus::new()));
        let health = Health::new("p", lanes.clone().into());
        let [restoring, empty] = lanes;
        restoring.awaits_state();
        restoring.restores(3, 1, 4);
        empty.restored_all();
        assert!(health.ready().is_err() && health.has_been_ready().is_err());
        restoring.restored_all();
        assert_eq!((health.ready(), health.has_been_ready()), (Ok(()), Ok(())));
        // Without Kafka it is as ready as it was, if that is asked.
        restoring.left();
        empty.left();
        assert!(health.ready().is_err());
        assert_eq!(health.has_been_ready(), Ok(()));
    }

    #[test]
    fn only_the_first_restore_keeps_a_replica_from_being_ready() {
        let lane = Arc::new(LaneStatus::new());
        let health = Health::new("p", [Arc::clone(&lane)].into());
        let waits = |health: &Health| health.ready().unwrap_err();
        assert_eq!(
            waits(&health),
            "pipeline p: waiting for partitions to be assigned"
        );
        lane.awaits_state();
        lane.restores(3, 1, 4);
        let restoring = "restoring state of partitions 3: 25 %";
        assert_eq!(waits(&health), format!("pipeline p: {restoring}"));
        lane.restored(&[3]);
        lane.restored_all();
        assert_eq!((health.ready(), health.restoring()), (Ok(()), None));
        // Another rebalance, then another session with Kafka.
        for left in [false, true] {
            if left {
                lane.left();
                assert!(health.ready().is_err());
            }
            lane.awaits_state();
            lane.restores(3, 1, 4);
            assert_eq!(health.ready(), Ok(()));
            assert_eq!(health.restoring().as_deref(), Some(restoring));
        }
    }
}
