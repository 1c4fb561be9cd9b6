//! An in-process broker that needs no installation: librdkafka's mock cluster, on loopback.
//!
//! It holds 5 MB or 100,000 messages per partition in memory and forgets all at its end: for a demo and for
//! fast tests of the protocol's paths, never for a claim of exactly-once: it shows the records of aborted transactions.
//! Nor does it wake a waiting fetch when records come (so `fetch.wait.max.ms` is 10 there), or answer DescribeTopics.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use rdkafka::{error::KafkaError, mocking::MockCluster};

use crate::{Cluster, TopicSpec, config};

/// The broker could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the embedded broker did not start: {0}")]
    Start(String),
    #[error("the embedded broker did not create topic {topic}: {reason}")]
    Topic { topic: String, reason: String },
    #[error(transparent)]
    Config(#[from] config::Error),
}

type Answer = Sender<Result<(), KafkaError>>;

/// A running broker. Dropping it ends it.
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    // The mock cluster stays on the thread that made it.
    create: Option<Sender<(TopicSpec, Answer)>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// # Errors
    /// No thread or no port is available.
    pub fn start() -> Result<Self, Error> {
        let (started, answer) = channel();
        let (create, requests) = channel();
        let thread = std::thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || serve(&started, &requests))
            .map_err(|error| Error::Start(error.to_string()))?;
        match answer.recv() {
            Ok(Ok(bootstrap_servers)) => Ok(EmbeddedBroker {
                bootstrap_servers,
                create: Some(create),
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(Error::Start(error.to_string())),
            Err(_) => Err(Error::Start("its thread ended".to_owned())),
        }
    }

    /// Creates topics; the mock speaks no CreateTopics.
    ///
    /// # Errors
    /// Names the topic that was refused.
    pub fn create(&self, specs: &[TopicSpec]) -> Result<(), Error> {
        for spec in specs {
            let (answer, result) = channel();
            let request = (spec.clone(), answer);
            let sent = self
                .create
                .as_ref()
                .is_some_and(|create| create.send(request).is_ok());
            let refused = match result.recv() {
                Ok(Ok(())) if sent => continue,
                Ok(Err(error)) => error.to_string(),
                _ => "its thread ended".to_owned(),
            };
            return Err(Error::Topic {
                topic: spec.name.clone(),
                reason: refused,
            });
        }
        Ok(())
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// How to reach it.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn cluster(&self) -> Result<Cluster, Error> {
        let mut cluster = Cluster::new(&self.bootstrap_servers, "")?;
        cluster.embedded = true;
        Ok(cluster)
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.create = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(started: &Sender<Result<String, KafkaError>>, requests: &Receiver<(TopicSpec, Answer)>) {
    let cluster = match MockCluster::new(1) {
        Ok(cluster) => cluster,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(cluster.bootstrap_servers()));
    for (spec, answer) in requests {
        let _ = answer.send(cluster.create_topic(&spec.name, spec.partitions, 1));
    }
}
