//! A lane's consumer: the group member, its assignment, and what a rebalance takes away.
//!
//! The lane settles every batch before it polls again, and librdkafka rebalances only inside `poll`: so at
//! the moment partitions are revoked nothing of them is in flight, and what was polled but not handled is
//! forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};

use quadrille_telemetry::StageMetrics;

use crate::{
    Span, StageConfig, client, native,
    stage::{LaneStatus, ResumeFn},
};

/// Of a partition; with that many in the queue no more are fetched.
const QUEUED_RECORDS_MIN: &str = "10000";

/// What the callbacks leave for the lane.
pub(crate) struct Events {
    topic: String,
    metrics: StageMetrics,
    status: Arc<LaneStatus>,
    resume: Option<Arc<ResumeFn>>,
    assigned: Mutex<BTreeSet<i32>>,
    revoked: Mutex<Vec<i32>>,
    rebalanced: AtomicBool,
    failed: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Events {
    fn fail(&self, reason: String) {
        lock(&self.failed).get_or_insert(reason);
    }

    /// Starts where the handler's own store says, for handlers that keep offsets themselves.
    fn resume(&self, partitions: &mut TopicPartitionList) -> Result<(), String> {
        let Some(resume) = &self.resume else {
            return Ok(());
        };
        let wanted: Vec<i32> = partitions
            .elements()
            .iter()
            .map(|e| e.partition())
            .collect();
        for (partition, next) in resume(&wanted)? {
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            partitions
                .set_partition_offset(&self.topic, partition, offset)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) {
        if let Err(reason) = self.resume(partitions) {
            return self.fail(reason);
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
            _ => consumer.assign(partitions),
        };
        if let Err(error) = result {
            return self.fail(error.to_string());
        }
        lock(&self.assigned).extend(partitions.elements().iter().map(|e| e.partition()));
        self.status.joined();
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let given_up: Vec<i32> = partitions
            .elements()
            .iter()
            .map(|e| e.partition())
            .collect();
        // At-least-once: what is done is committed before another begins there. Fails where nothing is kept.
        if !consumer.assignment_lost()
            && let Err(error) = consumer.commit_consumer_state(CommitMode::Sync)
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
        let mut assigned = lock(&self.assigned);
        for partition in &given_up {
            assigned.remove(partition);
            self.metrics.lag_gone(*partition);
        }
        lock(&self.revoked).extend(given_up);
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::report(&error, reason);
    }
}

impl ConsumerContext for Events {
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
    pub client: BaseConsumer<Events>,
    topic: String,
}

impl LaneConsumer {
    pub fn connect(
        config: &StageConfig,
        lane: usize,
        metrics: StageMetrics,
        status: Arc<LaneStatus>,
        resume: Option<Arc<ResumeFn>>,
    ) -> KafkaResult<Self> {
        let buffer = config.lane_buffer_bytes();
        let mut settings = config.cluster.client_config();
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
            .set("fetch.message.max.bytes", (buffer / 2).to_string())
            .set("fetch.max.bytes", (buffer / 2).max(1_000_000).to_string())
            .set("message.max.bytes", buffer.min(1_000_000).to_string())
            .set("queued.max.messages.kbytes", (buffer / 1024).to_string())
            // A queued record costs half a kilobyte besides its bytes, which the limit above does not see.
            .set("queued.min.messages", QUEUED_RECORDS_MIN)
            // The default second would be waited out each time the bounded queue is full.
            .set("fetch.queue.backoff.ms", "2");
        let defaults = [
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "500"),
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
        let events = Events {
            topic: config.input.clone(),
            metrics,
            status,
            resume,
            assigned: Mutex::default(),
            revoked: Mutex::default(),
            rebalanced: AtomicBool::new(false),
            failed: Mutex::default(),
        };
        let client: BaseConsumer<Events> = settings.create_with_context(events)?;
        client.subscribe(&[&config.input])?;
        Ok(LaneConsumer {
            client,
            topic: config.input.clone(),
        })
    }

    /// The partitions revoked since the last call, if a rebalance happened.
    pub fn rebalanced(&self) -> Option<Vec<i32>> {
        let events = self.client.context();
        events
            .rebalanced
            .swap(false, Ordering::AcqRel)
            .then(|| std::mem::take(&mut *lock(&events.revoked)))
    }

    /// Why the assignment could not be taken, if it could not.
    pub fn failed(&self) -> Option<String> {
        lock(&self.client.context().failed).take()
    }

    /// A list of next offsets.
    pub fn offsets(&self, spans: &[Span]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(spans.len());
        for span in spans {
            list.add_partition_offset(&self.topic, span.partition, Offset::Offset(span.next))?;
        }
        Ok(list)
    }

    /// Commits the position where it is beyond what was committed: past transaction markers and
    /// aborted records, which otherwise would stay as lag.
    pub fn commit_idle(&self, committed: &mut Vec<(i32, i64)>) -> KafkaResult<()> {
        let position = self.client.position()?;
        let mut now: Vec<(i32, i64)> = Vec::new();
        let mut list = TopicPartitionList::new();
        for element in position.elements() {
            if let Offset::Offset(offset) = element.offset() {
                now.push((element.partition(), offset));
                if !committed.contains(&(element.partition(), offset)) {
                    list.add_partition_offset(
                        &self.topic,
                        element.partition(),
                        Offset::Offset(offset),
                    )?;
                }
            }
        }
        if list.count() > 0 {
            self.client.commit(&list, CommitMode::Async)?;
        }
        *committed = now;
        Ok(())
    }

    /// Writes down what is left to read, from what the client knows already: its statistics say the
    /// same for 40 ms of all cores each time. `dry`: nothing is waiting in the client's queue.
    /// `handled`: of each partition the Kafka timestamp, in ms, of the last record handled.
    pub fn report_lag(&self, dry: bool, handled: &BTreeMap<i32, i64>) {
        let events = self.client.context();
        let (Ok(position), Ok(topic)) = (self.client.position(), CString::new(&*self.topic)) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        for element in position.elements() {
            let partition = element.partition();
            let end = native::known_end(self.client.client(), &topic, partition);
            let lag = match (end, element.offset()) {
                (Some(end), Offset::Offset(next)) => (end - next).max(0),
                // Fetched, and nothing came.
                (Some(_), _) if dry => 0,
                _ => continue,
            };
            let since = handled.get(&partition).filter(|_| lag > 0);
            let behind = since.map_or(0, |ms| now.saturating_sub(*ms).max(0));
            let behind = Duration::from_millis(behind.unsigned_abs());
            events.metrics.lag(partition, lag, behind);
        }
    }

    /// Stops fetching while the lane waits; polling goes on, so the group stays served.
    pub fn pause(&self) -> KafkaResult<()> {
        self.client.pause(&self.client.assignment()?)
    }

    pub fn resume(&self) -> KafkaResult<()> {
        self.client.resume(&self.client.assignment()?)
    }
}
