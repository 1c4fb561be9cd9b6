//! Why topics cannot be used as they are.

use quadrille_proto::Topics;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{facts::error as facts, table};

/// Why topics cannot be used as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "Kafka at {servers} does not answer: {}; check that it runs, and KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES",
        why(source, reason.as_deref())
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
    #[error(
        "topic {topic}: {setting} is {value}, the changelog of state needs {wanted}; set it with kafka-configs --alter --add-config {setting}={wanted}"
    )]
    Setting {
        topic: String,
        setting: &'static str,
        value: String,
        wanted: String,
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

/// What became of the question, and what the client said last of its connections, without its address of a broker ahead and its
/// counts behind. That alone where the question had no answer: then it is "transport failure" or "timed out" whatever the cause.
fn why(source: &KafkaError, reason: Option<&str>) -> String {
    let Some(reason) = reason else {
        return source.to_string();
    };
    let said = match reason.split_once("/bootstrap: ") {
        Some((address, said)) if !address.contains(' ') => said,
        _ => reason,
    };
    let said = &said[..said.rfind(" (after ").unwrap_or(said.len())];
    let unanswered = [
        RDKafkaErrorCode::AllBrokersDown,
        RDKafkaErrorCode::BrokerTransportFailure,
        RDKafkaErrorCode::OperationTimedOut,
    ];
    match source.rdkafka_error_code() {
        Some(code) if unanswered.contains(&code) => said.to_owned(),
        _ => format!("{source}: {said}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_that_does_not_answer_is_told_in_the_words_of_the_connection() {
        let told = |code, reason: Option<&str>| {
            let error = Error::Unreachable {
                servers: "a:1".to_owned(),
                source: KafkaError::MetadataFetch(code),
                reason: reason.map(Into::into),
            };
            error.to_string()
        };
        let said = |reason| told(RDKafkaErrorCode::BrokerTransportFailure, reason);
        let check = "; check that it runs, and KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES";
        let refused = "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT, \
                       1 identical error(s) suppressed)";
        assert_eq!(
            said(Some(refused)),
            format!(
                "Kafka at a:1 does not answer: Connect to ipv4#127.0.0.1:1 failed: Connection refused{check}"
            )
        );
        assert_eq!(
            said(Some("SASL authentication error: wrong password")),
            format!(
                "Kafka at a:1 does not answer: SASL authentication error: wrong password{check}"
            )
        );
        assert!(said(None).contains("BrokerTransportFailure"));
        // An answer is not to be taken for none.
        let answered = told(RDKafkaErrorCode::TopicAuthorizationFailed, Some(refused));
        assert!(answered.contains("TopicAuthorizationFailed"), "{answered}");
    }
}
