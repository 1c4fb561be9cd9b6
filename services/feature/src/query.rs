//! Features on request: of a record alone, or of a key with its history, which this replica or another one holds.
//!
//! ```text
//!   grpc ──► query ──► question ──► state (here, as the owner or as a standby)
//!              │
//!              ├─────► siblings ──► route, peers (another replica)
//!              └─────► stored (what the stream computed then)
//! ```

mod error;
mod peers;
mod question;
mod reads;
mod route;
mod siblings;
mod stored;

use std::{sync::Arc, time::Instant};

use quadrille_choreography::partition_of;
use quadrille_pipeline::{NeedKey, Pipeline};
use quadrille_proto::v1::{AsOf, Feature, FeaturesSource, GetFeaturesRequest, GetFeaturesResponse};
use quadrille_service::fields::{now_ms, read_struct};
use quadrille_telemetry::Tracing;
use tonic::metadata::MetadataMap;

pub(crate) use self::{
    error::Error,
    peers::Peers,
    reads::Reads,
    siblings::{Reports, Siblings},
    stored::Vectors,
};
use self::{peers::forwarded, question::Question, route::Role};
use crate::state::{Past, Shared, Unread};

/// A pipeline that this replica runs.
pub(crate) struct Served {
    pub pipeline: Arc<Pipeline>,
    /// Of its topics.
    pub partitions: i32,
    /// What this replica holds of its state; unused where it has none.
    pub shared: Shared,
}

/// How a request came.
pub(crate) struct Call<'a> {
    pub metadata: &'a MetadataMap,
    pub deadline: Option<Instant>,
}

/// Answers questions.
pub(crate) struct Query {
    pub served: Vec<Served>,
    pub instance: String,
    /// None where no pipeline has state.
    pub siblings: Option<Siblings>,
    pub reads: Reads,
    pub vectors: Vectors,
    pub tracing: Tracing,
}

impl Query {
    /// # Errors
    /// There is no answer; why.
    pub async fn answer(
        &self,
        pipeline: &Arc<Pipeline>,
        request: &GetFeaturesRequest,
        call: &Call<'_>,
    ) -> Result<GetFeaturesResponse, Error> {
        if let Some(position) = request.position {
            let found = self.vectors.find(pipeline, position, call.deadline).await?;
            let as_of = AsOf {
                source: FeaturesSource::Stored.into(),
                partition: position.partition,
                records_offset: Some(position.offset.saturating_add(1)),
                event_time_ms: found.event_time_ms,
                ..self.as_of()
            };
            return Ok(response(pipeline, &found.values, as_of));
        }
        match pipeline.keeps_state() {
            false => self.compute(pipeline, request),
            true => self.look_back(pipeline, request, call).await,
        }
    }

    fn as_of(&self) -> AsOf {
        AsOf {
            instance: self.instance.clone(),
            ..AsOf::default()
        }
    }

    /// Of the record alone.
    fn compute(
        &self,
        pipeline: &Pipeline,
        request: &GetFeaturesRequest,
    ) -> Result<GetFeaturesResponse, Error> {
        if request.record.is_none() && !request.key.is_empty() {
            return Err(Error::Invalid(format!(
                "record: is missing; pipeline {} keeps no state by key, its features are of a record alone: send one",
                pipeline.name()
            )));
        }
        let record = request.record.clone().unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| Error::Invalid(invalid.to_string()))?;
        let mut values = Vec::new();
        let step = self.tracing.step("features");
        let computed = pipeline.features(&reading.values, &mut values);
        computed.map_err(|error| Error::Refused(error.to_string()))?;
        drop(step);
        let at_ms = request.at_ms.or(reading.event_time_ms);
        let as_of = AsOf {
            source: FeaturesSource::Computed.into(),
            event_time_ms: at_ms.unwrap_or_else(now_ms),
            ..self.as_of()
        };
        Ok(response(pipeline, &values, as_of))
    }

    /// Of a key.
    async fn look_back(
        &self,
        pipeline: &Arc<Pipeline>,
        request: &GetFeaturesRequest,
        call: &Call<'_>,
    ) -> Result<GetFeaturesResponse, Error> {
        let question = Question::read(pipeline, request)?;
        let mut served = self.served.iter();
        let served = served.find(|it| it.pipeline.name() == pipeline.name());
        let served =
            served.ok_or_else(|| Error::Broken("the pipeline is not served".to_owned()))?;
        let partition = partition_of(question.key.as_bytes(), served.partitions);
        let reads = &self.reads;
        let read = |from| reads.read(served, from, partition, &question.key, call.deadline);
        let own = read(Shared::read).await?;
        let place = (FeaturesSource::Owner, partition);
        let why = match own {
            Ok(past) => return self.answer_of(pipeline, &question, place, past),
            Err(why) => why,
        };
        // The owner's answer is the newest.
        let asked = (pipeline.name(), partition);
        let elsewhere = self.ask(Role::Owner, asked, request, call).await;
        let refused = match elsewhere {
            Some(Err(Error::Unavailable(refused))) => Some(refused),
            Some(answered) => return answered,
            None => None,
        };
        let place = (FeaturesSource::Standby, partition);
        let standing = match read(Shared::read_standing).await? {
            Ok(past) => return self.answer_of(pipeline, &question, place, past),
            Err(why) => why,
        };
        match self.ask(Role::Standby, asked, request, call).await {
            Some(Err(Error::Unavailable(_))) | None => {}
            Some(answered) => return answered,
        }
        let unread = |why: Unread| {
            Error::Unavailable(format!(
                "partition {partition} of {}.records: {why}; ask again",
                pipeline.name()
            ))
        };
        Err(match (why, refused, standing) {
            (Unread::NotHeld, Some(refused), _) => Error::Unavailable(refused),
            (Unread::NotHeld, None, Unread::NotHeld) => Error::NotOwner(format!(
                "replica {} does not hold partition {partition}",
                self.instance
            )),
            // It stands by, and cannot answer now, or not about this key: whoever asked may ask it again.
            (Unread::NotHeld, None, why) | (why, ..) => unread(why),
        })
    }

    /// Another replica. None where that is not to be done: one that is asked by another asks nobody.
    async fn ask(
        &self,
        role: Role,
        (pipeline, partition): (&str, i32),
        request: &GetFeaturesRequest,
        call: &Call<'_>,
    ) -> Option<Result<GetFeaturesResponse, Error>> {
        let siblings = self.siblings.as_ref().filter(|_| !request.forwarded)?;
        let request = forwarded(request, call.metadata);
        let place = (role, pipeline, partition);
        Some(siblings.ask(place, request, call.deadline).await)
    }

    fn answer_of(
        &self,
        pipeline: &Pipeline,
        question: &Question,
        (source, partition): (FeaturesSource, i32),
        past: Past,
    ) -> Result<GetFeaturesResponse, Error> {
        let Some(state) = pipeline.state() else {
            return Err(Error::Broken("the pipeline has no state".to_owned()));
        };
        let step = self.tracing.step("features");
        let answer = question.answer(pipeline, state, past.history);
        let answer = answer.map_err(|error| match (error, source, past.input_next) {
            // Its answer says as of when; its refusal does as well.
            (Error::Unknown(why), FeaturesSource::Standby, Some(offset)) => Error::Unknown(format!(
                "{why} (by a standby: as of offset {offset} of partition {partition} of {}.records)",
                pipeline.name()
            )),
            (error, ..) => error,
        })?;
        drop(step);
        let as_of = AsOf {
            source: source.into(),
            partition,
            records_offset: past.input_next,
            newest_event_time_ms: answer.newest_ms,
            event_time_ms: answer.at_ms,
            ..self.as_of()
        };
        Ok(response(pipeline, &answer.values, as_of))
    }
}

fn response(pipeline: &Pipeline, values: &[f64], as_of: AsOf) -> GetFeaturesResponse {
    let names = pipeline.feature_schema().fields.iter();
    let features = names.zip(values).map(|(field, value)| Feature {
        name: field.name.clone(),
        value: (!value.is_nan()).then_some(*value),
    });
    GetFeaturesResponse {
        features: features.collect(),
        as_of: Some(as_of),
    }
}

#[cfg(test)]
mod tests;
