//! What the log of facts means: records go in, in order; each pipeline's generations come out. No clock, no Kafka.
//!
//! A function of the records that are there, the last one of each key and where it lies: so a reader that comes after
//! a compaction sees what one sees that has read along.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, keys};

/// One record of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactsEvent {
    pub offset: i64,
    pub key: String,
    pub facts: Facts,
    /// Why it counts for nothing.
    pub void: Option<String>,
}

/// A pipeline's records in the order of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FactsHistory {
    pub events: Vec<FactsEvent>,
}

impl FactsHistory {
    /// The valid one of the highest generation.
    pub fn current(&self) -> Option<&Facts> {
        let mut valid = self.events.iter().rev().filter(|it| it.void.is_none());
        valid.next().map(|event| &event.facts)
    }
}

/// The folded log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fold {
    /// By key: where it lies, and what it holds.
    records: BTreeMap<String, (i64, Facts)>,
    /// The keys of the files that are kept; what they hold is read by [`super::pipeline_files`].
    files: BTreeSet<String>,
}

impl Fold {
    pub fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        let Ok(key) = std::str::from_utf8(key) else {
            return tracing::warn!(
                offset,
                "ignored a record of quadrille.pipelines: its key is not text"
            );
        };
        if keys::is_of_file(key) {
            match value {
                Some(_) => self.files.insert(key.to_owned()),
                None => self.files.remove(key),
            };
            return;
        }
        self.records.remove(key);
        let Some(value) = value else { return };
        match parse(key, value) {
            Ok(facts) => {
                self.records.insert(key.to_owned(), (offset, facts));
            }
            Err(reason) => tracing::warn!(
                key,
                offset,
                reason,
                "ignored a record of quadrille.pipelines: it does not decode"
            ),
        }
    }

    pub fn has_file(&self, pipeline: &str, sha256: &[u8; 32]) -> bool {
        self.files.contains(&keys::of_file(pipeline, sha256))
    }

    pub fn history(&self, pipeline: &str) -> FactsHistory {
        let of = |(_, facts): &&(i64, Facts)| facts.pipeline == pipeline;
        let mut records: Vec<_> = self.records.iter().filter(|(_, it)| of(it)).collect();
        records.sort_by_key(|(_, (offset, _))| *offset);
        let mut history = FactsHistory::default();
        for (key, (offset, facts)) in records {
            let void = objection(history.current(), facts);
            history.events.push(FactsEvent {
                offset: *offset,
                key: key.clone(),
                facts: facts.clone(),
                void,
            });
        }
        history
    }
}

/// Why facts count for nothing after those before them.
fn objection(current: Option<&Facts>, facts: &Facts) -> Option<String> {
    let current = current?;
    if facts.generation == current.generation.saturating_add(1) {
        return None;
    }
    Some(format!(
        "generation {} is already there, written by {}; this is {}",
        current.generation, current.by, facts.generation
    ))
}

fn parse(key: &str, value: &[u8]) -> Result<Facts, String> {
    let facts = Facts::decode(value)?;
    let unique = key.rsplit('/').next().unwrap_or_default();
    if unique.is_empty() || key != keys::of_facts(&facts.pipeline, facts.generation, unique) {
        return Err("its pipeline or generation differs from its key".to_owned());
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(pipeline: &str, generation: u64, by: usize) -> Facts {
        Facts {
            pipeline: pipeline.to_owned(),
            generation,
            file_sha256: Vec::new(),
            partitions: 1 + by as i32 % 7,
            topics: BTreeMap::new(),
            draining: false,
            by: by.to_string(),
            at_ms: 0,
            reason: String::new(),
        }
    }

    /// A record of the log; None deletes.
    type Entry = (String, Option<Vec<u8>>);

    fn fold<'a>(log: impl Iterator<Item = (usize, &'a Entry)>) -> Fold {
        let mut fold = Fold::default();
        for (offset, (key, value)) in log {
            fold.apply(offset as i64, key.as_bytes(), value.as_deref());
        }
        fold
    }

    /// What writers do at once: each has seen some generation and writes the next one; now and then garbage.
    fn logs() -> impl Strategy<Value = Vec<Entry>> {
        let step = (0..2_usize, 0..5_u64, 0..12_u8);
        prop::collection::vec(step, 0..60).prop_map(|steps| {
            let mut log: Vec<Entry> = Vec::new();
            for (number, (pipeline, generation, kind)) in steps.into_iter().enumerate() {
                let name = ["p", "q"][pipeline];
                let key = keys::of_facts(name, generation, &number.to_string());
                log.push(match kind {
                    0 => (key, Some(b"garbage".to_vec())),
                    1 => (key, Some(facts("another", generation, number).encode())),
                    2 if !log.is_empty() => (log[number / 2].0.clone(), None),
                    _ => (key, Some(facts(name, generation, number).encode())),
                });
            }
            log
        })
    }

    proptest! {
        #[test]
        fn a_reader_after_a_compaction_sees_what_one_sees_that_read_along(log in logs()) {
            let along = fold(log.iter().enumerate());
            let last = |offset: usize, key: &str| log[offset + 1..].iter().all(|(it, _)| it != key);
            let kept = log.iter().enumerate().filter(|(offset, (key, _))| last(*offset, key));
            let after = fold(kept);
            for pipeline in ["p", "q", "another"] {
                prop_assert_eq!(along.history(pipeline), after.history(pipeline));
            }
        }

        #[test]
        fn the_first_write_of_a_generation_wins_and_generations_ascend_by_one(log in logs()) {
            let fold = fold(log.iter().enumerate());
            for pipeline in ["p", "q"] {
                let history = fold.history(pipeline);
                let mut expected: Option<&Facts> = None;
                for event in &history.events {
                    // The model: whoever comes first with what is next.
                    let next = expected.is_none_or(|it| it.generation + 1 == event.facts.generation);
                    prop_assert_eq!(event.void.is_none(), next);
                    if next {
                        expected = Some(&event.facts);
                    }
                }
                prop_assert_eq!(history.current(), expected);
            }
        }
    }

    #[test]
    fn of_two_that_make_a_pipeline_at_once_the_first_in_the_log_stands() {
        let log: Vec<Entry> = (0..2)
            .map(|by| {
                (
                    keys::of_facts("p", 0, &by.to_string()),
                    Some(facts("p", 0, by).encode()),
                )
            })
            .collect();
        let history = fold(log.iter().enumerate()).history("p");
        assert_eq!(history.current().map(|it| it.by.as_str()), Some("0"));
        let void = history.events[1].void.as_deref().unwrap_or_default();
        assert!(void.contains("by 0"), "{void}");
    }
}
