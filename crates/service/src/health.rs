//! Is it alive, is it ready: one answer for HTTP probes and `grpc.health.v1`.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quadrille_choreography::Health;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often readiness is carried over to `grpc.health.v1`.
const REPORT_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Inner {
    /// None until the service is assembled.
    stages: RwLock<Option<Vec<Health>>>,
    draining: AtomicBool,
}

/// The service's state. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<Inner>);

impl Probe {
    pub fn assembled(&self, stages: Vec<Health>) {
        *self
            .0
            .stages
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(stages);
    }

    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// # Errors
    /// What is stuck.
    pub fn live(&self) -> Result<(), String> {
        let stages = self
            .0
            .stages
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        stages.iter().flatten().try_for_each(Health::live)
    }

    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        if self.0.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        let stages = self
            .0
            .stages
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*stages {
            None => Err("waiting for Kafka".to_owned()),
            Some(stages) => stages.iter().try_for_each(Health::ready),
        }
    }

    /// Reports to `grpc.health.v1` for `""` and each service name, for as long as it is polled.
    pub async fn report(self, reporter: HealthReporter, services: Vec<&'static str>) {
        let mut before = None;
        loop {
            let ready = self.ready().is_ok();
            if before != Some(ready) {
                before = Some(ready);
                let status = if ready {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                for service in std::iter::once(&"").chain(&services) {
                    reporter.set_service_status(*service, status).await;
                }
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }
}
