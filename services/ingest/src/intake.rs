//! One record pushed from outside: checked, sent, acknowledged. Shared by HTTP and gRPC.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};
use prost::Message;
use quadrille_choreography::{
    Acknowledged, Publication, Publisher, StageConfig, StageTopics, partition_of, publisher,
};
use quadrille_pipeline::{
    Invalid, Pipeline, Reading,
    quote::{cut, quote},
};
use quadrille_proto::{SCHEMA_ID_LEN, seal, v1::Record};
use quadrille_service::{Error, fields::now_ms};
use quadrille_telemetry::{
    Tracing,
    propagation::{BAGGAGE, TRACEPARENT, TRACESTATE, VARIANT, is_valid_traceparent, variant},
};
use uuid::Uuid;

/// Room for a record's framing when its size is compared with the topic's limit.
const RECORD_OVERHEAD_BYTES: usize = 160;

/// What a sender may send at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one record.
    pub record_bytes_max: usize,
    /// Bytes of one HTTP body.
    pub body_bytes_max: usize,
    /// Records in one HTTP body.
    pub batch_records_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            record_bytes_max: 1 << 20,
            body_bytes_max: 8 << 20,
            batch_records_max: 10_000,
        }
    }
}

impl Bounds {
    /// # Errors
    /// The record is too large; says by how much.
    pub fn check_record(&self, bytes: usize) -> Result<(), String> {
        if bytes <= self.record_bytes_max {
            return Ok(());
        }
        let limit = self.record_bytes_max;
        Err(format!(
            "the record has {bytes} bytes, the limit is {limit}; send less, or raise QUADRILLE_RECORD_BYTES"
        ))
    }
}

/// Why a pushed record was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("no pipeline {}; known pipelines: {}", quote(name), known.join(", "))]
    UnknownPipeline { name: String, known: Vec<String> },
    #[error("{0}")]
    Invalid(Invalid),
    #[error("{0}")]
    TooLarge(String),
    #[error(transparent)]
    Publish(#[from] publisher::Error),
    /// Sent, and Kafka has not said whether it has it: sent again with this id it is one record either way.
    #[error(
        "Kafka did not confirm the record: {why}; send it again with id {id:?}, in the record or as Idempotency-Key"
    )]
    Unconfirmed { id: String, why: String },
}

impl Rejection {
    /// The field at fault; empty where it is none.
    pub fn field(&self) -> &str {
        match self {
            Rejection::Invalid(invalid) => &invalid.field,
            _ => "",
        }
    }

    /// The id under which the record may be stored already.
    pub fn id(&self) -> Option<&str> {
        match self {
            Rejection::Unconfirmed { id, .. } => Some(id),
            _ => None,
        }
    }
}

impl From<Invalid> for Rejection {
    fn from(invalid: Invalid) -> Self {
        Rejection::Invalid(invalid)
    }
}

/// A record that Kafka confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub id: String,
    pub topic: Arc<str>,
    pub place: Acknowledged,
}

/// A record's headers, shared by all of one call.
pub(crate) type Headers = Arc<[(String, Vec<u8>)]>;

/// What a sender gives beside the record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sender {
    /// The record's id where it has none.
    pub idempotency_key: Option<String>,
    /// Trace context and variant, passed on.
    pub headers: Headers,
}

impl Sender {
    /// What the headers of a request, or the metadata of a call, say.
    ///
    /// # Errors
    /// A header that cannot be used; says how it should be.
    pub fn of(headers: &HeaderMap) -> Result<Self, String> {
        let idempotency_key = match headers.get("idempotency-key").map(HeaderValue::to_str) {
            None => None,
            Some(Ok(key)) => Some(key.to_owned()),
            Some(Err(_)) => {
                return Err("Idempotency-Key: send visible ASCII characters".to_owned());
            }
        };
        Ok(Sender {
            idempotency_key,
            headers: Sender::travelling(headers)?,
        })
    }

    /// The headers that go with every record of a call: its trace context, and the variant that it asks for.
    ///
    /// # Errors
    /// A header that cannot be used; says how it should be.
    pub fn travelling(headers: &HeaderMap) -> Result<Headers, String> {
        let named = headers.get_all(VARIANT).iter().map(HeaderValue::as_bytes);
        let named = variant(named).map_err(|error| error.to_string())?;
        let named = named.map(|name| (VARIANT, name.as_bytes()));
        let valid = |name: &str, value: &[u8]| name != TRACEPARENT || is_valid_traceparent(value);
        let trace = [TRACEPARENT, TRACESTATE, BAGGAGE]
            .iter()
            .filter_map(|name| Some((*name, headers.get(*name)?.as_bytes())))
            .filter(|(name, value)| valid(name, value));
        Ok(trace
            .chain(named)
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect())
    }
}

/// The ways in of all pipelines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intakes(Arc<[Intake]>);

impl Intakes {
    /// By the pipeline's name.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn find(&self, name: &str) -> Result<&Intake, Rejection> {
        let found = self.0.iter().find(|intake| intake.pipeline.name() == name);
        found.ok_or_else(|| Rejection::UnknownPipeline {
            name: cut(name),
            known: (self.0.iter())
                .map(|intake| intake.pipeline.name().to_owned())
                .collect(),
        })
    }

    /// As [`Intakes::find`]; where there is one pipeline only, an empty name is its.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn only(&self, name: &str) -> Result<&Intake, Rejection> {
        match &*self.0 {
            [only] if name.is_empty() => Ok(only),
            _ => self.find(name),
        }
    }

    /// Whether pushes can be sent to Kafka.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        self.0.iter().try_for_each(Intake::ready)
    }
}

impl FromIterator<Intake> for Intakes {
    fn from_iter<I: IntoIterator<Item = Intake>>(intakes: I) -> Self {
        Intakes(intakes.into_iter().collect())
    }
}

/// One pipeline's way in.
pub(crate) struct Intake {
    pub pipeline: Arc<Pipeline>,
    pub bounds: Bounds,
    publisher: Publisher,
    topic: Arc<str>,
    partitions: i32,
    message_bytes_max: usize,
}

impl Intake {
    pub fn open(
        pipeline: Arc<Pipeline>,
        config: &StageConfig,
        topics: &StageTopics,
        bounds: Bounds,
        tracing: Tracing,
    ) -> Result<Self, Error> {
        let output = config.outputs.first();
        let topic = output.map_or(String::new(), |output| output.topic.clone());
        let name = format!("{}-{}-push", config.group, config.instance);
        let limit = topics
            .outputs_bytes_max
            .first()
            .copied()
            .unwrap_or_default();
        let publisher = Publisher::connect_traced(&config.cluster, &name, limit, tracing)
            .map_err(|error| Error::Failed(error.to_string()))?;
        Ok(Intake {
            pipeline,
            bounds,
            publisher,
            topic: topic.into(),
            partitions: topics.partitions,
            message_bytes_max: limit,
        })
    }

    fn ready(&self) -> Result<(), String> {
        let name = self.pipeline.name();
        let ready = self.publisher.ready();
        ready.map_err(|reason| format!("pipeline {name}: {reason}"))
    }

    /// Sends a record at once; the future is ready when Kafka has confirmed it. Records sent one after
    /// another stay in that order.
    pub fn send(
        &self,
        reading: Reading,
        sender: &Sender,
    ) -> impl Future<Output = Result<Accepted, Rejection>> + Send + use<> {
        let sent = self.prepare(reading, sender).map(|prepared| {
            let confirmation = self.publisher.publish(&self.publication(&prepared, sender));
            (prepared.id, confirmation)
        });
        confirmed(sent, Arc::clone(&self.topic))
    }

    /// As [`Intake::send`], but a full queue is waited for: the first future is ready when the record is sent, the second when
    /// Kafka has confirmed it.
    pub async fn send_waiting(
        &self,
        reading: Reading,
        sender: &Sender,
    ) -> impl Future<Output = Result<Accepted, Rejection>> + Send + use<> {
        let sent = match self.prepare(reading, sender) {
            Ok(prepared) => {
                let publication = self.publication(&prepared, sender);
                let confirmation = self.publisher.publish_waiting(&publication).await;
                Ok((prepared.id, confirmation))
            }
            Err(rejection) => Err(rejection),
        };
        confirmed(sent, Arc::clone(&self.topic))
    }

    fn prepare(&self, reading: Reading, sender: &Sender) -> Result<Prepared, Rejection> {
        let id = match (reading.id, &sender.idempotency_key) {
            (Some(id), _) => id,
            (None, Some(key)) => {
                self.pipeline.check_id(key)?;
                key.clone()
            }
            (None, None) => Uuid::now_v7().to_string(),
        };
        let now_ms = now_ms();
        let record = Record {
            id,
            key: reading.key,
            event_time_ms: reading.event_time_ms.unwrap_or(now_ms),
            values: reading.values,
            extra: reading.extra,
        };
        let mut payload = Vec::with_capacity(SCHEMA_ID_LEN + record.encoded_len());
        seal(self.pipeline.record_schema_id(), &record, &mut payload);
        if payload.len() + record.key.len() + RECORD_OVERHEAD_BYTES > self.message_bytes_max {
            let (size, limit) = (payload.len(), self.message_bytes_max);
            return Err(Rejection::TooLarge(format!(
                "the record has {size} bytes, topic {} takes {limit} (max.message.bytes); send less",
                self.topic
            )));
        }
        Ok(Prepared {
            id: record.id,
            key: record.key,
            payload,
            now_ms,
        })
    }

    fn publication<'a>(&'a self, prepared: &'a Prepared, sender: &'a Sender) -> Publication<'a> {
        Publication {
            topic: &self.topic,
            partition: partition_of(prepared.key.as_bytes(), self.partitions),
            key: prepared.key.as_bytes(),
            payload: Some(&prepared.payload),
            timestamp_ms: Some(prepared.now_ms),
            headers: &sender.headers,
        }
    }
}

/// A record as it is sent.
struct Prepared {
    id: String,
    key: String,
    payload: Vec<u8>,
    now_ms: i64,
}

async fn confirmed(
    sent: Result<
        (
            String,
            impl Future<Output = Result<Acknowledged, publisher::Error>>,
        ),
        Rejection,
    >,
    topic: Arc<str>,
) -> Result<Accepted, Rejection> {
    let (id, confirmation) = sent?;
    match confirmation.await {
        Ok(place) => Ok(Accepted { id, topic, place }),
        Err(publisher::Error::Unconfirmed(why)) => Err(Rejection::Unconfirmed { id, why }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_takes_its_variant_along_or_is_refused_where_it_is_not_known() {
        let sender = |variants: &[&'static [u8]]| {
            let mut headers = HeaderMap::new();
            for variant in variants {
                let value = HeaderValue::from_bytes(variant).expect("a header's value");
                headers.append(VARIANT, value);
            }
            Sender::of(&headers).map(|sender| sender.headers.to_vec())
        };
        assert_eq!(sender(&[]), Ok(vec![]));
        let canary = (VARIANT.to_owned(), b"canary".to_vec());
        assert_eq!(sender(&[b"canary", b"canary"]), Ok(vec![canary]));
        for unknown in [&[&b"canary"[..], b"live"][..], &[b"canary\xff"]] {
            let why = sender(unknown).expect_err("it could be any");
            assert!(why.starts_with(VARIANT), "{why}");
        }
    }
}
