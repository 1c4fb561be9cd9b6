//! Background tasks of a service, and its readiness checks, each with a name.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::Error;

/// A readiness check: an error says what the service waits for. It must not block.
pub type ReadyFn = dyn Fn() -> Result<(), String> + Send + Sync;

/// When a task is asked to end, in the order in which a service drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Together with the stages: it brings records in. The drain counts against the grace period (30 s in Kubernetes), so
    /// neither waits for the other.
    WithStages,
    /// After the stages have ended, while requests are still answered: it forwards what they wrote.
    AfterStages,
    /// After requests have ended as well: stages and requests depend on it.
    AfterRequests,
}

/// A background task, before it runs. It runs until the service drains; ending earlier ends the service, with its error.
///
/// ```no_run
/// use std::time::Duration;
/// use quadrille_service::{Context, Drain, Task};
///
/// fn relay(context: &Context) {
///     let task = Task::new("relay", Drain::AfterStages, Duration::from_secs(2));
///     context.spawn(task, |mut stop| async move {
///         loop {
///             tokio::select! {
///                 () = stop.requested() => return Ok(()),
///                 () = tokio::time::sleep(Duration::from_millis(100)) => { /* send what is due */ }
///             }
///         }
///     });
/// }
/// ```
pub struct Task {
    name: &'static str,
    drain: Drain,
    within: Duration,
    ready: Option<Arc<ReadyFn>>,
}

impl Task {
    /// `within`: how long it may take to end once asked; then it is aborted.
    pub fn new(name: &'static str, drain: Drain, within: Duration) -> Self {
        Task {
            name,
            drain,
            within,
            ready: None,
        }
    }

    /// The service is not ready while `ready` returns an error.
    pub fn ready(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready = Some(Arc::new(ready));
        self
    }
}

/// Tells a task, or a connection, when to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Resolves once the task, or the service, is asked to stop.
    pub async fn requested(&mut self) {
        // A dropped sender counts as a request, too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether it was asked to stop, without waiting.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl From<watch::Receiver<bool>> for StopSignal {
    fn from(stop: watch::Receiver<bool>) -> Self {
        StopSignal(stop)
    }
}

struct Running {
    name: &'static str,
    drain: Drain,
    within: Duration,
    stop: watch::Sender<bool>,
    handle: JoinHandle<Result<(), Error>>,
}

/// A condition of readiness.
#[derive(Clone)]
pub(crate) struct Check {
    pub name: &'static str,
    pub ready: Arc<ReadyFn>,
}

#[derive(Default)]
struct Inner {
    running: Mutex<Vec<Running>>,
    checks: Mutex<Vec<Check>>,
}

/// The tasks and checks of a service. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Inner>);

impl Tasks {
    pub fn check(&self, name: &'static str, ready: Arc<ReadyFn>) {
        let mut checks = self.0.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.push(Check { name, ready });
    }

    /// In the order in which they were added.
    pub fn checks(&self) -> Vec<Check> {
        let checks = self.0.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.clone()
    }

    pub fn spawn<Fut>(&self, task: Task, run: impl FnOnce(StopSignal) -> Fut)
    where
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let Task {
            name,
            drain,
            within,
            ready,
        } = task;
        if let Some(ready) = ready {
            self.check(name, ready);
        }
        let (stop, stopped) = watch::channel(false);
        let handle = tokio::spawn(run(stopped.into()));
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.push(Running {
            name,
            drain,
            within,
            stop,
            handle,
        });
    }

    /// Whether one has ended; if it was not asked to, it has failed.
    pub fn has_ended(&self) -> bool {
        let running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.iter().any(|task| task.handle.is_finished())
    }

    /// Asks all tasks of one part of the drain to stop, and waits for each as long as it may take.
    ///
    /// # Errors
    /// The first that failed, or ended before it was asked to.
    pub async fn drain(&self, part: Drain) -> Result<(), Error> {
        let ending = {
            let mut running = self
                .0
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (ending, others) = std::mem::take(&mut *running)
                .into_iter()
                .partition(|task| task.drain == part);
            *running = others;
            ending
        };
        let ending: Vec<Running> = ending;
        let asked = Instant::now();
        let unasked: Vec<bool> = ending
            .iter()
            .map(|task| {
                let unasked = task.handle.is_finished();
                let _ = task.stop.send(true);
                unasked
            })
            .collect();
        let mut first = Ok(());
        for (task, unasked) in ending.into_iter().zip(unasked) {
            first = first.and(task.end(asked, unasked).await);
        }
        first
    }
}

impl Running {
    async fn end(mut self, asked: Instant, unasked: bool) -> Result<(), Error> {
        let name = self.name;
        let ended = match tokio::time::timeout_at(asked + self.within, &mut self.handle).await {
            Ok(Ok(Ok(()))) if unasked => Err(Error::Failed(format!(
                "task {name} ended by itself; this is a bug"
            ))),
            Ok(Ok(result)) => result,
            Ok(Err(error)) if error.is_panic() => Err(Error::Failed(format!(
                "task {name} panicked; this is a bug"
            ))),
            Ok(Err(error)) => Err(Error::Failed(format!("task {name}: {error}"))),
            Err(_) => {
                self.handle.abort();
                let within_s = self.within.as_secs_f64();
                tracing::warn!(task = name, within_s, "task did not stop in time; aborted");
                Ok(())
            }
        };
        if let Err(error) = &ended {
            tracing::error!(task = name, %error, "task failed");
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn failed(result: Result<(), Error>) -> String {
        match result {
            Ok(()) => "nothing failed".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn tasks_end_part_by_part_and_each_is_waited_for() {
        let (tasks, ended) = (Tasks::default(), Arc::new(Mutex::new(Vec::new())));
        for (name, drain) in [
            ("models", Drain::AfterRequests),
            ("source", Drain::WithStages),
            ("relay", Drain::AfterStages),
        ] {
            let ended = Arc::clone(&ended);
            tasks.spawn(Task::new(name, drain, SOON), |mut stop| async move {
                stop.requested().await;
                tokio::task::yield_now().await;
                ended.lock().unwrap().push(name);
                Ok(())
            });
        }
        let parts = [Drain::WithStages, Drain::AfterStages, Drain::AfterRequests];
        for (ended_by_now, part) in parts.into_iter().enumerate() {
            tasks.drain(part).await.unwrap();
            assert_eq!(ended.lock().unwrap().len(), ended_by_now + 1);
        }
        assert_eq!(*ended.lock().unwrap(), ["source", "relay", "models"]);
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_cut_off_after_its_time() {
        let tasks = Tasks::default();
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        let within = Duration::from_millis(20);
        let task = Task::new("stuck", Drain::AfterStages, within);
        tasks.spawn(task, |_| async move {
            std::future::pending::<()>().await;
            drop(kept);
            Ok(())
        });
        let before = Instant::now();
        tasks.drain(Drain::AfterStages).await.unwrap();
        assert!(before.elapsed() >= within);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_that_ends_unasked_or_panics_is_an_error_that_names_it() {
        let run = |task: fn() -> Result<(), Error>| async move {
            let tasks = Tasks::default();
            let own = Task::new("relay", Drain::AfterStages, SOON);
            tasks.spawn(own, |_| async move { task() });
            while !tasks.has_ended() {
                tokio::task::yield_now().await;
            }
            failed(tasks.drain(Drain::AfterStages).await)
        };
        assert!(run(|| Ok(())).await.contains("relay ended by itself"));
        assert!(run(|| panic!("it")).await.contains("relay panicked"));
        let why = run(|| Err(Error::Failed("disk full".to_owned()))).await;
        assert_eq!(why, "disk full");
    }

    #[tokio::test]
    async fn a_tasks_readiness_is_a_check_of_its_name() {
        let (tasks, asked) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let task = Task::new("models", Drain::AfterRequests, SOON).ready(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Err("none loaded".to_owned())
        });
        tasks.spawn(task, |mut stop| async move {
            stop.requested().await;
            Ok(())
        });
        let checks = tasks.checks();
        let said: Vec<_> = checks.iter().map(|it| (it.name, (it.ready)())).collect();
        assert_eq!(said, [("models", Err("none loaded".to_owned()))]);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
