//! Topics: what there is, whether it fits, and making it on request.

mod error;
mod spec;

use std::time::{Duration, Instant};

use quadrille_proto::Topics;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

pub use self::{
    error::Error,
    spec::{Retention, TopicSpec},
};
use crate::{
    Cluster, TopicState,
    client::{self, LastErrorContext, LoggingContext},
    dlq::HEADROOM_BYTES,
};

/// How long one question to the cluster may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often a created topic is looked for.
const VISIBLE_EVERY: Duration = Duration::from_millis(20);
/// Kafka's default `max.message.bytes`.
const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// A poll without patience ends at a line of the client's log, and the error stands behind it.
const ERROR_WITHIN: Duration = Duration::from_millis(10);
/// Errors of connections that are looked at in one go: of one connection the client repeats one twice a minute.
const ERRORS_MAX: usize = 1_000;

/// The identity of a topic beyond its name: one that is deleted and created again is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicIdentity {
    pub cluster_id: String,
    pub topic: String,
    /// In base64; None if the broker does not report it.
    pub topic_id: Option<String>,
}

/// Questions about topics, and changes of them. Every call blocks, for up to 10 s per request.
pub struct Admin {
    cluster: Cluster,
    consumer: BaseConsumer<LastErrorContext>,
    admin: AdminClient<LoggingContext>,
}

impl Admin {
    /// # Errors
    /// The client's settings are refused; it does not connect yet.
    pub fn connect(cluster: &Cluster) -> Result<Self, Error> {
        let unreachable = |source| Error::Unreachable {
            servers: cluster.bootstrap_servers.clone(),
            source,
            reason: None,
        };
        let config = cluster.client_config();
        Ok(Admin {
            cluster: cluster.clone(),
            consumer: config
                .create_with_context(LastErrorContext::default())
                .map_err(unreachable)?,
            admin: config
                .create_with_context(LoggingContext)
                .map_err(unreachable)?,
        })
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Asks one question: whatever the answer, a broker gave it.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn reach(&self) -> Result<(), Error> {
        let answered = self
            .consumer
            .fetch_metadata(Some(Topics::MODELS), ANSWER_WITHIN);
        // That a topic may not be described, or is not there, is said within the answer.
        answered.map(drop).map_err(|error| self.unreachable(error))
    }

    /// The number of partitions, or None where there is no such topic.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn partitions(&self, topic: &str) -> Result<Option<i32>, Error> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .map_err(|error| self.unreachable(error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(match found {
            Some(found) if found.error().is_none() => Some(found.partitions().len() as i32),
            Some(found) => {
                let unknown = [
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
                ];
                match found.error() {
                    Some(error) if unknown.contains(&error) => None,
                    Some(error) => {
                        return Err(self.unreachable(KafkaError::MetadataFetch(error.into())));
                    }
                    None => None,
                }
            }
            None => None,
        })
    }

    /// Which topic of which cluster this is, beyond its name.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn identity(&self, topic: &str) -> Result<TopicIdentity, Error> {
        // The cluster's id is known once a broker has answered.
        self.partitions(topic)?;
        let client = self.consumer.client();
        let described = client::describe(&self.cluster, client, &[topic], ANSWER_WITHIN);
        let described = described.map_err(|error| self.unreachable(error))?;
        let topic_id = described.into_iter().next().and_then(|topic| topic.id);
        Ok(TopicIdentity {
            cluster_id: client.fetch_cluster_id(ANSWER_WITHIN).unwrap_or_default(),
            topic: topic.to_owned(),
            topic_id,
        })
    }

    /// Topics as they are now; those that are not there are left out.
    ///
    /// # Errors
    /// The cluster does not answer, or refuses one of them.
    pub fn describe(&self, topics: &[&str]) -> Result<Vec<TopicState>, Error> {
        let client = self.consumer.client();
        let described = client::describe(&self.cluster, client, topics, ANSWER_WITHIN);
        described.map_err(|error| self.unreachable(error))
    }

    /// `max.message.bytes` of a topic; Kafka's default if it may not be read.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn message_bytes_max(&self, topic: &str) -> Result<usize, Error> {
        if self.cluster.embedded {
            return Ok(MESSAGE_BYTES_DEFAULT + HEADROOM_BYTES);
        }
        let resource = ResourceSpecifier::Topic(topic);
        let answer = self.admin.describe_configs([&resource], &options());
        let configs =
            futures_executor::block_on(answer).map_err(|error| self.unreachable(error))?;
        let value = configs.iter().flatten().find_map(|config| {
            config
                .get("max.message.bytes")?
                .value
                .as_ref()?
                .parse()
                .ok()
        });
        if value.is_none() {
            // Without the right to describe it the broker's default is assumed.
            tracing::warn!(
                topic,
                assumed = MESSAGE_BYTES_DEFAULT,
                "max.message.bytes could not be read (is DescribeConfigs allowed?); assuming Kafka's default"
            );
        }
        Ok(value.unwrap_or(MESSAGE_BYTES_DEFAULT))
    }

    /// Of a changelog of state the settings that readers rely on ([`TopicSpec::unfit`]), as far as they may be read; of other
    /// topics none.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn settings(&self, spec: &TopicSpec) -> Result<Vec<(String, String)>, Error> {
        if spec.retention != Retention::State || self.cluster.embedded {
            return Ok(Vec::new());
        }
        let resource = ResourceSpecifier::Topic(&spec.name);
        let answer = self.admin.describe_configs([&resource], &options());
        let configs =
            futures_executor::block_on(answer).map_err(|error| self.unreachable(error))?;
        let settings = configs.iter().flatten().flat_map(|config| {
            let one = |name: &str| Some((name.to_owned(), config.get(name)?.value.clone()?));
            spec::CHECKED.into_iter().filter_map(one)
        });
        Ok(settings.collect())
    }

    /// Creates the topics that are missing; returns their names.
    ///
    /// # Errors
    /// The cluster does not answer or refuses one.
    pub fn create(&self, specs: &[TopicSpec]) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for spec in specs {
            if self.partitions(&spec.name)?.is_none() {
                missing.push(spec);
            }
        }
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let settings: Vec<_> = missing.iter().map(|spec| spec.settings()).collect();
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .zip(&settings)
            .map(|(spec, settings)| {
                let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(-1));
                settings
                    .iter()
                    .fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let answer = self.admin.create_topics(&topics, &options());
        let results =
            futures_executor::block_on(answer).map_err(|error| self.unreachable(error))?;
        for result in results {
            match result {
                // Another replica may have created it first.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, error)) => {
                    return Err(Error::NotCreated {
                        topic,
                        reason: error.to_string(),
                    });
                }
            }
        }
        self.wait_visible(&missing)?;
        Ok(missing.into_iter().map(|spec| spec.name.clone()).collect())
    }

    /// Adds partitions to the topics that have fewer than this, and waits until brokers report them.
    ///
    /// # Errors
    /// The cluster does not answer or refuses one.
    pub fn add_partitions(&self, topics: &[TopicState], partitions: i32) -> Result<(), Error> {
        let count = usize::try_from(partitions).unwrap_or(1);
        let narrow = topics.iter().filter(|it| it.partitions < partitions);
        let narrow: Vec<&str> = narrow.map(|it| it.name.as_str()).collect();
        if narrow.is_empty() {
            return Ok(());
        }
        let wider: Vec<NewPartitions<'_>> = narrow
            .iter()
            .map(|name| NewPartitions::new(name, count))
            .collect();
        let answer = self.admin.create_partitions(&wider, &options());
        let results =
            futures_executor::block_on(answer).map_err(|error| self.unreachable(error))?;
        let refused = results.into_iter().find_map(Result::err);
        if let Some((topic, error)) = refused {
            return Err(Error::PartitionsNotAdded {
                topic,
                partitions,
                reason: error.to_string(),
            });
        }
        let deadline = Instant::now() + ANSWER_WITHIN;
        while self
            .describe(&narrow)?
            .iter()
            .any(|it| it.partitions < partitions)
        {
            if Instant::now() > deadline {
                return Err(Error::PartitionsNotAdded {
                    topic: narrow.join(", "),
                    partitions,
                    reason: "it was extended, but brokers do not report it yet".to_owned(),
                });
            }
            std::thread::sleep(VISIBLE_EVERY);
        }
        Ok(())
    }

    /// A broker answers for a topic some time after it was created.
    fn wait_visible(&self, created: &[&TopicSpec]) -> Result<(), Error> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        for spec in created {
            while self.partitions(&spec.name)?.is_none() {
                if Instant::now() > deadline {
                    let reason = "it was created, but brokers do not report it yet".to_owned();
                    return Err(Error::NotCreated {
                        topic: spec.name.clone(),
                        reason,
                    });
                }
                std::thread::sleep(VISIBLE_EVERY);
            }
        }
        Ok(())
    }

    pub(crate) fn unreachable(&self, source: KafkaError) -> Error {
        // The client's errors wait to be polled; nothing else does here.
        for _ in 0..ERRORS_MAX {
            if self.consumer.poll(ERROR_WITHIN).is_none() {
                break;
            }
        }
        Error::Unreachable {
            servers: self.cluster.bootstrap_servers.clone(),
            source,
            reason: self.consumer.context().last().map(Into::into),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_WITHIN))
        .operation_timeout(Some(ANSWER_WITHIN))
}
