//! The past again: records in the order they came, each with the features that the stream computed for it.

use std::collections::HashMap;

use quadrille_history::History;

use crate::invalid::{Invalid, InvalidKind};
use crate::pipeline::Pipeline;
use crate::quote::quote;
use crate::state::{Arrival, Scratch, Taken};
use crate::time::duration_text;

/// The state of all keys, in memory.
#[derive(Debug)]
pub struct Replay {
    pipeline: Pipeline,
    histories: HashMap<String, History>,
    scratch: Scratch,
    features: Vec<f64>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Replayed<'r> {
    /// Its features.
    Vector(&'r [f64]),
    /// It has none, and is looked back on.
    StateOnly,
    Duplicate,
    Late {
        by_ms: i64,
    },
    TooMany,
}

impl Replay {
    pub fn new(pipeline: &Pipeline) -> Self {
        Replay {
            pipeline: pipeline.clone(),
            histories: HashMap::new(),
            scratch: Scratch::default(),
            features: Vec::new(),
        }
    }

    /// The next record. Of a pipeline that does not look back each has a vector, whatever its id, key and time.
    pub fn push(&mut self, record: &Arrival<'_>) -> Replayed<'_> {
        match self.taken(record) {
            Taken::Vector => Replayed::Vector(&self.features),
            Taken::StateOnly => Replayed::StateOnly,
            Taken::Duplicate => Replayed::Duplicate,
            Taken::Late { by_ms } => Replayed::Late { by_ms },
            Taken::TooMany => Replayed::TooMany,
        }
    }

    /// As [`Replay::push`]; the vector is in [`Replay::features`].
    pub(crate) fn taken(&mut self, record: &Arrival<'_>) -> Taken {
        let (pipeline, features) = (&self.pipeline, &mut self.features);
        let Some(state) = pipeline.state() else {
            pipeline.features_of(record.values, &[], features);
            return Taken::Vector;
        };
        if !self.histories.contains_key(record.key) {
            self.histories.insert(record.key.to_owned(), History::new());
        }
        match self.histories.get_mut(record.key) {
            Some(history) => state.take(history, record, &mut self.scratch, features),
            None => Taken::TooMany, // it was made just now
        }
    }

    /// The vector of the last record that had one.
    pub(crate) fn features(&self) -> &[f64] {
        &self.features
    }

    /// Keys that came.
    pub fn keys(&self) -> usize {
        self.histories.len()
    }
}

impl Pipeline {
    /// Why a record in its turn has no place in its key's history, and what to do; None where it has one. `id` is the record's.
    pub fn refusal(&self, taken: Taken, id: &str) -> Option<Invalid> {
        let state = self.state_spec()?;
        Some(match taken {
            Taken::Vector | Taken::StateOnly => return None,
            Taken::Duplicate => Invalid::new(
                InvalidKind::Duplicate,
                self.id_field().unwrap_or_default(),
                format!("a record of this key with the id {} came before", quote(id)),
                "send each record once, with an id of its own",
            ),
            Taken::Late { by_ms } => Invalid::new(
                InvalidKind::Late,
                self.event_time_field().unwrap_or_default(),
                format!(
                    "the record comes {} later than state.lateness ({}) allows after a newer one of its key",
                    duration_text(by_ms),
                    duration_text(state.lateness_ms)
                ),
                "raise state.lateness in the pipeline file, or send records sooner",
            ),
            Taken::TooMany => Invalid::new(
                InvalidKind::TooManyEvents,
                self.key_field(),
                format!(
                    "the key has {} records within reach of the windows, and may have no more",
                    state.events_max
                ),
                "raise state.events_max in the pipeline file, shorten the windows, or find out why one key has so many",
            ),
        })
    }
}
