//! A pipeline's topics as they should be, and as they are.

use quadrille_choreography::{Admin, TopicSpec, admin, dead_letter_bytes_min};
use quadrille_proto::{KeyedState, PipelineTopic, STAGES, dlq_of};

/// A topic as it should be, and what there is.
#[derive(Debug)]
pub struct Found {
    pub spec: TopicSpec,
    pub partitions: Option<i32>,
    pub message_bytes_max: Option<usize>,
    /// Of a changelog of state what readers rely on.
    pub settings: Vec<(String, String)>,
}

/// The topics of a pipeline before anything is changed.
#[derive(Debug)]
pub struct Survey {
    pub topics: Vec<Found>,
}

impl Survey {
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let found = self.topics.iter().find(|found| found.spec.name == topic);
        found.and_then(|found| found.partitions)
    }

    fn limit(&self, topic: &str) -> Option<usize> {
        let found = self.topics.iter().find(|found| found.spec.name == topic);
        found.and_then(|found| found.message_bytes_max)
    }

    /// The topics that must agree in partitions: all but the shared ones.
    pub fn own(&self) -> impl Iterator<Item = &Found> {
        self.topics.iter().filter(|found| !found.spec.is_shared())
    }

    /// What keeps a pipeline from running, each with what to do.
    pub fn faults(&self, pipeline: &str) -> Vec<admin::Error> {
        let mut faults = Vec::new();
        let missing = self
            .topics
            .iter()
            .filter(|found| found.partitions.is_none());
        let missing: Vec<String> = missing.map(|found| found.spec.name.clone()).collect();
        if !missing.is_empty() {
            faults.push(admin::Error::Missing { topics: missing });
        }
        faults.extend(self.disagreements());
        faults.extend(self.tight_limits(pipeline));
        let unfit = |found: &Found| found.spec.unfit(&found.settings);
        faults.extend(self.topics.iter().flat_map(unfit));
        faults
    }

    pub fn disagreements(&self) -> Vec<admin::Error> {
        let mut there = self
            .own()
            .filter_map(|found| Some((&found.spec.name, found.partitions?)));
        let Some((reference, expected)) = there.next() else {
            return Vec::new();
        };
        let others = there.filter(|(_, partitions)| *partitions != expected);
        let fault = |(topic, partitions): (&String, i32)| admin::Error::Partitions {
            topic: topic.clone(),
            partitions,
            reference: reference.clone(),
            expected,
        };
        others.map(fault).collect()
    }

    /// Dead-letter topics that cannot hold every message of their source.
    fn tight_limits(&self, pipeline: &str) -> Vec<admin::Error> {
        let mut faults = Vec::new();
        // State has no dead letters.
        let topics = PipelineTopic::of(&STAGES, pipeline, KeyedState::None);
        for source in topics.iter().filter(|it| it.has_dead_letters) {
            let (source, dlq) = (&source.name, dlq_of(&source.name));
            let (Some(given), Some(limit)) = (self.limit(source), self.limit(&dlq)) else {
                continue;
            };
            let needed = dead_letter_bytes_min(given);
            if limit < needed {
                faults.push(admin::Error::Limit {
                    topic: dlq,
                    source_topic: source.clone(),
                    limit,
                    needed,
                });
            }
        }
        faults
    }
}

/// # Errors
/// Kafka does not answer.
pub fn survey(admin: &Admin, specs: Vec<TopicSpec>) -> Result<Survey, admin::Error> {
    let mut topics = Vec::new();
    for spec in specs {
        let partitions = admin.partitions(&spec.name)?;
        let message_bytes_max = match partitions {
            Some(_) => Some(admin.message_bytes_max(&spec.name)?),
            None => None,
        };
        let settings = match partitions {
            Some(_) => admin.settings(&spec)?,
            None => Vec::new(),
        };
        topics.push(Found {
            settings,
            spec,
            partitions,
            message_bytes_max,
        });
    }
    Ok(Survey { topics })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `topics create` makes them, then changed.
    fn made(change: impl Fn(&mut Found)) -> Survey {
        let found = |spec: TopicSpec| {
            let mut found = Found {
                partitions: Some(spec.partitions),
                message_bytes_max: Some(spec.message_bytes_max.unwrap_or(1_048_588)),
                settings: Vec::new(),
                spec,
            };
            change(&mut found);
            found
        };
        let specs = TopicSpec::of_pipeline("p", KeyedState::Kept, 8, 1_048_588);
        Survey {
            topics: specs.into_iter().map(found).collect(),
        }
    }

    fn faults(change: impl Fn(&mut Found)) -> Vec<String> {
        let faults = made(change).faults("p");
        faults.iter().map(admin::Error::to_string).collect()
    }

    #[test]
    fn topics_as_they_are_created_are_found_fit() {
        assert_eq!(faults(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let faults = faults(|found| {
            if found.spec.name == "p.records" {
                (found.partitions, found.message_bytes_max) = (None, None);
            }
        });
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("p.records") && faults[0].contains("topics create"));
    }

    #[test]
    fn a_topic_of_another_width_is_named() {
        let faults = faults(|found| {
            if found.spec.name == "p.features.dlq" {
                found.partitions = Some(4);
            }
        });
        assert!(
            faults[0].contains("p.features.dlq has 4 partitions"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_changelog_of_state_that_deletes_by_age_is_named() {
        let faults = faults(|found| {
            if found.spec.name == "p.feature-state" {
                found.settings = vec![("cleanup.policy".to_owned(), "delete".to_owned())];
            }
        });
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("cleanup.policy is delete"), "{faults:?}");
    }

    #[test]
    fn a_dead_letter_topic_without_headroom_is_named() {
        let faults = faults(|found| found.message_bytes_max = Some(1_048_588));
        assert_eq!(faults.len(), 4);
        assert!(
            faults[0].contains("p.inbox.dlq") && faults[0].contains("1114124"),
            "{faults:?}"
        );
    }
}
