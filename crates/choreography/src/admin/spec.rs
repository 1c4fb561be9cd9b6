//! Topics as they are to be created: partitions, retention, limits.

use quadrille_proto::{Content, KeyedState, PipelineTopic, STAGES, StageSpec, Topics, dlq_of};

use super::Error;
use crate::{changelog::TOMBSTONES_KEPT, dlq, table::write::RECORD_BYTES_MAX};

/// Of a state's changelog: what is not compacted yet is at most this, and what a restore reads too much.
const STATE_SEGMENT_BYTES: usize = 64 << 20;
/// And compacted after this long at the latest, by the broker's clock.
const STATE_SEGMENT_MS: u32 = 60 * 60 * 1_000;

/// The settings of a topic that readers rely on, and what else makes it quick to read.
const POLICY: &str = "cleanup.policy";
const TIMES: &str = "message.timestamp.type";
const TOMBSTONES: &str = "delete.retention.ms";
/// A state's changelog that has others could lose rows, or keep what was deleted.
pub(super) const CHECKED: [&str; 3] = [POLICY, TIMES, TOMBSTONES];

/// What is deleted from a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// What the broker's defaults say; by time, as a rule, and by records' own timestamps.
    Broker,
    /// All but a key's newest.
    Compacted,
    /// The same, of state by key: in small segments, so that little is read back that is out of date, and tombstones stay for
    /// long. Its times are the broker's: by the records' own, a load of the past would make a segment of each hour of it.
    State,
    /// Nothing. A dead letter has the timestamp of its original: of a record older than the broker's retention it would
    /// be deleted within minutes.
    Unlimited,
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
        matches!(self.retention, Retention::Compacted | Retention::State)
    }

    /// What is set on the topic when it is created.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let limit = self.message_bytes_max;
        let mut settings = match self.retention {
            Retention::Broker => Vec::new(),
            Retention::Compacted => vec![(POLICY, "compact".to_owned())],
            Retention::Unlimited => vec![("retention.ms", "-1".to_owned())],
            Retention::State => vec![
                (POLICY, "compact".to_owned()),
                (TIMES, "LogAppendTime".to_owned()),
                (TOMBSTONES, TOMBSTONES_KEPT.as_millis().to_string()),
                // A broker takes no batch that is larger than a segment.
                (
                    "segment.bytes",
                    STATE_SEGMENT_BYTES.max(limit.unwrap_or(0)).to_string(),
                ),
                ("segment.ms", STATE_SEGMENT_MS.to_string()),
                ("min.cleanable.dirty.ratio", "0.3".to_owned()),
            ],
        };
        settings.extend(limit.map(|bytes| ("max.message.bytes", bytes.to_string())));
        settings
    }

    /// What of a topic's settings is not as it must be; of those that are not known nothing can be said.
    pub fn unfit(&self, found: &[(String, String)]) -> Vec<Error> {
        if self.retention != Retention::State {
            return Vec::new();
        }
        let wanted = self.settings().into_iter();
        let wanted = wanted.filter(|(name, _)| CHECKED.contains(name));
        let differs = |(name, wanted): &(&str, String)| {
            let (_, value) = found.iter().find(|(found, _)| found == name)?;
            let at_least = |value: &String| {
                let (value, wanted) = (value.parse::<u64>().ok()?, wanted.parse().ok()?);
                Some(value >= wanted)
            };
            let fits = match *name {
                TOMBSTONES => at_least(value).unwrap_or(false),
                _ => value == wanted,
            };
            (!fits).then(|| value.clone())
        };
        wanted
            .filter_map(|(setting, wanted)| {
                let value = differs(&(setting, wanted.clone()))?;
                Some(Error::Setting {
                    topic: self.name.clone(),
                    setting,
                    value,
                    wanted,
                })
            })
            .collect()
    }

    /// Whether all pipelines share it.
    pub fn is_shared(&self) -> bool {
        Topics::SHARED.contains(&self.name.as_str())
    }

    /// The topics of one pipeline, their dead letters, and the shared ones.
    pub fn of_pipeline(
        pipeline: &str,
        state: KeyedState,
        partitions: i32,
        message_bytes_max: usize,
    ) -> Vec<TopicSpec> {
        TopicSpec::of_stages(&STAGES, pipeline, state, partitions, message_bytes_max)
    }

    /// As [`TopicSpec::of_pipeline`], of a pipeline with these stages.
    pub fn of_stages(
        stages: &[StageSpec],
        pipeline: &str,
        state: KeyedState,
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
        for topic in PipelineTopic::of(stages, pipeline, state) {
            let letters = topic.has_dead_letters.then(|| {
                let bytes_max = dlq::bytes_max(message_bytes_max);
                spec(dlq_of(&topic.name), bytes_max, Retention::Unlimited)
            });
            let retention = match topic.content {
                Content::Stream => Retention::Broker,
                Content::Changelog => Retention::Compacted,
                Content::State => Retention::State,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TopicSpec {
        let specs = TopicSpec::of_pipeline("p", KeyedState::Kept, 4, 1_048_588);
        let state = specs.into_iter().find(|it| it.name == "p.feature-state");
        state.expect("a pipeline that keeps state has it")
    }

    fn found(changed: &[(&str, &str)]) -> Vec<String> {
        let as_made = state().settings().into_iter();
        let mut settings: Vec<(String, String)> = as_made
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        for (name, value) in changed {
            settings.retain(|(found, _)| found != name);
            settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        let faults = state().unfit(&settings).into_iter();
        faults.map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn a_pipeline_without_state_has_no_topic_of_it() {
        let specs = TopicSpec::of_pipeline("p", KeyedState::None, 4, 1_048_588);
        assert!(specs.iter().all(|it| it.retention != Retention::State));
    }

    #[test]
    fn a_segment_of_state_holds_the_largest_batch() {
        let large = TopicSpec {
            message_bytes_max: Some(200 << 20),
            ..state()
        };
        let settings = large.settings();
        let bytes = settings.iter().find(|(name, _)| *name == "segment.bytes");
        assert_eq!(bytes.unwrap().1, (200 << 20).to_string());
    }

    #[test]
    fn state_that_could_be_lost_or_come_back_is_a_fault_and_another_segment_is_not() {
        assert!(found(&[]).is_empty());
        assert!(found(&[("segment.bytes", "1000000"), ("segment.ms", "5")]).is_empty());
        assert!(found(&[("delete.retention.ms", "9999999999")]).is_empty());
        for (setting, value) in [
            ("cleanup.policy", "delete"),
            ("cleanup.policy", "compact,delete"),
            ("message.timestamp.type", "CreateTime"),
            ("delete.retention.ms", "86400000"),
        ] {
            let faults = found(&[(setting, value)]);
            assert_eq!(faults.len(), 1, "{faults:?}");
            let told = format!("{setting} is {value}");
            assert!(
                faults[0].contains("p.feature-state") && faults[0].contains(&told),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn what_is_not_known_of_a_topic_is_no_fault() {
        assert!(state().unfit(&[]).is_empty());
    }
}
