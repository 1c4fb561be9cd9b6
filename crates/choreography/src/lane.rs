//! A lane: one thread, one group member, one producer, at most one open transaction.
//!
//! It polls a batch, lets the handler decide it, sends outputs and dead letters, and commits them with
//! the offsets, all before it polls again. Batches adapt by themselves: while one is being committed the
//! next one gathers in the client's queue.

mod send;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use quadrille_telemetry::{StageMetrics, Tracing, metrics::Committed};
use rdkafka::{
    Message, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use crate::{
    Backoff, Cause, Delivery, Failure, Handler, Headers, Incoming, StageConfig,
    admin::StageTopics,
    batch::Batch,
    consumer::LaneConsumer,
    judge::{Decision, Judge},
    producer::{LaneProducer, Undelivered},
    spans::{Settling, Spans},
    stage::{LaneStatus, ResumeFn, Stop},
};

/// How long a poll waits when there is nothing: bounds how late a stop is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// How often the position is committed when nothing comes.
const IDLE_COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often offsets are committed without a transaction: bounds what a killed process repeats.
const OFFSETS_EVERY: Duration = Duration::from_millis(1000);
/// A busy lane rests for this many times the duration of its last commit before it commits again.
const LINGER_PER_COMMIT: u32 = 2;
/// And for this long at least: batches of one record would keep a core busy.
const LINGER_MIN: Duration = Duration::from_millis(2);
/// How often what is left to read is written down.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// How often a lane says that records were dead-lettered.
const DEAD_SAID_EVERY: Duration = Duration::from_secs(1);
/// Consecutive failed commits of one batch before the lane closes its clients and begins again.
const FAILED_COMMITS_MAX: u32 = 8;
/// Restarts because another client took the transactional id, before the service gives up.
const FENCED_MAX: u32 = 5;
pub(crate) struct LaneOptions {
    pub config: Arc<StageConfig>,
    pub index: usize,
    pub topics: StageTopics,
    pub metrics: StageMetrics,
    pub tracing: Tracing,
    pub status: Arc<LaneStatus>,
    pub stop: Arc<Stop>,
    pub resume: Option<Arc<ResumeFn>>,
}

/// Why a session with one pair of clients ended.
enum End {
    Drained,
    /// Close the clients, begin again from the committed offsets.
    Restart {
        reason: String,
        fenced: bool,
    },
    Fatal(Cause),
}

impl End {
    fn restart(reason: impl ToString) -> Self {
        End::Restart {
            reason: reason.to_string(),
            fenced: false,
        }
    }
}

/// What became of a batch.
enum Settled {
    Committed,
    /// Nothing of it is visible; to be handled again after a wait.
    Again(Duration),
}

/// Why a transaction, or its equivalent, did not commit.
enum Unsettled {
    /// Aborted; the batch may be tried again.
    Aborted(String),
    End(End),
}

pub(crate) struct Lane<H: Handler> {
    config: Arc<StageConfig>,
    index: usize,
    topics: StageTopics,
    metrics: StageMetrics,
    status: Arc<LaneStatus>,
    stop: Arc<Stop>,
    resume: Option<Arc<ResumeFn>>,
    handler: H,
    judge: Judge<H::Record>,
    spans: Spans,
    dlq_topic: String,
    task: String,
    /// Attempts of the batch in hand.
    attempts: Backoff,
    failed_commits: u32,
    /// Records the broker would not take, by partition and offset.
    refused: HashMap<(i32, i64), Cause>,
    /// Of each partition the timestamp, in ms, of the last record committed.
    handled: BTreeMap<i32, i64>,
    last_commit: Instant,
    /// Dead letters not told of yet, and when the last were.
    dead_letters: u64,
    dead_said_at: Option<Instant>,
    /// How long the last batch's sends and commit took.
    commit_took: Duration,
    /// Of each partition the position last committed without a record.
    idle: BTreeMap<i32, i64>,
    /// At-least-once: the client holds offsets that are not committed; when it last committed some.
    offsets_kept: bool,
    offsets_at: Instant,
}

impl<H: Handler> Lane<H> {
    pub fn new(options: LaneOptions, handler: H) -> Self {
        let LaneOptions {
            config,
            index,
            topics,
            metrics,
            tracing,
            status,
            stop,
            resume,
        } = options;
        let spans = Spans::new(tracing, &config, index);
        let attempts = Backoff::new(config.limits.retry_first, config.limits.retry_max);
        Lane {
            dlq_topic: quadrille_proto::dlq_of(&config.input),
            task: format!("{}-{index}", config.instance),
            config,
            index,
            topics,
            metrics,
            status,
            stop,
            resume,
            handler,
            judge: Judge::default(),
            spans,
            attempts,
            failed_commits: 0,
            refused: HashMap::new(),
            handled: BTreeMap::new(),
            last_commit: Instant::now(),
            dead_letters: 0,
            dead_said_at: None,
            commit_took: Duration::ZERO,
            idle: BTreeMap::new(),
            offsets_kept: false,
            offsets_at: Instant::now(),
        }
    }

    /// Runs until asked to stop, through as many pairs of clients as it takes.
    pub fn run(mut self) -> Result<(), Cause> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut fenced_times = 0;
        loop {
            let started = Instant::now();
            let end = match self.session() {
                Ok(never) => never,
                Err(end) => end,
            };
            self.status.left();
            match end {
                End::Drained => return Ok(()),
                End::Fatal(cause) => return Err(cause),
                End::Restart { reason, fenced } => {
                    if self.stop.requested() {
                        return Ok(());
                    }
                    self.metrics.lane_restarts.inc();
                    if started.elapsed() > Duration::from_secs(30) {
                        backoff.reset();
                        fenced_times = 0;
                    }
                    fenced_times += u32::from(fenced);
                    if fenced_times >= FENCED_MAX {
                        return Err(self.fenced_for_good());
                    }
                    let wait = backoff.next_wait();
                    tracing::warn!(lane = self.task, reason, ?wait, "lane begins again");
                    self.stop.sleep(wait);
                }
            }
        }
    }

    fn fenced_for_good(&self) -> Cause {
        let message = format!(
            "another client uses the transactional id of instance {:?}; give each replica its own QUADRILLE_INSTANCE",
            self.config.instance
        );
        Cause {
            class: "fenced",
            message,
        }
    }

    /// One life of the lane's clients. Returns only by an [`End`].
    fn session(&mut self) -> Result<End, End> {
        let limits = (
            self.topics.message_bytes_max(),
            self.topics.batch_bytes_max(),
        );
        let producer = LaneProducer::connect(&self.config, self.index, limits.0, limits.1)
            .map_err(End::restart)?;
        if self.config.delivery == Delivery::ExactlyOnce {
            self.init_transactions(&producer)?;
        }
        let consumer = LaneConsumer::connect(
            &self.config,
            self.index,
            self.metrics.clone(),
            Arc::clone(&self.status),
            self.resume.clone(),
        )
        .map_err(End::restart)?;
        let result = self.turn(&producer, &consumer);
        // What the group was assigned is given up with the consumer.
        let held = consumer
            .client
            .assignment()
            .map_or(0, |assignment| assignment.count());
        tracing::debug!(lane = self.task, held, "session ends");
        drop(consumer);
        result
    }

    /// Ends a predecessor's open transaction; waits for the broker if it must.
    fn init_transactions(&self, producer: &LaneProducer) -> Result<(), End> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            self.status.progress();
            if self.stop.requested() {
                return Err(End::Drained);
            }
            let error = match producer.init_transactions(Duration::from_secs(5)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                KafkaError::Transaction(detail) if detail.is_retriable() => {
                    tracing::warn!(lane = self.task, %error, "waiting for the transaction coordinator");
                    self.stop.sleep(backoff.next_wait());
                }
                _ => return Err(restart_of(&error)),
            }
        }
    }

    /// Batch after batch.
    fn turn(&mut self, producer: &LaneProducer, consumer: &LaneConsumer) -> Result<End, End> {
        let mut batch = Batch::new();
        let mut idle_since = Instant::now();
        let mut lag_at = Instant::now();
        self.fresh();
        loop {
            self.status.progress();
            if self.stop.requested() {
                drop(batch);
                self.drain(consumer);
                return Ok(End::Drained);
            }
            self.collect(consumer, &mut batch)?;
            consumer.check_starts(&mut batch).map_err(End::restart)?;
            if lag_at.elapsed() >= LAG_EVERY {
                lag_at = Instant::now();
                consumer.report_lag(batch.is_empty(), &self.handled);
                self.metrics.queue(self.index, consumer.queued());
            }
            if batch.is_empty() {
                self.commit_kept(consumer);
                if idle_since.elapsed() >= IDLE_COMMIT_EVERY {
                    idle_since = Instant::now();
                    self.commit_idle(producer, consumer)?;
                }
                continue;
            }
            idle_since = Instant::now();
            match self.settle(producer, consumer, &mut batch)? {
                Settled::Committed => {
                    let held = self.status.held();
                    batch.last_timestamps(held, &mut self.handled);
                    batch.clear();
                    self.fresh();
                }
                Settled::Again(wait) => self.wait(consumer, &mut batch, wait)?,
            }
        }
    }

    fn fresh(&mut self) {
        self.attempts.reset();
        self.failed_commits = 0;
        self.refused.clear();
        self.last_commit = Instant::now();
    }

    /// Offsets committed without waiting are confirmed before the group is left.
    fn drain(&self, consumer: &LaneConsumer) {
        if self.config.delivery == Delivery::AtLeastOnce
            && let Err(error) = consumer.client.commit_consumer_state(CommitMode::Sync)
        {
            // Nothing stored since the last commit is the usual reason.
            tracing::debug!(%error, "no offsets to commit");
        }
    }

    /// Polls until the batch is full or the queue is dry; waits for a first record, not for a second,
    /// unless the lane committed just now.
    fn collect<'c>(&self, consumer: &'c LaneConsumer, batch: &mut Batch<'c>) -> Result<(), End> {
        let mut wait = IDLE_WAIT;
        let mut lingered = false;
        loop {
            match consumer.client.poll(wait) {
                Some(Ok(message)) => {
                    batch.push(message);
                    if self.is_full(batch) {
                        break;
                    }
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => self.poll_error(&error)?,
                None => {
                    self.after_rebalance(consumer, batch)?;
                    if batch.is_empty() {
                        break;
                    }
                    let linger = self.linger().saturating_sub(self.last_commit.elapsed());
                    if lingered || linger.is_zero() {
                        break;
                    }
                    // Commits of a busy lane are at least this far apart; records gather meanwhile.
                    self.stop.sleep(linger);
                    lingered = true;
                }
            }
        }
        batch.polled_at = Instant::now();
        Ok(())
    }

    /// In proportion to what a commit takes now: where brokers or cores are busy, fewer and larger
    /// transactions answer sooner than many small ones that wait for each other.
    fn linger(&self) -> Duration {
        (self.commit_took * LINGER_PER_COMMIT)
            .max(LINGER_MIN)
            .min(self.config.limits.linger_max)
    }

    fn is_full(&self, batch: &Batch<'_>) -> bool {
        let limits = &self.config.limits;
        let bytes_max = limits.batch_bytes_max.min(self.config.lane_buffer_bytes());
        batch.len() >= limits.batch_records_max || batch.bytes >= bytes_max
    }

    fn poll_error(&self, error: &KafkaError) -> Result<(), End> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(End::restart(error)),
            _ => {
                tracing::warn!(lane = self.task, %error, "poll failed; the client goes on");
                self.stop.sleep(Duration::from_millis(50));
                Ok(())
            }
        }
    }

    fn after_rebalance(&self, consumer: &LaneConsumer, batch: &mut Batch<'_>) -> Result<(), End> {
        if let Some(revoked) = consumer.rebalanced() {
            batch.forget(&revoked);
        }
        match consumer.failed() {
            Some(reason) => Err(End::restart(format!("assignment not taken: {reason}"))),
            None => Ok(()),
        }
    }

    /// Waits while the group stays served: nothing is fetched, rebalances take their partitions away.
    fn wait<'c>(
        &self,
        consumer: &'c LaneConsumer,
        batch: &mut Batch<'c>,
        wait: Duration,
    ) -> Result<(), End> {
        consumer.pause().map_err(End::restart)?;
        let until = Instant::now() + wait;
        loop {
            self.status.progress();
            let left = until.saturating_duration_since(Instant::now());
            match consumer.client.poll(left.min(IDLE_WAIT)) {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => self.poll_error(&error)?,
                None => self.after_rebalance(consumer, batch)?,
            }
            if left.is_zero() || self.stop.requested() || batch.is_empty() {
                break;
            }
        }
        consumer.resume().map_err(End::restart)
    }

    /// Decides the batch, then makes the decisions durable.
    fn settle(
        &mut self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<Settled, End> {
        let started = Instant::now();
        let config = Arc::clone(&self.config);
        let topic = config.input.as_str();
        let incoming: Vec<Incoming<'_>> = batch
            .messages
            .iter()
            .map(|message| incoming(message, topic, batch.polled_at))
            .collect();
        self.spans.open(&incoming, batch.first_at, batch.polled_at);
        if let Err(cause) = self.judge.decide(&mut self.handler, &incoming) {
            self.spans.undone(cause.class, &cause.message);
            return Err(End::Fatal(cause));
        }
        self.spans
            .failures(&incoming, batch.polled_at, self.judge.failures());
        let attempt = self.attempts.attempts() + 1;
        let last_attempt = attempt >= self.config.limits.attempts_max;
        if self.judge.wants_retry() && !last_attempt {
            self.metrics.retries.inc();
            self.spans
                .undone("retry", "a record of the batch is to be tried again");
            return Ok(Settled::Again(self.attempts.next_wait()));
        }
        let process = started.elapsed();
        let trace = self.spans.example();
        let failed = self.judge.failures().next();
        let failed = failed.map(|(index, _)| (index, self.spans.context(index)));
        let result = self.deliver(producer, consumer, &incoming, batch, attempt);
        match &result {
            Ok(_) => {}
            Err(Unsettled::Aborted(reason)) => self.spans.undone("aborted", reason),
            Err(Unsettled::End(_)) => self.spans.undone("lane_restart", "the lane begins again"),
        }
        match result {
            Ok(sent) => {
                self.commit_took = started.elapsed().saturating_sub(process);
                let dead = self.judge.count(&self.metrics);
                self.tell_dead(&incoming, dead, failed);
                let ages = Ages::of(&incoming, config.latency_objective);
                self.metrics.committed(&Committed {
                    records: batch.len(),
                    bytes: batch.bytes,
                    sent,
                    process,
                    commit: self.commit_took,
                    age: ages.oldest,
                    late: ages.late,
                    trace,
                });
                Ok(Settled::Committed)
            }
            Err(Unsettled::Aborted(reason)) => {
                self.metrics.aborts.inc();
                self.failed_commits += 1;
                if self.failed_commits >= FAILED_COMMITS_MAX && self.handler.store().is_none() {
                    return Err(End::restart(reason));
                }
                let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
                let wait = (0..self.failed_commits.min(10))
                    .map(|_| backoff.next_wait())
                    .last();
                tracing::warn!(
                    lane = self.task,
                    reason,
                    ?wait,
                    "batch not committed; it is handled again"
                );
                Ok(Settled::Again(wait.unwrap_or_default()))
            }
            Err(Unsettled::End(end)) => Err(end),
        }
    }

    /// Says of dead letters what came of the first one, at most once a second: a storm of them is counted
    /// by the metrics.
    fn tell_dead(
        &mut self,
        incoming: &[Incoming<'_>],
        dead: u64,
        failed: Option<(usize, Option<SpanContext>)>,
    ) {
        self.dead_letters += dead;
        let said = self.dead_said_at;
        let Some((index, trace)) = failed else {
            return;
        };
        let Decision::Dead { cause, .. } = self.judge.decision(index) else {
            return;
        };
        if said.is_some_and(|said| said.elapsed() < DEAD_SAID_EVERY) {
            return;
        }
        let record = &incoming[index];
        let count = std::mem::take(&mut self.dead_letters);
        self.dead_said_at = Some(Instant::now());
        let trace_id = trace.as_ref().map(|trace| trace.trace_id().to_string());
        // So that the line belongs to the trace where logs are exported.
        let context = Context::new().with_remote_span_context(trace.unwrap_or(SpanContext::NONE));
        let _current = context.attach();
        tracing::warn!(
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            reason = cause.class,
            trace_id,
            count,
            "dead-lettered: {}",
            cause.message
        );
    }

    /// Sends all, then commits; returns how many records were sent.
    fn deliver(
        &mut self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        incoming: &[Incoming<'_>],
        batch: &Batch<'_>,
        attempt: u32,
    ) -> Result<usize, Unsettled> {
        let transactional = self.config.delivery == Delivery::ExactlyOnce;
        if transactional {
            producer
                .begin()
                .map_err(|error| Unsettled::End(restart_of(&error)))?;
        }
        let sent = self.send_all(producer, incoming, attempt);
        let sent = match sent.and_then(|sent| confirmed(producer).map(|()| sent)) {
            Ok(sent) => sent,
            Err(undelivered) => {
                self.refuse_if_too_large(&undelivered, incoming);
                let reason = undelivered.reason;
                return Err(match transactional {
                    true => self.abort(producer, reason),
                    false => Unsettled::Aborted(reason),
                });
            }
        };
        self.spans.delivered();
        let settling = Instant::now();
        let mut store_span = None;
        let spans = batch.spans();
        let next: Vec<(i32, i64)> = spans.iter().map(|s| (s.partition, s.next)).collect();
        let offsets = consumer
            .offsets(&next)
            .map_err(|e| Unsettled::End(End::restart(e)))?;
        if transactional {
            self.commit_transaction(producer, consumer, &offsets)?;
        } else {
            if let Some(store) = self.handler.store() {
                store.commit(&spans).map_err(store_failure)?;
                store_span = store.describe();
            }
            self.keep_offsets(consumer, &offsets);
        }
        let settling = Settling {
            start: settling,
            end: Instant::now(),
            store: store_span,
        };
        self.spans.settled(incoming, self.judge.steps(), &settling);
        Ok(sent)
    }

    /// Ends the open transaction, and these offsets with it.
    fn commit_transaction(
        &self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        offsets: &TopicPartitionList,
    ) -> Result<(), Unsettled> {
        let group = consumer
            .client
            .group_metadata()
            .ok_or_else(|| Unsettled::End(End::restart("no group metadata")))?;
        self.in_transaction(producer, || producer.send_offsets(offsets, &group))?;
        self.in_transaction(producer, || producer.commit())
    }

    /// Commits where the lane stands when nothing comes: past transaction markers, which otherwise would
    /// stay as lag. Exactly once by a transaction too: a commit of the consumer's own could arrive after
    /// the next transaction's and take the offset back.
    fn commit_idle(&mut self, producer: &LaneProducer, consumer: &LaneConsumer) -> Result<(), End> {
        let positions = consumer.positions().map_err(End::restart)?;
        let news: Vec<(i32, i64)> = positions
            .into_iter()
            .filter(|(partition, next)| self.idle.get(partition) != Some(next))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        let offsets = consumer.offsets(&news).map_err(End::restart)?;
        let result = match self.config.delivery {
            Delivery::ExactlyOnce => producer
                .begin()
                .map_err(|error| Unsettled::End(restart_of(&error)))
                .and_then(|()| self.commit_transaction(producer, consumer, &offsets)),
            Delivery::AtLeastOnce => {
                let commit = consumer.client.commit(&offsets, CommitMode::Async);
                commit.map_err(|error| Unsettled::Aborted(error.to_string()))
            }
        };
        match result {
            Ok(()) => self.idle.extend(news),
            Err(Unsettled::Aborted(reason)) => {
                tracing::debug!(lane = self.task, reason, "idle position not committed");
            }
            Err(Unsettled::End(end)) => return Err(end),
        }
        Ok(())
    }

    /// At-least-once: the client keeps the offsets and commits them now and then. A request for each batch
    /// would pile up where the coordinator is slower than the lane, and heartbeats wait behind them.
    fn keep_offsets(&mut self, consumer: &LaneConsumer, offsets: &TopicPartitionList) {
        match consumer.client.store_offsets(offsets) {
            Ok(()) => self.offsets_kept = true,
            Err(error) => tracing::debug!(%error, "offsets not kept"),
        }
        if self.offsets_at.elapsed() >= OFFSETS_EVERY {
            self.commit_kept(consumer);
        }
    }

    /// Not waited for: a later commit includes it, and a redelivery is harmless.
    fn commit_kept(&mut self, consumer: &LaneConsumer) {
        if std::mem::take(&mut self.offsets_kept) {
            self.offsets_at = Instant::now();
            if let Err(error) = consumer.client.commit_consumer_state(CommitMode::Async) {
                tracing::debug!(%error, "offsets not committed");
            }
        }
    }

    /// Repeats a transaction's call while its error says that this may help.
    fn in_transaction(
        &self,
        producer: &LaneProducer,
        call: impl Fn() -> Result<(), KafkaError>,
    ) -> Result<(), Unsettled> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let error = match call() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.status.progress();
            match &error {
                KafkaError::Transaction(detail) if detail.txn_requires_abort() => {
                    return Err(self.abort(producer, error.to_string()));
                }
                KafkaError::Transaction(detail)
                    if detail.is_retriable() && backoff.attempts() < 5 =>
                {
                    self.stop.sleep(backoff.next_wait());
                }
                _ => return Err(Unsettled::End(restart_of(&error))),
            }
        }
    }

    fn abort(&self, producer: &LaneProducer, reason: String) -> Unsettled {
        match producer.abort() {
            Ok(()) => Unsettled::Aborted(reason),
            Err(error) => Unsettled::End(match restart_of(&error) {
                End::Restart {
                    reason: cause,
                    fenced,
                } => End::Restart {
                    reason: format!("{reason}; abort failed: {cause}"),
                    fenced,
                },
                end => end,
            }),
        }
    }
}

/// Waits for Kafka's confirmations.
fn confirmed(producer: &LaneProducer) -> Result<(), Undelivered> {
    producer.wait_delivered().map_err(|failure| Undelivered {
        reason: match &failure {
            Some(failure) => failure.error.to_string(),
            None => "Kafka did not confirm in time".to_owned(),
        },
        failure,
    })
}

fn incoming<'a>(
    message: &'a BorrowedMessage<'_>,
    topic: &'a str,
    polled_at: Instant,
) -> Incoming<'a> {
    Incoming {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        payload: message.payload(),
        timestamp_ms: message.timestamp().to_millis(),
        headers: Headers(message.headers()),
        polled_at,
    }
}

/// How long ago the records of a batch were produced.
struct Ages {
    oldest: Option<Duration>,
    /// Records older than the objective.
    late: usize,
}

impl Ages {
    fn of(incoming: &[Incoming<'_>], objective: Option<Duration>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        let in_time = objective.map_or(i64::MIN, |objective| now - objective.as_millis() as i64);
        let (mut oldest, mut late) = (i64::MAX, 0);
        for produced in incoming.iter().filter_map(|record| record.timestamp_ms) {
            oldest = oldest.min(produced);
            late += usize::from(produced < in_time);
        }
        let oldest = (oldest != i64::MAX).then(|| now.saturating_sub(oldest).max(0));
        Ages {
            oldest: oldest.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            late,
        }
    }
}

fn restart_of(error: &KafkaError) -> End {
    let fenced = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
                | RDKafkaErrorCode::Fenced
        )
    );
    End::Restart {
        reason: error.to_string(),
        fenced,
    }
}

fn store_failure(failure: Failure) -> Unsettled {
    match failure {
        Failure::Retry(cause) => Unsettled::Aborted(cause.to_string()),
        Failure::DeadLetter(cause) => Unsettled::End(End::restart(cause)),
        Failure::Fatal(cause) => Unsettled::End(End::Fatal(cause)),
    }
}
