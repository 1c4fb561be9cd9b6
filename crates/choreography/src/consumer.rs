//! A lane's consumer: the group member, its assignment, and what a rebalance takes away.
//!
//! What is fetched reaches the lane through [`Gates`]: they hold everything back while a batch is retried, and a
//! partition's gate stays closed until the handler's store has said at which offset to continue.
//!
//! The lane settles every batch before it polls again, and librdkafka rebalances only inside `poll`: so at
//! the moment partitions are revoked nothing of them is in flight, and what was polled but not handled is
//! forgotten.
//!
//! librdkafka looks up where an assigned partition begins, and waits while its offset is being committed by
//! a transaction. But when the assignment changes meanwhile, it takes the unknown offset for none and reads
//! the partition from its start, as `auto.offset.reset` says (2.12.1; the code is the same in 2.15). Seen twice in some
//! fifteen full test runs before it was understood. So before the first record of a partition is handled,
//! the lane asks for itself what is committed: [`LaneConsumer::check_starts`].

mod callbacks;
mod gating;
mod lag;
mod offsets;
mod settings;
mod start_check;

use std::{
    cell::Cell,
    ffi::CString,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quadrille_telemetry::StageMetrics;
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
};

use self::callbacks::{ConsumerEvents, lock};
pub(crate) use self::offsets::{COMMITTED_WAIT, StartOffset};
use crate::{Cluster, StageConfig, StageIdentity, gates::Gates, native, status::LaneStatus};

/// How long a poll waits when there is nothing: bounds how late a stop or a change of the group is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The same while the group changes, where others wait for this member.
const REBALANCE_POLL_WAIT: Duration = Duration::from_millis(20);
/// The same while start offsets are being claimed.
const CLAIM_WAIT: Duration = Duration::from_millis(5);
/// A change of the group seldom comes alone.
const REBALANCE_SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// One member of the stage's consumer group.
pub(crate) struct LaneConsumer {
    pub client: BaseConsumer<ConsumerEvents>,
    topic: String,
    is_holding: Cell<bool>,
    /// Start offsets are being claimed.
    pub is_claiming: Cell<bool>,
    /// State is being read, and more of it is there.
    pub is_restoring: Cell<bool>,
    group_served_at: Cell<Instant>,
    generation: Cell<i32>,
    /// When the group last changed.
    rebalanced_at: Cell<Instant>,
    identity: Option<Arc<StageIdentity>>,
    cluster: Cluster,
    /// When the log last said that partitions are not read.
    unread_logged_at: Cell<Option<Instant>>,
}

impl LaneConsumer {
    pub fn connect(
        config: &StageConfig,
        lane: usize,
        metrics: StageMetrics,
        status: Arc<LaneStatus>,
        (restores, input_bytes_max): (bool, usize),
    ) -> KafkaResult<Self> {
        let settings = settings::consumer(config, lane, input_bytes_max);
        let events = ConsumerEvents {
            service: config.service,
            pipeline: config.pipeline.clone(),
            lane: format!("{}-{lane}", config.instance),
            gates: Mutex::default(),
            metrics,
            status,
            commit: config.commit,
            restores,
            assigned: Mutex::default(),
            unchecked: Mutex::default(),
            revoked: Mutex::default(),
            rebalanced: AtomicBool::new(false),
            is_assigned: AtomicBool::new(false),
            failed: Mutex::default(),
        };
        let client: BaseConsumer<ConsumerEvents> = settings.create_with_context(events)?;
        let topic = CString::new(&*config.input)?;
        *lock(&client.context().gates) = Some(Gates::new(client.client(), topic));
        client.subscribe(&[&config.input])?;
        Ok(LaneConsumer {
            client,
            topic: config.input.clone(),
            is_holding: Cell::new(false),
            is_claiming: Cell::new(false),
            is_restoring: Cell::new(false),
            group_served_at: Cell::new(Instant::now()),
            generation: Cell::new(-1),
            rebalanced_at: Cell::new(Instant::now()),
            identity: None,
            cluster: config.cluster.clone(),
            unread_logged_at: Cell::new(None),
        })
    }

    /// Which topic this is to be, and of which generation.
    pub fn with_identity(mut self, identity: Option<Arc<StageIdentity>>) -> Self {
        self.identity = identity;
        self
    }

    /// How long to wait for a record.
    pub fn poll_wait(&self) -> Duration {
        if self.is_restoring.get() {
            return Duration::ZERO;
        }
        if self.is_claiming.get() {
            return CLAIM_WAIT;
        }
        match self.rebalanced_at.get().elapsed() < REBALANCE_SETTLES_WITHIN {
            true => REBALANCE_POLL_WAIT,
            false => IDLE_WAIT,
        }
    }

    /// To be called once a batch. The client looks after its group (heartbeats, and so the news that others wait, and
    /// joining) when something wakes its main thread, and else once a second (2.12.1, `rd_kafka_thread_main`), whatever
    /// `heartbeat.interval.ms` says. A question to it wakes it.
    pub fn serve_group(&self) {
        if self.group_served_at.get().elapsed() < REBALANCE_POLL_WAIT {
            return;
        }
        self.group_served_at.set(Instant::now());
        let generation = native::generation(self.client.client());
        if self.generation.replace(generation) != generation {
            // A rebalance that is overtaken by another one ends without a callback.
            self.reset_join_interval();
        }
    }

    /// The partitions held.
    pub fn assigned(&self) -> Vec<i32> {
        lock(&self.client.context().assigned)
            .keys()
            .copied()
            .collect()
    }

    /// The partitions revoked since the last call, if a rebalance happened.
    pub fn take_revoked(&self) -> Option<Vec<i32>> {
        let events = self.client.context();
        if !events.rebalanced.load(Ordering::Acquire) {
            return None;
        }
        self.reset_join_interval();
        events
            .rebalanced
            .swap(false, Ordering::AcqRel)
            .then(|| std::mem::take(&mut *lock(&events.revoked)))
    }

    /// The next rebalance, which often follows, is joined at once. The client joins once a second at most (2.12.1,
    /// `rkcg_join_intvl`), but for the member whose partitions were just revoked, and all members wait for the last one:
    /// each of the two or three cooperative rebalances after a replica comes or goes took a second. An answer about topics
    /// makes the client forget when it joined last. Nobody waits for the answer.
    fn reset_join_interval(&self) {
        self.rebalanced_at.set(Instant::now());
        let _ = self
            .client
            .fetch_metadata(Some(&self.topic), Duration::ZERO);
    }

    /// Why the assignment could not be taken, if it could not.
    pub fn take_failure(&self) -> Option<String> {
        lock(&self.client.context().failed).take()
    }
}

impl Drop for LaneConsumer {
    fn drop(&mut self) {
        // Their queues must not outlive the client, which owns these events.
        *lock(&self.client.context().gates) = None;
    }
}
