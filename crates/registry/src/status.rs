//! Reports of replicas on `quadrille.status`, written and read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quadrille_choreography::{Cluster, Publication, Publisher, TableState, publisher};
use quadrille_proto::Topics;

use crate::{
    Error, Replica,
    follower::{Fold, Progress, follow},
    key, wire,
};

/// How often a replica reports when nothing changes.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Kafka's default limit; a report takes some bytes per model.
const STATUS_BYTES_MAX: usize = 1_000_000;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Writes a replica's reports.
#[derive(Clone)]
pub struct Reporter(Publisher);

impl Reporter {
    /// # Errors
    /// The client cannot be made.
    pub fn connect(cluster: &Cluster, name: &str) -> Result<Self, publisher::Error> {
        let publisher = Publisher::connect(cluster, name, STATUS_BYTES_MAX);
        let publisher =
            publisher.map_err(|error| publisher::Error::Unconfirmed(error.to_string()))?;
        Ok(Reporter(publisher))
    }

    /// Resolves when Kafka has confirmed the report, or the client gave up.
    ///
    /// # Errors
    /// As [`publisher::Error`]; the next report is as good.
    pub fn report(
        &self,
        replica: &Replica,
    ) -> impl Future<Output = Result<(), publisher::Error>> + Send + use<> {
        let value = wire::encode_replica(replica);
        self.write(&replica.service, &replica.instance, Some(&value))
    }

    /// Deletes the report of a replica that stops for good.
    ///
    /// # Errors
    /// As [`publisher::Error`]; then the report goes stale.
    pub fn withdraw(
        &self,
        service: &str,
        instance: &str,
    ) -> impl Future<Output = Result<(), publisher::Error>> + Send + use<> {
        self.write(service, instance, None)
    }

    fn write(
        &self,
        service: &str,
        instance: &str,
        payload: Option<&[u8]>,
    ) -> impl Future<Output = Result<(), publisher::Error>> + Send + use<> {
        let key = key::replica(service, instance);
        let sent = self.0.publish(&Publication {
            topic: Topics::STATUS,
            partition: 0,
            key: key.as_bytes(),
            payload,
            timestamp_ms: None,
            headers: &[],
        });
        async move { sent.await.map(|_| ()) }
    }
}

/// The last report of each replica, by key.
#[derive(Debug, Clone, Default)]
struct Reports(BTreeMap<String, Replica>);

impl Fold for Reports {
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        let name = String::from_utf8_lossy(key).into_owned();
        match value.map(wire::decode_replica) {
            Some(Ok(replica)) => {
                self.0.insert(name, replica);
            }
            None => {
                self.0.remove(&name);
            }
            Some(Err(reason)) => {
                tracing::warn!(
                    key = name,
                    offset,
                    reason,
                    "ignored a status record that does not decode"
                );
                self.0.remove(&name);
            }
        }
    }
}

/// Follows `quadrille.status`; it ends when dropped.
pub struct Replicas {
    reports: Arc<RwLock<Arc<Vec<Replica>>>>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Replicas {
    /// # Errors
    /// A thread could not be started.
    pub fn start(cluster: &Cluster) -> Result<Self, Error> {
        let replicas = Replicas {
            reports: Arc::default(),
            progress: Arc::new(Progress::new()),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let (reports, progress) = (
            Arc::clone(&replicas.reports),
            Arc::clone(&replicas.progress),
        );
        follow(
            cluster,
            Topics::STATUS,
            Arc::clone(&replicas.stop),
            move |state, offset| progress.set(state, offset),
            move |fold: &Reports| {
                let list: Vec<Replica> = fold.0.values().cloned().collect();
                *reports.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
            },
        )?;
        Ok(replicas)
    }

    /// The last report of each replica, ordered by service and instance.
    pub fn list(&self) -> Arc<Vec<Replica>> {
        let reports = self.reports.read();
        Arc::clone(&reports.unwrap_or_else(PoisonError::into_inner))
    }

    /// Blocks until the topic has been read to its end.
    ///
    /// # Errors
    /// The topic is missing, or it took longer than `within`.
    pub fn wait_caught_up(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        loop {
            let Some(why) = self.progress.behind(Topics::STATUS) else {
                return Ok(());
            };
            if matches!(self.progress.state(), TableState::Missing { .. }) {
                let topics = vec![Topics::STATUS];
                return Err(Error::Missing { topics });
            }
            if Instant::now() > deadline {
                return Err(Error::Unreadable { within, why });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
