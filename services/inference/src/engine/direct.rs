//! Requests to models without a queue: scored where they are asked while that is quick, by what rows have cost so far, and otherwise on a
//! thread that may be held, in pieces.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quadrille_model::Model;
use tokio::sync::Semaphore;

use super::{counts::Counts, error::Error};

/// How long a request may hold a runtime's thread, on which probes are answered too.
const HELD_MAX: Duration = Duration::from_millis(5);
/// Rows that are scored where they are asked before anything was measured.
const UNMEASURED_ROWS_MAX: usize = 16;
/// A piece's time on another thread: between pieces it is looked whether anybody still waits.
const PIECE_TIME: Duration = Duration::from_millis(20);
/// Large requests of one model that wait for a thread, for each core: more are refused at once.
const WAITING_PER_CORE: usize = 16;
/// Of this many measurements a new one is one.
const SMOOTHING: u64 = 8;

/// A model that is asked directly.
#[derive(Debug)]
pub(super) struct Direct {
    shared: Arc<Shared>,
    counts: Arc<Counts>,
    /// One a core, for requests that hold a thread.
    threads: Semaphore,
    /// Those that hold one or wait for it.
    places: Semaphore,
}

#[derive(Debug)]
struct Shared {
    model: Arc<dyn Model>,
    /// What a row costs, smoothed; 0: not measured.
    row_ns: AtomicU64,
}

/// Ends the work for a request that is given up.
struct Given(Arc<AtomicBool>);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Direct {
    pub fn new(model: Arc<dyn Model>, counts: &Arc<Counts>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Direct {
            counts: Arc::clone(counts),
            shared: Arc::new(Shared {
                model,
                row_ns: AtomicU64::new(0),
            }),
            threads: Semaphore::new(cores),
            places: Semaphore::new(cores * WAITING_PER_CORE),
        }
    }

    /// The rows again, and their outputs.
    ///
    /// # Errors
    /// Too many large requests wait, the deadline passed between two pieces, or the model panicked on another thread.
    pub async fn score(
        &self,
        rows: Vec<f64>,
        deadline: Option<Instant>,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let model = &self.shared.model;
        let count = rows.len() / model.inputs().len().max(1);
        let mut outputs = Vec::with_capacity(count * model.outputs().width());
        if self.shared.is_quick(count) {
            self.counts.queued(Duration::ZERO);
            self.shared.measured(&rows, count, &mut outputs);
            return Ok((rows, outputs));
        }
        let asked_at = Instant::now();
        let _place = self.places.try_acquire().map_err(|_| Error::Overloaded)?;
        let _thread = self.threads.acquire().await.map_err(|_| Error::Failed)?;
        let (shared, counts) = (Arc::clone(&self.shared), Arc::clone(&self.counts));
        let given_up = Arc::new(AtomicBool::new(false));
        let _given = Given(Arc::clone(&given_up));
        let work = move || {
            counts.queued(asked_at.elapsed());
            let goes_on = || match deadline {
                _ if given_up.load(Ordering::Relaxed) => false,
                Some(deadline) => Instant::now() < deadline,
                None => true,
            };
            let whole = || shared.pieces(&rows, &mut outputs, goes_on);
            catch_unwind(AssertUnwindSafe(whole)).map_err(|_| Error::Failed)??;
            Ok((rows, outputs))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or(Err(Error::Failed))
    }
}

impl Shared {
    fn is_quick(&self, count: usize) -> bool {
        match self.row_ns.load(Ordering::Relaxed) {
            0 => count <= UNMEASURED_ROWS_MAX,
            row_ns => u128::from(row_ns) * count as u128 <= HELD_MAX.as_nanos(),
        }
    }

    fn measured(&self, rows: &[f64], count: usize, outputs: &mut Vec<f64>) {
        let start = Instant::now();
        self.model.score(rows, outputs);
        if count > 0 {
            let now = (start.elapsed().as_nanos() / count as u128) as u64;
            let smoothed = match self.row_ns.load(Ordering::Relaxed) {
                0 => now,
                before => (before * (SMOOTHING - 1) + now) / SMOOTHING,
            };
            // Of two at once one counts.
            self.row_ns.store(smoothed.max(1), Ordering::Relaxed);
        }
    }

    fn pieces(
        &self,
        rows: &[f64],
        outputs: &mut Vec<f64>,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let inputs = self.model.inputs().len().max(1);
        let mut rest = rows;
        while !rest.is_empty() {
            if !goes_on() {
                return Err(Error::Expired);
            }
            let count = match self.row_ns.load(Ordering::Relaxed) {
                0 => UNMEASURED_ROWS_MAX,
                row_ns => ((PIECE_TIME.as_nanos() as u64 / row_ns) as usize).max(1),
            };
            let (now, later) = rest.split_at(rest.len().min(count.saturating_mul(inputs)));
            self.measured(now, now.len() / inputs, outputs);
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quadrille_model::Outputs;

    use super::*;

    /// A row takes a millisecond of a core; answers it doubled.
    #[derive(Debug)]
    struct Slow {
        inputs: Vec<String>,
        outputs: Outputs,
        rows: AtomicU64,
    }

    impl Model for Slow {
        fn inputs(&self) -> &[String] {
            &self.inputs
        }

        fn outputs(&self) -> &Outputs {
            &self.outputs
        }

        fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
            for row in rows {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
                self.rows.fetch_add(1, Ordering::Relaxed);
                outputs.push(row * 2.0);
            }
        }
    }

    fn slow() -> Arc<Slow> {
        Arc::new(Slow {
            inputs: vec!["x".to_owned()],
            outputs: Outputs::Values(vec!["y".to_owned()]),
            rows: AtomicU64::new(0),
        })
    }

    #[tokio::test]
    async fn a_large_request_does_not_hold_the_runtimes_thread() {
        let direct = Direct::new(slow(), &Arc::default());
        let rows: Vec<f64> = (0..1_000).map(f64::from).collect();
        let expected: Vec<f64> = rows.iter().map(|row| row * 2.0).collect();
        let mut others = 0_u32;
        let scored = direct.score(rows.clone(), None);
        tokio::pin!(scored);
        let scored = loop {
            tokio::select! {
                scored = &mut scored => break scored,
                // A probe's turn.
                () = tokio::task::yield_now() => others += 1,
            }
        };
        assert_eq!(scored, Ok((rows, expected)));
        assert!(others > 10, "{others} turns of others");
    }

    #[tokio::test]
    async fn by_measure_a_few_rows_are_scored_where_they_are_asked_and_many_are_not() {
        let direct = Direct::new(slow(), &Arc::default());
        let is_quick = |count| direct.shared.is_quick(count);
        assert!(is_quick(16) && !is_quick(17));
        direct.score(vec![1.0; 2], None).await.expect("scored");
        assert!(!is_quick(6), "a row takes a millisecond");
    }

    #[tokio::test]
    async fn a_large_request_ends_with_its_deadline() {
        let slow = slow();
        let direct = Direct::new(Arc::clone(&slow) as Arc<dyn Model>, &Arc::default());
        let deadline = Instant::now() + Duration::from_millis(100);
        let scored = direct.score(vec![1.0; 10_000], Some(deadline)).await;
        assert_eq!(scored, Err(Error::Expired));
        assert!(slow.rows.load(Ordering::Relaxed) < 1_000);
    }

    #[tokio::test]
    async fn of_a_large_request_whose_caller_is_gone_the_rest_is_not_scored() {
        let slow = slow();
        let counts = Arc::default();
        let direct = Arc::new(Direct::new(Arc::clone(&slow) as Arc<dyn Model>, &counts));
        let asked = Arc::clone(&direct);
        let asked = tokio::spawn(async move { asked.score(vec![1.0; 10_000], None).await });
        while slow.rows.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        asked.abort();
        assert!(asked.await.is_err_and(|end| end.is_cancelled()));
        // Its thread has ended.
        while Arc::strong_count(&direct.shared) > 1 {
            tokio::task::yield_now().await;
        }
        let rows = slow.rows.load(Ordering::Relaxed);
        assert!(rows < 5_000, "{rows} of 10,000 rows");
        assert_eq!(counts.read().queued.0, 1);
    }
}
