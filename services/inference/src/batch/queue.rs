//! One model's queue and the threads that score what gathers in it.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use quadrille_model::Model;
use quadrille_telemetry::metrics::QueueMetrics;
use tokio::sync::oneshot;

use super::{
    Batching,
    policy::{Close, Gathered, Pace, Policy, Reason},
};
use crate::serving::Refused;

type Answer = Result<Vec<f64>, Refused>;

/// Rows that wait, and who waits for them.
struct Job {
    rows: Vec<f64>,
    count: usize,
    at: Instant,
    deadline: Option<Instant>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    rows: usize,
    /// Batches being scored.
    busy: usize,
    pace: Pace,
    closed: bool,
}

struct Shared {
    model: Arc<dyn Model>,
    policy: Policy,
    queued_rows_max: usize,
    metrics: QueueMetrics,
    waiting: Mutex<Waiting>,
    /// Something came, or the queue was closed.
    work: Condvar,
    /// Something was taken.
    room: Condvar,
}

/// A model's queue. Its threads end when it is dropped.
pub(crate) struct Queue {
    shared: Arc<Shared>,
    rows_max: usize,
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
    ) -> std::io::Result<Self> {
        let rows_max = batching.rows_max.max(1);
        let shared = Arc::new(Shared {
            model,
            policy: Policy {
                rows_max,
                delay_max: batching.delay_max,
            },
            queued_rows_max: batching.queued_rows_max.max(1),
            metrics,
            waiting: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
        });
        // Made first, so that a thread that is refused ends the others.
        let queue = Queue {
            shared: Arc::clone(&shared),
            rows_max,
        };
        for worker in 0..batching.workers.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("scorer-{worker}"));
            thread.spawn(move || shared.work())?;
        }
        Ok(queue)
    }

    /// Scores a request's rows.
    ///
    /// # Errors
    /// The queue is full, or the deadline passed before a batch took them.
    pub async fn score(&self, rows: Vec<f64>, deadline: Option<Instant>) -> Answer {
        let answer = self.ask(rows, deadline)?;
        answer.await.unwrap_or(Err(Refused::Failed))
    }

    fn ask(
        &self,
        rows: Vec<f64>,
        deadline: Option<Instant>,
    ) -> Result<oneshot::Receiver<Answer>, Refused> {
        let (job, answer) = self.shared.job(rows, deadline);
        let mut waiting = self.shared.lock();
        if !self.shared.has_room(&waiting, job.count) {
            self.shared.metrics.unanswered("overloaded");
            return Err(Refused::Overloaded);
        }
        self.shared.put(&mut waiting, job);
        Ok(answer)
    }

    /// Scores a batch of the stream; waits for room instead of being refused. Blocks, so not for a runtime's thread.
    ///
    /// # Errors
    /// The model panicked.
    pub fn score_waiting(&self, rows: &[f64], outputs: &mut Vec<f64>) -> Result<(), Refused> {
        let inputs = self.shared.model.inputs().len().max(1);
        let pieces = rows.chunks(self.rows_max * inputs);
        let answers: Vec<_> = pieces
            .map(|piece| {
                let (job, answer) = self.shared.job(piece.to_vec(), None);
                let mut waiting = self.shared.lock();
                while !self.shared.has_room(&waiting, job.count) {
                    let room = self.shared.room.wait(waiting);
                    waiting = room.unwrap_or_else(PoisonError::into_inner);
                }
                self.shared.put(&mut waiting, job);
                answer
            })
            .collect();
        for answer in answers {
            outputs.extend(answer.blocking_recv().unwrap_or(Err(Refused::Failed))?);
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, rows: Vec<f64>, deadline: Option<Instant>) -> (Job, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            count: rows.len() / self.model.inputs().len().max(1),
            rows,
            at: Instant::now(),
            deadline,
            answer,
        };
        (job, answered)
    }

    /// An empty queue takes a request of any size: it would never have more room.
    fn has_room(&self, waiting: &Waiting, rows: usize) -> bool {
        waiting.jobs.is_empty() || waiting.rows + rows <= self.queued_rows_max
    }

    fn put(&self, waiting: &mut Waiting, job: Job) {
        waiting.pace.arrived(job.at);
        waiting.rows += job.count;
        waiting.jobs.push_back(job);
        self.work.notify_one();
    }

    /// A thread's life.
    fn work(&self) {
        let mut outputs = Vec::new();
        while let Some(batch) = self.take() {
            self.score(batch, &mut outputs);
            self.lock().busy -= 1;
        }
    }

    /// Waits for a batch; None when the queue is closed and empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        loop {
            let Some(oldest) = waiting.jobs.front() else {
                if waiting.closed {
                    return None;
                }
                let more = self.work.wait(waiting);
                waiting = more.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            let gathered = Gathered {
                rows: waiting.rows,
                oldest: oldest.at,
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
                if !waiting.jobs.is_empty() {
                    self.work.notify_one();
                }
                return Some(batch);
            }
        }
    }

    /// Takes what fits one batch; who waited too long is told so and not scored.
    fn close(&self, waiting: &mut Waiting, reason: Reason, now: Instant) -> Vec<Job> {
        let (mut batch, mut rows) = (Vec::new(), 0);
        while let Some(job) = waiting.jobs.pop_front() {
            if !batch.is_empty() && rows + job.count > self.policy.rows_max {
                waiting.jobs.push_front(job);
                break;
            }
            waiting.rows -= job.count;
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                self.metrics.unanswered("expired");
                let _ = job.answer.send(Err(Refused::Expired));
            } else if job.answer.is_closed() {
                self.metrics.unanswered("given_up");
            } else {
                rows += job.count;
                batch.push(job);
            }
        }
        self.room.notify_all();
        if !batch.is_empty() {
            let waited = now.saturating_duration_since(batch[0].at);
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
            let answer = match together {
                Ok(()) => Ok(outputs[at..at + job.count * width].to_vec()),
                Err(refused) if alone => Err(refused),
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

    fn guarded(&self, rows: &[f64], outputs: &mut Vec<f64>) -> Result<(), Refused> {
        outputs.clear();
        let score = || self.model.score(rows, outputs);
        catch_unwind(AssertUnwindSafe(score)).map_err(|_| Refused::Failed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, mpsc},
        time::Duration,
    };

    use quadrille_model::Outputs;
    use quadrille_telemetry::{Registry, metrics::ServingMetrics};

    use super::*;

    /// Doubles each row; waits where it is told to, panics on 13.
    struct Slow {
        inputs: Vec<String>,
        outputs: Outputs,
        /// Told of each batch's rows, and waited for.
        gate: Option<(Mutex<mpsc::Sender<usize>>, Arc<Barrier>)>,
    }

    impl fmt::Debug for Slow {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Slow")
        }
    }

    impl Model for Slow {
        fn inputs(&self) -> &[String] {
            &self.inputs
        }

        fn outputs(&self) -> &Outputs {
            &self.outputs
        }

        fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
            if let Some((told, gate)) = &self.gate {
                told.lock().unwrap().send(rows.len()).unwrap();
                gate.wait();
            }
            assert!(!rows.contains(&13.0), "thirteen");
            outputs.extend(rows.iter().map(|row| row * 2.0));
        }
    }

    struct World {
        queue: Arc<Queue>,
        registry: Registry,
        batches: mpsc::Receiver<usize>,
        gate: Arc<Barrier>,
    }

    fn world(gated: bool, batching: &Batching) -> World {
        let (told, batches) = mpsc::channel();
        let gate = Arc::new(Barrier::new(2));
        let model = Arc::new(Slow {
            inputs: vec!["x".to_owned()],
            outputs: Outputs::Values(vec!["y".to_owned()]),
            gate: gated.then(|| (Mutex::new(told), Arc::clone(&gate))),
        });
        let registry = Registry::default();
        let metrics = ServingMetrics::register(&registry).queue("m", "1");
        World {
            queue: Arc::new(Queue::start(model, batching, metrics).unwrap()),
            registry,
            batches,
            gate,
        }
    }

    fn one_worker() -> Batching {
        Batching {
            workers: 1,
            rows_max: 4,
            queued_rows_max: 8,
            delay_max: Duration::ZERO,
            ..Batching::default()
        }
    }

    fn ask(
        world: &World,
        rows: Vec<f64>,
        deadline: Option<Instant>,
    ) -> tokio::task::JoinHandle<Answer> {
        let queue = Arc::clone(&world.queue);
        tokio::spawn(async move { queue.score(rows, deadline).await })
    }

    /// On a runtime of one thread: what was spawned has run as far as it can.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_gathers_while_a_batch_is_scored_is_the_next_one_up_to_its_size() {
        let world = world(true, &one_worker());
        let first = ask(&world, vec![1.0], None);
        settle().await;
        assert_eq!(world.batches.recv().unwrap(), 1);
        let more: Vec<_> = (2..8)
            .map(|n| ask(&world, vec![f64::from(n)], None))
            .collect();
        settle().await;
        world.gate.wait();
        assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
        assert_eq!(world.batches.recv().unwrap(), 4);
        world.gate.wait();
        assert_eq!(world.batches.recv().unwrap(), 2);
        world.gate.wait();
        for (answer, n) in more.into_iter().zip(2..) {
            assert_eq!(answer.await.unwrap(), Ok(vec![f64::from(n) * 2.0]));
        }
        let text = world.registry.encode();
        let line = r#"quadrille_model_batches_total{model="m",version="1",reason="size"} 1"#;
        assert!(text.contains(line), "{text}");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_who_waited_too_long_is_not_scored() {
        let world = world(true, &one_worker());
        let first = ask(&world, vec![1.0], None);
        settle().await;
        assert_eq!(world.batches.recv().unwrap(), 1);
        // Its time is up when the worker is free again; nobody has to wait for that here.
        let late = ask(&world, vec![2.0; 3], Some(Instant::now()));
        let good = ask(
            &world,
            vec![3.0; 5],
            Some(Instant::now() + Duration::from_secs(3_600)),
        );
        settle().await;
        let refused = world.queue.score(vec![4.0], None).await;
        assert_eq!(refused, Err(Refused::Overloaded));
        world.gate.wait();
        assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
        assert_eq!(late.await.unwrap(), Err(Refused::Expired));
        assert_eq!(world.batches.recv().unwrap(), 5, "the good one alone");
        world.gate.wait();
        assert_eq!(good.await.unwrap(), Ok(vec![6.0; 5]));
        let text = world.registry.encode();
        for reason in ["overloaded", "expired"] {
            let line = format!(
                r#"quadrille_model_unanswered_total{{model="m",version="1",reason="{reason}"}} 1"#
            );
            assert!(text.contains(&line), "{line} not in {text}");
        }
    }

    #[tokio::test]
    async fn a_request_that_makes_the_model_panic_is_refused_alone() {
        let world = world(true, &one_worker());
        let first = ask(&world, vec![1.0], None);
        settle().await;
        assert_eq!(world.batches.recv().unwrap(), 1);
        let rows = [vec![2.0], vec![13.0], vec![3.0]];
        let asked = rows.map(|rows| ask(&world, rows, None));
        settle().await;
        // The first, the three together, and each of them alone.
        world.gate.wait();
        for rows in [3, 1, 1, 1] {
            assert_eq!(world.batches.recv().unwrap(), rows);
            world.gate.wait();
        }
        assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
        let [a, b, c] = asked;
        assert_eq!(a.await.unwrap(), Ok(vec![4.0]));
        assert_eq!(b.await.unwrap(), Err(Refused::Failed));
        assert_eq!(c.await.unwrap(), Ok(vec![6.0]));
    }

    #[test]
    fn the_stream_waits_for_room_and_gets_its_rows_in_order() {
        let world = world(false, &one_worker());
        let rows: Vec<f64> = (0..1_000).map(f64::from).filter(|n| *n != 13.0).collect();
        let lanes: Vec<_> = (0..3)
            .map(|_| {
                let (queue, rows) = (Arc::clone(&world.queue), rows.clone());
                std::thread::spawn(move || {
                    let mut outputs = Vec::new();
                    queue.score_waiting(&rows, &mut outputs).unwrap();
                    outputs
                })
            })
            .collect();
        let expected: Vec<f64> = rows.iter().map(|n| n * 2.0).collect();
        for lane in lanes {
            assert_eq!(lane.join().unwrap(), expected);
        }
        let mut outputs = Vec::new();
        let refused = world.queue.score_waiting(&[13.0], &mut outputs);
        assert_eq!(refused, Err(Refused::Failed));
    }

    #[tokio::test]
    async fn a_queue_that_is_dropped_answers_what_waits_and_ends_its_threads() {
        let world = world(false, &one_worker());
        let shared = Arc::downgrade(&world.queue.shared);
        assert_eq!(world.queue.score(vec![1.0], None).await, Ok(vec![2.0]));
        drop(world);
        let ended = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended)
            .await
            .expect("in time");
    }
}
