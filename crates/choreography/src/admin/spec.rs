//! Topics as they are to be created: partitions, retention, limits.

use quadrille_proto::{PipelineTopic, STAGES, StageSpec, Topics, dlq_of};

use crate::{dlq, table::write::RECORD_BYTES_MAX};

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
    pub fn is_compacted(&self) -> bool {
        self.retention == Retention::Compacted
    }

    /// Whether all pipelines share it.
    pub fn is_shared(&self) -> bool {
        Topics::SHARED.contains(&self.name.as_str())
    }

    /// The topics of one pipeline, their dead letters, and the shared ones.
    pub fn of_pipeline(
        pipeline: &str,
        partitions: i32,
        message_bytes_max: usize,
    ) -> Vec<TopicSpec> {
        TopicSpec::of_stages(&STAGES, pipeline, partitions, message_bytes_max)
    }

    /// As [`TopicSpec::of_pipeline`], of a pipeline with these stages.
    pub fn of_stages(
        stages: &[StageSpec],
        pipeline: &str,
        partitions: i32,
        message_bytes_max: usize,
    ) -> Vec<TopicSpec> {
        let spec = |name: String, message_bytes_max, retention| TopicSpec {
            name,
            partitions,
            retention,
            message_bytes_max: Some(message_bytes_max),
        };
        let mut specs = Vec::new();
        for topic in PipelineTopic::of(stages, pipeline) {
            let letters = topic.has_dead_letters.then(|| {
                let bytes_max = dlq::bytes_max(message_bytes_max);
                spec(dlq_of(&topic.name), bytes_max, Retention::Unlimited)
            });
            let retention = match topic.compacted {
                true => Retention::Compacted,
                false => Retention::Broker,
            };
            specs.push(spec(topic.name, message_bytes_max, retention));
            specs.extend(letters);
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
            message_bytes_max: (name == Topics::MODELS).then_some(RECORD_BYTES_MAX),
        };
        Topics::SHARED.map(spec).to_vec()
    }
}
