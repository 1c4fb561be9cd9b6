//! One model's queue and the threads that score what gathers in it.
//!
//! Requests and the stream wait in lines of their own, and where both wait each has half of a batch: a request of one row beside lanes that
//! are always full waits for the batch that is being scored and for its own. Both come in pieces of half a batch, so a request of many rows
//! is no more than its pieces that are under way to those behind it; between pieces it is looked whether anybody still waits for the answer.

mod lane;
mod lines;

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use lane::Lane;
use lines::{Job, Waiting};
use quadrille_model::Model;
use quadrille_telemetry::metrics::QueueMetrics;
use tokio::sync::{Notify, futures::Notified, oneshot};

use super::{
    options::Batching,
    pending::{Answer, Pending},
    policy::{Close, Gathered, Policy, Reason},
};
use crate::engine::{counts::Counts, error::Error};

/// Pieces of one request that wait or are scored at the same time, for each of the model's threads: one is scored, one waits.
const PIECES_PER_WORKER: usize = 2;
/// Pieces of the stream that wait, for each of the model's threads: enough that a thread never finds nothing, and so few that a lane
/// hears within some batches' time that its pieces go on.
const STREAM_PIECES_PER_WORKER: usize = 4;

struct Shared {
    model: Arc<dyn Model>,
    policy: Policy,
    /// Rows of a piece, half a batch.
    piece_rows: usize,
    queued_rows_max: usize,
    stream_rows_max: usize,
    metrics: QueueMetrics,
    counts: Arc<Counts>,
    /// Batches that were scored: a lane that waits lives for as long as this grows.
    scored: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Something came, or the queue was closed.
    work: Condvar,
    /// Something was taken: for lanes, and for requests of which pieces were taken already.
    room: Condvar,
    room_for_requests: Notify,
}

/// A model's queue. Its threads end when it is dropped.
pub(in crate::engine) struct Queue {
    shared: Arc<Shared>,
    workers: usize,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Queue {
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        model: Arc<dyn Model>,
        batching: &Batching,
        metrics: QueueMetrics,
        counts: Arc<Counts>,
    ) -> std::io::Result<Self> {
        let (rows_max, workers) = (batching.rows_max.max(1), batching.workers.max(1));
        let piece_rows = (rows_max / 2).max(1);
        let shared = Arc::new(Shared {
            model,
            policy: Policy {
                rows_max,
                delay_max: batching.delay_max,
            },
            piece_rows,
            queued_rows_max: batching.queued_rows_max.max(1),
            stream_rows_max: piece_rows * STREAM_PIECES_PER_WORKER * workers,
            metrics,
            counts,
            scored: AtomicU64::new(0),
            waiting: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            room_for_requests: Notify::new(),
        });
        // Made first, so that a thread that is refused ends the others.
        let queue = Queue {
            shared: Arc::clone(&shared),
            workers,
        };
        for worker in 0..workers {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("scorer-{worker}"));
            thread.spawn(move || shared.work())?;
        }
        Ok(queue)
    }

    /// Scores a request's rows, piece by piece. Who gives the future up has no more pieces scored.
    ///
    /// # Errors
    /// The queue is full, the deadline passed before a batch took them all, or the model panicked.
    pub async fn score(&self, rows: Vec<f64>, deadline: Option<Instant>) -> Answer {
        let shared = &*self.shared;
        let inputs = shared.model.inputs().len().max(1);
        let piece = shared.piece_rows * inputs;
        if rows.len() <= piece {
            let answer = shared.ask(rows, deadline, true).map_err(|(error, _)| {
                shared.metrics.unanswered("overloaded");
                error
            })?;
            return answer.await.unwrap_or(Err(Error::Failed));
        }
        let count = rows.len() / inputs;
        let mut outputs = Vec::with_capacity(count * shared.model.outputs().width());
        let mut pieces = rows.chunks(piece);
        let mut next = pieces.next().map(<[f64]>::to_vec);
        let (mut answers, mut begun) = (VecDeque::new(), false);
        loop {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                shared.metrics.unanswered("expired");
                return Err(Error::Expired);
            }
            // Before the question for room: what is taken after it wakes.
            let room = shared.room_for_requests.notified();
            while let Some(rows) =
                next.take_if(|_| answers.len() < PIECES_PER_WORKER * self.workers)
            {
                match shared.ask(rows, deadline, !begun) {
                    Ok(answer) => {
                        begun = true;
                        answers.push_back(answer);
                        next = pieces.next().map(<[f64]>::to_vec);
                    }
                    Err((error, _)) if !begun => {
                        shared.metrics.unanswered("overloaded");
                        return Err(error);
                    }
                    Err((_, rows)) => {
                        next = Some(rows);
                        break;
                    }
                }
            }
            match answers.pop_front() {
                Some(answer) => outputs.extend(answer.await.unwrap_or(Err(Error::Failed))?),
                None if next.is_some() => until(room, deadline).await,
                None => return Ok(outputs),
            }
        }
    }

    /// Scores a batch of the stream; waits for room instead of being refused, and calls `alive` now and then meanwhile, for as long as the
    /// queue's threads get on. Blocks, so not for a runtime's thread.
    ///
    /// # Errors
    /// The model panicked.
    pub fn score_waiting(
        &self,
        rows: &[f64],
        outputs: &mut Vec<f64>,
        alive: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let shared = &*self.shared;
        let inputs = shared.model.inputs().len().max(1);
        let mut answers: VecDeque<Pending> = VecDeque::new();
        let mut lane = Lane {
            scored: &shared.scored,
            seen: shared.scored.load(Ordering::Relaxed),
            alive,
        };
        for piece in rows.chunks(shared.piece_rows * inputs) {
            (lane.alive)();
            let (job, answer) = shared.job(piece.to_vec(), None, false);
            let mut waiting = shared.lock();
            while !waiting.stream.has_room(job.count, shared.stream_rows_max) {
                let room = shared.room.wait_timeout(waiting, lane::WAKES_EVERY);
                waiting = room.unwrap_or_else(PoisonError::into_inner).0;
                lane.looks();
            }
            shared.arrived(&mut waiting, job.at);
            waiting.stream.put(job);
            drop(waiting);
            answers.push_back(Pending(answer));
            // As many as may wait, and as many again that are being scored or answered.
            if answers.len() > 2 * STREAM_PIECES_PER_WORKER * self.workers
                && let Some(answer) = answers.pop_front()
            {
                outputs.extend(lane.take(answer)?);
            }
        }
        for answer in answers {
            outputs.extend(lane.take(answer)?);
            (lane.alive)();
        }
        Ok(())
    }

    /// Puts a piece into the stream's line, if there is room, for one who does not wait as long as it takes. Who drops what is pending has it
    /// not scored, if it is not at work yet.
    pub fn begin(&self, rows: &[f64]) -> Option<Pending> {
        let shared = &*self.shared;
        let (job, answer) = shared.job(rows.to_vec(), None, false);
        let mut waiting = shared.lock();
        if !waiting.stream.has_room(job.count, shared.stream_rows_max) {
            return None;
        }
        shared.arrived(&mut waiting, job.at);
        waiting.stream.put(job);
        Some(Pending(answer))
    }
}

/// Waits for room, and no longer than somebody waits for the answer.
async fn until(room: Notified<'_>, deadline: Option<Instant>) {
    match deadline {
        None => room.await,
        Some(deadline) => {
            let _ = tokio::time::timeout_at(deadline.into(), room).await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(
        &self,
        rows: Vec<f64>,
        deadline: Option<Instant>,
        first: bool,
    ) -> (Job, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            count: rows.len() / self.model.inputs().len().max(1),
            rows,
            at: Instant::now(),
            deadline,
            first,
            answer,
        };
        (job, answered)
    }

    /// Puts a piece of a request into its line, or gives it back.
    fn ask(
        &self,
        rows: Vec<f64>,
        deadline: Option<Instant>,
        first: bool,
    ) -> Result<oneshot::Receiver<Answer>, (Error, Vec<f64>)> {
        let (job, answer) = self.job(rows, deadline, first);
        let mut waiting = self.lock();
        if !waiting.requests.has_room(job.count, self.queued_rows_max) {
            return Err((Error::Overloaded, job.rows));
        }
        self.arrived(&mut waiting, job.at);
        waiting.requests.put(job);
        Ok(answer)
    }

    fn arrived(&self, waiting: &mut Waiting, at: Instant) {
        waiting.pace.arrived(at);
        self.work.notify_one();
    }

    /// A thread's life.
    fn work(&self) {
        let mut outputs = Vec::new();
        while let Some(batch) = self.take() {
            self.score(batch, &mut outputs);
            self.scored.fetch_add(1, Ordering::Relaxed);
            self.lock().busy -= 1;
        }
    }

    /// Waits for a batch; None when the queue is closed and empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        loop {
            let Some(oldest) = waiting.oldest() else {
                if waiting.closed {
                    return None;
                }
                let more = self.work.wait(waiting);
                waiting = more.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            let gathered = Gathered {
                rows: waiting.rows(),
                oldest,
                busy: waiting.busy,
            };
            let reason = match self.policy.close(gathered, &waiting.pace, now) {
                Close::At(at) => {
                    let more = self.work.wait_timeout(waiting, at - now);
                    waiting = more.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Close::Now(reason) => reason,
            };
            let batch = self.close(&mut waiting, reason, now);
            if !batch.is_empty() {
                waiting.busy += 1;
                // What is left may make another one.
                if waiting.oldest().is_some() {
                    self.work.notify_one();
                }
                return Some(batch);
            }
        }
    }

    /// Takes what fits one batch, half of it from each line where both wait; a job whose deadline has passed is answered so and not scored.
    fn close(&self, waiting: &mut Waiting, reason: Reason, now: Instant) -> Vec<Job> {
        let (mut batch, mut rows) = (Vec::new(), 0);
        let rows_max = self.policy.rows_max;
        let both = !waiting.requests.jobs.is_empty() && !waiting.stream.jobs.is_empty();
        let of_requests = match (both, rows_max) {
            (false, _) => rows_max,
            (true, 1) => {
                waiting.stream_is_next = !waiting.stream_is_next;
                usize::from(waiting.stream_is_next)
            }
            (true, _) => rows_max - self.piece_rows,
        };
        for (of_stream, until) in [(false, of_requests), (true, rows_max), (false, rows_max)] {
            let line = match of_stream {
                true => &mut waiting.stream,
                false => &mut waiting.requests,
            };
            while let Some(job) = line.take(until.saturating_sub(rows)) {
                if job.deadline.is_some_and(|deadline| deadline <= now) {
                    self.metrics.unanswered("expired");
                    let _ = job.answer.send(Err(Error::Expired));
                } else if job.answer.is_closed() {
                    // Of the stream only shadows give up; what they miss is counted where they are.
                    if !of_stream {
                        self.metrics.unanswered("given_up");
                    }
                } else {
                    if job.first {
                        self.counts.queued(now.saturating_duration_since(job.at));
                    }
                    rows += job.count;
                    batch.push(job);
                }
            }
        }
        self.room.notify_all();
        self.room_for_requests.notify_waiters();
        let first = batch.iter().map(|job| job.at).min();
        if let Some(first) = first {
            let waited = now.saturating_duration_since(first);
            self.metrics.closed(reason.name(), rows, waited);
        }
        batch
    }

    /// Scores a batch and answers each job; one that panics is found and hurts no other.
    fn score(&self, mut batch: Vec<Job>, outputs: &mut Vec<f64>) {
        let (first, rest) = batch.split_at_mut(1);
        let rows = match rest {
            [] => &first[0].rows,
            rest => {
                let rows = &mut first[0].rows;
                rest.iter()
                    .for_each(|job| rows.extend_from_slice(&job.rows));
                rows
            }
        };
        let together = self.guarded(rows, outputs);
        let width = self.model.outputs().width();
        let inputs = self.model.inputs().len().max(1);
        let count = batch[0].count;
        batch[0].rows.truncate(count * inputs);
        let mut at = 0;
        let alone = batch.len() == 1;
        for job in batch {
            let answer = match &together {
                Ok(()) => Ok(outputs[at..at + job.count * width].to_vec()),
                Err(error) if alone => Err(error.clone()),
                Err(_) => {
                    let mut own = Vec::new();
                    self.guarded(&job.rows, &mut own).map(|()| own)
                }
            };
            at += job.count * width;
            if answer.is_err() {
                self.metrics.unanswered("panicked");
            }
            let _ = job.answer.send(answer);
        }
    }

    fn guarded(&self, rows: &[f64], outputs: &mut Vec<f64>) -> Result<(), Error> {
        outputs.clear();
        let score = || self.model.score(rows, outputs);
        catch_unwind(AssertUnwindSafe(score)).map_err(|_| Error::Failed)
    }
}

#[cfg(test)]
mod tests;
