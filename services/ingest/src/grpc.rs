//! `quadrille.v1.IngestService`: one record a call, or a stream with an acknowledgement for each.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use prost_types::Struct;
use quadrille_choreography::publisher;
use quadrille_pipeline::{NeedKey, Reading};
use quadrille_proto::v1::{
    SubmitAck, SubmitError, SubmitRequest, SubmitResponse, ingest_service_server::IngestService,
    submit_ack::Outcome,
};
use quadrille_service::fields::read_struct;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    intake::{Accepted, Headers, Intake, Intakes, Rejection, Sender},
    source::{Order, Push, Source, WhenFull, acknowledgements},
};

/// Records of one stream that wait for Kafka; beyond it the stream is not read.
const STREAM_IN_FLIGHT_MAX: usize = 1_000;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ingest {
    pub intakes: Intakes,
}

fn status(rejection: &Rejection) -> Status {
    let code = match rejection {
        Rejection::UnknownPipeline { .. } => Code::NotFound,
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

/// What the call's metadata say of its records. A proxy that may send a call again sets an idempotency key.
fn sender(metadata: &MetadataMap) -> Result<Sender, Status> {
    Sender::of(metadata.as_ref()).map_err(Status::invalid_argument)
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

/// The messages of one stream.
struct SubmitStream {
    ingest: Ingest,
    headers: Headers,
}

impl Source for SubmitStream {
    type Frame = SubmitRequest;
    /// Its sequence, which the sender chose.
    type Tag = u64;
    type Ack = SubmitAck;

    const IN_FLIGHT_MAX: usize = STREAM_IN_FLIGHT_MAX;
    const ORDER: Order = Order::OfConfirmations;
    /// While as many as may wait do wait, nothing is read, and the sender's flow-control window closes.
    const WHEN_FULL: WhenFull = WhenFull::Wait;

    fn read(&self, request: SubmitRequest) -> (u64, Result<Push<'_>, Rejection>) {
        let sequence = request.sequence;
        let key = Some(request.idempotency_key.as_str()).filter(|key| !key.is_empty());
        let sender = Sender {
            idempotency_key: key.map(str::to_owned),
            headers: Arc::clone(&self.headers),
        };
        (sequence, self.ingest.push(&request, sender))
    }

    fn acknowledge(&self, sequence: u64, outcome: Result<Accepted, Rejection>) -> SubmitAck {
        let outcome = match outcome {
            Ok(accepted) => Outcome::Accepted(response(accepted)),
            Err(rejection) => rejected(&status(&rejection), rejection.field()),
        };
        SubmitAck {
            sequence,
            outcome: Some(outcome),
        }
    }
}

impl Ingest {
    fn push(&self, request: &SubmitRequest, sender: Sender) -> Result<Push<'_>, Rejection> {
        let intake = self.intakes.only(&request.pipeline)?;
        Ok(Push {
            intake,
            reading: read(intake, request)?,
            sender,
        })
    }
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
        let mut sender = sender(request.metadata())?;
        sender.idempotency_key = sender.idempotency_key.filter(|key| !key.is_empty());
        let request = request.into_inner();
        if !request.idempotency_key.is_empty() {
            sender.idempotency_key = Some(request.idempotency_key.clone());
        }
        let refused = |rejection| status(&rejection);
        let push = self.push(&request, sender).map_err(refused)?;
        let accepted = push.intake.send(push.reading, &push.sender).await;
        Ok(Response::new(response(accepted.map_err(refused)?)))
    }

    type SubmitStreamStream = Pin<Box<dyn Stream<Item = Result<SubmitAck, Status>> + Send>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let source = Arc::new(SubmitStream {
            headers: Sender::travelling(request.metadata().as_ref())
                .map_err(Status::invalid_argument)?,
            ingest: self.clone(),
        });
        let answers = until_broken(request.into_inner(), |requests| {
            acknowledgements(source, requests)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The answers to requests. Where the requests end with an error, the answers do too, once all that came before it is
/// acknowledged.
fn until_broken<T: Send + 'static, A: Stream<Item = SubmitAck> + Send>(
    requests: impl Stream<Item = Result<T, Status>> + Send + 'static,
    acknowledge: impl FnOnce(Pin<Box<dyn Stream<Item = T> + Send>>) -> A,
) -> impl Stream<Item = Result<SubmitAck, Status>> + Send {
    let failed = Arc::new(OnceLock::new());
    let end = Arc::clone(&failed);
    let good = move |(): &mut (), request: Result<T, Status>| {
        let good = request.map_err(|status| failed.set(status));
        std::future::ready(good.ok())
    };
    let end = stream::once(async move { end.get().cloned().map(Err) });
    acknowledge(Box::pin(requests.scan((), good)))
        .map(Ok)
        .chain(end.filter_map(std::future::ready))
}

#[cfg(test)]
mod tests {
    use futures_util::future::Either;

    use super::*;

    fn ack(sequence: u64) -> SubmitAck {
        SubmitAck {
            sequence,
            outcome: None,
        }
    }

    /// What is answered to requests of which the first is confirmed last.
    async fn answered(requests: Vec<Result<u64, Status>>) -> Vec<Result<u64, Code>> {
        let (confirm, mut confirmed) = tokio::sync::mpsc::channel::<()>(1);
        let mut confirmed = Some(async move {
            let _ = confirmed.recv().await;
        });
        let send = move |sequence| {
            let wait = match confirmed.take() {
                Some(confirmed) => Either::Left(confirmed),
                None => Either::Right(std::future::ready(())),
            };
            async move {
                wait.await;
                ack(sequence)
            }
        };
        let answers = until_broken(stream::iter(requests), |requests| {
            requests.map(send).buffer_unordered(8)
        });
        let mut answers = Box::pin(answers);
        let mut confirm = Some(confirm);
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            drop(confirm.take());
            all.push(answer.map(|it| it.sequence).map_err(|it| it.code()));
        }
        all
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_ends_with_its_status_after_all_acknowledgements() {
        let broken = Err(Status::resource_exhausted("too large"));
        let requests = vec![Ok(1), Ok(2), broken, Ok(3)];
        let expected = [Ok(2), Ok(1), Err(Code::ResourceExhausted)];
        assert_eq!(answered(requests).await, expected);
        assert_eq!(answered(vec![Ok(1), Ok(2)]).await, [Ok(2), Ok(1)]);
    }

    #[test]
    fn what_is_refused_has_the_status_that_its_sender_acts_upon() {
        let unknown = Rejection::UnknownPipeline {
            name: "p".to_owned(),
            known: vec!["q".to_owned()],
        };
        let unconfirmed = Rejection::Unconfirmed {
            id: "1".to_owned(),
            why: "no broker".to_owned(),
        };
        for (rejection, code) in [
            (unknown, Code::NotFound),
            (Rejection::TooLarge(String::new()), Code::ResourceExhausted),
            (unconfirmed, Code::Unavailable),
            (publisher::Error::Busy.into(), Code::ResourceExhausted),
        ] {
            assert_eq!(status(&rejection).code(), code, "{rejection}");
        }
    }
}
