//! Why topics cannot be used as they are.

use quadrille_proto::Topics;
use rdkafka::error::KafkaError;

use crate::{facts, table};

/// Why topics cannot be used as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "Kafka at {servers} does not answer: {source}{}; check KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES",
        reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
    )]
    Unreachable {
        servers: String,
        source: KafkaError,
        /// What the client said last of its connections: a password or a certificate that was refused, say.
        reason: Option<Box<str>>,
    },
    #[error(
        "topics are missing: {}; create them with `quadrille topics create`, or start with --create-topics",
        topics.join(", ")
    )]
    Missing { topics: Vec<String> },
    #[error(
        "topic {topic} has {partitions} partitions, but {reference} has {expected}; all topics of a pipeline must have the same number, or the order per key is lost; create new topics, for a pipeline of another name"
    )]
    Partitions {
        topic: String,
        partitions: i32,
        reference: String,
        expected: i32,
    },
    #[error(
        "topic {topic}: max.message.bytes is {limit}, a dead letter of {source_topic} needs {needed}; set it with kafka-configs --alter --add-config max.message.bytes={needed}"
    )]
    Limit {
        topic: String,
        source_topic: String,
        limit: usize,
        needed: usize,
    },
    #[error("topic {topic} could not be created: {reason}")]
    NotCreated { topic: String, reason: String },
    #[error("topic {topic} could not be extended to {partitions} partitions: {reason}")]
    PartitionsNotAdded {
        topic: String,
        partitions: i32,
        reason: String,
    },
    #[error(
        "topic {topic} has {partitions} partitions, but pipeline {pipeline} was created with {made_with}: keys would move to other partitions while earlier records are in flight; change the number with `quadrille topics migrate`, which drains the pipeline first"
    )]
    Repartitioned {
        pipeline: String,
        topic: String,
        partitions: i32,
        made_with: i32,
    },
    #[error(
        "topic {topic} was deleted and created again: its id is {id}, but pipeline {pipeline} was created with {made_with}; its offsets start over, so ids made from offsets would repeat; if that is intended, run `quadrille topics accept`"
    )]
    Recreated {
        pipeline: String,
        topic: String,
        id: String,
        made_with: String,
    },
    #[error(
        "pipeline {pipeline} is being migrated to another number of partitions; finish `quadrille topics migrate` before ingest starts"
    )]
    Draining { pipeline: String },
    #[error(
        "pipeline {pipeline}: offsets were committed in generation {committed}, but {topic} only records generation {generation}; if that topic was recreated, run `quadrille topics accept`",
        topic = Topics::PIPELINES
    )]
    Behind {
        pipeline: String,
        generation: u64,
        committed: u64,
    },
    #[error(transparent)]
    Facts(facts::Error),
}

impl From<facts::Error> for Error {
    fn from(error: facts::Error) -> Self {
        match error {
            facts::Error::Unreadable(table::Error::Missing(topic)) => Error::Missing {
                topics: vec![topic],
            },
            error => Error::Facts(error),
        }
    }
}

impl Error {
    /// Whether waiting may help; otherwise a person must change something.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Facts(_))
    }

    /// Whether topics are not the ones the pipeline was made with, of which a broker may hear late.
    pub fn is_changed(&self) -> bool {
        matches!(self, Error::Repartitioned { .. } | Error::Recreated { .. })
    }

    /// Whether topics are missing, which right after they were created is a matter of moments.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }
}
