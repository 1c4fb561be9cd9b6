//! What librdkafka calls while the lane polls: partitions are assigned and revoked, and the lane is left a note of it.
//!
//! Here partitions are assigned and given up, and nothing is asked that could fail: a consumer whose assignment was not
//! taken waits for that forever, also while it is being closed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quadrille_telemetry::StageMetrics;
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode as Waiting, Consumer, ConsumerContext, RebalanceProtocol},
    error::KafkaError,
    types::RDKafkaRespErr,
};

use super::start_check::pending::PendingCheck;
use crate::{CommitMode, client, gates::Gates, status::LaneStatus};

/// An assigned partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct AssignedPartition {
    /// Since when the client has not known where its log ends: from the assignment to the first answer to a fetch, and
    /// again for a moment whenever its leader changes.
    pub(super) unread_since: Instant,
    /// What this lane has committed of it last. Nobody else commits while it holds the partition.
    pub(super) committed: Option<i64>,
}

impl AssignedPartition {
    fn new() -> Self {
        AssignedPartition {
            unread_since: Instant::now(),
            committed: None,
        }
    }
}

/// What the callbacks leave for the lane.
pub(crate) struct ConsumerEvents {
    /// For the log: which lane of which stage this is.
    pub(super) service: &'static str,
    pub(super) pipeline: String,
    pub(super) lane: String,
    /// None once the consumer is being closed.
    pub(super) gates: Mutex<Option<Gates>>,
    pub(super) metrics: StageMetrics,
    pub(super) status: Arc<LaneStatus>,
    pub(super) commit: CommitMode,
    /// The handler brings back a partition's state before its records come.
    pub(super) restores: bool,
    /// Each partition assigned.
    pub(super) assigned: Mutex<BTreeMap<i32, AssignedPartition>>,
    /// Assigned, and it is not known whether they begin where the group's offsets say.
    pub(super) unchecked: Mutex<BTreeMap<i32, PendingCheck>>,
    pub(super) revoked: Mutex<Vec<i32>>,
    pub(super) rebalanced: AtomicBool,
    /// The group has given this member its assignment, which may be empty.
    pub(super) is_assigned: AtomicBool,
    pub(super) failed: Mutex<Option<String>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ConsumerEvents {
    /// No record of a partition comes before its start offset is known and its state is restored.
    fn closes_gates(&self) -> bool {
        self.commit == CommitMode::Store || self.restores
    }

    /// Elsewhere the start is the handler's to say, or a repetition is allowed.
    pub(super) fn checks_starts(&self) -> bool {
        self.commit.is_transactional()
    }

    fn fail(&self, reason: String) {
        lock(&self.failed).get_or_insert(reason);
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let elements = partitions.elements();
        let taken = || elements.iter().map(|element| element.partition());
        if let Some(gates) = &mut *lock(&self.gates) {
            // Where a store says where to go on, the client begins where Kafka says, and is sent on when the store has
            // answered. Not at a logical offset: the answer to its look-up, overtaken by that seek, would be asked for
            // again, and the partition sent there (librdkafka 2.12.1, `rd_kafka_toppar_handle_Offset`).
            for partition in taken() {
                match self.closes_gates() {
                    true => gates.close(consumer.client(), partition),
                    false => gates.route(consumer.client(), partition),
                }
            }
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
            _ => consumer.assign(partitions),
        };
        if let Err(error) = result {
            return self.fail(error.to_string());
        }
        lock(&self.assigned).extend(taken().map(|partition| (partition, AssignedPartition::new())));
        if self.checks_starts() {
            lock(&self.unchecked)
                .extend(taken().map(|partition| (partition, PendingCheck::default())));
        }
        match self.restores {
            true if !elements.is_empty() => self.status.awaits_state(),
            true => {}
            false => self.status.joined(),
        }
        self.is_assigned.store(true, Ordering::Release);
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let given_up: Vec<i32> = partitions
            .elements()
            .iter()
            .map(|e| e.partition())
            .collect();
        // What is done is committed before another begins there. Fails where nothing is kept.
        if !self.commit.is_transactional()
            && !consumer.assignment_lost()
            && let Err(error) = consumer.commit_consumer_state(Waiting::Sync)
        {
            tracing::debug!(%error, "no offsets committed at revocation");
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        };
        if let Err(error) = result {
            self.fail(error.to_string());
        }
        let mut gates = lock(&self.gates);
        let mut assigned = lock(&self.assigned);
        let mut unchecked = lock(&self.unchecked);
        for partition in &given_up {
            if let Some(gates) = &mut *gates {
                gates.forget(*partition);
            }
            assigned.remove(partition);
            unchecked.remove(partition);
            self.metrics.lag_gone(*partition);
        }
        lock(&self.revoked).extend(given_up);
    }
}

impl ClientContext for ConsumerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::log_error(&error, reason);
    }
}

impl ConsumerContext for ConsumerEvents {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assign = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let before = lock(&self.assigned).len();
        if assign {
            self.assign(consumer, partitions);
        } else {
            self.revoke(consumer, partitions);
        }
        let assigned = lock(&self.assigned).len();
        self.status.assigned(assigned);
        self.metrics
            .assigned
            .inc_by(assigned as i64 - before as i64);
        self.metrics.rebalances.inc();
        self.rebalanced.store(true, Ordering::Release);
        let (service, pipeline, lane) = (self.service, &self.pipeline, &self.lane);
        let partitions = partitions.count();
        if partitions == 0 {
            // Cooperative rebalances come in rows, and most of their calls change nothing.
            tracing::debug!(service, pipeline, lane, assigned, "rebalanced; no change");
            return;
        }
        let message = match assign {
            true => "partitions assigned",
            false => "partitions revoked",
        };
        tracing::info!(service, pipeline, lane, partitions, assigned, "{message}");
    }
}
