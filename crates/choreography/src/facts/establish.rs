//! What a stage does with the facts when it starts: it compares its topics with them, or makes them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use quadrille_proto::{KeyedState, PipelineTopic, STAGES, dlq_of};

use super::{Facts, FactsLog, Partitioning, PipelineFile, StageIdentity, files};
use crate::{Admin, StageConfig, TopicState, admin};

/// The pipeline file of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Definition<'a> {
    /// SHA-256 of the canonical form of what defines a prediction.
    pub sha256: [u8; 32],
    /// Whether it has the topics of state.
    pub state: KeyedState,
    /// The file's text, from a stage that predicts by it: it is kept. None: it is another stage's to keep.
    pub text: Option<&'a str>,
}

impl Admin {
    /// Compares a stage's topics with what its pipeline was made with; where nothing is known yet, the stage that
    /// chooses partitions writes it down. The stage that predicts keeps the file, unless it is there. The embedded broker forgets
    /// everything, so there nothing is remembered.
    ///
    /// # Errors
    /// A topic is not what the pipeline was made with, topics are missing, or Kafka does not answer.
    pub fn establish(
        &self,
        config: &StageConfig,
        file: Definition<'_>,
        partitioning: Partitioning,
    ) -> Result<Option<Arc<StageIdentity>>, admin::Error> {
        if self.cluster().is_embedded() {
            return Ok(None);
        }
        let topics = self.described(&stage_topics(config))?;
        let mut log = FactsLog::open(self.cluster())?;
        let facts = match (log.current(&config.pipeline), partitioning) {
            (None, Partitioning::ByKey) => self.write_first(&mut log, config, &file)?,
            (facts, _) => facts,
        };
        if let Some(facts) = &facts {
            check(facts, &topics, partitioning)?;
        }
        if let Some(text) = file.text
            && !log.has_file(&config.pipeline, &file.sha256)
        {
            files::keep(
                self.cluster(),
                &PipelineFile {
                    pipeline: config.pipeline.clone(),
                    sha256: file.sha256,
                    text: text.to_owned(),
                    by: config.instance.clone(),
                    at_ms: now_ms(),
                },
            );
        }
        let identity = StageIdentity::new(&config.pipeline, topics, partitioning, facts);
        Ok(Some(Arc::new(identity)))
    }

    /// Writes a pipeline's first facts. None where this stage cannot see all of its topics.
    fn write_first(
        &self,
        log: &mut FactsLog,
        config: &StageConfig,
        file: &Definition<'_>,
    ) -> Result<Option<Facts>, admin::Error> {
        let pipeline = &config.pipeline;
        let described = match self.pipeline_topics(pipeline, file.state) {
            Ok(described) => described,
            // Not this stage's to see, or not there yet; a stage alone is no reason to refuse.
            Err(error) => {
                let advice = "run `quadrille topics create`";
                tracing::warn!(pipeline, %error, advice, "the pipeline's facts are not recorded: its topics could not all be described");
                return Ok(None);
            }
        };
        let facts = first(pipeline, file.sha256, &described, &config.instance)?;
        let facts = log.write(&facts)?;
        tracing::info!(
            pipeline,
            generation = facts.generation,
            partitions = facts.partitions,
            by = facts.by,
            "recorded the pipeline's facts"
        );
        Ok(Some(facts))
    }

    /// All topics of a pipeline that must agree, dead letters included.
    ///
    /// # Errors
    /// One is missing, or Kafka does not answer.
    pub fn pipeline_topics(
        &self,
        pipeline: &str,
        state: KeyedState,
    ) -> Result<Vec<TopicState>, admin::Error> {
        self.described(&pipeline_topic_names(pipeline, state))
    }

    fn described(&self, names: &[String]) -> Result<Vec<TopicState>, admin::Error> {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = self.describe(&borrowed)?;
        let missing = names
            .iter()
            .filter(|name| !found.iter().any(|it| it.name == **name));
        let missing: Vec<String> = missing.cloned().collect();
        match missing.is_empty() {
            true => Ok(found),
            false => Err(admin::Error::Missing { topics: missing }),
        }
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as i64
}

/// The first facts of a pipeline whose topics are these.
///
/// # Errors
/// They disagree in partitions.
fn first(
    pipeline: &str,
    file_sha256: [u8; 32],
    topics: &[TopicState],
    by: &str,
) -> Result<Facts, admin::Error> {
    let partitions = common_partitions(topics)?;
    Ok(Facts {
        pipeline: pipeline.to_owned(),
        generation: 0,
        file_sha256: file_sha256.to_vec(),
        partitions,
        topics: ids(topics),
        draining: false,
        by: by.to_owned(),
        at_ms: now_ms(),
        reason: "made".to_owned(),
    })
}

fn ids(topics: &[TopicState]) -> BTreeMap<String, String> {
    let known = topics.iter();
    known
        .filter_map(|topic| Some((topic.name.clone(), topic.id.clone()?)))
        .collect()
}

/// The number of partitions that all have.
fn common_partitions(topics: &[TopicState]) -> Result<i32, admin::Error> {
    let Some(reference) = topics.first() else {
        return Err(admin::Error::Missing { topics: Vec::new() });
    };
    match topics
        .iter()
        .find(|it| it.partitions != reference.partitions)
    {
        None => Ok(reference.partitions),
        Some(other) => Err(admin::Error::Partitions {
            topic: other.name.clone(),
            partitions: other.partitions,
            reference: reference.name.clone(),
            expected: reference.partitions,
        }),
    }
}

impl Facts {
    /// The facts that follow: these topics, as they are now.
    ///
    /// # Errors
    /// The topics disagree in partitions.
    pub fn next(
        &self,
        topics: &[TopicState],
        by: &str,
        reason: &str,
    ) -> Result<Facts, admin::Error> {
        let file = self.file_sha256.as_slice().try_into().unwrap_or([0; 32]);
        Ok(Facts {
            generation: self.generation.saturating_add(1),
            reason: reason.to_owned(),
            ..first(&self.pipeline, file, topics, by)?
        })
    }

    /// As [`Facts::next`], where there are none yet.
    ///
    /// # Errors
    /// The topics disagree in partitions.
    pub fn first(
        pipeline: &str,
        file_sha256: [u8; 32],
        topics: &[TopicState],
        by: &str,
    ) -> Result<Facts, admin::Error> {
        first(pipeline, file_sha256, topics, by)
    }
}

fn check(
    facts: &Facts,
    topics: &[TopicState],
    partitioning: Partitioning,
) -> Result<(), admin::Error> {
    let compared = facts.compare(topics);
    match (facts.draining, partitioning) {
        (true, Partitioning::ByKey) => Err(admin::Error::Draining {
            pipeline: facts.pipeline.clone(),
        }),
        // They only follow partitions, and have to work off what is there.
        (true, Partitioning::FromInput) => match compared {
            Err(admin::Error::Repartitioned { .. }) => Ok(()),
            result => result,
        },
        (false, _) => compared,
    }
}

fn stage_topics(config: &StageConfig) -> Vec<String> {
    let mut names = vec![config.input.clone(), dlq_of(&config.input)];
    names.extend(config.outputs.iter().map(|output| output.topic.clone()));
    names
}

fn pipeline_topic_names(pipeline: &str, state: KeyedState) -> Vec<String> {
    let topics = PipelineTopic::of(&STAGES, pipeline, state).into_iter();
    let with_letters = topics.flat_map(|topic| {
        let letters = topic.has_dead_letters.then(|| dlq_of(&topic.name));
        std::iter::once(topic.name).chain(letters)
    });
    with_letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(partitions: i32) -> Vec<TopicState> {
        let topic = |name: String| TopicState {
            id: Some(format!("id of {name}")),
            name,
            partitions,
        };
        let names = pipeline_topic_names("p", KeyedState::None);
        names.into_iter().map(topic).collect()
    }

    #[test]
    fn first_facts_hold_all_topics_and_are_refused_where_these_disagree() {
        let facts = first("p", [1; 32], &topics(4), "ann").unwrap();
        assert_eq!(
            (facts.generation, facts.partitions, facts.topics.len()),
            (0, 4, 8)
        );
        facts.compare(&topics(4)).unwrap();
        let mut mixed = topics(4);
        mixed[5].partitions = 8;
        let error = first("p", [1; 32], &mixed, "ann").unwrap_err();
        assert!(matches!(error, admin::Error::Partitions { .. }), "{error}");
    }

    #[test]
    fn facts_that_follow_have_the_next_generation_and_the_topics_as_they_are() {
        let facts = first("p", [1; 32], &topics(4), "ann").unwrap();
        let next = facts.next(&topics(8), "bea", "wider").unwrap();
        assert_eq!((next.generation, next.partitions), (1, 8));
        assert_eq!(next.file_sha256, [1; 32]);
    }

    #[test]
    fn while_a_pipeline_drains_only_stages_that_follow_start() {
        let mut facts = first("p", [1; 32], &topics(4), "ann").unwrap();
        facts.draining = true;
        for width in [4, 8] {
            check(&facts, &topics(width), Partitioning::FromInput).unwrap();
            let refused = check(&facts, &topics(width), Partitioning::ByKey);
            assert!(matches!(refused, Err(admin::Error::Draining { .. })));
        }
        let mut other = topics(8);
        other[0].id = Some("another".to_owned());
        let refused = check(&facts, &other, Partitioning::FromInput);
        assert!(matches!(refused, Err(admin::Error::Recreated { .. })));
    }
}
