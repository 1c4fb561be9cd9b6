//! `quadrille.v1.IngestService`: one record a call, or a stream with an acknowledgement for each.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use prost_types::Struct;
use quadrille_choreography::publisher;
use quadrille_pipeline::{NeedKey, Reading, quote::quote};
use quadrille_proto::v1::{
    SubmitAck, SubmitError, SubmitRequest, SubmitResponse, ingest_service_server::IngestService,
    submit_ack::Outcome,
};
use quadrille_service::fields::read_struct;
use quadrille_telemetry::propagation::{
    BAGGAGE, TRACEPARENT, TRACESTATE, VARIANT, is_valid_traceparent, variant,
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use crate::intake::{Accepted, Headers, Intake, Rejection, Sender};

/// Records of one stream that wait for Kafka; beyond it the stream is not read.
const STREAM_IN_FLIGHT_MAX: usize = 1_000;

pub(crate) struct Ingest {
    pub intakes: Arc<[Arc<Intake>]>,
}

impl Ingest {
    fn intake(&self, pipeline: &str) -> Result<Arc<Intake>, Status> {
        find(&self.intakes, pipeline)
    }
}

fn find(intakes: &[Arc<Intake>], name: &str) -> Result<Arc<Intake>, Status> {
    let found = match intakes {
        [only] if name.is_empty() => Some(only),
        _ => intakes.iter().find(|intake| intake.pipeline.name() == name),
    };
    found.cloned().ok_or_else(|| {
        let there: Vec<&str> = intakes
            .iter()
            .map(|intake| intake.pipeline.name())
            .collect();
        Status::not_found(format!(
            "no pipeline {}; known pipelines: {}",
            quote(name),
            there.join(", ")
        ))
    })
}

fn status(rejection: &Rejection) -> Status {
    let code = match rejection {
        Rejection::Invalid(_) => Code::InvalidArgument,
        Rejection::TooLarge(_)
        | Rejection::Publish(publisher::Error::TooLarge | publisher::Error::Busy) => {
            Code::ResourceExhausted
        }
        Rejection::Unconfirmed { .. } | Rejection::Publish(publisher::Error::Unconfirmed(_)) => {
            Code::Unavailable
        }
    };
    Status::new(code, rejection.to_string())
}

fn response(accepted: Accepted) -> SubmitResponse {
    SubmitResponse {
        id: accepted.id,
        topic: accepted.topic.to_string(),
        partition: accepted.place.partition,
        offset: accepted.place.offset,
    }
}

/// What travels with the caller's records: its trace context, and the variant that it asks for.
fn travelling(metadata: &MetadataMap) -> Result<Headers, Status> {
    let named = metadata.get_all(VARIANT).iter();
    let named = variant(named.map(MetadataValue::as_bytes))
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let named = named.map(|name| (VARIANT, name.as_bytes()));
    let valid = |name: &str, value: &[u8]| name != TRACEPARENT || is_valid_traceparent(value);
    let trace = [TRACEPARENT, TRACESTATE, BAGGAGE]
        .iter()
        .filter_map(|name| Some((*name, metadata.get(*name)?.as_bytes())))
        .filter(|(name, value)| valid(name, value));
    let all = trace.chain(named);
    Ok(all
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect())
}

/// The key that came beside the message: a proxy that may send a call again sets one.
fn idempotency_key(metadata: &MetadataMap) -> Result<String, Status> {
    match metadata.get("idempotency-key").map(|key| key.to_str()) {
        None => Ok(String::new()),
        Some(Ok(key)) => Ok(key.to_owned()),
        Some(Err(_)) => Err(Status::invalid_argument(
            "idempotency-key: send visible ASCII characters",
        )),
    }
}

fn sender(request: &SubmitRequest, headers: &Headers) -> Sender {
    let key = &request.idempotency_key;
    Sender {
        idempotency_key: (!key.is_empty()).then(|| key.clone()),
        headers: Arc::clone(headers),
    }
}

fn read(intake: &Intake, request: &SubmitRequest) -> Result<Reading, Rejection> {
    let record = request.record.as_ref();
    let size = record.map_or(0, Message::encoded_len);
    intake
        .bounds
        .check_record(size)
        .map_err(Rejection::TooLarge)?;
    let empty = Struct::default();
    Ok(read_struct(
        &intake.pipeline,
        record.unwrap_or(&empty),
        NeedKey::Required,
    )?)
}

/// Sends one record; the outer future ends when it is sent, the inner one when it is confirmed.
async fn send(
    intakes: Arc<[Arc<Intake>]>,
    request: SubmitRequest,
    headers: Headers,
) -> impl Future<Output = SubmitAck> + Send {
    let sequence = request.sequence;
    let sent = begin(&intakes, &request, &headers).await;
    async move {
        let outcome = match sent {
            Ok(confirmation) => match confirmation.await {
                Ok(accepted) => Outcome::Accepted(response(accepted)),
                Err(rejection) => rejected(&status(&rejection), rejection.field()),
            },
            Err((status, field)) => rejected(&status, &field),
        };
        SubmitAck {
            sequence,
            outcome: Some(outcome),
        }
    }
}

async fn begin(
    intakes: &[Arc<Intake>],
    request: &SubmitRequest,
    headers: &Headers,
) -> Result<impl Future<Output = Result<Accepted, Rejection>> + Send + use<>, (Status, String)> {
    let intake = find(intakes, &request.pipeline).map_err(|status| (status, String::new()))?;
    let reading = read(&intake, request)
        .map_err(|rejection| (status(&rejection), rejection.field().to_owned()))?;
    let sender = sender(request, headers);
    // A stream waits for room instead of failing; its record counts meanwhile, for nothing more is read.
    Ok(intake.send_waiting(reading, &sender).await)
}

fn rejected(status: &Status, field: &str) -> Outcome {
    Outcome::Rejected(SubmitError {
        code: status.code() as i32,
        message: status.message().to_owned(),
        field: field.to_owned(),
    })
}

#[tonic::async_trait]
impl IngestService for Ingest {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let headers = travelling(request.metadata())?;
        let key = idempotency_key(request.metadata())?;
        let mut request = request.into_inner();
        if request.idempotency_key.is_empty() {
            request.idempotency_key = key;
        }
        let intake = self.intake(&request.pipeline)?;
        let reading = read(&intake, &request).map_err(|rejection| status(&rejection))?;
        let accepted = intake.send(reading, &sender(&request, &headers)).await;
        accepted
            .map(|accepted| Response::new(response(accepted)))
            .map_err(|r| status(&r))
    }

    type SubmitStreamStream = Pin<Box<dyn Stream<Item = Result<SubmitAck, Status>> + Send>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let headers = travelling(request.metadata())?;
        let intakes = Arc::clone(&self.intakes);
        // Sent one after another, so that order is kept; confirmed as Kafka answers. While as many as may
        // wait do wait, nothing is read, and the sender's flow-control window closes.
        let acknowledgements = acknowledge(request.into_inner(), move |request| {
            send(Arc::clone(&intakes), request, Arc::clone(&headers))
        });
        Ok(Response::new(Box::pin(acknowledgements)))
    }
}

/// Acknowledges what `send` sends. Where the requests end with an error, the answer does too, once all that came
/// before it is acknowledged.
fn acknowledge<F, C>(
    requests: impl Stream<Item = Result<SubmitRequest, Status>> + Send,
    send: impl FnMut(SubmitRequest) -> F + Send,
) -> impl Stream<Item = Result<SubmitAck, Status>> + Send
where
    F: Future<Output = C> + Send,
    C: Future<Output = SubmitAck> + Send,
{
    let failed = Arc::new(OnceLock::new());
    let end = Arc::clone(&failed);
    let good = move |request: &Result<SubmitRequest, Status>| {
        if let Err(status) = request {
            let _ = failed.set(status.clone());
        }
        std::future::ready(request.is_ok())
    };
    let end = stream::once(async move { end.get().cloned().map(Err) });
    requests
        .take_while(good)
        .filter_map(|request| std::future::ready(request.ok()))
        .then(send)
        .buffer_unordered(STREAM_IN_FLIGHT_MAX)
        .map(Ok)
        .chain(end.filter_map(std::future::ready))
}

#[cfg(test)]
mod tests {
    use futures_util::future::Either;

    use super::*;

    fn request(sequence: u64) -> Result<SubmitRequest, Status> {
        Ok(SubmitRequest {
            sequence,
            ..SubmitRequest::default()
        })
    }

    /// What is answered to requests of which the first is confirmed last.
    async fn answered(requests: Vec<Result<SubmitRequest, Status>>) -> Vec<Result<u64, Code>> {
        let (confirm, mut confirmed) = tokio::sync::mpsc::channel::<()>(1);
        let mut confirmed = Some(async move {
            let _ = confirmed.recv().await;
        });
        let send = move |request: SubmitRequest| {
            let ack = SubmitAck {
                sequence: request.sequence,
                outcome: None,
            };
            let wait = match confirmed.take() {
                Some(confirmed) => Either::Left(confirmed),
                None => Either::Right(std::future::ready(())),
            };
            std::future::ready(async move {
                wait.await;
                ack
            })
        };
        let mut answers = Box::pin(acknowledge(stream::iter(requests), send));
        let mut confirm = Some(confirm);
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            drop(confirm.take());
            all.push(answer.map(|it| it.sequence).map_err(|it| it.code()));
        }
        all
    }

    #[test]
    fn a_call_takes_its_variant_along_or_is_refused_where_it_is_not_known() {
        let travelling = |variants: &[&'static str]| {
            let mut metadata = MetadataMap::new();
            for variant in variants {
                metadata.append(VARIANT, MetadataValue::from_static(variant));
            }
            let headers = travelling(&metadata).map_err(|status| status.code());
            headers.map(|headers| headers.to_vec())
        };
        assert_eq!(travelling(&[]), Ok(vec![]));
        let canary = (VARIANT.to_owned(), b"canary".to_vec());
        assert_eq!(travelling(&["canary", "canary"]), Ok(vec![canary]));
        let several = travelling(&["canary", "live"]);
        assert_eq!(several, Err(Code::InvalidArgument));
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_ends_with_its_status_after_all_acknowledgements() {
        let broken = Err(Status::resource_exhausted("too large"));
        let requests = vec![request(1), request(2), broken];
        let expected = [Ok(2), Ok(1), Err(Code::ResourceExhausted)];
        assert_eq!(answered(requests).await, expected);
        assert_eq!(answered(vec![request(1), request(2)]).await, [Ok(2), Ok(1)]);
    }
}
