//! What is asked of a key's history, and the answer. Pure, but for the clock by which records without a time are read.

use quadrille_history::History;
use quadrille_pipeline::{
    Arrival, NeedKey, Pipeline, Reading, Scratch, State, Taken, quote::quote,
};
use quadrille_proto::v1::GetFeaturesRequest;
use quadrille_service::fields::{now_ms, read_struct};

use super::error::Error;
use crate::state::KEY_LEN_MAX;

/// An id that no record has: theirs have no control characters.
const NO_ID: &str = "\0";

/// A question about a key.
#[derive(Debug)]
pub(crate) struct Question {
    pub key: String,
    pub about: About,
}

#[derive(Debug)]
pub(crate) enum About {
    /// The key as of a time; None: of its newest event.
    Key { at_ms: Option<i64> },
    /// A record that comes now.
    Record { reading: Reading, at_ms: i64 },
}

/// Features as of a place in a key's history.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// In the pipeline's order.
    pub values: Vec<f64>,
    /// Of the history alone.
    pub newest_ms: Option<i64>,
    /// Of the look.
    pub at_ms: i64,
}

impl Question {
    /// # Errors
    /// What is wrong with it.
    pub fn read(pipeline: &Pipeline, request: &GetFeaturesRequest) -> Result<Self, Error> {
        let reading = match &request.record {
            Some(record) => {
                let reading = read_struct(pipeline, record, NeedKey::Optional);
                Some(reading.map_err(|invalid| Error::Invalid(invalid.to_string()))?)
            }
            None => None,
        };
        let of_record = reading.as_ref().map_or("", |it| it.key.as_str());
        let key = key(pipeline, &request.key, of_record)?;
        if request.at_ms.is_some_and(|at| at < 0) {
            let why = "at_ms: is negative; send milliseconds since 1970, or leave it out";
            return Err(Error::Invalid(why.to_owned()));
        }
        let about = match reading {
            None => About::Key {
                at_ms: request.at_ms,
            },
            Some(reading) => {
                let at_ms = request.at_ms.or(reading.event_time_ms);
                // As the stream takes one without a time: it happens now.
                let at_ms = at_ms.unwrap_or_else(now_ms);
                About::Record { reading, at_ms }
            }
        };
        Ok(Question { key, about })
    }

    /// # Errors
    /// There is no answer as of the time that is asked for, or the record cannot be taken.
    pub fn answer(
        &self,
        pipeline: &Pipeline,
        state: &State,
        history: History,
    ) -> Result<Answer, Error> {
        let newest_ms = history.newest_ms();
        match &self.about {
            About::Record { reading, at_ms } => {
                let values = self.taken(pipeline, state, history, reading, *at_ms)?;
                Ok(Answer {
                    values,
                    newest_ms,
                    at_ms: *at_ms,
                })
            }
            About::Key { at_ms } => {
                let newest = newest_ms.ok_or_else(|| self.unknown(pipeline))?;
                let at_ms = at_ms.unwrap_or(newest);
                let forget_after = state.definition().settings().forget_after_ms;
                if forget_after.is_some_and(|it| at_ms.saturating_sub(newest) >= it) {
                    return Err(self.unknown(pipeline));
                }
                let (mut aggregates, mut values) = (Vec::new(), Vec::new());
                let looked = history.look_at(state.definition(), at_ms, &mut aggregates);
                looked.map_err(|too_old| {
                    Error::Refused(format!(
                        "at_ms: what is kept of the key goes back to {} ms since 1970, state.lateness before its newest record; ask as of then or later",
                        too_old.earliest_ms
                    ))
                })?;
                pipeline.features_without_record(&aggregates, &mut values);
                Ok(Answer {
                    values,
                    newest_ms,
                    at_ms,
                })
            }
        }
    }

    /// The features of a record that the history takes now; the history is not needed any more.
    fn taken(
        &self,
        pipeline: &Pipeline,
        state: &State,
        mut history: History,
        reading: &Reading,
        at_ms: i64,
    ) -> Result<Vec<f64>, Error> {
        let id = reading.id.as_deref().unwrap_or(NO_ID);
        let arrival = Arrival {
            id,
            key: &self.key,
            time_ms: at_ms,
            values: &reading.values,
        };
        let mut values = Vec::new();
        let taken = state.take(&mut history, &arrival, &mut Scratch::default(), &mut values);
        let why = || {
            let refusal = pipeline.refusal(taken, id);
            refusal.map_or_else(String::new, |it| it.to_string())
        };
        match taken {
            Taken::Vector => Ok(values),
            Taken::StateOnly => Err(Error::Invalid(
                "the record has no features: the pipeline's state.emit is about other records; send one of those, or the key alone"
                    .to_owned(),
            )),
            Taken::Duplicate => Err(Error::Exists(format!(
                "{}; leave the id out, or ask for the vector of then by its position in {}.records",
                why(),
                pipeline.name()
            ))),
            Taken::Late { .. } => Err(Error::Refused(why())),
            Taken::TooMany => Err(Error::TooMuch(why())),
        }
    }

    fn unknown(&self, pipeline: &Pipeline) -> Error {
        let (key, name) = (quote(&self.key), pipeline.name());
        Error::Unknown(format!(
            "pipeline {name} has no history of the key {key}; with a record, its features are computed as those of a new key"
        ))
    }
}

fn key(pipeline: &Pipeline, given: &str, of_record: &str) -> Result<String, Error> {
    let invalid = |why: String| Err(Error::Invalid(why));
    let key = match (given, of_record) {
        ("", "") => {
            let (name, field) = (pipeline.name(), pipeline.key_field());
            return invalid(format!(
                "key: is missing; features of pipeline {name} look back on the records of a key: send it, or a record with {field:?}"
            ));
        }
        ("", key) | (key, "") => key,
        (given, of_record) if given != of_record => {
            let (given, of_record) = (quote(given), quote(of_record));
            return invalid(format!(
                "key: is {given}, and the record's is {of_record}; send one of them"
            ));
        }
        (given, _) => given,
    };
    match key.len() {
        0..=KEY_LEN_MAX => Ok(key.to_owned()),
        len => invalid(format!("key: has {len} bytes; no record has such a key")),
    }
}
