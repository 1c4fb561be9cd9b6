//! Is it alive, is it ready: one answer for HTTP probes and `grpc.health.v1`.

use std::{
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quadrille_choreography::Health;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often readiness is carried over to `grpc.health.v1`.
const REPORT_EVERY: Duration = Duration::from_millis(100);

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
    ready: Option<Arc<ReadyFn>>,
}

#[derive(Default)]
struct Inner {
    /// None until the service is assembled.
    assembled: RwLock<Option<Assembled>>,
    draining: AtomicBool,
}

/// The service's state. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<Inner>);

impl Probe {
    pub fn assembled(&self, stages: Vec<Health>, requests: Requests, ready: Option<Arc<ReadyFn>>) {
        *self
            .0
            .assembled
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Assembled {
            stages,
            requests,
            ready,
        });
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
            None => Err("waiting for Kafka".to_owned()),
            Some(Assembled {
                stages,
                requests,
                ready,
            }) => {
                ready.as_ref().map_or(Ok(()), |ready| ready())?;
                stages.iter().try_for_each(match requests {
                    Requests::NeedKafka => Health::ready,
                    Requests::OutliveKafka => Health::has_been_ready,
                })
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Assembled>> {
        let assembled = &self.0.assembled;
        assembled
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
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
