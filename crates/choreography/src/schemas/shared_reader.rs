//! One reader shared by all callers: those who come while it reads wait for its result and do not read again.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

struct State<R, E> {
    /// None while somebody reads.
    reader: Option<R>,
    /// All that was there at this moment has been read.
    complete_as_of: Option<Instant>,
    /// When reading failed last, and why.
    failed: Option<(Instant, E)>,
}

/// A reader that reads to an end, and what is known of that. Reading may take long: nobody holds a lock meanwhile.
pub(super) struct SharedReader<R, E> {
    state: Mutex<State<R, E>>,
    ended: Condvar,
}

impl<R, E: Clone> SharedReader<R, E> {
    pub fn new(reader: R) -> Self {
        SharedReader {
            state: Mutex::new(State {
                reader: Some(reader),
                complete_as_of: None,
                failed: None,
            }),
            ended: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<R, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that all that was there at `since` has been read: reads, unless another has done so after that, or
    /// has failed. What fails for one fails for all who asked before it did: asked again at once it would fail again.
    ///
    /// # Errors
    /// The reader's.
    pub fn read_since(
        &self,
        since: Instant,
        read: impl FnOnce(&mut R) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        let reader = loop {
            if state.complete_as_of.is_some_and(|as_of| as_of >= since) {
                return Ok(());
            }
            if let Some((at, error)) = &state.failed
                && *at >= since
            {
                return Err(error.clone());
            }
            match state.reader.take() {
                Some(reader) => break reader,
                None => {
                    let woken = self.ended.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        let mut taken = ReaderGuard {
            shared: self,
            reader: Some(reader),
        };
        let begun = Instant::now();
        let result = taken.reader.as_mut().map_or(Ok(()), read);
        let mut state = self.lock();
        match &result {
            Ok(()) => state.complete_as_of = Some(begun),
            Err(error) => state.failed = Some((Instant::now(), error.clone())),
        }
        drop(state);
        result
    }
}

/// Gives the reader back, also where reading panics: handlers' panics are caught.
struct ReaderGuard<'a, R, E: Clone> {
    shared: &'a SharedReader<R, E>,
    reader: Option<R>,
}

impl<R, E: Clone> Drop for ReaderGuard<'_, R, E> {
    fn drop(&mut self) {
        self.shared.lock().reader = self.reader.take();
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::mpsc,
        thread,
        time::Duration,
    };

    use super::*;

    type Counter = SharedReader<u32, &'static str>;

    fn fail(reads: &mut u32) -> Result<(), &'static str> {
        *reads += 1;
        Err("no answer")
    }

    fn reads(shared: &Counter) -> u32 {
        shared.lock().reader.expect("nobody reads")
    }

    #[test]
    fn a_failure_is_found_out_once_for_all_records_of_a_batch() {
        let shared = Counter::new(0);
        let polled_at = Instant::now();
        for _ in 0..10 {
            assert_eq!(shared.read_since(polled_at, fail), Err("no answer"));
        }
        assert_eq!(reads(&shared), 1);
        // The next batch asks anew.
        let later = Instant::now() + Duration::from_nanos(1);
        assert_eq!(shared.read_since(later, fail), Err("no answer"));
        assert_eq!(reads(&shared), 2);
    }

    #[test]
    fn what_was_read_after_a_record_came_is_not_read_again() {
        let shared = Counter::new(0);
        let polled_at = Instant::now();
        let read = |reads: &mut u32| {
            *reads += 1;
            Ok(())
        };
        for _ in 0..10 {
            assert_eq!(shared.read_since(polled_at, read), Ok(()));
        }
        assert_eq!(reads(&shared), 1);
        let later = Instant::now() + Duration::from_nanos(1);
        assert_eq!(shared.read_since(later, read), Ok(()));
        assert_eq!(reads(&shared), 2);
    }

    #[test]
    fn those_who_come_while_one_reads_share_its_failure_and_hold_up_nobody() {
        let shared = Counter::new(0);
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        thread::scope(|scope| {
            // Ends with the test: else the reader would outlive its failure, and keep it from showing.
            let (shared, end) = (&shared, end);
            let slow = move |reads: &mut u32| {
                begun.send(()).expect("it is waited for");
                ends.recv().expect("it is ended");
                fail(reads)
            };
            let first = scope.spawn(move || shared.read_since(Instant::now(), slow));
            begins.recv().expect("it reads");
            // What is known is told without waiting for it.
            assert!(shared.state.try_lock().is_ok());
            let since = Instant::now();
            let others = [(); 4].map(|()| scope.spawn(move || shared.read_since(since, fail)));
            end.send(()).expect("it reads");
            assert_eq!(first.join().expect("it ends"), Err("no answer"));
            for other in others {
                assert_eq!(other.join().expect("it ends"), Err("no answer"));
            }
        });
        assert_eq!(reads(&shared), 1);
    }

    #[test]
    fn a_reader_is_given_back_when_reading_panics() {
        let shared = Counter::new(0);
        let panics = |_: &mut u32| -> Result<(), &'static str> { panic!("as told") };
        let caught = catch_unwind(AssertUnwindSafe(|| {
            shared.read_since(Instant::now(), panics)
        }));
        assert!(caught.is_err());
        assert_eq!(shared.read_since(Instant::now(), fail), Err("no answer"));
        assert_eq!(reads(&shared), 1);
    }
}
