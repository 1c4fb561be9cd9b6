//! The REST form of the results, under `/v1`, and the page at `/`.
//!
//! A prediction whose id is `count` is hidden by the route of that name: gRPC's `GetPrediction`
//! serves it.

use axum::{
    Json, Router,
    extract::{
        FromRequestParts, Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{
    dashboard,
    page_token::hex,
    prediction::{self, Kind, Prediction},
    query::{self, Filter, Limit},
    reader::{Error, Reader, Served},
    store::AnyStore,
};

/// The page at `/`, and everything under `/v1`.
pub fn router(store: AnyStore, pipelines: Vec<Served>) -> Router {
    let v1 = Router::new()
        .route("/pipelines", get(list_pipelines))
        .route("/pipelines/{pipeline}/predictions", get(list_predictions))
        .route(
            "/pipelines/{pipeline}/predictions/count",
            get(count_predictions),
        )
        .route(
            "/pipelines/{pipeline}/predictions/{id}",
            get(get_prediction),
        )
        .fallback(unknown_path)
        .method_not_allowed_fallback(read_only)
        .with_state(Reader::new(store, pipelines));
    Router::new()
        .route("/", get(dashboard::show))
        .nest("/v1", v1)
}

#[derive(Serialize)]
struct PipelinesJson<'a> {
    pipelines: Vec<&'a str>,
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

async fn list_pipelines(
    State(reader): State<Reader>,
    parameters: Parameters,
) -> Result<Response, Error> {
    parameters.only(&[])?;
    Ok(uncached(PipelinesJson {
        pipelines: reader.pipelines(),
    }))
}

async fn list_predictions(
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
        "variant",
        "limit",
        "page_token",
        "shadow",
    ])?;
    let filter = Filter {
        key: parameters.get("key").map(str::to_owned),
        from_ms: parameters.time("from")?,
        to_ms: parameters.time("to")?,
        decision: parameters.get("decision").map(str::to_owned),
        variant: parameters.get("variant").map(str::to_owned),
        kind: parameters.kind()?,
        limit: parameters.limit()?,
        after: None,
    };
    let listing = reader
        .list(&pipeline, filter, parameters.get("page_token"))
        .await?;
    Ok(uncached(ListingJson {
        predictions: listing
            .predictions
            .into_iter()
            .map(PredictionJson::from)
            .collect(),
        next_page_token: listing.next_page_token,
    }))
}

async fn get_prediction(
    State(reader): State<Reader>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Error> {
    let Path((pipeline, id)) = path.map_err(bad_path)?;
    parameters.only(&["shadow_variant"])?;
    let shadow = parameters.get("shadow_variant");
    let prediction = reader.get(&pipeline, &id, shadow).await?;
    Ok(uncached(PredictionJson::from(prediction)))
}

async fn count_predictions(
    State(reader): State<Reader>,
    pipeline: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Error> {
    let Path(pipeline) = pipeline.map_err(bad_path)?;
    parameters.only(&[])?;
    let count = reader.count(&pipeline).await?;
    Ok(uncached(CountJson {
        count: count.stored,
        duplicates: count.duplicates,
    }))
}

async fn unknown_path() -> Response {
    const KNOWN: &str = "no such path; known: /v1/pipelines, \
        /v1/pipelines/{pipeline}/predictions, /v1/pipelines/{pipeline}/predictions/count, \
        /v1/pipelines/{pipeline}/predictions/{id} (a / in an id is written %2F)";
    error_response(StatusCode::NOT_FOUND, KNOWN)
}

async fn read_only() -> Response {
    error_response(
        StatusCode::METHOD_NOT_ALLOWED,
        "results are read by GET; predictions are written through Kafka",
    )
}

fn bad_path(rejection: PathRejection) -> Error {
    query::Error::Path {
        reason: rejection.body_text(),
    }
    .into()
}

/// An answer that no cache may keep: the next one may differ.
fn uncached(body: impl Serialize) -> Response {
    const NO_STORE: (HeaderName, HeaderValue) =
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    ([NO_STORE], Json(body)).into_response()
}

fn error_response(status: StatusCode, error: &str) -> Response {
    (
        status,
        uncached(ErrorJson {
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
            Error::Unreachable(_) | Error::Busy | Error::TooSlow { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = error_response(status, &self.to_string());
        // The same query would be as slow a second later.
        if let Error::Unreachable(_) | Error::Busy = self {
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

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Parameters(pairs)),
            Err(rejection) => Err(unreadable(&rejection).into()),
        }
    }
}

fn unreadable(rejection: &QueryRejection) -> query::Error {
    query::Error::Query {
        reason: rejection.body_text(),
    }
}

impl Parameters {
    /// Refuses what the route does not know, and what is given twice.
    fn only(&self, known: &[&str]) -> Result<(), query::Error> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                };
                return Err(query::Error::UnknownParameter {
                    name: name.clone(),
                    known,
                });
            }
            if self.0[..index].iter().any(|(before, _)| before == name) {
                return Err(query::Error::RepeatedParameter { name: name.clone() });
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

    fn time(&self, field: &'static str) -> Result<Option<i64>, query::Error> {
        let Some(given) = self.get(field) else {
            return Ok(None);
        };
        match given.parse() {
            Ok(time) => Ok(Some(query::ceil_ms(time))),
            Err(_) => Err(query::Error::Time {
                field,
                given: given.to_owned(),
            }),
        }
    }

    fn kind(&self) -> Result<Kind, query::Error> {
        match self.get("shadow") {
            None | Some("false") => Ok(Kind::Live),
            Some("true") => Ok(Kind::Shadow),
            Some(given) => Err(query::Error::Shadow {
                given: given.to_owned(),
            }),
        }
    }

    fn limit(&self) -> Result<Limit, query::Error> {
        let Some(given) = self.get("limit") else {
            return Ok(Limit::default());
        };
        match given.parse() {
            Ok(limit) => Limit::new(limit),
            Err(_) => Err(query::Error::Limit {
                given: given.to_owned(),
            }),
        }
    }
}

impl From<Prediction> for PredictionJson {
    fn from(stored: Prediction) -> Self {
        PredictionJson {
            event_time: prediction::rfc3339(stored.event_time_ms),
            predicted_at: prediction::rfc3339(stored.predicted_at_ms),
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
