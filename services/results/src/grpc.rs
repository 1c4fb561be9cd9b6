//! `quadrille.v1.ResultsService` over a store.

use prost_types::Timestamp;
use quadrille_pipeline::quote::message;
use quadrille_proto::v1::{
    CountPredictionsRequest, CountPredictionsResponse, GetPredictionRequest,
    ListPredictionsRequest, ListPredictionsResponse, StoredPrediction,
    results_service_server::{ResultsService, ResultsServiceServer},
};
use tonic::{Request, Response, Status};

use crate::{
    prediction::{Kind, Prediction},
    query::{self, Filter, Limit},
    reader::{Error, Reader, Served},
    store::AnyStore,
};

/// The service, to be added to a tonic router.
pub fn grpc(store: AnyStore, pipelines: Vec<Served>) -> ResultsServiceServer<Service> {
    ResultsServiceServer::new(Service::new(store, pipelines))
}

/// Answers from a [`Reader`].
#[derive(Debug, Clone)]
pub struct Service {
    reader: Reader,
}

impl Service {
    pub fn new(store: AnyStore, pipelines: Vec<Served>) -> Self {
        Service {
            reader: Reader::new(store, pipelines),
        }
    }
}

#[tonic::async_trait]
impl ResultsService for Service {
    async fn get_prediction(
        &self,
        request: Request<GetPredictionRequest>,
    ) -> Result<Response<StoredPrediction>, Status> {
        let request = request.into_inner();
        let shadow = non_empty(&request.shadow_variant);
        let prediction = self
            .reader
            .get(&request.pipeline, &request.id, shadow)
            .await
            .map_err(status)?;
        Ok(Response::new(StoredPrediction {
            shadow: shadow.is_some(),
            ..prediction.into()
        }))
    }

    async fn list_predictions(
        &self,
        request: Request<ListPredictionsRequest>,
    ) -> Result<Response<ListPredictionsResponse>, Status> {
        let request = request.into_inner();
        let filter = filter(&request).map_err(|error| status(error.into()))?;
        let stored = |prediction: Prediction| StoredPrediction {
            shadow: request.shadow,
            ..prediction.into()
        };
        let token = non_empty(&request.page_token);
        let listing = self
            .reader
            .list(&request.pipeline, filter, token)
            .await
            .map_err(status)?;
        Ok(Response::new(ListPredictionsResponse {
            predictions: listing.predictions.into_iter().map(stored).collect(),
            next_page_token: listing.next_page_token.unwrap_or_default(),
        }))
    }

    async fn count_predictions(
        &self,
        request: Request<CountPredictionsRequest>,
    ) -> Result<Response<CountPredictionsResponse>, Status> {
        let count = self
            .reader
            .count(&request.into_inner().pipeline)
            .await
            .map_err(status)?;
        Ok(Response::new(CountPredictionsResponse {
            count: count.stored,
            duplicates: count.duplicates,
        }))
    }
}

fn filter(request: &ListPredictionsRequest) -> Result<Filter, query::Error> {
    Ok(Filter {
        key: non_empty(&request.key).map(str::to_owned),
        from_ms: request
            .from
            .as_ref()
            .map(|time| ms("from", time))
            .transpose()?,
        to_ms: request.to.as_ref().map(|time| ms("to", time)).transpose()?,
        decision: non_empty(&request.decision).map(str::to_owned),
        variant: non_empty(&request.variant).map(str::to_owned),
        kind: match request.shadow {
            true => Kind::Shadow,
            false => Kind::Live,
        },
        limit: match request.limit {
            0 => Limit::default(),
            limit => Limit::new(limit.into())?,
        },
        after: None,
    })
}

/// In proto3 a text that was left out is empty.
fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn ms(field: &'static str, time: &Timestamp) -> Result<i64, query::Error> {
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => Ok(query::ceil_ms(time)),
        Err(_) => {
            let given = format!("{} s, {} ns", time.seconds, time.nanos);
            Err(query::Error::Time { field, given })
        }
    }
}

fn status(error: Error) -> Status {
    let message = message(error.to_string());
    match error {
        Error::BadRequest(_) => Status::invalid_argument(message),
        Error::UnknownPipeline { .. } | Error::UnknownPrediction { .. } => {
            Status::not_found(message)
        }
        Error::Unreachable(_) | Error::Busy => Status::unavailable(message),
        Error::TooSlow { .. } => Status::deadline_exceeded(message),
        Error::Failed(_) => Status::internal(message),
    }
}
