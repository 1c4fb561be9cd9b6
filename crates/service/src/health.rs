//! Is it alive, is it ready: one answer for HTTP probes and `grpc.health.v1`.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quadrille_choreography::Health;
use tokio::time::Instant;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::task::Tasks;

/// How often readiness is carried over to `grpc.health.v1`.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How long a service may be unready before its log says so.
const NOT_READY_AFTER: Duration = Duration::from_secs(2);
/// How often its log says what it waits for, at most.
const NOT_READY_EVERY: Duration = Duration::from_secs(10);

/// What keeps a service from being ready besides its stages, if anything does.
pub type ReadyFn = dyn Fn() -> Result<(), String> + Send + Sync;

/// What a service's requests have to do with its lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// They need Kafka: a replica that has lost it is not ready.
    NeedKafka,
    /// They are answered without it: once a replica's lanes have joined their groups, lanes that cannot consume do not keep it from
    /// answering. In an outage all replicas' lanes are lost together, and a load balancer would have nobody to ask.
    OutliveKafka,
}

struct Assembled {
    stages: Vec<Health>,
    requests: Requests,
}

impl Assembled {
    fn ready(&self) -> fn(&Health) -> Result<(), String> {
        match self.requests {
            Requests::NeedKafka => Health::ready,
            Requests::OutliveKafka => Health::has_been_ready,
        }
    }
}

struct Inner {
    /// None until the service is assembled.
    assembled: RwLock<Option<Assembled>>,
    /// What the assembly waits for.
    waiting_for: Mutex<String>,
    tasks: Tasks,
    draining: AtomicBool,
}

/// The service's state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Probe(Arc<Inner>);

impl Probe {
    pub fn new(tasks: Tasks) -> Self {
        Probe(Arc::new(Inner {
            assembled: RwLock::default(),
            waiting_for: Mutex::new("Kafka".to_owned()),
            tasks,
            draining: AtomicBool::new(false),
        }))
    }

    /// What the assembly waits for from now on.
    pub fn waiting_for(&self, what: String) {
        let waiting_for = self.0.waiting_for.lock();
        *waiting_for.unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub fn assembled(&self, stages: Vec<Health>, requests: Requests) {
        *self
            .0
            .assembled
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some(Assembled { stages, requests });
    }

    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// # Errors
    /// What is stuck.
    pub fn live(&self) -> Result<(), String> {
        match &*self.read() {
            None => Ok(()),
            Some(assembled) => assembled.stages.iter().try_for_each(Health::live),
        }
    }

    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        if self.0.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        match &*self.read() {
            None => Err(self.starting()),
            Some(assembled) => {
                let checks = self.0.tasks.checks();
                checks.iter().try_for_each(|check| (check.ready)())?;
                assembled.stages.iter().try_for_each(assembled.ready())
            }
        }
    }

    fn starting(&self) -> String {
        let waiting_for = self.0.waiting_for.lock();
        let waiting_for = waiting_for.unwrap_or_else(PoisonError::into_inner);
        format!("waiting for {waiting_for}")
    }

    /// Everything that readiness needs, by name, and what is in its way.
    pub fn checks(&self) -> Vec<(String, Result<(), String>)> {
        let mut all = Vec::new();
        let assembled = self.read();
        all.push((
            "assembled".to_owned(),
            match &*assembled {
                None => Err(self.starting()),
                Some(_) => Ok(()),
            },
        ));
        let tasks = self.0.tasks.checks().into_iter();
        all.extend(tasks.map(|check| (check.name.to_owned(), (check.ready)())));
        for assembled in assembled.iter() {
            let ready = assembled.ready();
            let stages = assembled.stages.iter();
            all.extend(
                stages.map(|stage| (format!("pipeline {}", stage.pipeline()), ready(stage))),
            );
        }
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Assembled>> {
        let assembled = &self.0.assembled;
        assembled
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reports to `grpc.health.v1` for `""` and each service name, once they are known, and logs what readiness waits for; for as
    /// long as it is polled.
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

/// Logs when a service becomes ready and when it is no longer, and from time to time what it waits for.
struct ReadyLog {
    since: Instant,
    ready: bool,
    /// What was said last, and when.
    said: Option<(String, Instant)>,
}

impl ReadyLog {
    fn new(now: Instant) -> Self {
        ReadyLog {
            since: now,
            ready: false,
            said: None,
        }
    }

    fn note(&mut self, ready: &Result<(), String>, now: Instant) {
        let changed = self.ready != ready.is_ok();
        if changed {
            let after_ms = now.saturating_duration_since(self.since).as_millis() as u64;
            (self.ready, self.since) = (ready.is_ok(), now);
            if self.ready {
                self.said = None;
                tracing::info!(after_ms, "ready");
            }
        }
        let Err(why) = ready else { return };
        let due = match &self.said {
            // What is over in a moment, as at most starts, is not worth a line.
            None => now.saturating_duration_since(self.since) >= NOT_READY_AFTER,
            Some((said, at)) => {
                said != why && now.saturating_duration_since(*at) >= NOT_READY_EVERY
            }
        };
        if due {
            tracing::info!(why, "not ready");
            self.said = Some((why.clone(), now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_waits_for_is_said_again_when_it_is_something_else() {
        let start = Instant::now();
        let mut log = ReadyLog::new(start);
        let mut said = Vec::new();
        for (ms, why) in [
            (0, Some("Kafka")),
            (1_900, Some("Kafka")),
            (2_000, Some("Kafka")),
            (9_000, Some("Kafka")),
            (9_100, Some("the model")),
            (12_000, Some("the model")),
            (20_000, None),
            (20_100, Some("Kafka")),
            (22_100, Some("Kafka")),
        ] {
            let ready = why.map_or(Ok(()), |why| Err(why.to_owned()));
            log.note(&ready, start + Duration::from_millis(ms));
            let line = log.said.as_ref().map(|(why, _)| why.clone());
            said.push(line.unwrap_or_default());
        }
        let expected = [
            "",
            "",
            "Kafka",
            "Kafka",
            "Kafka",
            "the model",
            "",
            "",
            "Kafka",
        ];
        assert_eq!(said, expected);
    }
}
