//! Liveness and readiness: the same answer for HTTP probes and `grpc.health.v1`.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quadrille_choreography::Health;
use tokio::time::Instant;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{stages::Stages, task::Tasks};

/// How often readiness is copied to `grpc.health.v1`.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How long a service may be unready before that is logged.
const NOT_READY_AFTER: Duration = Duration::from_secs(2);
/// The shortest time between two lines of the log that say what it waits for; doubled after each line.
const NOT_READY_EVERY: Duration = Duration::from_secs(10);
const NOT_READY_EVERY_MAX: Duration = Duration::from_secs(300);

/// Whether a service's requests depend on its lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// Requests need Kafka: a replica that has lost it is not ready.
    NeedKafka,
    /// Requests are answered without Kafka: once a replica's lanes have joined their groups, it stays ready even if they can no longer
    /// consume. An outage hits the lanes of all replicas together, and a load balancer would have none left.
    OutliveKafka,
}

/// A condition of readiness: the reason if it does not hold, and what there is to know if it does.
pub(crate) type Condition = Result<Option<String>, String>;

struct Inner {
    /// None until the service is assembled.
    assembled: OnceLock<Requests>,
    /// What start-up waits for.
    waiting_for: Mutex<String>,
    stages: Stages,
    tasks: Tasks,
    draining: AtomicBool,
}

/// The service's state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Probe(Arc<Inner>);

impl Probe {
    pub fn new(stages: Stages, tasks: Tasks) -> Self {
        Probe(Arc::new(Inner {
            assembled: OnceLock::new(),
            waiting_for: Mutex::new("Kafka".to_owned()),
            stages,
            tasks,
            draining: AtomicBool::new(false),
        }))
    }

    /// Sets what start-up waits for.
    pub fn waiting_for(&self, what: String) {
        let waiting_for = self.0.waiting_for.lock();
        *waiting_for.unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub fn assembled(&self, requests: Requests) {
        let _ = self.0.assembled.set(requests);
    }

    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// # Errors
    /// What is stuck.
    pub fn live(&self) -> Result<(), String> {
        self.0.stages.health().iter().try_for_each(Health::live)
    }

    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        self.drains()?;
        let requests = self.assembly()?;
        let checks = self.0.tasks.checks();
        checks.iter().try_for_each(|check| (check.ready)())?;
        let stages = self.0.stages.health();
        stages
            .iter()
            .try_for_each(|stage| of_stage(requests, stage))
    }

    /// Every condition of readiness by name.
    pub fn checks(&self) -> Vec<(String, Condition)> {
        let assembly = self.assembly();
        let plain = |state: Result<(), String>| state.map(|()| None);
        let mut all = vec![
            ("assembled".to_owned(), plain(assembly.clone().map(drop))),
            ("draining".to_owned(), plain(self.drains())),
        ];
        let tasks = self.0.tasks.checks().into_iter();
        all.extend(tasks.map(|check| (check.name.to_owned(), plain((check.ready)()))));
        let requests = assembly.unwrap_or(Requests::NeedKafka);
        let stages = self.0.stages.health().into_iter();
        all.extend(stages.map(|stage| {
            let name = format!("pipeline {}", stage.pipeline());
            let ready = of_stage(requests, &stage);
            (name, ready.map(|()| stage.restoring()))
        }));
        all
    }

    fn drains(&self) -> Result<(), String> {
        match self.0.draining.load(Ordering::Acquire) {
            true => Err("draining".to_owned()),
            false => Ok(()),
        }
    }

    fn assembly(&self) -> Result<Requests, String> {
        self.0.assembled.get().copied().ok_or_else(|| {
            let waiting_for = self.0.waiting_for.lock();
            let waiting_for = waiting_for.unwrap_or_else(PoisonError::into_inner);
            format!("waiting for {waiting_for}")
        })
    }

    /// Reports to `grpc.health.v1` for `""` and, once known, each service name, and logs what the service waits for to be ready. Never
    /// returns.
    pub async fn report(
        self,
        reporter: HealthReporter,
        services: Arc<OnceLock<Vec<&'static str>>>,
    ) {
        let mut before = None;
        let mut log = ReadyLog::new(Instant::now());
        loop {
            let (ready, known) = (self.ready(), services.get());
            log.note(&ready, Instant::now());
            let now = (ready.is_ok(), known.is_some());
            if before != Some(now) {
                before = Some(now);
                let status = match now {
                    (true, _) => ServingStatus::Serving,
                    (false, _) => ServingStatus::NotServing,
                };
                for service in std::iter::once(&"").chain(known.into_iter().flatten()) {
                    reporter.set_service_status(*service, status).await;
                }
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }
}

fn of_stage(requests: Requests, stage: &Health) -> Result<(), String> {
    match requests {
        Requests::NeedKafka => stage.ready(),
        Requests::OutliveKafka => stage.has_been_ready(),
    }
}

/// Logs when a service becomes ready, and what it waits for until then.
struct ReadyLog {
    since: Instant,
    /// Since it was ready last; at the start, from its beginning.
    unready: bool,
    /// What was logged last of this time, and when.
    logged: Option<(String, Instant)>,
    /// Until another line about this time.
    quiet_for: Duration,
}

impl ReadyLog {
    fn new(now: Instant) -> Self {
        ReadyLog {
            since: now,
            unready: true,
            logged: None,
            quiet_for: NOT_READY_EVERY,
        }
    }

    fn note(&mut self, ready: &Result<(), String>, now: Instant) {
        let after = now.saturating_duration_since(self.since);
        match ready {
            Ok(()) => {
                if self.unready {
                    let after_ms = after.as_millis() as u64;
                    tracing::info!(after_ms, "ready");
                    self.unready = false;
                    self.logged = None;
                    self.quiet_for = NOT_READY_EVERY;
                }
                self.since = now;
            }
            Err(why) => {
                let due = match &self.logged {
                    // Short waits, as at most starts, are not worth a line.
                    None => after >= NOT_READY_AFTER,
                    Some((logged, at)) => {
                        logged != why && now.saturating_duration_since(*at) >= self.quiet_for
                    }
                };
                if due {
                    tracing::info!(why, "not ready");
                    self.unready = true;
                    // A reason with a count of seconds in it is a new one each time, for hours.
                    if self.logged.replace((why.clone(), now)).is_some() {
                        self.quiet_for = (self.quiet_for * 2).min(NOT_READY_EVERY_MAX);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the log has said last, after each of these times and states.
    fn logged(states: &[(u64, Option<&str>)]) -> Vec<String> {
        let start = Instant::now();
        let mut log = ReadyLog::new(start);
        let mut all = Vec::new();
        for (ms, why) in states {
            let ready = why.map_or(Ok(()), |why| Err(why.to_owned()));
            log.note(&ready, start + Duration::from_millis(*ms));
            let why = log.logged.as_ref().map(|(why, _)| why.clone());
            all.push(match log.unready {
                true => why.unwrap_or_default(),
                false => "ready".to_owned(),
            });
        }
        all
    }

    #[test]
    fn what_a_service_waits_for_is_logged_when_it_takes_long_and_when_it_changes() {
        let states = [
            (0, Some("Kafka")),
            (1_900, Some("Kafka")),
            (2_000, Some("Kafka")),
            (9_000, Some("the model")),
            (12_000, Some("the model")),
            (20_000, None),
            (20_100, Some("Kafka")),
            (20_200, None),
            (20_300, Some("Kafka")),
            (22_400, Some("Kafka")),
        ];
        let expected = [
            "",
            "",
            "Kafka",
            "Kafka",
            "the model",
            "ready",
            "ready",
            "ready",
            "ready",
            "Kafka",
        ];
        assert_eq!(logged(&states), expected);
    }

    #[test]
    fn a_reason_that_counts_is_logged_ever_more_rarely() {
        let reasons: Vec<String> = (0..3_600).map(|s| format!("{s} s")).collect();
        let states: Vec<_> = (0..3_600)
            .map(|s| (s * 1_000, Some(reasons[s as usize].as_str())))
            .collect();
        let mut lines = logged(&states);
        lines.dedup();
        assert!(lines.len() < 20, "{} in an hour", lines.len());
    }
}
