//! The topics of a stage: whether they are there and fit each other, and what the stage has to know of them.

use std::sync::Arc;

use quadrille_proto::{Topics, dlq_of};

use crate::{
    Admin, OutputTopic, StageConfig, StageIdentity, admin::Error, dlq::dead_letter_bytes_min,
};

/// What a stage needs to know of its topics.
#[derive(Debug, Clone)]
pub struct StageTopics {
    /// Of the input, and so of every output.
    pub partitions: i32,
    /// `max.message.bytes` of the input.
    pub input_bytes_max: usize,
    /// The same of each output, in the order of [`StageConfig::outputs`].
    pub outputs_bytes_max: Vec<usize>,
    /// The same of the dead-letter topic.
    pub dlq_bytes_max: usize,
    /// From [`Admin::establish`]: the identity that the topics must keep while the stage runs. None: it is not checked.
    pub identity: Option<Arc<StageIdentity>>,
}

impl StageTopics {
    /// The pipeline's generation, which is part of ids made from positions; 0 without an identity.
    pub fn generation(&self) -> u64 {
        self.identity.as_ref().map_or(0, |it| it.generation())
    }

    pub(crate) fn message_bytes_max(&self) -> usize {
        let outputs = self.outputs_bytes_max.iter().copied();
        outputs.fold(self.dlq_bytes_max, usize::max)
    }

    pub(crate) fn batch_bytes_max(&self) -> usize {
        let outputs = self.outputs_bytes_max.iter().copied();
        outputs.fold(self.dlq_bytes_max, usize::min)
    }
}

impl Admin {
    /// Checks a stage's topics.
    ///
    /// # Errors
    /// Topics are missing, differ in their number of partitions, or the dead-letter topic's limit is too small.
    pub fn prepare(&self, config: &StageConfig) -> Result<StageTopics, Error> {
        let dlq = dlq_of(&config.input);
        let mut names = vec![config.input.clone(), dlq.clone()];
        names.extend(config.outputs.iter().map(|output| output.topic.clone()));
        let mut missing = Vec::new();
        let mut counts = Vec::new();
        for name in names {
            match self.partitions(&name)? {
                Some(count) => counts.push((name, count)),
                None => missing.push(name),
            }
        }
        if self.partitions(Topics::SCHEMAS)?.is_none() {
            missing.push(Topics::SCHEMAS.to_owned());
        }
        if !missing.is_empty() {
            return Err(Error::Missing { topics: missing });
        }
        let expected = counts[0].1;
        if let Some((topic, partitions)) = counts.iter().find(|(_, count)| *count != expected) {
            return Err(Error::Partitions {
                topic: topic.clone(),
                partitions: *partitions,
                reference: config.input.clone(),
                expected,
            });
        }
        self.limits(config, &dlq, expected)
    }

    fn limits(
        &self,
        config: &StageConfig,
        dlq: &str,
        partitions: i32,
    ) -> Result<StageTopics, Error> {
        let input_bytes_max = self.message_bytes_max(&config.input)?;
        let dlq_bytes_max = self.message_bytes_max(dlq)?;
        let limit = |output: &OutputTopic| self.message_bytes_max(&output.topic);
        let outputs_bytes_max = config.outputs.iter().map(limit).collect::<Result<_, _>>()?;
        let needed = dead_letter_bytes_min(input_bytes_max);
        if dlq_bytes_max < needed && !self.cluster().is_embedded() {
            return Err(Error::Limit {
                topic: dlq.to_owned(),
                source_topic: config.input.clone(),
                limit: dlq_bytes_max,
                needed,
            });
        }
        Ok(StageTopics {
            partitions,
            input_bytes_max,
            outputs_bytes_max,
            dlq_bytes_max,
            identity: None,
        })
    }
}
