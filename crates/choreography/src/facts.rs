//! What a pipeline was made with: the number of partitions, its topics' ids, its file, and a generation that enters
//! the ids ingest makes. Kept on the compacted topic `quadrille.pipelines`; of two writers the first wins.

pub(crate) mod error;
mod establish;
mod files;
mod fold;
mod keys;
mod log;
mod metadata_client;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use prost::Message;
use quadrille_proto::v1;
use rdkafka::{consumer::BaseConsumer, error::KafkaResult};

use self::metadata_client::MetadataClient;

pub use error::Error;
pub use establish::Definition;
pub use files::{PipelineFile, pipeline_files};
pub use fold::{FactsEvent, FactsHistory};
pub use log::FactsLog;
pub(crate) use watch::watch;

use crate::{Cluster, TopicState, admin, client::LoggingContext};

/// Longer names are not Kafka's.
const NAME_BYTES_MAX: usize = 249;

/// One generation of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub pipeline: String,
    pub generation: u64,
    /// SHA-256 of the canonical pipeline file at that time.
    pub file_sha256: Vec<u8>,
    /// Of every topic, dead letters included.
    pub partitions: i32,
    /// Topic ids by name; a topic that is not here is not compared.
    pub topics: BTreeMap<String, String>,
    /// On the way to another number of partitions.
    pub draining: bool,
    pub by: String,
    pub at_ms: i64,
    pub reason: String,
}

impl Facts {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let topics = self.topics.iter().map(|(name, id)| v1::TopicFact {
            name: name.clone(),
            id: id.clone(),
        });
        v1::PipelineFacts {
            pipeline: self.pipeline.clone(),
            generation: self.generation,
            file_sha256: self.file_sha256.clone(),
            partitions: self.partitions.max(0).unsigned_abs(),
            topics: topics.collect(),
            draining: self.draining,
            by: self.by.clone(),
            at_ms: self.at_ms,
            reason: self.reason.clone(),
        }
        .encode_to_vec()
    }

    /// # Errors
    /// Why the bytes are no facts.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message = v1::PipelineFacts::decode(bytes).map_err(|error| error.to_string())?;
        if message.pipeline.is_empty() || message.pipeline.len() > NAME_BYTES_MAX {
            return Err("the pipeline's name is empty or too long".to_owned());
        }
        let partitions = i32::try_from(message.partitions).unwrap_or(0);
        if partitions < 1 {
            return Err(format!("{} partitions", message.partitions));
        }
        Ok(Facts {
            pipeline: message.pipeline,
            generation: message.generation,
            file_sha256: message.file_sha256,
            partitions,
            topics: message
                .topics
                .into_iter()
                .map(|topic| (topic.name, topic.id))
                .collect(),
            draining: message.draining,
            by: message.by,
            at_ms: message.at_ms,
            reason: message.reason,
        })
    }

    /// What keeps topics, as they are now, from being the ones the pipeline was made with.
    ///
    /// # Errors
    /// The first topic that was created again or has another number of partitions.
    pub fn compare(&self, topics: &[TopicState]) -> Result<(), admin::Error> {
        for topic in topics {
            let made_with = self.topics.get(&topic.name);
            // Not known on one side: nothing can be said.
            if let (Some(made_with), Some(id)) = (made_with, &topic.id)
                && made_with != id
            {
                return Err(admin::Error::Recreated {
                    pipeline: self.pipeline.clone(),
                    topic: topic.name.clone(),
                    id: id.clone(),
                    made_with: made_with.clone(),
                });
            }
        }
        for topic in topics {
            if topic.partitions != self.partitions {
                return Err(admin::Error::Repartitioned {
                    pipeline: self.pipeline.clone(),
                    topic: topic.name.clone(),
                    partitions: topic.partitions,
                    made_with: self.partitions,
                });
            }
        }
        Ok(())
    }
}

/// What a stage has to do with partitions and ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioning {
    /// It chooses partitions and makes ids, as ingest does: it needs the facts, and makes them where there are none.
    ByKey,
    /// Its output's partition is its input's.
    FromInput,
}

/// What a running stage holds on to: its topics as they were when it started, and its pipeline's generation.
#[derive(Debug)]
pub struct StageIdentity {
    pub pipeline: String,
    pub topics: Vec<TopicState>,
    partitioning: Partitioning,
    generation: AtomicU64,
    /// As they were read last; None where there never were any.
    facts: Mutex<Option<Facts>>,
    metadata_client: MetadataClient,
}

impl StageIdentity {
    pub(crate) fn new(
        pipeline: &str,
        topics: Vec<TopicState>,
        partitioning: Partitioning,
        facts: Option<Facts>,
    ) -> Self {
        StageIdentity {
            pipeline: pipeline.to_owned(),
            topics,
            partitioning,
            generation: AtomicU64::new(facts.as_ref().map_or(0, |facts| facts.generation)),
            facts: Mutex::new(facts),
            metadata_client: MetadataClient::default(),
        }
    }

    /// The client that asks about its topics.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn client(&self, cluster: &Cluster) -> KafkaResult<&BaseConsumer<LoggingContext>> {
        self.metadata_client.client(cluster)
    }

    /// Enters the ids of records that have none.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Goes on with the generation that is written down, at least this one.
    ///
    /// # Errors
    /// The facts cannot be read, or do not go that far.
    pub(crate) fn catch_up(&self, cluster: &Cluster, at_least: u64) -> Result<(), admin::Error> {
        if self.generation() >= at_least {
            return Ok(());
        }
        let current = FactsLog::open(cluster)?.current(&self.pipeline);
        let generation = current.as_ref().map_or(0, |facts| facts.generation);
        if let Some(current) = current {
            self.remember(current);
        }
        match generation >= at_least {
            true => Ok(()),
            false => Err(admin::Error::Behind {
                pipeline: self.pipeline.clone(),
                generation,
                committed: at_least,
            }),
        }
    }

    fn remember(&self, facts: Facts) {
        self.generation
            .fetch_max(facts.generation, Ordering::Relaxed);
        *self.facts() = Some(facts);
    }

    fn facts(&self) -> MutexGuard<'_, Option<Facts>> {
        let facts = self.facts.lock();
        facts.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins a new generation after a log lost records: their offsets will be reused. Only where ids are made from offsets.
    ///
    /// The log of facts may have lost its end as well, or all: what is written then goes on from what this stage knows.
    ///
    /// # Errors
    /// The facts cannot be read or written.
    pub(crate) fn begin_generation(
        &self,
        cluster: &Cluster,
        reason: &str,
    ) -> Result<(), admin::Error> {
        if self.partitioning == Partitioning::FromInput {
            return Ok(());
        }
        // Before the log is read: another lane may raise it meanwhile, which is as good.
        let known = self.generation();
        let mut log = FactsLog::open(cluster)?;
        loop {
            let kept = || {
                let facts = self.facts().clone();
                facts.map(|facts| Facts {
                    generation: known,
                    ..facts
                })
            };
            let Some(facts) = log.current(&self.pipeline).or_else(kept) else {
                return Ok(());
            };
            let next = Facts {
                generation: facts.generation.saturating_add(1),
                by: "ingest".to_owned(),
                reason: reason.to_owned(),
                ..facts
            };
            let winner = log.write(&next)?;
            let generation = winner.generation;
            self.remember(winner);
            if generation > known {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// The first topic that is not what it was.
    pub(crate) fn compare(&self, now: &[TopicState]) -> Result<(), admin::Error> {
        for then in &self.topics {
            // One that is gone for the moment says so elsewhere.
            let Some(now) = now.iter().find(|now| now.name == then.name) else {
                continue;
            };
            if let (Some(made_with), Some(id)) = (&then.id, &now.id)
                && made_with != id
            {
                return Err(admin::Error::Recreated {
                    pipeline: self.pipeline.clone(),
                    topic: now.name.clone(),
                    id: id.clone(),
                    made_with: made_with.clone(),
                });
            }
            if then.partitions != now.partitions {
                return Err(admin::Error::Repartitioned {
                    pipeline: self.pipeline.clone(),
                    topic: now.name.clone(),
                    partitions: now.partitions,
                    made_with: then.partitions,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            pipeline: "p".to_owned(),
            generation: 3,
            file_sha256: vec![7; 32],
            partitions: 8,
            topics: [("p.inbox".to_owned(), "one".to_owned())].into(),
            draining: true,
            by: "ann".to_owned(),
            at_ms: 5,
            reason: "why".to_owned(),
        }
    }

    fn topic(name: &str, id: Option<&str>, partitions: i32) -> TopicState {
        TopicState {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            partitions,
        }
    }

    #[test]
    fn facts_come_back_as_they_were_written_and_garbage_does_not() {
        assert_eq!(Facts::decode(&facts().encode()), Ok(facts()));
        assert!(Facts::decode(b"").is_err());
        assert!(Facts::decode(b"{\"pipeline\":\"p\"}").is_err());
        let none = Facts {
            partitions: 0,
            ..facts()
        };
        assert!(Facts::decode(&none.encode()).is_err());
    }

    #[test]
    fn a_topic_of_another_id_or_number_of_partitions_is_named_with_both_and_the_command() {
        let same = [
            topic("p.inbox", Some("one"), 8),
            topic("p.records", Some("x"), 8),
        ];
        facts().compare(&same).unwrap();
        facts().compare(&[topic("p.inbox", None, 8)]).unwrap();
        let error = facts().compare(&[topic("p.inbox", Some("two"), 8)]);
        let error = error.unwrap_err().to_string();
        for word in ["p.inbox", "one", "two", "quadrille topics accept"] {
            assert!(error.contains(word), "{error}");
        }
        let error = facts().compare(&[same[0].clone(), topic("p.records", None, 16)]);
        let error = error.unwrap_err().to_string();
        for word in ["p.records", "16", "8", "quadrille topics migrate"] {
            assert!(error.contains(word), "{error}");
        }
    }

    /// Records of a log that was cut must not get the ids of lost ones, whatever else was lost.
    #[test]
    fn a_generation_begins_above_what_the_stage_knows_even_if_the_facts_are_lost() {
        let broker = crate::EmbeddedBroker::start().unwrap();
        broker.create(&crate::TopicSpec::shared()).unwrap();
        let cluster = broker.cluster().unwrap();
        let raised = |facts: Option<Facts>, pipeline: &str| {
            let identity = StageIdentity::new(pipeline, Vec::new(), Partitioning::ByKey, facts);
            identity
                .begin_generation(&cluster, "a log lost records")
                .unwrap();
            identity.generation()
        };
        assert_eq!(raised(None, "never-written"), 0);
        assert_eq!(raised(Some(facts()), "p"), 4, "all is lost");
        let lower = Facts {
            generation: 1,
            ..facts()
        };
        assert_eq!(raised(Some(lower), "p"), 5, "others went on meanwhile");
        let higher = Facts {
            generation: 7,
            ..facts()
        };
        assert_eq!(raised(Some(higher), "p"), 8, "the end is lost");
    }

    #[test]
    fn a_running_stage_notices_the_same_and_not_a_topic_that_is_gone_for_a_moment() {
        let before = vec![
            topic("p.inbox", Some("one"), 8),
            topic("p.records", None, 8),
        ];
        let identity = StageIdentity::new("p", before.clone(), Partitioning::FromInput, None);
        identity.compare(&before).unwrap();
        identity.compare(&[]).unwrap();
        let other = identity.compare(&[topic("p.inbox", Some("two"), 8)]);
        assert!(matches!(other, Err(admin::Error::Recreated { .. })));
        let wider = identity.compare(&[topic("p.records", Some("x"), 9)]);
        assert!(matches!(wider, Err(admin::Error::Repartitioned { .. })));
    }
}
