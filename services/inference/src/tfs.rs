//! TensorFlow Serving's REST form, under `/v1/models`: clients have it, and health checks look at it.

mod body;
mod dialect;
mod json;
mod rows;

use std::collections::BTreeMap;

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
use serde_json::{Value, json};

use self::{
    body::{Body, Verb},
    dialect::{AsNumbers, written},
};
use crate::{
    scoring::{
        Answer, Error, Question, Scorer, Target, TensorSpec,
        outputs::{labels, ranked},
    },
    serving::{self, Choice, ModelState},
    tensor::Datatype,
    transport::http::{read, variant},
};

pub(crate) fn router(scorer: Scorer) -> Router {
    let bytes_max = scorer.limits.bytes_max;
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
        .with_state(scorer)
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
    fn split(mut self) -> Result<(Self, Verb), Error> {
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
                return Err(Error::invalid(
                    "say what is asked at the path's end: :predict, :classify or :regress",
                ));
            }
        };
        *last = verb.0;
        Ok((self, verb.1))
    }
}

async fn status(State(scorer): State<Scorer>, Path(parts): Parts) -> Result<Response, Error> {
    let named = Named::of(&parts);
    let version = match named.label {
        Some(label) => Some(
            labelled(&scorer, named.model, label)?
                .loaded
                .id()
                .version
                .clone(),
        ),
        None => named.version.map(str::to_owned),
    };
    let name = match scorer.serving.choose(named.model, None, named.label) {
        // A pipeline is as its model is.
        Ok(choice) if version.is_none() || named.label.is_some() => choice.loaded.id().clone().name,
        _ => named.model.to_owned(),
    };
    let models = scorer.serving.models().into_iter();
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
        scorer.target(named.model, version.as_deref().unwrap_or_default())?;
    }
    Ok(Json(json!({ "model_version_status": versions })).into_response())
}

/// What a label stands for: a variant of the pipeline, or of a pipeline that takes it to this model.
fn labelled(scorer: &Scorer, model: &str, label: &str) -> Result<Choice, Error> {
    let served = &scorer.serving;
    match served.choose(model, None, Some(label)) {
        Err(serving::Error::UnknownPipeline { .. }) => {}
        chosen => return Ok(chosen?),
    }
    let (mut found, mut others, mut not_ready) = (None, Vec::new(), None);
    for pipeline in served.pipelines() {
        match served.choose(pipeline.name(), None, Some(label)) {
            Ok(choice) if choice.loaded.id().name == model => {
                found = Some(one_of(found, (pipeline.name(), choice), label)?);
            }
            Ok(_) => {}
            Err(serving::Error::UnknownVariant { known, .. }) => others.extend(known),
            Err(not) => not_ready = Some(not),
        }
    }
    match (found, not_ready) {
        (Some((_, choice)), _) => return Ok(choice),
        (None, Some(not)) => return Err(not.into()),
        (None, None) => {}
    }
    // An unknown model has no labels at all.
    served.model(model, None)?;
    Err(Error::Unknown(format!(
        "no label {} leads to a version of {}; labels are the variants of pipelines: {}",
        quote(label),
        quote(model),
        others.join(", ")
    )))
}

/// What a label stands for in two pipelines: whichever comes first would answer where they lead to different versions.
fn one_of<'a>(
    found: Option<(&'a str, Choice)>,
    (pipeline, choice): (&'a str, Choice),
    label: &str,
) -> Result<(&'a str, Choice), Error> {
    match found {
        Some((other, found)) if found.loaded.id() != choice.loaded.id() => {
            Err(Error::Invalid(format!(
                "label {label:?} is {} in pipeline {other:?} and {} in pipeline {pipeline:?}; ask one of the pipelines by its name, or name \
                 the version",
                found.loaded.id(),
                choice.loaded.id()
            )))
        }
        Some(found) => Ok(found),
        None => Ok((pipeline, choice)),
    }
}

async fn metadata(State(scorer): State<Scorer>, Path(parts): Parts) -> Result<Response, Error> {
    let named = Named::of(&parts);
    let choice = named
        .label
        .map(|label| labelled(&scorer, named.model, label));
    let choice = choice.transpose()?;
    let (about, version) = match &choice {
        Some(Choice { loaded, .. }) => {
            let id = loaded.id();
            (scorer.about(&id.name, &id.version)?, id.version.clone())
        }
        None => {
            let version = named.version.unwrap_or_default();
            let about = scorer.about(named.model, version)?;
            // Which version that is, its clients want to know, whether they named one or not.
            let version = match scorer.target(named.model, version)? {
                Target::Model(loaded) => loaded.id().version.clone(),
                Target::Pipeline(_) => String::new(),
            };
            (about, version)
        }
    };
    let tensors = |tensors: Vec<TensorSpec>| -> Value {
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

fn signature(tensor: TensorSpec) -> Value {
    let dtype = match tensor.datatype {
        Datatype::Fp64 => "DT_DOUBLE",
        Datatype::Fp32 => "DT_FLOAT",
        Datatype::Int64 => "DT_INT64",
        Datatype::Bool => "DT_BOOL",
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
    State(scorer): State<Scorer>,
    Path(parts): Parts,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let (named, verb) = Named::of(&parts).split()?;
    let body = read(body, scorer.limits)?;
    let mut body = Body::read(&body, verb, scorer.limits)?;
    let variant = variant(&headers)?;
    let mut variant = variant.as_deref();
    let target = match named.label {
        None => scorer.target(named.model, named.version.unwrap_or_default())?,
        Some(label) => match scorer.target(named.model, "") {
            Ok(pipeline @ Target::Pipeline(_)) => {
                variant = Some(label);
                pipeline
            }
            _ => Target::Model(labelled(&scorer, named.model, label)?.loaded),
        },
    };
    // A value without a name is the one input's that there is, and a pipeline's inputs are its record's fields.
    if let Target::Pipeline(pipeline) = &target
        && let Some(field) = pipeline.only_field()
    {
        body.name(field);
    }
    let answer = answer(&scorer, target, named.model, variant, &body).await?;
    let response = match (verb, body.is_columnar()) {
        (Verb::Predict, true) => numbers("outputs", answer.rows()),
        (Verb::Predict, false) => numbers("predictions", answer.rows()),
        (Verb::Classify, _) => classified(&answer)?,
        (Verb::Regress, _) => regressed(&answer)?,
    };
    answer.written();
    Ok(response)
}

/// The model's numbers, whatever they stand for.
async fn answer(
    scorer: &Scorer,
    target: Target,
    name: &str,
    variant: Option<&str>,
    body: &Body,
) -> Result<Answer, Error> {
    let tensors = body.tensors()?;
    let question = Question {
        name,
        key: None,
        variant,
        form: None,
        tensors: &tensors,
    };
    let (_, prepared) = scorer.prepare(target, &question)?;
    scorer.score(prepared, None, |_| Ok(())).await
}

fn numbers(name: &str, rows: impl Iterator<Item = impl AsNumbers>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, written(name, rows)).into_response()
}

/// Pairs of label and score a row, the likeliest first.
fn classified(answer: &Answer) -> Result<Response, Error> {
    let outputs = answer.outputs();
    if matches!(outputs, Outputs::Values(_)) {
        return Err(Error::invalid(
            "the model gives values, not classes; ask :regress or :predict",
        ));
    }
    let labels = labels(outputs);
    let row = |row| -> Vec<(&str, f64)> {
        let ranked = ranked(outputs, row).into_iter();
        let pair = |(at, score)| (labels.get(at).copied().unwrap_or_default(), score);
        ranked.map(pair).collect()
    };
    let results: Vec<_> = answer.rows().map(row).collect();
    Ok(Json(json!({ "results": results })).into_response())
}

/// A number a row.
fn regressed(answer: &Answer) -> Result<Response, Error> {
    if answer.outputs().width() != 1 {
        return Err(Error::invalid(
            "the model gives several numbers a row; ask :classify or :predict",
        ));
    }
    let results = answer.rows().filter_map(|row| row.first().copied());
    Ok(numbers("results", results))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quadrille_model::{
        Package,
        import::{ImportOptions, import},
        package::{Activation, Labels},
    };
    use quadrille_pipeline::Pipeline;
    use quadrille_telemetry::{Registry, Tracing, metrics::ServingMetrics};

    use super::*;
    use crate::{fake, serving::Serving, tensor::Limits};

    fn pipeline(name: &str) -> Arc<Pipeline> {
        let text = format!(
            r#"
                name = "{name}"
                record = {{ key = "bed", fields = [{{ name = "a", type = "number" }}, {{ name = "b", type = "number" }}] }}
                features = [{{ name = "a", kind = "pass", field = "a" }}, {{ name = "b", kind = "pass", field = "b" }}]
                model = {{ inputs = ["a", "b"] }}
            "#
        );
        Arc::new(Pipeline::parse("wards.toml", &text).expect("a pipeline"))
    }

    fn package(version: u32) -> Package {
        let onnx = include_bytes!("../../../crates/model/tests/golden/onnx/logistic-tiny.onnx");
        let options = ImportOptions {
            name: "m".to_owned(),
            version: version.to_string(),
            inputs: vec!["a".to_owned(), "b".to_owned()],
            outputs: Outputs::Binary(Labels {
                negative: "no".to_owned(),
                positive: "yes".to_owned(),
            }),
            output: None,
            activation: Activation::None,
            preprocess: None,
            warm_up: None,
            recorded: vec![],
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        import(onnx.to_vec(), options).expect("a network")
    }

    /// Pipelines that have the variant `local` of these versions.
    fn scorer(versions: [u32; 2]) -> Scorer {
        let names = ["east", "west"].map(pipeline);
        let models = names.into_iter().zip(versions.map(package)).collect();
        let metrics = ServingMetrics::register(&Registry::default());
        Scorer {
            serving: Serving::fixed(models, metrics).expect("they fit"),
            limits: Limits::default(),
            tracing: Tracing::off(),
        }
    }

    #[test]
    fn a_label_that_is_another_version_in_each_of_two_pipelines_is_refused() {
        let version = |scorer: &Scorer, name: &str| {
            labelled(scorer, name, "local").map(|it| it.loaded.id().version.clone())
        };
        assert_eq!(version(&scorer([1, 1]), "m"), Ok("1".to_owned()));
        let apart = scorer([1, 2]);
        let refused = version(&apart, "m").expect_err("either");
        let said = refused.to_string();
        assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
        assert!(
            said.contains("m:1 in pipeline \"east\" and m:2 in pipeline \"west\""),
            "{said}"
        );
        // By a pipeline's name it is clear.
        assert_eq!(version(&apart, "west"), Ok("2".to_owned()));
    }

    #[tokio::test]
    async fn whoever_was_found_answers_also_when_it_is_served_no_more() {
        let model = fake::Model::new(1, fake::value(), |rows, outputs| outputs.extend(rows));
        let gone = fake::loaded(model, false, &Registry::default());
        let scorer = scorer([1, 2]);
        let target = Target::Model(Arc::new(gone));
        let body = br#"{"instances": [[7]]}"#;
        let body = Body::read(body, Verb::Predict, scorer.limits).expect("a body");
        let answer = answer(&scorer, target, "m", None, &body);
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.rows().collect::<Vec<_>>(), [&[7.0]]);
    }
}
