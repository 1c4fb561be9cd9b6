//! The REST form of the results, under `/v1`, and the page at `/`.
//!
//! A prediction whose id is `count` is hidden by the route of that name: gRPC's `GetPrediction`
//! serves it.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::domain::{self, BadRequest, Filter, Kind, Limit, Prediction};
use crate::page;
use crate::page_token::hex;
use crate::reader::{Error, Reader};
use crate::store::AnyStore;

/// The page at `/`, and everything under `/v1`.
pub fn router(store: AnyStore, pipelines: Vec<String>) -> Router {
    let v1 = Router::new()
        .route("/pipelines", get(pipelines_known))
        .route("/pipelines/{pipeline}/predictions", get(list))
        .route("/pipelines/{pipeline}/predictions/count", get(count))
        .route("/pipelines/{pipeline}/predictions/{id}", get(one))
        .fallback(no_such_path)
        .method_not_allowed_fallback(read_only)
        .with_state(Reader::new(store, pipelines));
    Router::new().route("/", get(page::show)).nest("/v1", v1)
}

#[derive(Serialize)]
struct PipelinesJson<'a> {
    pipelines: &'a [String],
}

#[derive(Serialize)]
struct PredictionJson {
    id: String,
    key: String,
    probability: f64,
    outputs: Vec<f64>,
    decision: String,
    model: String,
    version: String,
    variant: String,
    event_time: String,
    predicted_at: String,
    config_hash: String,
    input_topic: String,
    input_partition: i32,
    input_offset: i64,
}

#[derive(Serialize)]
struct ListingJson {
    predictions: Vec<PredictionJson>,
    /// Null on the last page.
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct CountJson {
    count: i64,
    duplicates: i64,
}

#[derive(Serialize)]
struct ErrorJson {
    error: String,
}

async fn pipelines_known(
    State(reader): State<Reader>,
    parameters: Parameters,
) -> Result<Response, Error> {
    parameters.only(&[])?;
    Ok(fresh(PipelinesJson {
        pipelines: reader.pipelines(),
    }))
}

async fn list(
    State(reader): State<Reader>,
    pipeline: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Error> {
    let Path(pipeline) = pipeline.map_err(bad_path)?;
    parameters.only(&[
        "key",
        "from",
        "to",
        "decision",
        "limit",
        "page_token",
        "shadow",
    ])?;
    let filter = Filter {
        key: parameters.get("key").map(str::to_owned),
        from_ms: parameters.time("from")?,
        to_ms: parameters.time("to")?,
        decision: parameters.get("decision").map(str::to_owned),
        kind: parameters.kind()?,
        limit: parameters.limit()?,
        after: None,
    };
    let listing = reader
        .list(&pipeline, filter, parameters.get("page_token"))
        .await?;
    Ok(fresh(ListingJson {
        predictions: listing
            .predictions
            .into_iter()
            .map(PredictionJson::from)
            .collect(),
        next_page_token: listing.next_page_token,
    }))
}

async fn one(
    State(reader): State<Reader>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Error> {
    let Path((pipeline, id)) = path.map_err(bad_path)?;
    parameters.only(&["shadow_variant"])?;
    let shadow = parameters.get("shadow_variant");
    let prediction = reader.get(&pipeline, &id, shadow).await?;
    Ok(fresh(PredictionJson::from(prediction)))
}

async fn count(
    State(reader): State<Reader>,
    pipeline: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Error> {
    let Path(pipeline) = pipeline.map_err(bad_path)?;
    parameters.only(&[])?;
    let count = reader.count(&pipeline).await?;
    Ok(fresh(CountJson {
        count: count.stored,
        duplicates: count.duplicates,
    }))
}

async fn no_such_path() -> Response {
    const KNOWN: &str = "no such path; known: /v1/pipelines, \
        /v1/pipelines/{pipeline}/predictions, /v1/pipelines/{pipeline}/predictions/count, \
        /v1/pipelines/{pipeline}/predictions/{id} (a / in an id is written %2F)";
    refusal(StatusCode::NOT_FOUND, KNOWN)
}

async fn read_only() -> Response {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "results are read by GET; predictions come by Kafka",
    )
}

fn bad_path(rejection: PathRejection) -> Error {
    BadRequest::Path {
        reason: rejection.body_text(),
    }
    .into()
}

/// An answer that is not to be kept: the next one may differ.
fn fresh(body: impl Serialize) -> Response {
    const NO_STORE: (HeaderName, HeaderValue) =
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    ([NO_STORE], Json(body)).into_response()
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (
        status,
        fresh(ErrorJson {
            error: error.to_owned(),
        }),
    )
        .into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Error::BadRequest(_) => StatusCode::BAD_REQUEST,
            Error::UnknownPipeline { .. } | Error::UnknownPrediction { .. } => {
                StatusCode::NOT_FOUND
            }
            Error::Away(_) | Error::TooSlow { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = refusal(status, &self.to_string());
        // The same question would be as slow a second later.
        if let Error::Away(_) = self {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The query string. An empty value is as good as none, as forms send them.
struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Error> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Parameters(pairs)),
            Err(rejection) => Err(unreadable(&rejection).into()),
        }
    }
}

fn unreadable(rejection: &QueryRejection) -> BadRequest {
    BadRequest::Query {
        reason: rejection.body_text(),
    }
}

impl Parameters {
    /// Refuses what the route does not know, and what is given twice.
    fn only(&self, known: &[&str]) -> Result<(), BadRequest> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                };
                return Err(BadRequest::UnknownParameter {
                    name: name.clone(),
                    known,
                });
            }
            if self.0[..index].iter().any(|(before, _)| before == name) {
                return Err(BadRequest::RepeatedParameter { name: name.clone() });
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let pair = self
            .0
            .iter()
            .find(|(given, value)| given == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    }

    fn time(&self, field: &'static str) -> Result<Option<i64>, BadRequest> {
        let Some(given) = self.get(field) else {
            return Ok(None);
        };
        match given.parse() {
            Ok(time) => Ok(Some(domain::ceil_ms(time))),
            Err(_) => Err(BadRequest::Time {
                field,
                given: given.to_owned(),
            }),
        }
    }

    fn kind(&self) -> Result<Kind, BadRequest> {
        match self.get("shadow") {
            None | Some("false") => Ok(Kind::Live),
            Some("true") => Ok(Kind::Shadow),
            Some(given) => Err(BadRequest::Shadow {
                given: given.to_owned(),
            }),
        }
    }

    fn limit(&self) -> Result<Limit, BadRequest> {
        let Some(given) = self.get("limit") else {
            return Ok(Limit::default());
        };
        match given.parse() {
            Ok(limit) => Limit::new(limit),
            Err(_) => Err(BadRequest::Limit {
                given: given.to_owned(),
            }),
        }
    }
}

impl From<Prediction> for PredictionJson {
    fn from(stored: Prediction) -> Self {
        PredictionJson {
            event_time: domain::rfc3339(stored.event_time_ms),
            predicted_at: domain::rfc3339(stored.predicted_at_ms),
            config_hash: hex(&stored.config_hash),
            id: stored.id,
            key: stored.key,
            probability: stored.probability,
            outputs: stored.outputs,
            decision: stored.decision,
            model: stored.model,
            version: stored.version,
            variant: stored.variant,
            input_topic: stored.input_topic,
            input_partition: stored.input_partition,
            input_offset: stored.input_offset,
        }
    }
}
