//! The protocol's REST form, under `/v2`, with the extension for binary tensors and that for the repository.
//!
//! A null among numbers is a missing one (NaN), in requests and in answers: JSON has no NaN.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::model_infer_request::InferRequestedOutputTensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    bounded::{Bounded, Parameters, SIDES_MAX},
    extensions,
    infer::{self, InferRequest, Inferred, deadline},
    metadata,
    outputs::{OutputTensor, Values},
    parameters::{InferParameters, no_shared_memory, whole},
    repository,
};
use crate::{
    scoring::{Error, Scorer, TensorSpec},
    tensor::{
        self, Data, Datatype, INPUTS_MAX, Limits, Tensor,
        json::{fits, flatten},
        shown, wrong,
    },
    transport::http::{error, read, variant},
};

/// Where the JSON of a body ends and its bytes begin.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(crate) fn router(scorer: Scorer) -> Router {
    let bytes_max = scorer.limits.bytes_max;
    let v2 = Router::new()
        .route(
            "/health/live",
            get(|| async { Json(json!({"live": true})) }),
        )
        .route("/health/ready", get(ready))
        .route("/models", get(models))
        .route("/models/stats", get(statistics))
        .route("/models/{model}", get(metadata))
        .route("/models/{model}/config", get(config))
        .route("/models/{model}/stats", get(statistics))
        .route("/models/{model}/ready", get(model_ready))
        .route("/models/{model}/infer", post(infer))
        .route("/models/{model}/versions/{version}", get(metadata))
        .route("/models/{model}/versions/{version}/config", get(config))
        .route("/models/{model}/versions/{version}/stats", get(statistics))
        .route("/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/models/{model}/versions/{version}/infer", post(infer))
        .route("/repository/index", post(index))
        .route("/repository/models/{model}/load", post(load))
        .route("/repository/models/{model}/unload", post(unload))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(bytes_max))
        .with_state(scorer);
    let server = get(|| async {
        let about = metadata::server();
        Json(json!({"name": about.name, "version": about.version, "extensions": about.extensions}))
    });
    Router::new().route("/v2", server).nest("/v2", v2)
}

/// The model of a path, and its version where there is one.
type Named = Path<BTreeMap<String, String>>;

fn named(path: &BTreeMap<String, String>) -> (&str, &str) {
    let part = |name| path.get(name).map_or("", String::as_str);
    (part("model"), part("version"))
}

async fn no_such_path() -> Response {
    const KNOWN: &str = "no such path; known: /v2, /v2/health/live, /v2/health/ready, \
        /v2/models, /v2/models/{model}[/versions/{version}][/ready|/infer|/config|/stats], /v2/repository/index, \
        /v2/repository/models/{model}/load, /v2/repository/models/{model}/unload";
    error(StatusCode::NOT_FOUND, KNOWN)
}

async fn wrong_method() -> Response {
    let fix = "infer and repository are asked by POST, everything else by GET";
    error(StatusCode::METHOD_NOT_ALLOWED, fix)
}

async fn ready(State(scorer): State<Scorer>) -> Response {
    match scorer.serving.is_ready() {
        true => Json(json!({"ready": true})).into_response(),
        false => {
            let answer = Json(json!({"ready": false, "error": "not every model is ready"}));
            (StatusCode::SERVICE_UNAVAILABLE, answer).into_response()
        }
    }
}

async fn model_ready(State(scorer): State<Scorer>, Path(path): Named) -> Result<Response, Error> {
    let (model, version) = named(&path);
    scorer.ready(model, version)?;
    Ok(Json(json!({"name": model, "ready": true})).into_response())
}

async fn metadata(State(scorer): State<Scorer>, Path(path): Named) -> Result<Response, Error> {
    let (model, version) = named(&path);
    let about = scorer.about(model, version)?;
    let tensors = |tensors: Vec<TensorSpec>| -> Value {
        let tensor = |it: TensorSpec| json!({"name": it.name, "datatype": it.datatype.name(), "shape": it.shape});
        tensors.into_iter().map(tensor).collect()
    };
    let mut answer = json!({
        "name": about.name,
        "platform": about.platform,
        "inputs": tensors(about.inputs),
        "outputs": tensors(about.outputs),
        "properties": about.properties,
    });
    if !about.versions.is_empty() {
        answer["versions"] = about.versions.into();
    }
    Ok(Json(answer).into_response())
}

async fn models(State(scorer): State<Scorer>) -> Json<Value> {
    Json(json!({ "models": extensions::names(&scorer) }))
}

async fn config(State(scorer): State<Scorer>, Path(path): Named) -> Result<Json<Value>, Error> {
    let (model, version) = named(&path);
    let config = extensions::config(&scorer, model, version)?;
    Ok(Json(extensions::config_json(&config)))
}

async fn statistics(State(scorer): State<Scorer>, Path(path): Named) -> Result<Json<Value>, Error> {
    let (model, version) = named(&path);
    let models = extensions::statistics(&scorer, model, version)?;
    Ok(Json(extensions::statistics_json(&models)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InferJson<'a> {
    id: Option<String>,
    /// Clients repeat what the path says.
    #[serde(borrow)]
    model_name: Option<&'a RawValue>,
    #[serde(borrow)]
    model_version: Option<&'a RawValue>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Bounded<InputJson<'a>, INPUTS_MAX>,
    #[serde(default)]
    outputs: Bounded<OutputJson, INPUTS_MAX>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputJson<'a> {
    name: String,
    shape: Bounded<i64, SIDES_MAX>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

async fn infer(
    State(scorer): State<Scorer>,
    Path(path): Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let body = read(body, scorer.limits)?;
    let (text, mut binary) = split(&headers, &body)?;
    let request: InferJson<'_> = serde_json::from_slice(text)
        .map_err(|error| Error::invalid(format!("the body is no inference request: {error}")))?;
    let mut parameters = InferParameters::read(&request.parameters.0)?;
    let variant = variant(&headers)?;
    parameters.variant = parameters.variant.or(variant);
    let inputs = request.inputs.0.iter();
    let mut left = scorer.limits.values_max;
    let inputs = inputs.map(|it| tensor(it, &mut binary, &mut left, scorer.limits));
    let tensors: Vec<Tensor<'_>> = inputs.collect::<Result<_, _>>()?;
    if !binary.is_empty() {
        return Err(Error::invalid(format!(
            "{} bytes after the JSON belong to no input; let binary_data_size say whose they are",
            binary.len()
        )));
    }
    let outputs = request.outputs.0.into_iter();
    let outputs = outputs.map(|output| InferRequestedOutputTensor {
        name: output.name,
        parameters: output.parameters.0,
    });
    let outputs: Vec<_> = outputs.collect();
    let (model, version) = named(&path);
    let version = version_of(
        (request.model_name, request.model_version),
        (model, version),
    )?;
    let question = InferRequest {
        model,
        version: &version,
        parameters: &parameters,
        tensors: &tensors,
        outputs: &outputs,
        deadline: deadline(None, parameters.timeout),
    };
    let inferred = infer::infer(&scorer, question).await?;
    let response = answer(model, request.id, &inferred, parameters.binary);
    inferred.written();
    Ok(response)
}

/// The version of the path or, where it has none, of the body. Where both name one, or the model, it must be the same: neither is known to be
/// the one that is meant.
fn version_of<'a>(
    (name, again): (Option<&RawValue>, Option<&'a RawValue>),
    (model, version): (&str, &'a str),
) -> Result<Cow<'a, str>, Error> {
    let name = said("model_name", name)?;
    if !name.is_empty() && name != model {
        return Err(Error::Invalid(format!(
            "model_name is {} in the body and {} in the path; let them agree, or leave it out of the body",
            quote(&name),
            quote(model)
        )));
    }
    let again = said("model_version", again)?;
    match (version.is_empty(), again.is_empty()) {
        (true, _) => Ok(again),
        (false, false) if again != version => Err(Error::Invalid(format!(
            "model_version is {} in the body and {} in the path; let them agree, or leave it out of the body",
            quote(&again),
            quote(version)
        ))),
        (false, _) => Ok(Cow::Borrowed(version)),
    }
}

/// A text; a version may come as a number. Empty: nothing is said.
fn said<'a>(what: &str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, Error> {
    let value = value.map_or("null", RawValue::get);
    match value.as_bytes().first() {
        Some(b'n') => Ok(Cow::Borrowed("")),
        Some(b'-' | b'0'..=b'9') => Ok(Cow::Borrowed(value)),
        // It may have escapes, and is as long as it came at most.
        Some(b'"') => serde_json::from_str(value)
            .map(Cow::Owned)
            .map_err(|error| Error::Invalid(format!("{what}: {error}"))),
        _ => Err(Error::Invalid(format!("{what} must be a text"))),
    }
}

/// The JSON of a body, and the bytes after it.
fn split<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Error> {
    let Some(length) = headers.get(HEADER_LENGTH) else {
        return Ok((body, &[]));
    };
    let length = length.to_str().ok().and_then(|it| it.parse().ok());
    length
        .and_then(|length| body.split_at_checked(length))
        .ok_or_else(|| {
            Error::invalid(format!(
                "Inference-Header-Content-Length must be the length of the JSON, at most the body's {} bytes",
                body.len()
            ))
        })
}

fn tensor<'a>(
    input: &'a InputJson<'a>,
    binary: &mut &'a [u8],
    left: &mut usize,
    limits: Limits,
) -> Result<Tensor<'a>, tensor::Error> {
    let (name, shape) = (&input.name, &input.shape.0);
    let parameters = &input.parameters.0;
    let data = match (input.data, parameters.get("binary_data_size")) {
        (Some(data), None) => {
            let flat = flatten(data, *left).map_err(|error| match error {
                tensor::Error::Invalid(what) => wrong(name, what),
                tensor::Error::TooLarge(_) => tensor::Error::TooLarge(format!(
                    "the data of all inputs has more than {} elements; send fewer rows at once",
                    limits.values_max
                )),
            })?;
            *left = left.saturating_sub(flat.cells.len());
            if !fits(&flat, shape) {
                let (found, shape) = (shown(&flat.shape), shown(shape));
                return Err(wrong(
                    name,
                    format!(
                        "data of shape {found} for shape {shape}; let them agree, or send the data flat"
                    ),
                ));
            }
            Data::Json(flat.cells)
        }
        (None, Some(size)) => {
            let size = whole("binary_data_size", size);
            let size = size.ok().and_then(|size| usize::try_from(size).ok());
            let parts = size.and_then(|size| binary.split_at_checked(size));
            let (own, others) = parts.ok_or_else(|| {
                let left = binary.len();
                wrong(name, format!("binary_data_size must be a number of bytes, at most the {left} that are left after the JSON"))
            })?;
            *binary = others;
            Data::Raw(own)
        }
        (Some(_), Some(_)) => {
            return Err(wrong(
                name,
                "has data and binary_data_size; send the one or the other",
            ));
        }
        (None, None) if parameters.contains_key("shared_memory_region") => {
            return Err(no_shared_memory(name));
        }
        (None, None) => {
            return Err(wrong(
                name,
                "has no data; send data, or bytes and binary_data_size",
            ));
        }
    };
    Ok(Tensor {
        name,
        datatype: Datatype::parse(name, &input.datatype)?,
        shape,
        data,
        limits,
    })
}

#[derive(Serialize)]
struct AnswerJson<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'static str, &'a str>,
    outputs: Vec<OutputTensorJson<'a>>,
}

#[derive(Serialize)]
struct OutputTensorJson<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<SizeJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Values<'a>>,
}

#[derive(Serialize)]
struct SizeJson {
    binary_data_size: usize,
}

fn answer(model: &str, id: Option<String>, inferred: &Inferred, binary: bool) -> Response {
    let mut bytes = Vec::new();
    let outputs = inferred
        .tensors()
        .map(|tensor| output(tensor, binary, &mut bytes));
    let answer = AnswerJson {
        model_name: model,
        model_version: &inferred.id().version,
        id,
        parameters: inferred.answered_by().into_iter().flatten().collect(),
        outputs: outputs.collect(),
    };
    if bytes.is_empty() {
        return Json(answer).into_response();
    }
    // Names, numbers and texts: there is nothing JSON could not hold.
    let mut body = serde_json::to_vec(&answer).unwrap_or_default();
    let length = body.len();
    body.append(&mut bytes);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (HEADER_LENGTH, length.to_string()),
    ];
    (headers, body).into_response()
}

fn output<'a>(tensor: OutputTensor<'a>, binary: bool, bytes: &mut Vec<u8>) -> OutputTensorJson<'a> {
    let datatype = tensor.values.datatype();
    let (parameters, data) = match tensor.binary.unwrap_or(binary) {
        true => {
            let raw = tensor.values.raw();
            bytes.extend_from_slice(&raw);
            let binary_data_size = raw.len();
            (Some(SizeJson { binary_data_size }), None)
        }
        false => (None, Some(tensor.values)),
    };
    OutputTensorJson {
        name: tensor.name,
        datatype,
        shape: tensor.shape,
        parameters,
        data,
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct IndexJson {
    #[serde(default)]
    ready: bool,
}

async fn index(State(scorer): State<Scorer>, body: Bytes) -> Result<Response, Error> {
    let request: IndexJson = match body.trim_ascii() {
        [] => IndexJson::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            Error::invalid(format!("send {{\"ready\": true}} or nothing: {error}"))
        })?,
    };
    let models = repository::index(&scorer, "", request.ready)?.into_iter().map(|model| {
        json!({"name": model.name, "version": model.version, "state": model.state, "reason": model.reason})
    });
    Ok(Json(models.collect::<Value>()).into_response())
}

async fn load(
    State(scorer): State<Scorer>,
    Path(model): Path<String>,
    body: Bytes,
) -> Result<Response, Error> {
    let body: Value = match body.trim_ascii() {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| Error::invalid(format!("the body is no JSON: {error}")))?,
    };
    let parameters = body.get("parameters").and_then(Value::as_object);
    repository::load(
        &scorer,
        "",
        &model,
        parameters.is_some_and(|it| !it.is_empty()),
    )?;
    Ok(Json(json!({})).into_response())
}

async fn unload(
    State(scorer): State<Scorer>,
    Path(model): Path<String>,
) -> Result<Response, Error> {
    repository::unload(&scorer, "", &model)?;
    Ok(Json(json!({})).into_response())
}
