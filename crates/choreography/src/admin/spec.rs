//! Topics as they are to be created: partitions, retention, limits.

use quadrille_proto::{Topics, dlq_of};

use super::MODELS_BYTES_MAX;
use crate::dlq;

/// What is deleted from a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// What the broker's defaults say; by time, as a rule, and by records' own timestamps.
    Broker,
    /// All but a key's newest.
    Compacted,
    /// Nothing. A dead letter has the timestamp of its original: of a record older than the broker's retention it would
    /// be deleted within minutes.
    Unlimited,
}

impl Retention {
    pub(super) fn setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            Retention::Broker => None,
            Retention::Compacted => Some(("cleanup.policy", "compact")),
            Retention::Unlimited => Some(("retention.ms", "-1")),
        }
    }
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub retention: Retention,
    /// Bytes; None leaves it to the broker.
    pub message_bytes_max: Option<usize>,
}

impl TopicSpec {
    /// As those that all pipelines share.
    pub fn is_compacted(&self) -> bool {
        self.retention == Retention::Compacted
    }

    /// The topics of one pipeline, their dead letters, and the shared ones.
    pub fn of_pipeline(
        pipeline: &str,
        partitions: i32,
        message_bytes_max: usize,
    ) -> Vec<TopicSpec> {
        let topics = Topics::of(pipeline);
        let mut specs = Vec::new();
        for topic in topics.flow() {
            let spec = |name: String, message_bytes_max, retention| TopicSpec {
                name,
                partitions,
                retention,
                message_bytes_max: Some(message_bytes_max),
            };
            let letters_bytes_max = dlq::bytes_max(message_bytes_max);
            specs.push(spec(topic.to_owned(), message_bytes_max, Retention::Broker));
            specs.push(spec(dlq_of(topic), letters_bytes_max, Retention::Unlimited));
        }
        specs.extend(TopicSpec::shared());
        specs
    }

    /// The topics all pipelines share: compacted, of one partition.
    pub fn shared() -> Vec<TopicSpec> {
        let spec = |name: &str| TopicSpec {
            name: name.to_owned(),
            partitions: 1,
            retention: Retention::Compacted,
            message_bytes_max: (name == Topics::MODELS).then_some(MODELS_BYTES_MAX),
        };
        Topics::SHARED.map(spec).to_vec()
    }
}
