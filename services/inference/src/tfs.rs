//! TensorFlow Serving's REST form, under `/v1/models`: clients have it, and health checks look at it.

mod body;
mod dialect;
mod rows;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};
use quadrille_model::Outputs;
use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::{
    model_infer_request::InferRequestedOutputTensor, model_metadata_response::TensorMetadata,
};
use serde_json::{Value, json};

use self::{
    body::{Body, Verb},
    dialect::{AsNumbers, written},
};
use crate::{
    oip::{
        ask::Ask,
        infer::{Doors, Question, Scored, Target},
        outputs::{PROBABILITIES, VALUES, labels, ranked},
        refusal::Refusal,
        rest::{read, variant},
    },
    serving::{Choice, Loaded, ModelState, NotServed},
};

pub(crate) fn router(doors: Doors) -> Router {
    let bytes_max = doors.limits.bytes_max;
    Router::new()
        .route("/v1/models/{model}", get(status).post(ask))
        .route("/v1/models/{model}/metadata", get(metadata))
        .route(
            "/v1/models/{model}/versions/{version}",
            get(status).post(ask),
        )
        .route(
            "/v1/models/{model}/versions/{version}/metadata",
            get(metadata),
        )
        .route("/v1/models/{model}/labels/{label}", get(status).post(ask))
        .route("/v1/models/{model}/labels/{label}/metadata", get(metadata))
        .layer(DefaultBodyLimit::max(bytes_max))
        .with_state(doors)
}

/// A path's parts by their names; the last may end in `:verb`.
type Parts = Path<BTreeMap<String, String>>;

/// Who is asked.
struct Named<'a> {
    model: &'a str,
    version: Option<&'a str>,
    label: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn of(parts: &'a BTreeMap<String, String>) -> Self {
        let part = |name| parts.get(name).map(String::as_str);
        Named {
            model: part("model").unwrap_or_default(),
            version: part("version"),
            label: part("label"),
        }
    }

    /// Takes the verb off the last part.
    fn split(mut self) -> Result<(Self, Verb), Refusal> {
        let last = match (&mut self.version, &mut self.label) {
            (Some(version), _) => version,
            (None, Some(label)) => label,
            (None, None) => &mut self.model,
        };
        let verb = match last.rsplit_once(':') {
            Some((name, "predict")) => (name, Verb::Predict),
            Some((name, "classify")) => (name, Verb::Classify),
            Some((name, "regress")) => (name, Verb::Regress),
            _ => {
                return Err(Refusal::invalid(
                    "say what is asked at the path's end: :predict, :classify or :regress",
                ));
            }
        };
        *last = verb.0;
        Ok((self, verb.1))
    }
}

async fn status(State(doors): State<Doors>, Path(parts): Parts) -> Result<Response, Refusal> {
    let named = Named::of(&parts);
    let version = match named.label {
        Some(label) => Some(
            labelled(&doors, named.model, label)?
                .loaded
                .id()
                .version
                .clone(),
        ),
        None => named.version.map(str::to_owned),
    };
    let name = match doors.serving.choose(named.model, None, named.label) {
        // A pipeline is as its model is.
        Ok(choice) if version.is_none() || named.label.is_some() => choice.loaded.id().clone().name,
        _ => named.model.to_owned(),
    };
    let models = doors.serving.models().into_iter();
    let versions = models.filter(|it| {
        it.id.name == name
            && version
                .as_ref()
                .is_none_or(|version| it.id.version == *version)
    });
    let versions = versions.map(|it| {
        let (state, code, message) = match it.state {
            ModelState::Ready => ("AVAILABLE", "OK", String::new()),
            ModelState::Loading => ("LOADING", "OK", String::new()),
            ModelState::Wanted => ("START", "OK", String::new()),
            ModelState::Failed { why } => ("END", "UNKNOWN", why),
        };
        json!({
            "version": it.id.version,
            "state": state,
            "status": {"error_code": code, "error_message": message},
        })
    });
    let versions: Vec<Value> = versions.collect();
    if versions.is_empty() {
        // It says what there is.
        doors.target(named.model, version.as_deref().unwrap_or_default())?;
    }
    Ok(Json(json!({ "model_version_status": versions })).into_response())
}

/// What a label stands for: a variant of the pipeline, or of a pipeline that takes it to this model.
fn labelled(doors: &Doors, model: &str, label: &str) -> Result<Choice, Refusal> {
    let serving = &doors.serving;
    match serving.choose(model, None, Some(label)) {
        Err(NotServed::UnknownPipeline { .. }) => {}
        chosen => return Ok(chosen?),
    }
    let mut others = Vec::new();
    for pipeline in serving.pipelines() {
        match serving.choose(pipeline.name(), None, Some(label)) {
            Ok(choice) if choice.loaded.id().name == model => return Ok(choice),
            Ok(_) => {}
            Err(NotServed::UnknownVariant { known, .. }) => others.extend(known),
            Err(not) => return Err(not.into()),
        }
    }
    // An unknown model has no labels at all.
    serving.model(model, None)?;
    Err(Refusal::Unknown(format!(
        "no label {} leads to a version of {}; labels are the variants of pipelines: {}",
        quote(label),
        quote(model),
        others.join(", ")
    )))
}

async fn metadata(State(doors): State<Doors>, Path(parts): Parts) -> Result<Response, Refusal> {
    let named = Named::of(&parts);
    let choice = named
        .label
        .map(|label| labelled(&doors, named.model, label));
    let choice = choice.transpose()?;
    let (about, version) = match &choice {
        Some(Choice { loaded, .. }) => {
            let id = loaded.id();
            (doors.about(&id.name, &id.version)?, id.version.clone())
        }
        None => {
            let version = named.version.unwrap_or_default();
            let about = doors.about(named.model, version)?;
            // Which version that is, its clients want to know, whether they named one or not.
            let version = match doors.target(named.model, version)? {
                Target::Model(loaded) => loaded.id().version.clone(),
                Target::Pipeline(_) => String::new(),
            };
            (about, version)
        }
    };
    let tensors = |tensors: Vec<TensorMetadata>| -> Value {
        let tensors = tensors
            .into_iter()
            .map(|it| (it.name.clone(), signature(it)));
        Value::Object(tensors.collect())
    };
    let signature = json!({
        "inputs": tensors(about.inputs),
        "outputs": tensors(about.outputs),
        "method_name": "tensorflow/serving/predict",
    });
    Ok(Json(json!({
        "model_spec": {"name": named.model, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }))
    .into_response())
}

fn signature(tensor: TensorMetadata) -> Value {
    let dtype = match tensor.datatype.as_str() {
        "FP64" => "DT_DOUBLE",
        "FP32" => "DT_FLOAT",
        "INT64" => "DT_INT64",
        "BOOL" => "DT_BOOL",
        _ => "DT_STRING",
    };
    let sides = tensor.shape.iter();
    let sides = sides.map(|side| json!({"size": side.to_string(), "name": ""}));
    json!({
        "dtype": dtype,
        "tensor_shape": {"dim": sides.collect::<Vec<_>>(), "unknown_rank": false},
        "name": tensor.name,
    })
}

async fn ask(
    State(doors): State<Doors>,
    Path(parts): Parts,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let (named, verb) = Named::of(&parts).split()?;
    let body = read(body, doors.limits)?;
    let mut body = Body::read(&body, verb, doors.limits)?;
    let mut ask = Ask {
        variant: variant(&headers)?,
        ..Ask::default()
    };
    let loaded: Arc<Loaded>;
    let (mut model, mut version) = (named.model, named.version.unwrap_or_default());
    if let Some(label) = named.label {
        let choice = labelled(&doors, model, label)?;
        match doors.serving.choose(model, None, Some(label)) {
            Ok(_) => ask.variant = Some(label.to_owned()),
            Err(_) => {
                loaded = choice.loaded;
                (model, version) = (&loaded.id().name, &loaded.id().version);
            }
        }
    }
    // A value without a name is the one input's that there is, and a pipeline's inputs are its record's fields.
    if let Target::Pipeline(pipeline) = doors.target(model, version)?
        && let Some(field) = pipeline.only_field()
    {
        body.name(field);
    }
    let tensors = body.tensors()?;
    let question = Question {
        model,
        version,
        ask: &ask,
        tensors: &tensors,
        outputs: &numbers_of(&doors, model, version)?,
        deadline: None,
    };
    let scored = doors.score(question).await?;
    let began = Instant::now();
    let response = match (verb, body.is_columnar()) {
        (Verb::Predict, true) => numbers("outputs", scored.rows()),
        (Verb::Predict, false) => numbers("predictions", scored.rows()),
        (Verb::Classify, _) => classified(&scored)?,
        (Verb::Regress, _) => regressed(&scored)?,
    };
    scored.written(began);
    Ok(response)
}

/// The one output that is asked for: the model's numbers.
fn numbers_of(
    doors: &Doors,
    model: &str,
    version: &str,
) -> Result<[InferRequestedOutputTensor; 1], Refusal> {
    let about = doors.about(model, version)?;
    let mut names = about.outputs.into_iter().map(|output| output.name);
    let name = names.find(|name| matches!(name.as_str(), PROBABILITIES | VALUES));
    Ok([InferRequestedOutputTensor {
        name: name.unwrap_or_default(),
        parameters: BTreeMap::new(),
    }])
}

fn numbers(name: &str, rows: impl Iterator<Item = impl AsNumbers>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, written(name, rows)).into_response()
}

/// Pairs of label and score a row, the likeliest first.
fn classified(scored: &Scored) -> Result<Response, Refusal> {
    let outputs = scored.outputs();
    if matches!(outputs, Outputs::Values(_)) {
        return Err(Refusal::invalid(
            "the model gives values, not classes; ask :regress or :predict",
        ));
    }
    let labels = labels(outputs);
    let row = |row| -> Vec<(&str, f64)> {
        let ranked = ranked(outputs, row).into_iter();
        let pair = |(at, score)| (labels.get(at).copied().unwrap_or_default(), score);
        ranked.map(pair).collect()
    };
    let results: Vec<_> = scored.rows().map(row).collect();
    Ok(Json(json!({ "results": results })).into_response())
}

/// A number a row.
fn regressed(scored: &Scored) -> Result<Response, Refusal> {
    if scored.outputs().width() != 1 {
        return Err(Refusal::invalid(
            "the model gives several numbers a row; ask :classify or :predict",
        ));
    }
    let results = scored.rows().filter_map(|row| row.first().copied());
    Ok(numbers("results", results))
}
