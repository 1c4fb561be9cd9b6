//! A question to a model or a pipeline, whatever the protocol: who answers, its rows, its scores.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_model::Outputs;
use quadrille_pipeline::{NeedKey, Pipeline, quote::quote};
use quadrille_proto::oip::model_infer_request::InferRequestedOutputTensor;
use quadrille_registry::ModelId;
use quadrille_service::fields::now_ms;
use quadrille_telemetry::{Tracing, metrics::ModelTimes};

use super::{
    ask::Ask,
    outputs::{Made, Precision, Wanted, check_precision, make, offered, plan},
    refusal::Refusal,
    rows::{Form, Rows, records, rows},
    tensor::{Error, Limits, Tensor},
};
use crate::{
    engine::Loaded,
    serving::{Choice, Serving},
};

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Refusal::Invalid(message),
            Error::TooLarge(message) => Refusal::TooLarge(message),
        }
    }
}

/// What all protocols ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Doors {
    pub serving: Serving,
    pub limits: Limits,
    pub tracing: Tracing,
}

/// Who is asked.
pub(crate) enum Target {
    Model(Arc<Loaded>),
    Pipeline(Arc<Pipeline>),
}

pub(crate) struct Question<'a> {
    pub model: &'a str,
    /// Empty: none named.
    pub version: &'a str,
    pub ask: &'a Ask,
    pub tensors: &'a [Tensor<'a>],
    pub outputs: &'a [InferRequestedOutputTensor],
    pub deadline: Option<Instant>,
}

/// What came of a question.
pub(crate) struct Scored {
    /// The pipeline that was asked, and the variant that it chose.
    pub through: Option<(Arc<Pipeline>, String)>,
    pub loaded: Arc<Loaded>,
    scores: Vec<f64>,
    wanted: Vec<Wanted>,
    times: ModelTimes,
}

impl Scored {
    pub(crate) fn id(&self) -> &ModelId {
        self.loaded.id()
    }

    /// Model, version and variant that answered for a pipeline. A model that was asked by its own name is in the
    /// answer already.
    pub(crate) fn answered_by(&self) -> Option<[(&'static str, &str); 3]> {
        let (_, variant) = self.through.as_ref()?;
        let id = self.id();
        Some([
            ("model", &id.name),
            ("version", &id.version),
            ("variant", variant),
        ])
    }

    pub(crate) fn outputs(&self) -> &Outputs {
        self.loaded.model().outputs()
    }

    /// Rows of scores.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.scores.chunks_exact(self.outputs().width().max(1))
    }

    /// The outputs that are wanted, in their order.
    pub(crate) fn made(&self) -> impl Iterator<Item = Made<'_>> {
        let pipeline = self.through.as_ref().map(|(pipeline, _)| &**pipeline);
        let outputs = self.outputs();
        let made = move |wanted| make(wanted, outputs, pipeline, &self.scores);
        self.wanted.iter().map(made)
    }

    /// Tells how long the answer took to be written.
    pub(crate) fn written(&self, began: Instant) {
        let took = began.elapsed();
        self.times.output(took);
        self.loaded.written(took);
    }
}

/// The sooner of what the transport and the parameters allow.
pub(crate) fn deadline(transport: Option<Instant>, timeout: Option<Duration>) -> Option<Instant> {
    let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match (transport, own) {
        (Some(transport), Some(own)) => Some(transport.min(own)),
        (transport, own) => transport.or(own),
    }
}

impl Doors {
    /// A pipeline by its name; a model by its own, or where a version is named.
    pub(crate) fn target(&self, name: &str, version: &str) -> Result<Target, Refusal> {
        let mut pipelines = self.serving.pipelines().iter();
        let pipeline = pipelines.find(|pipeline| pipeline.name() == name);
        match pipeline {
            Some(pipeline) if version.is_empty() => Ok(Target::Pipeline(Arc::clone(pipeline))),
            pipeline => {
                let version = (!version.is_empty()).then_some(version);
                match self.serving.model(name, version) {
                    Ok(loaded) => Ok(Target::Model(loaded)),
                    Err(_) if pipeline.is_some() => Err(Refusal::Unknown(format!(
                        "{name:?} is a pipeline and has no versions; leave the version out, or ask a model by its own name"
                    ))),
                    Err(not) => Err(self.unknown(name, not.into())),
                }
            }
        }
    }

    /// Pipelines are models too, and belong to the list of what there is.
    fn unknown(&self, name: &str, refusal: Refusal) -> Refusal {
        let pipelines = self.serving.pipelines().iter();
        let pipelines: Vec<&str> = pipelines.map(|it| it.name()).collect();
        let models = self.serving.models();
        match refusal {
            Refusal::Unknown(message) if !models.iter().any(|model| model.id.name == name) => {
                let pipelines = pipelines.join(", ");
                Refusal::Unknown(format!("{message}; pipelines: {pipelines}"))
            }
            refusal => refusal,
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// Why there is no answer, and what to change.
    pub(crate) async fn score(&self, question: Question<'_>) -> Result<Scored, Refusal> {
        let target = self.target(question.model, question.version)?;
        self.score_by(target, question).await
    }

    /// As [`Doors::score`], by who was found before: found again it may be another.
    pub(crate) async fn score_by(
        &self,
        target: Target,
        question: Question<'_>,
    ) -> Result<Scored, Refusal> {
        let asked_at = Instant::now();
        let mut counted = None;
        let (through, loaded, times, rows) = match target {
            Target::Model(loaded) => {
                if let Some(variant) = &question.ask.variant {
                    return Err(Refusal::Invalid(format!(
                        "variant {}: variants belong to pipelines, and {} is asked as a model; ask the pipeline, or leave the variant out",
                        quote(variant),
                        quote(question.model)
                    )));
                }
                let rows = rows(question.tensors, loaded.model().inputs())?;
                let times = loaded.times().clone();
                (None, loaded, times, rows)
            }
            Target::Pipeline(pipeline) => {
                let (choice, rows) = self.through(&pipeline, &question)?;
                let through = Some((pipeline, choice.variant));
                counted = Some(choice.records);
                (through, choice.loaded, choice.times, rows)
            }
        };
        let model = loaded.model();
        let offered = offered(model.outputs(), through.is_some());
        let precision = question.ask.precision.unwrap_or(Precision::Double);
        let wanted = plan(question.outputs, offered, precision)?;
        let step = self.tracing.step("model");
        let start = Instant::now();
        let scores = loaded.score(rows.values, question.deadline).await?;
        times.compute(start.elapsed());
        check_precision(&wanted, &scores)?;
        loaded.prepared(start - asked_at);
        drop(step);
        if let Some(records) = counted {
            records.scored(scores.len() / model.outputs().width().max(1));
        }
        Ok(Scored {
            through,
            loaded,
            scores,
            wanted,
            times,
        })
    }

    /// What a pipeline chooses, and its model's rows.
    fn through(
        &self,
        pipeline: &Pipeline,
        question: &Question<'_>,
    ) -> Result<(Choice, Rows), Refusal> {
        let (ask, tensors) = (question.ask, question.tensors);
        let (key, variant) = (ask.key.as_deref(), ask.variant.as_deref());
        if form(pipeline, ask, tensors)? == Form::Features {
            let rows = rows(tensors, pipeline.inputs())?;
            check_finite(&rows, pipeline.inputs())?;
            return Ok((self.serving.choose(pipeline.name(), key, variant)?, rows));
        }
        let step = self.tracing.step("features");
        let (rows, keys) = computed(pipeline, tensors, self.limits.values_max)?;
        drop(step);
        match (key, keys.as_slice()) {
            (None, [first, others @ ..]) => {
                let choose = |key: &String| {
                    let key = (!key.is_empty()).then_some(key.as_str());
                    self.serving.choose(pipeline.name(), key, variant)
                };
                let choice = choose(first)?;
                for other in others {
                    let another = choose(other)?;
                    if another.variant != choice.variant {
                        return Err(Refusal::Invalid(format!(
                            "the rows of {first:?} and {other:?} belong to different variants ({} and {}); send them apart, or name a variant",
                            choice.variant, another.variant
                        )));
                    }
                }
                Ok((choice, rows))
            }
            _ => Ok((self.serving.choose(pipeline.name(), key, variant)?, rows)),
        }
    }
}

/// How the tensors hold the rows: the request says so, or their names do; a shape alone never does, or the raw values of a
/// record would be scored as features. Where names fit both, they are the record's: its rules for what is missing or out of
/// range hold then, and features that merely pass a field on come out the same. A tensor of neither's name is the matrix
/// of the model's inputs, unless the whole record could be one tensor as well. A record has no features: beside its fields they would be
/// computed anew, and what was sent of them ignored.
fn form(pipeline: &Pipeline, ask: &Ask, tensors: &[Tensor<'_>]) -> Result<Form, Refusal> {
    let is_input = |name: &str| pipeline.inputs().iter().any(|input| input == name);
    let feature = |it: &&Tensor<'_>| is_input(it.name) && !pipeline.has_field(it.name);
    match (ask.form, tensors.iter().find(feature)) {
        (Some(Form::Record), Some(feature)) => return Err(mixed(feature.name)),
        (Some(form), _) => return Ok(form),
        (None, _) => {}
    }
    if tensors.iter().all(|it| pipeline.has_field(it.name)) {
        return Ok(Form::Record);
    }
    if tensors.iter().all(|it| is_input(it.name)) {
        return Ok(Form::Features);
    }
    match (tensors, pipeline.only_field()) {
        ([_], None) => Ok(Form::Features),
        ([tensor], Some(field)) => Err(ambiguous(pipeline, tensor.name, field)),
        _ => match tensors.iter().find(feature) {
            Some(feature) => Err(mixed(feature.name)),
            None => Ok(Form::Record),
        },
    }
}

/// A pipeline's features are finite or missing, whoever computes them: what its records cannot have, its features cannot either.
fn check_finite(rows: &Rows, inputs: &[String]) -> Result<(), Refusal> {
    let Some(at) = rows.values.iter().position(|it| it.is_infinite()) else {
        return Ok(());
    };
    let width = inputs.len().max(1);
    let name = inputs.get(at % width).map_or("", String::as_str);
    let row = match rows.count {
        1 => String::new(),
        _ => format!("row {}: ", at / width),
    };
    Err(Refusal::Invalid(format!(
        "{row}input {name:?}: is not a finite number; send a finite number, or null"
    )))
}

fn mixed(name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "input {}: the model reads it, and the record has no such field; send the record's fields alone (features are computed of \
         them), or the model's inputs alone, with the entity's key as the parameter \"key\"",
        quote(name)
    ))
}

fn ambiguous(pipeline: &Pipeline, name: &str, field: &str) -> Refusal {
    let inputs = match pipeline.inputs() {
        [input] => format!("{input:?} if it is the model's input"),
        inputs => format!(
            "after an input if it is one of the model's {}",
            inputs.len()
        ),
    };
    Refusal::Invalid(format!(
        "input {}: it may be the record's field or what the model reads; name it {field:?} if it is the record's (features \
         are computed of it then), {inputs}, or say which by the parameter \"inputs\": \"record\" or \"features\"",
        quote(name)
    ))
}

/// The model's rows of records, and their distinct keys in order.
fn computed(
    pipeline: &Pipeline,
    tensors: &[Tensor<'_>],
    values_max: usize,
) -> Result<(Rows, Vec<String>), Refusal> {
    let records = records(tensors, |name| pipeline.elements(name))?;
    let width = pipeline.inputs().len().max(1);
    if records.count.saturating_mul(width) > values_max {
        return Err(Refusal::TooLarge(format!(
            "{} records are too many for one request; send at most {}",
            records.count,
            values_max / width
        )));
    }
    let mut values = Vec::with_capacity(records.count * width);
    let (mut features, mut keys) = (Vec::new(), Vec::new());
    let now = now_ms();
    for at in 0..records.count {
        let reading = pipeline
            .read_fields(records.record(at), now, NeedKey::Optional)
            .map_err(|invalid| match records.count {
                1 => Refusal::Invalid(invalid.to_string()),
                _ => Refusal::Invalid(format!("row {at}: {invalid}")),
            })?;
        pipeline.features(&reading.values, &mut features);
        pipeline.model_inputs(&features, &mut values);
        if keys.last() != Some(&reading.key) {
            keys.push(reading.key);
        }
    }
    let count = records.count;
    Ok((Rows { values, count }, keys))
}
