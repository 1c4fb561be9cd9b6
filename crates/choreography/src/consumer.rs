//! A lane's consumer: the group member, its assignment, and what a rebalance takes away.
//!
//! What is fetched reaches the lane through [`Gates`]: it holds all back while it tries a batch again, and keeps a
//! partition's closed until its handler's store has said where to go on.
//!
//! In librdkafka's callbacks partitions are assigned and given up, and nothing is asked that could fail: a consumer whose
//! assignment was not taken waits for that for ever, also while it is being closed.
//!
//! The lane settles every batch before it polls again, and librdkafka rebalances only inside `poll`: so at
//! the moment partitions are revoked nothing of them is in flight, and what was polled but not handled is
//! forgotten.
//!
//! librdkafka looks up where an assigned partition begins, and waits while its offset is being committed by
//! a transaction. But when the assignment changes meanwhile, it takes the unknown offset for none and reads
//! the partition from its start (2.12.1 and later). So before the first record of a partition is handled,
//! the lane asks for itself what is committed: [`LaneConsumer::check_starts`].

mod start_check;

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CStr, CString},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode as Waiting, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};

use quadrille_telemetry::StageMetrics;

use self::start_check::rules::ExpectedRecord;
use crate::{
    Cluster, CommitMode, StageConfig, StageIdentity,
    batch::{Batch, Position},
    client,
    config::RECEIVE,
    gates::{ClosedGate, Gates},
    native,
    status::LaneStatus,
};

/// Of a partition; with that many in the queue no more are fetched.
const QUEUED_RECORDS_MIN: &str = "10000";
/// How long a poll waits when there is nothing: bounds how late a stop is noticed, and the group's news.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The same while the group changes, where others wait for this member.
const REBALANCE_POLL_WAIT: Duration = Duration::from_millis(20);
/// The same while a store is asked where partitions go on.
const CLAIM_WAIT: Duration = Duration::from_millis(5);
/// How long the client may take to begin a seek; its main thread answers at once, unless it is gone.
const SEEK_WAIT: Duration = Duration::from_millis(500);
/// How long other partitions wait while a new one's offset is asked for.
const COMMITTED_WAIT: Duration = Duration::from_millis(500);
/// After that a partition held and not read counts as behind. An open transaction of a predecessor that was killed holds
/// its offset back for 20 s, with the broker's defaults.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// Between two lines of the log about partitions that are not read.
const UNREAD_LOG_EVERY: Duration = Duration::from_secs(60);
/// A change of the group seldom comes alone.
const REBALANCE_SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// What is known of a partition whose start is not checked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PendingCheck {
    /// What has to come.
    expected: Option<ExpectedRecord>,
    /// How often the client began before what is committed, although the log has it.
    early: u32,
    /// How often the client was sent to where the log begins to differ from what was handled.
    searches: u32,
    /// Since when.
    diverged_since: Option<Instant>,
    /// What its gate is closed for.
    cooldown: Option<Cooldown>,
}

/// A partition that is left alone before it is looked at again, and where it is sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cooldown {
    until: Instant,
    next: i64,
}

/// A partition, where it goes on, and the leader epoch of the last record before that, as far as they are known.
pub(crate) type StartOffset = (i32, Option<i64>, Option<i32>);

/// Begins the metadata committed beside an offset: the pipeline's generation follows.
const GENERATION: &str = "generation=";

/// A partition held.
#[derive(Debug, Clone, Copy)]
struct AssignedPartition {
    /// Since when the client has not known where its log ends: from the assignment to the first answer to a fetch, and
    /// again for a moment whenever its leader changes.
    unread_since: Instant,
    /// What this lane has committed of it last. Nobody else commits while it holds the partition.
    committed: Option<i64>,
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
    topic: String,
    /// None once the consumer is being closed.
    gates: Mutex<Option<Gates>>,
    metrics: StageMetrics,
    status: Arc<LaneStatus>,
    commit: CommitMode,
    /// The handler brings back a partition's state before its records come.
    restores: bool,
    /// Each partition held.
    assigned: Mutex<BTreeMap<i32, AssignedPartition>>,
    /// Assigned, and it is not known whether they begin where the group's offsets say.
    unchecked: Mutex<BTreeMap<i32, PendingCheck>>,
    revoked: Mutex<Vec<i32>>,
    rebalanced: AtomicBool,
    /// The group has given this member its share, be it nothing.
    is_assigned: AtomicBool,
    failed: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ConsumerEvents {
    /// Nothing comes of a partition before it is known where it goes on, or what was kept of it is back.
    fn closes_gates(&self) -> bool {
        self.commit == CommitMode::Store || self.restores
    }

    /// Elsewhere the start is the handler's to say, or a repetition is allowed.
    fn checks_starts(&self) -> bool {
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
        let after = lock(&self.assigned).len();
        self.status.assigned(after);
        self.metrics.assigned.inc_by(after as i64 - before as i64);
        self.metrics.rebalances.inc();
        self.rebalanced.store(true, Ordering::Release);
        tracing::info!(
            group_topic = self.topic,
            change = if assign { "assigned" } else { "revoked" },
            partitions = partitions.count(),
            held = after,
            "rebalanced"
        );
    }
}

/// One member of the stage's consumer group.
pub(crate) struct LaneConsumer {
    pub client: BaseConsumer<ConsumerEvents>,
    topic: String,
    is_holding: Cell<bool>,
    /// A store is being asked where partitions go on.
    pub is_claiming: Cell<bool>,
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
        let buffer = config.lane_buffer_bytes();
        let limits = config.fetch_limits(input_bytes_max);
        let mut settings = config.cluster.consumer_config();
        settings
            .set(
                "client.id",
                format!("{}-{}-{lane}", config.group, config.instance),
            )
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.message.max.bytes", limits.partition.to_string())
            .set("fetch.max.bytes", limits.fetch.to_string())
            .set("message.max.bytes", limits.message.to_string())
            .set(RECEIVE, limits.receive.to_string())
            .set("queued.max.messages.kbytes", (buffer / 1024).to_string())
            // A queued record costs half a kilobyte besides its bytes, which the limit above does not see.
            .set("queued.min.messages", QUEUED_RECORDS_MIN)
            // The default second would be waited out each time the bounded queue is full.
            .set("fetch.queue.backoff.ms", "2");
        let defaults = [
            // A new partition's offset is asked for again while its last transaction is being finished.
            ("retry.backoff.ms", "20"),
            ("retry.backoff.max.ms", "250"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "100"),
            // On the embedded broker a waiting fetch is not woken by new data.
            (
                "fetch.wait.max.ms",
                if config.cluster.embedded { "10" } else { "500" },
            ),
        ];
        for (key, value) in defaults {
            if !config.cluster.properties.contains_key(key) {
                settings.set(key, value);
            }
        }
        if config
            .cluster
            .properties
            .get("group.protocol")
            .is_some_and(|p| p == "consumer")
        {
            // With KIP-848 these are the broker's to set.
            for key in [
                "partition.assignment.strategy",
                "session.timeout.ms",
                "heartbeat.interval.ms",
            ] {
                settings.remove(key);
            }
        }
        let events = ConsumerEvents {
            topic: config.input.clone(),
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
        if self.is_claiming.get() {
            return CLAIM_WAIT;
        }
        match self.rebalanced_at.get().elapsed() < REBALANCE_SETTLES_WITHIN {
            true => REBALANCE_POLL_WAIT,
            false => IDLE_WAIT,
        }
    }

    /// To be called once a batch. The client looks after its group (heartbeats, and so the news that others wait, and
    /// joining) when something happens to it, and else once a second, whatever `heartbeat.interval.ms` says: a question
    /// to it is something that happens.
    pub fn serve_group(&self) {
        if self.group_served_at.get().elapsed() < REBALANCE_POLL_WAIT {
            return;
        }
        self.group_served_at.set(Instant::now());
        let generation = native::generation(self.client.client());
        if self.generation.replace(generation) != generation {
            // A rebalance that another one overtakes ends without a call of ours.
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

    /// The next rebalance, which often follows, is joined at once. The client joins once a second at most, and all
    /// members wait for the last one; an answer about topics makes it forget when that was. Nobody waits for the answer.
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

    /// A list to commit, from partitions and their next offsets.
    pub fn offset_list(&self, next: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        let generation = self.identity.as_ref().map_or(0, |it| it.generation());
        let mut list = TopicPartitionList::with_capacity(next.len());
        for (partition, next) in next {
            let mut element = list.add_partition(&self.topic, *partition);
            element.set_offset(Offset::Offset(*next))?;
            if generation > 0 {
                element.set_metadata(format!("{GENERATION}{generation}"));
            }
        }
        native::set_position_epochs(self.client.client(), &mut list);
        Ok(list)
    }

    /// Notes what this lane has committed.
    pub fn note_committed(&self, offsets: &TopicPartitionList) {
        let mut assigned = lock(&self.client.context().assigned);
        for element in offsets.elements() {
            if let (Offset::Offset(next), Some(held)) =
                (element.offset(), assigned.get_mut(&element.partition()))
            {
                held.committed = Some(next);
            }
        }
    }

    /// The offset that would be polled next of a partition, where something was polled since it was assigned or sought.
    pub fn position_of(&self, partition: i32) -> KafkaResult<Option<i64>> {
        let position = self.client.position()?;
        let element = position.find_partition(&self.topic, partition);
        Ok(match element.map(|element| element.offset()) {
            Some(Offset::Offset(next)) => Some(next),
            _ => None,
        })
    }

    /// What the group has committed of a partition, if anything.
    pub fn committed_offset_of(&self, partition: i32) -> KafkaResult<Option<i64>> {
        let all = self.committed_offsets_of(&[partition])?;
        Ok(all.first().and_then(|(_, next, _)| *next))
    }

    /// The same of several partitions, each with the leader epoch of its last record; of what this lane committed itself no coordinator may know less.
    pub fn committed_offsets_of(&self, partitions: &[i32]) -> KafkaResult<Vec<StartOffset>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let committed = self.client.committed_offsets(list, COMMITTED_WAIT)?;
        let topic = CString::new(&*self.topic)?;
        let assigned = lock(&self.client.context().assigned);
        let own = |partition: i32| assigned.get(&partition)?.committed;
        let one = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            element.error()?;
            let next = match element.offset() {
                Offset::Offset(next) => Some(next),
                _ => None,
            };
            let partition = element.partition();
            let epoch = native::committed_with(&committed, &topic, partition).0;
            Ok((partition, next.max(own(partition)), epoch))
        };
        committed.elements().iter().map(one).collect()
    }

    /// Which of these partitions the group has committed up to their offsets, or beyond.
    pub fn already_committed(&self, offsets: &TopicPartitionList) -> KafkaResult<Vec<(i32, i64)>> {
        let mut list = TopicPartitionList::with_capacity(offsets.count());
        for element in offsets.elements() {
            list.add_partition(&self.topic, element.partition());
        }
        let committed = self.client.committed_offsets(list, COMMITTED_WAIT)?;
        let mut found = Vec::new();
        for element in offsets.elements() {
            let partition = element.partition();
            let there = committed.find_partition(&self.topic, partition);
            let there = there.filter(|it| it.error().is_ok()).map(|it| it.offset());
            if let (Offset::Offset(next), Some(Offset::Offset(there))) = (element.offset(), there)
                && there >= next
            {
                found.push((partition, next));
            }
        }
        Ok(found)
    }

    /// Sends a partition elsewhere and waits until that is so.
    ///
    /// # Errors
    /// A rebalance has overtaken it.
    pub fn seek_to(&self, partition: i32, next: i64) -> KafkaResult<()> {
        self.client
            .seek(&self.topic, partition, Offset::Offset(next), SEEK_WAIT)
    }

    /// Where the client stands in each partition of which something was polled, and whose start is right.
    pub fn positions(&self) -> KafkaResult<Vec<Position>> {
        let unchecked = lock(&self.client.context().unchecked);
        let mut positions = self.all_positions()?;
        positions
            .retain(|it| !unchecked.contains_key(&it.partition) && !self.is_closed(it.partition));
        Ok(positions)
    }

    fn all_positions(&self) -> KafkaResult<Vec<Position>> {
        let list = self.client.position()?;
        let elements = list.elements().into_iter().zip(native::epochs(&list));
        let position = elements.filter_map(|(element, epoch)| match element.offset() {
            Offset::Offset(next) => Some(Position {
                partition: element.partition(),
                next,
                epoch,
            }),
            _ => None,
        });
        Ok(position.collect())
    }

    /// A list to commit positions.
    pub fn position_list(&self, positions: &[Position]) -> KafkaResult<TopicPartitionList> {
        let next: Vec<(i32, i64)> = positions.iter().map(|it| (it.partition, it.next)).collect();
        let mut list = self.offset_list(&next)?;
        // Of the same moment.
        native::set_epochs_by(&mut list, |partition| {
            let mut at = positions.iter();
            at.find(|it| it.partition == partition)?.epoch
        });
        Ok(list)
    }

    /// Writes down what is left to read, from what the client knows already: its statistics say the
    /// same for 40 ms of all cores each time. What is in the batch is not done yet; where that is empty, nothing waits in
    /// the client's queue either. `handled`: of each partition the Kafka timestamp, in ms, of the last record handled, or
    /// since when it has been held without any.
    pub fn report_lag(&self, batch: &Batch<'_>, handled: &mut BTreeMap<i32, i64>) {
        let events = self.client.context();
        let (Ok(position), Ok(topic)) = (self.client.position(), CString::new(&*self.topic)) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        let in_hand = batch.offset_ranges();
        for element in position.elements() {
            let partition = element.partition();
            if self.is_closed(partition) {
                continue;
            }
            let in_hand = in_hand.iter().find(|range| range.partition == partition);
            let next = match in_hand {
                Some(range) => Offset::Offset(range.first),
                None => element.offset(),
            };
            let end = native::cached_end(self.client.client(), &topic, partition);
            let lag = match (end, next) {
                (Some(end), Offset::Offset(next)) => (end - next).max(0),
                // Fetched, and nothing came.
                (Some(_), _) if batch.is_empty() => 0,
                _ => continue,
            };
            let since = *handled.entry(partition).or_insert(now);
            let behind = match lag {
                0 => 0,
                _ => now.saturating_sub(since).max(0),
            };
            let behind = Duration::from_millis(behind.unsigned_abs());
            events.metrics.lag(partition, lag, behind);
        }
        self.report_unread(&topic);
    }

    /// Counts what is held for long and was never fetched as behind, for it has no lag: the client waits without limit,
    /// and without a word, for an offset that a transaction is committing.
    fn report_unread(&self, topic: &CStr) {
        let events = self.client.context();
        let mut unread = Vec::new();
        for (partition, held) in &mut *lock(&events.assigned) {
            if native::cached_end(self.client.client(), topic, *partition).is_some() {
                held.unread_since = Instant::now();
                continue;
            }
            let waits = held.unread_since.elapsed();
            if waits > UNREAD_MAX {
                events.metrics.behind(*partition, waits);
                unread.push(*partition);
            }
        }
        if unread.is_empty() {
            return self.unread_logged_at.set(None);
        }
        let logged_at = self.unread_logged_at.get();
        if logged_at.is_none_or(|at| at.elapsed() >= UNREAD_LOG_EVERY) {
            self.unread_logged_at.set(Some(Instant::now()));
            tracing::warn!(
                topic = self.topic,
                partitions = ?unread,
                "partitions held, but not read: Kafka does not answer for them, or a transaction that never ended holds back where they go on; see docs/runbooks/QuadrilleConsumerStuck.md"
            );
        }
    }

    /// Records fetched that were not polled yet.
    pub fn queued(&self) -> usize {
        native::queue_length(self.client.client())
    }

    /// Leads every partition through its gate again: the client forgets that when it stops one, and could do so
    /// late. To be called now and then.
    pub fn reroute(&self) {
        let events = self.client.context();
        self.with_gates(|gates| {
            for partition in lock(&events.assigned).keys() {
                gates.route(self.client.client(), *partition);
            }
        });
    }

    /// Keeps back what is fetched from now on; polling goes on, so the group stays served.
    pub fn hold(&self) {
        if !self.is_holding.replace(true) {
            self.with_gates(|gates| gates.hold());
        }
    }

    /// Lets through what was kept back.
    pub fn release(&self) {
        if self.is_holding.replace(false) {
            self.with_gates(|gates| gates.release(self.client.client()));
        }
    }

    /// The partitions whose gates are closed: it is to be found out where they go on.
    pub fn closed(&self) -> Vec<ClosedGate> {
        self.with_gates(|gates| gates.closed().collect())
            .unwrap_or_default()
    }

    /// As [`LaneConsumer::closed`], but for those that rest and are sent on by themselves.
    pub fn closed_unclaimed(&self) -> Vec<ClosedGate> {
        let unchecked = lock(&self.client.context().unchecked);
        let cools_down = |gate: &ClosedGate| {
            let check = unchecked.get(&gate.partition);
            check.is_some_and(|check| check.cooldown.is_some())
        };
        let mut closed = self.closed();
        closed.retain(|gate| !cools_down(gate));
        closed
    }

    /// Takes from the batch what came while a gate was being opened that is closed still: a seek that is not answered in
    /// time lets records pass.
    pub fn forget_closed(&self, batch: &mut Batch<'_>) {
        let closed = self.closed();
        let in_batch = |partition: i32| batch.partitions().any(|it| it == partition);
        let closed: Vec<i32> = closed
            .iter()
            .map(|gate| gate.partition)
            .filter(|partition| in_batch(*partition))
            .collect();
        if !closed.is_empty() {
            batch.forget(&closed);
        }
    }

    /// To be called when no gate is closed: all that this member was given is open. Nothing is its share only once that has
    /// lasted: a member that joins is given partitions after others have given them up.
    pub fn report_restored(&self) {
        let events = self.client.context();
        let is_empty = lock(&events.assigned).is_empty();
        let is_settled =
            !is_empty || self.rebalanced_at.get().elapsed() >= REBALANCE_SETTLES_WITHIN;
        if events.restores && events.is_assigned.load(Ordering::Acquire) && is_settled {
            events.status.restored_all();
        }
    }

    pub fn is_closed(&self, partition: i32) -> bool {
        self.with_gates(|gates| gates.is_closed(partition)) == Some(true)
    }

    /// Opens a gate at an offset. False where the partition was given up meanwhile.
    pub fn open(&self, gate: ClosedGate, at: Offset, epoch: Option<i32>) -> KafkaResult<bool> {
        let client = self.client.client();
        // Waited for: the client drops a seek that a rebalance overtakes, and one of a partition it does not read yet.
        // With the epoch that was committed: the client finds out by it whether the log was cut and has grown again.
        let seek = || native::seek(client, &self.topic, (gate.partition, at), epoch, SEEK_WAIT);
        self.with_gates(|gates| gates.open(client, gate, seek))
            .unwrap_or(Ok(false))
    }

    /// Closes a partition's gate: it is to be opened anew.
    pub fn close(&self, partition: i32) {
        self.with_gates(|gates| gates.close(self.client.client(), partition));
    }

    /// Where a partition's log begins and where it ends, for a reader of what is committed; None without an answer.
    pub fn watermarks(&self, partition: i32) -> Option<(i64, i64)> {
        let range = match &self.identity {
            Some(identity) => identity.client(&self.cluster).and_then(|metadata_client| {
                metadata_client.fetch_watermarks(&self.topic, partition, COMMITTED_WAIT)
            }),
            None => (self.client).fetch_watermarks(&self.topic, partition, COMMITTED_WAIT),
        };
        range.ok().filter(|(begin, end)| (0..=*end).contains(begin))
    }

    /// Counts records that the log lost after they were handled.
    pub fn count_lost(&self, records: i64) {
        let metrics = &self.client.context().metrics;
        metrics.lost("truncated", records.unsigned_abs());
    }

    fn with_gates<T>(&self, then: impl FnOnce(&mut Gates) -> T) -> Option<T> {
        lock(&self.client.context().gates).as_mut().map(then)
    }
}

impl Drop for LaneConsumer {
    fn drop(&mut self) {
        // Their queues must not outlive the client, which owns these events.
        *lock(&self.client.context().gates) = None;
    }
}
