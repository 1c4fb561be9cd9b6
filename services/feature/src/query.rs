//! Features on request: of a record alone, or of a key with its history, which this replica or another one holds.
//!
//! ```text
//!   grpc ──► query ──► question ──► state (here)
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
use self::{peers::forwarded, question::Question};
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
        let past = reads.read(served, partition, &question.key, call.deadline);
        match past.await? {
            Ok(past) => self.answer_of(pipeline, &question, partition, past),
            Err(Unread::NotHeld) => match &self.siblings {
                Some(siblings) if !request.forwarded => {
                    let request = forwarded(request, call.metadata);
                    let place = (pipeline.name(), partition);
                    siblings.ask(place, request, call.deadline).await
                }
                _ => Err(Error::NotOwner(format!(
                    "replica {} does not hold partition {partition}",
                    self.instance
                ))),
            },
            Err(why) => Err(Error::Unavailable(format!(
                "partition {partition} of {}.records: {why}; ask again",
                pipeline.name()
            ))),
        }
    }

    fn answer_of(
        &self,
        pipeline: &Pipeline,
        question: &Question,
        partition: i32,
        past: Past,
    ) -> Result<GetFeaturesResponse, Error> {
        let Some(state) = pipeline.state() else {
            return Err(Error::Broken("the pipeline has no state".to_owned()));
        };
        let step = self.tracing.step("features");
        let answer = question.answer(pipeline, state, past.history)?;
        drop(step);
        let as_of = AsOf {
            source: FeaturesSource::Owner.into(),
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
