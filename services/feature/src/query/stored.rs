//! The vector that the stream computed for a past record, found in `<p>.features` by the record's place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use quadrille_choreography::{Cluster, Lookup, Schemas, Seeker, Sought, table::fetch};
use quadrille_pipeline::{Pipeline, Projection};
use quadrille_proto::{
    SchemaId, Topics, open,
    v1::{FeatureVector, Record, RecordPosition},
};
use tokio::sync::Semaphore;

use super::error::Error;

/// Each has a client of Kafka of its own; they are asked by people.
const SEARCHES_MAX: usize = 4;
/// Some thirty records are fetched, each within milliseconds.
const SEARCH_WITHIN: Duration = Duration::from_secs(5);

/// Finds vectors.
#[derive(Clone)]
pub(crate) struct Vectors {
    cluster: Cluster,
    schemas: Schemas,
    searches: Arc<Semaphore>,
}

/// A vector of then.
#[derive(Debug)]
pub(crate) struct Found {
    /// In the pipeline's order of now; a feature that there was not is NaN.
    pub values: Vec<f64>,
    pub event_time_ms: i64,
}

impl Vectors {
    pub fn new(cluster: Cluster, schemas: Schemas) -> Self {
        Vectors {
            cluster,
            schemas,
            searches: Arc::new(Semaphore::new(SEARCHES_MAX)),
        }
    }

    /// # Errors
    /// There is no such vector (any more), or Kafka does not answer.
    pub async fn find(
        &self,
        pipeline: &Arc<Pipeline>,
        position: RecordPosition,
        deadline: Option<Instant>,
    ) -> Result<Found, Error> {
        let permit = Arc::clone(&self.searches).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Error::TooMuch(format!(
                "{SEARCHES_MAX} past records are being looked for, which is as many as may be at once; ask again"
            ))
        })?;
        let latest = Instant::now() + SEARCH_WITHIN;
        let deadline = deadline.map_or(latest, |deadline| deadline.min(latest));
        let (vectors, pipeline) = (self.clone(), Arc::clone(pipeline));
        let found = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            vectors.search(&pipeline, position, deadline)
        });
        found
            .await
            .map_err(|error| Error::Broken(error.to_string()))?
    }

    fn search(
        &self,
        pipeline: &Pipeline,
        position: RecordPosition,
        deadline: Instant,
    ) -> Result<Found, Error> {
        let RecordPosition { partition, offset } = position;
        let topics = Topics::of(pipeline.name());
        let place = format!("{}, partition {partition}, offset {offset}", topics.records);
        let seeker = |topic: &str| {
            let opened = Seeker::open(&self.cluster, topic, partition, deadline);
            opened.map_err(|error| unread(&error, &place))
        };
        let id = record_id(&seeker(&topics.records)?, offset, &place)?;
        let features = seeker(&topics.features)?;
        let found = first_at(features.bounds(), offset, |from| {
            let sought = features.first_from(from);
            let sought = sought.map_err(|error| unread(&error, &place))?;
            Ok(sought.map(Candidate::of))
        })?;
        let vector = found.and_then(|found| found.vector);
        // Of a topic that was made anew, offsets name other records than before.
        match vector.filter(|(_, vector)| vector.records_offset == Some(offset) && vector.id == id)
        {
            Some((schema, vector)) => self.read(pipeline, schema, &vector),
            None => Err(Error::Unknown(format!(
                "the record at {place} has no vector in {}: it has expired, the record was a dead letter or is only looked back on, \
                 or it was not handled yet",
                topics.features
            ))),
        }
    }

    fn read(
        &self,
        pipeline: &Pipeline,
        schema: SchemaId,
        vector: &FeatureVector,
    ) -> Result<Found, Error> {
        let event_time_ms = vector.event_time_ms;
        let mut values = vector.values.clone();
        if schema != pipeline.feature_schema_id() {
            let then = match self.schemas.lookup(schema, Instant::now()) {
                Lookup::Known(then) => then,
                Lookup::Unknown => {
                    let why = format!("the vector's schema {schema} was never published");
                    return Err(Error::Broken(why));
                }
                Lookup::Unreadable(why) => return Err(Error::Unavailable(why)),
            };
            let projection = Projection::new(&then, pipeline.feature_schema())
                .map_err(|error| Error::Refused(format!("the vector of then: {error}")))?;
            projection.apply(&vector.values, &mut values);
        }
        let width = pipeline.feature_schema().fields.len();
        match values.len() == width {
            true => Ok(Found {
                values,
                event_time_ms,
            }),
            false => Err(Error::Broken(format!(
                "the vector has {} values, and its schema {width}",
                values.len()
            ))),
        }
    }
}

/// The id of the record at this very offset.
fn record_id(records: &Seeker, offset: i64, place: &str) -> Result<String, Error> {
    let gone = || {
        Error::Unknown(format!(
            "there is no record at {place} (any more): the topic keeps records for as long as its retention.ms says"
        ))
    };
    if offset < records.bounds().0 {
        return Err(gone());
    }
    let sought = records.first_from(offset);
    let sought = sought.map_err(|error| unread(&error, place))?;
    let sought = sought.filter(|it| it.offset == offset).ok_or_else(gone)?;
    let payload = sought.value.unwrap_or_default();
    let record = open(&payload).ok().map(|(_, message)| message);
    let record = record.and_then(|message| Record::decode(message).ok());
    let record = record.filter(|record| !record.id.is_empty());
    let other = || Error::Unknown(format!("what lies at {place} is no record of the pipeline"));
    Ok(record.ok_or_else(other)?.id)
}

fn unread(error: &fetch::Error, place: &str) -> Error {
    match error {
        fetch::Error::Gone { topic, .. } => {
            Error::Unknown(format!("{place}: {topic} has no such partition"))
        }
        error => Error::Unavailable(format!("Kafka does not answer: {error}")),
    }
}

/// What lies somewhere in the log of features.
struct Candidate {
    offset: i64,
    /// None of what cannot be read.
    vector: Option<(SchemaId, FeatureVector)>,
}

impl Candidate {
    fn of(sought: Sought) -> Self {
        let payload = sought.value.unwrap_or_default();
        let vector = open(&payload).ok().and_then(|(schema, message)| {
            let vector = FeatureVector::decode(message).ok()?;
            Some((schema, vector))
        });
        Candidate {
            offset: sought.offset,
            vector,
        }
    }

    /// Of the record that it was computed for; vectors of versions that did not note it come before all others.
    fn records_offset(&self) -> i64 {
        let vector = self.vector.as_ref();
        vector
            .and_then(|(_, vector)| vector.records_offset)
            .unwrap_or(-1)
    }
}

/// The first of the log whose record lies at `wanted` or behind it: vectors are in the order of their records.
fn first_at(
    (mut low, mut high): (i64, i64),
    wanted: i64,
    mut first_from: impl FnMut(i64) -> Result<Option<Candidate>, Error>,
) -> Result<Option<Candidate>, Error> {
    let mut best = None;
    while low < high {
        let middle = low + (high - low) / 2;
        match first_from(middle)? {
            Some(found) if found.offset < high => {
                if found.records_offset() < wanted {
                    low = found.offset + 1;
                } else {
                    (best, high) = (Some(found), middle);
                }
            }
            // Between the two are markers of transactions only.
            Some(_) | None => high = middle,
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A log of vectors with gaps, each of the record after so many more.
    fn log(steps: &[(u8, u8)]) -> Vec<(i64, i64)> {
        let (mut offset, mut record) = (0, 0);
        let next = |(gap, step): &(u8, u8)| {
            offset += 1 + i64::from(*gap);
            record += 1 + i64::from(*step);
            (offset, record)
        };
        steps.iter().map(next).collect()
    }

    proptest! {
        #[test]
        fn the_vector_of_a_record_is_found_in_few_steps_wherever_it_lies(
            steps in vec((0..5_u8, 0..4_u8), 0..300),
            wanted in 0..900_i64,
            cut in 0..50_i64,
        ) {
            let log = log(&steps);
            let end = log.last().map_or(0, |(offset, _)| offset + 1) + 7;
            let mut asked = 0;
            let found = first_at((cut, end.max(cut)), wanted, |from| {
                asked += 1;
                let found = log.iter().find(|(offset, _)| *offset >= from);
                Ok(found.map(|(offset, record)| Candidate {
                    offset: *offset,
                    vector: Some((SchemaId(1), FeatureVector {
                        records_offset: Some(*record),
                        ..FeatureVector::default()
                    })),
                }))
            });
            let found = found.unwrap().map(|it| (it.offset, it.records_offset()));
            let expected = log.iter().find(|(offset, record)| *offset >= cut && *record >= wanted);
            prop_assert_eq!(found, expected.copied());
            prop_assert!(asked <= 12, "{} steps", asked);
        }
    }

    #[test]
    fn vectors_of_before_the_offset_was_noted_are_passed_over() {
        let log = [None, None, Some(7), Some(9)];
        let find = |wanted| {
            let found = first_at((0, 4), wanted, |from| {
                let records_offset = log[from as usize];
                let vector = FeatureVector {
                    records_offset,
                    ..FeatureVector::default()
                };
                Ok(Some(Candidate {
                    offset: from,
                    vector: Some((SchemaId(1), vector)),
                }))
            });
            found.unwrap().map(|it| it.offset)
        };
        assert_eq!((find(7), find(8), find(10)), (Some(2), Some(3), None));
    }
}
