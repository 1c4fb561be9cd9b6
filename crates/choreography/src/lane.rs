//! A lane: one thread, one group member, one producer, at most one open transaction.
//!
//! It polls a batch, lets the handler decide it, sends outputs and dead letters, and commits them with
//! the offsets, all before it polls again. Batches adapt by themselves: while one is being committed the
//! next one gathers in the client's queue.

mod ages;
mod claims;
mod commit;
mod dead_letter_log;
mod known_records;
mod send;
mod unreadable;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::TraceId;
use quadrille_telemetry::{StageMetrics, Tracing, metrics::Committed};
use rdkafka::{Message, consumer::Consumer, error::KafkaError, message::BorrowedMessage};

use self::{
    ages::Ages, claims::Claims, commit::CommitError, dead_letter_log::DeadLetterLog,
    known_records::KnownRecords, send::Suspects, unreadable::ReadErrors,
};
use crate::{
    Backoff, Cause, CommitMode, Handler, Headers, Incoming, StageConfig,
    admin::StageTopics,
    batch::Batch,
    consumer::LaneConsumer,
    decisions::Decisions,
    producer::LaneProducer,
    spans::Spans,
    status::{LaneStatus, Stop},
    unreadable::is_suspect,
};

/// How often a handler that cannot work yet is asked again.
const READY_EVERY: Duration = Duration::from_millis(10);
/// How often the handler hears that time passes.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// How often the position is committed when nothing comes.
const IDLE_COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A busy lane rests for this many times the usual duration of its commits before it commits again.
const LINGER_PER_COMMIT: u32 = 2;
/// Commits over which that duration is smoothed.
const SMOOTHING: u32 = 8;
/// And for this long at least: batches of one record would keep a core busy.
const LINGER_MIN: Duration = Duration::from_millis(2);
/// How often what is left to read is written down.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Consecutive failed commits of one batch before the lane closes its clients and begins again.
const FAILED_COMMITS_MAX: u32 = 8;
const NOT_COMMITTED: &str = "batch not committed; it is handled again";
const TRUNCATED: &str =
    "dead letters without the original's bytes were sent: no letter could hold them";
/// After a poll that failed.
const POLL_FAILED: Duration = Duration::from_millis(50);
/// Between two lines of the log about polls that fail: while Kafka is away they do twenty times a second.
const POLL_FAILED_LOG_EVERY: Duration = Duration::from_secs(10);
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
}

/// Why a session with one pair of clients ended.
enum SessionEnd {
    Drained,
    /// Close the clients, begin again from the committed offsets.
    Restart {
        reason: String,
        fenced: bool,
    },
    Fatal(Cause),
}

impl SessionEnd {
    fn restart(reason: impl ToString) -> Self {
        SessionEnd::Restart {
            reason: reason.to_string(),
            fenced: false,
        }
    }

    /// A failed call of the producer.
    fn of(error: &KafkaError, producer: &LaneProducer) -> Self {
        SessionEnd::Restart {
            reason: error.to_string(),
            fenced: producer.is_fenced_by_other(error),
        }
    }
}

/// What became of a batch.
enum BatchResult {
    Committed,
    /// Nothing of it is visible; to be handled again after a wait.
    Retry(Duration),
}

pub(crate) struct Lane<H: Handler> {
    config: Arc<StageConfig>,
    index: usize,
    topics: StageTopics,
    metrics: StageMetrics,
    status: Arc<LaneStatus>,
    stop: Arc<Stop>,
    handler: H,
    decisions: Decisions<H::Record>,
    spans: Spans,
    dlq_topic: String,
    task: String,
    /// Attempts of the batch in hand.
    attempts: Backoff,
    failed_commits: u32,
    /// Of the batch in hand.
    known: KnownRecords,
    /// Of the last attempt.
    extras_dropped: u64,
    /// Of the last attempt.
    letters_truncated: u64,
    /// Of the batch in hand.
    suspects: Suspects,
    read_errors: ReadErrors,
    /// Of each partition the timestamp, in ms, of the last record committed, or since when it is held without any.
    handled: BTreeMap<i32, i64>,
    last_commit: Instant,
    /// When the log last said that a poll failed.
    poll_failed_at: Option<Instant>,
    dead_letters: DeadLetterLog,
    /// How long a batch's sends and commit take, smoothed: one that stalled does not hold up the next.
    commit_takes: Duration,
    /// The partitions that the handler was told it has.
    held: BTreeSet<i32>,
    /// When the handler last heard that time passes.
    ticked_at: Instant,
    /// Of each partition the position last committed without a record.
    idle: BTreeMap<i32, i64>,
    /// At-least-once: the client holds offsets that are not committed; when it last committed some.
    offsets_stored: bool,
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
        } = options;
        let spans = Spans::new(tracing, &config, index);
        let decisions = Decisions::of(&status);
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
            handler,
            decisions,
            spans,
            attempts,
            failed_commits: 0,
            known: KnownRecords::default(),
            extras_dropped: 0,
            letters_truncated: 0,
            suspects: Suspects::default(),
            read_errors: ReadErrors::default(),
            handled: BTreeMap::new(),
            last_commit: Instant::now(),
            poll_failed_at: None,
            dead_letters: DeadLetterLog::default(),
            commit_takes: Duration::ZERO,
            held: BTreeSet::new(),
            ticked_at: Instant::now(),
            idle: BTreeMap::new(),
            offsets_stored: false,
            offsets_at: Instant::now(),
        }
    }

    /// Runs until asked to stop, through as many pairs of clients as it takes.
    pub fn run(mut self) -> Result<(), Cause> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut fenced_times = 0;
        while !self.handler.is_ready() {
            self.status.progress();
            if self.stop.requested() {
                return Ok(());
            }
            self.stop.sleep(READY_EVERY);
        }
        loop {
            let started = Instant::now();
            let end = match self.session() {
                Ok(never) => never,
                Err(end) => end,
            };
            self.status.left();
            match end {
                SessionEnd::Drained => return Ok(()),
                SessionEnd::Fatal(cause) => return Err(cause),
                SessionEnd::Restart { reason, fenced } => {
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

    /// One life of the lane's clients. Returns only by a [`SessionEnd`].
    fn session(&mut self) -> Result<SessionEnd, SessionEnd> {
        let mut producer = self.connect()?;
        if self.config.commit.is_transactional() {
            self.init_transactions(&producer)?;
        }
        let consumer = LaneConsumer::connect(
            &self.config,
            self.index,
            self.metrics.clone(),
            Arc::clone(&self.status),
            (self.handler.keeps_state(), self.topics.input_bytes_max),
        )
        .map_err(SessionEnd::restart)?
        .with_identity(self.topics.identity.clone());
        let result = self.run_batches(&mut producer, &consumer);
        // What the group was assigned is given up with the consumer.
        let held = consumer
            .client
            .assignment()
            .map_or(0, |assignment| assignment.count());
        tracing::debug!(lane = self.task, held, "session ends");
        let all = std::mem::take(&mut self.held);
        self.give_up(&all.into_iter().collect::<Vec<_>>());
        match &result {
            Ok(SessionEnd::Drained) => self.leave(consumer),
            _ => drop(consumer),
        }
        result
    }

    fn connect(&self) -> Result<LaneProducer, SessionEnd> {
        let message_bytes_max = self.topics.message_bytes_max();
        let batch_bytes_max = self.topics.batch_bytes_max();
        LaneProducer::connect(&self.config, self.index, message_bytes_max, batch_bytes_max)
            .map_err(SessionEnd::restart)
    }

    /// Ends a predecessor's open transaction; waits for the broker if it must.
    fn init_transactions(&self, producer: &LaneProducer) -> Result<(), SessionEnd> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            self.status.progress();
            if self.stop.requested() {
                return Err(SessionEnd::Drained);
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
                _ => return Err(SessionEnd::of(&error, producer)),
            }
        }
    }

    /// Batch after batch.
    fn run_batches(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
    ) -> Result<SessionEnd, SessionEnd> {
        let mut batch = Batch::new();
        let mut idle_since = Instant::now();
        let mut lag_at = Instant::now();
        let mut claims = Claims::default();
        self.read_errors = ReadErrors::default();
        self.begin_batch();
        loop {
            self.status.progress();
            if self.stop.requested() {
                drop(batch);
                self.dead_letters.log_rest(&self.config.input, true);
                return Ok(SessionEnd::Drained);
            }
            self.forget(&mut batch);
            if batch.is_empty() && self.read_errors.is_due() {
                consumer.release();
                if let Some(wait) = self.skip_unreadable(producer, consumer)? {
                    self.wait(consumer, &mut batch, wait)?;
                }
            }
            if batch.is_empty() {
                consumer.release();
            }
            if self.ticked_at.elapsed() >= TICK_EVERY {
                self.ticked_at = Instant::now();
                self.handler.tick();
            }
            consumer.serve_group();
            self.collect(consumer, &mut batch)?;
            if self.handler.keeps_state() {
                consumer.forget_closed(&mut batch);
            }
            consumer
                .check_starts(&mut batch)
                .map_err(SessionEnd::restart)?;
            self.check_claimed(consumer, &mut batch)?;
            // Before anything that came since is handled.
            self.forget(&mut batch);
            self.claim(consumer, &mut claims)?;
            if lag_at.elapsed() >= LAG_EVERY {
                lag_at = Instant::now();
                consumer.reroute();
                consumer.report_lag(&batch, &mut self.handled);
                self.metrics.queue(self.index, consumer.queued());
                self.dead_letters.log_rest(&self.config.input, false);
            }
            if batch.is_empty() {
                self.commit_stored(consumer);
                if idle_since.elapsed() >= IDLE_COMMIT_EVERY {
                    idle_since = Instant::now();
                    self.commit_idle(producer, consumer, &mut batch)?;
                }
                continue;
            }
            idle_since = Instant::now();
            match self.settle(producer, consumer, &mut batch)? {
                BatchResult::Committed => {
                    let held = self.status.held();
                    batch.last_timestamps(held, &mut self.handled);
                    batch.clear();
                    self.begin_batch();
                }
                BatchResult::Retry(wait) => self.wait(consumer, &mut batch, wait)?,
            }
        }
    }

    fn begin_batch(&mut self) {
        self.attempts.reset();
        self.failed_commits = 0;
        self.known.clear();
        self.suspects = Suspects::default();
        self.last_commit = Instant::now();
    }

    /// Forgets what is known of records that the batch forgot.
    fn forget(&mut self, batch: &mut Batch<'_>) {
        if !batch.forgotten.is_empty() {
            self.known.forget(&batch.forgotten);
            self.suspects.forget(&batch.forgotten);
            self.read_errors.note_forgotten(&mut batch.forgotten);
        }
    }

    /// Polls until the batch is full or the queue is dry; waits for a first record, not for a second,
    /// unless the lane committed just now.
    fn collect<'c>(
        &mut self,
        consumer: &'c LaneConsumer,
        batch: &mut Batch<'c>,
    ) -> Result<(), SessionEnd> {
        // A batch that is tried again has its records.
        let mut wait = if batch.is_empty() {
            consumer.poll_wait()
        } else {
            Duration::ZERO
        };
        let mut lingered = false;
        loop {
            let polled = consumer.client.poll(wait);
            // First: what was polled came after the rebalance, and may be of a partition that went and came back.
            self.after_rebalance(consumer, batch)?;
            match polled {
                Some(Ok(message)) => {
                    batch.push(message);
                    if self.is_full(batch) {
                        break;
                    }
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    // What came before it is settled first: what comes may lie behind a batch that cannot be read.
                    if self.poll_error(consumer, &error)? {
                        break;
                    }
                }
                None => {
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
        (self.commit_takes * LINGER_PER_COMMIT)
            .max(LINGER_MIN)
            .min(self.config.limits.linger_max)
    }

    fn is_full(&self, batch: &Batch<'_>) -> bool {
        let limits = &self.config.limits;
        let bytes_max = limits.batch_bytes_max.min(self.config.lane_buffer_bytes());
        batch.len() >= limits.batch_records_max || batch.bytes >= bytes_max
    }

    /// True where the error may be about a batch that cannot be read.
    fn poll_error(
        &mut self,
        consumer: &LaneConsumer,
        error: &KafkaError,
    ) -> Result<bool, SessionEnd> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(SessionEnd::restart(error)),
            error if is_suspect(error) => {
                self.note_read_error(consumer, error)?;
                if !self.read_errors.is_due() {
                    // It comes again and again until it is looked for.
                    self.stop.sleep(POLL_FAILED);
                }
                Ok(true)
            }
            _ => {
                let logged_at = self.poll_failed_at;
                if logged_at.is_none_or(|at| at.elapsed() >= POLL_FAILED_LOG_EVERY) {
                    self.poll_failed_at = Some(Instant::now());
                    tracing::warn!(lane = self.task, %error, "poll failed; the client goes on");
                } else {
                    tracing::debug!(lane = self.task, %error, "poll failed");
                }
                self.stop.sleep(POLL_FAILED);
                Ok(false)
            }
        }
    }

    fn after_rebalance(
        &mut self,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<(), SessionEnd> {
        if let Some(revoked) = consumer.take_revoked() {
            batch.revoke(&revoked);
            // One that went and came back was given up all the same: another may have held it meanwhile.
            let gone: Vec<i32> = revoked
                .into_iter()
                .filter(|partition| self.held.remove(partition))
                .collect();
            self.give_up(&gone);
            let taken: Vec<i32> = consumer
                .assigned()
                .into_iter()
                .filter(|partition| self.held.insert(*partition))
                .collect();
            if !taken.is_empty() {
                self.handler.assigned(&taken);
            }
        }
        match consumer.take_failure() {
            Some(reason) => Err(SessionEnd::restart(format!(
                "assignment not taken: {reason}"
            ))),
            None => Ok(()),
        }
    }

    fn give_up(&mut self, partitions: &[i32]) {
        self.status.restored(partitions);
        if !partitions.is_empty() {
            self.handler.revoked(partitions);
        }
    }

    /// Waits while the group stays served: rebalances take their partitions away. Until the batch is settled
    /// nothing new comes but what the client had handed out already.
    fn wait<'c>(
        &mut self,
        consumer: &'c LaneConsumer,
        batch: &mut Batch<'c>,
        wait: Duration,
    ) -> Result<(), SessionEnd> {
        consumer.hold();
        let until = Instant::now() + wait;
        loop {
            self.status.progress();
            consumer.serve_group();
            let left = until.saturating_duration_since(Instant::now());
            let polled = consumer.client.poll(left.min(consumer.poll_wait()));
            self.after_rebalance(consumer, batch)?;
            match polled {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => {
                    self.poll_error(consumer, &error)?;
                }
                None => {}
            }
            if left.is_zero() || self.stop.requested() || batch.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Decides the batch, then makes the decisions durable.
    fn settle(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<BatchResult, SessionEnd> {
        let started = Instant::now();
        let config = Arc::clone(&self.config);
        let topic = config.input.as_str();
        let incoming: Vec<Incoming<'_>> = batch
            .messages
            .iter()
            .map(|message| incoming(message, topic, batch.polled_at))
            .collect();
        self.spans
            .begin_batch(&incoming, batch.first_at, batch.polled_at);
        if let Err(cause) =
            self.decisions
                .decide(&mut self.handler, &incoming, self.known.failures())
        {
            self.spans
                .end_failed(&incoming, cause.class, &cause.message);
            return Err(SessionEnd::Fatal(cause));
        }
        self.spans
            .failures(&incoming, batch.polled_at, self.decisions.failures());
        let attempt = self.attempts.attempts() + 1;
        let last_attempt = attempt >= self.config.limits.attempts_max;
        if self.decisions.wants_retry() && !last_attempt {
            self.metrics.retries.inc();
            let reason = "a record of the batch is to be tried again";
            self.spans.end_failed(&incoming, "retry", reason);
            self.handler.aborted();
            return Ok(BatchResult::Retry(self.attempts.next_wait()));
        }
        let process = started.elapsed();
        let trace = self.spans.exemplar();
        let result = self.deliver(producer, consumer, &incoming, batch, attempt);
        match result {
            Ok(sent) => {
                let commit = started.elapsed().saturating_sub(process);
                self.commit_takes = (self.commit_takes * (SMOOTHING - 1) + commit) / SMOOTHING;
                self.report(&incoming, batch.bytes, sent, (process, commit), trace);
                self.handler.committed();
                Ok(BatchResult::Committed)
            }
            Err(
                CommitError::Aborted(reason)
                | CommitError::InDoubt(reason)
                | CommitError::TimedOut(reason),
            ) => {
                self.spans.end_failed(&incoming, "aborted", &reason);
                self.handler.aborted();
                self.aborted(reason)
            }
            Err(CommitError::End(end)) => {
                let reason = "the lane begins again";
                self.spans.end_failed(&incoming, "lane_restart", reason);
                self.handler.aborted();
                Err(end)
            }
        }
    }

    /// Tells metrics and log of a batch just committed.
    fn report(
        &mut self,
        incoming: &[Incoming<'_>],
        bytes: usize,
        sent: usize,
        (process, commit): (Duration, Duration),
        trace: Option<TraceId>,
    ) {
        let dead = self.decisions.count(&self.metrics);
        if self.extras_dropped > 0 {
            self.metrics
                .extras_dropped("too_large", self.extras_dropped);
        }
        if self.letters_truncated > 0 {
            let count = self.letters_truncated;
            self.metrics.letters_truncated.inc_by(count);
            tracing::error!(topic = self.dlq_topic, count, "{TRUNCATED}");
        }
        if let Some((index, cause)) = self.decisions.failures().next() {
            let trace = self.spans.context(index);
            self.dead_letters.log(dead, &incoming[index], cause, trace);
        }
        let ages = Ages::of(incoming, self.config.latency_objective);
        self.metrics.committed(&Committed {
            records: incoming.len(),
            bytes,
            sent,
            process,
            commit,
            age: ages.oldest,
            late: ages.late,
            trace,
        });
    }

    /// The batch is to be handled again; where that helps no more, the lane begins again.
    fn aborted(&mut self, reason: String) -> Result<BatchResult, SessionEnd> {
        self.metrics.aborts.inc();
        self.failed_commits += 1;
        if self.failed_commits >= FAILED_COMMITS_MAX && self.config.commit != CommitMode::Store {
            return Err(SessionEnd::restart(reason));
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let wait = (0..self.failed_commits.min(10))
            .map(|_| backoff.next_wait())
            .last();
        // Once is part of a rebalance.
        match self.failed_commits {
            1 => tracing::info!(lane = self.task, reason, ?wait, "{NOT_COMMITTED}"),
            _ => tracing::warn!(lane = self.task, reason, ?wait, "{NOT_COMMITTED}"),
        }
        Ok(BatchResult::Retry(wait.unwrap_or_default()))
    }
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
