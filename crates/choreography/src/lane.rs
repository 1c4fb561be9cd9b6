//! A lane: one thread, one group member, one producer, at most one open transaction.
//!
//! It polls a batch, lets the handler decide it, sends outputs and dead letters, and commits them with
//! the offsets, all before it polls again. Batches adapt by themselves: while one is being committed the
//! next one gathers in the client's queue.
//!
//! One producer, for a second one gains nothing: sending the next batch while the first is being committed breaks the order
//! of a key unless it waits for the first one's deliveries, and then as much time has passed. More lanes do help.

mod abandoned;
mod ages;
mod claims;
mod commit;
mod dead_letter_log;
mod known_records;
mod opening;
mod poll;
mod process;
mod restores;
mod send;
mod session;
mod unreadable;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_telemetry::{StageMetrics, Tracing};

use self::{
    dead_letter_log::DeadLetterLog, known_records::KnownRecords, opening::Claims,
    process::BatchResult, restores::Restores, send::Suspects, session::SessionEnd,
    unreadable::ReadErrors,
};
use crate::{
    Backoff, Cause, Delivered, Handler, StageConfig, StageTopics,
    batch::Batch,
    consumer::LaneConsumer,
    decisions::Decisions,
    producer::LaneProducer,
    spans::Spans,
    status::{LaneStatus, Stop},
};

/// How often a handler that cannot work yet is asked again.
const READY_EVERY: Duration = Duration::from_millis(10);
/// How often the handler hears that time passes.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// How often the position is committed when nothing comes.
const IDLE_COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often what is left to read is written down.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Restarts because another client took the transactional id of a lane at work, before the service gives up.
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
    /// Attempts of the current batch.
    attempts: Backoff,
    failed_commits: u32,
    /// Of the current batch.
    known: KnownRecords,
    /// Where the outputs of the last batch ended that was confirmed.
    delivered: Delivered,
    /// Of the last attempt.
    extras_dropped: u64,
    /// Of the last attempt.
    letters_truncated: u64,
    /// Of the current batch.
    suspects: Suspects,
    read_errors: ReadErrors,
    restores: Restores,
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
        let task = format!("{}-{index}", config.instance);
        let restores = Restores::new(&task, &status, &metrics.restores);
        let attempts = Backoff::new(config.limits.retry_first, config.limits.retry_max);
        Lane {
            dlq_topic: quadrille_proto::dlq_of(&config.input),
            task,
            restores,
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
            delivered: Delivered::default(),
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
                    let wait_ms = wait.as_millis() as u64;
                    tracing::warn!(lane = self.task, reason, wait_ms, "lane begins again");
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
        self.reset_batch();
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
            self.poll_batch(consumer, &mut batch)?;
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
            match self.process(producer, consumer, &mut batch)? {
                BatchResult::Committed => {
                    batch.last_timestamps(&mut self.handled);
                    batch.clear();
                    self.reset_batch();
                }
                BatchResult::Retry(wait) => self.wait(consumer, &mut batch, wait)?,
            }
        }
    }

    fn reset_batch(&mut self) {
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
}
