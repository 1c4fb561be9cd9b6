//! A question of tensors to a pipeline: what they hold, and the model's rows made of them. Pure, but for the clock by which records without a
//! time are read.

use quadrille_pipeline::{NeedKey, Pipeline, quote::quote};
use quadrille_service::fields::now_ms;

use super::error::Error;
use crate::tensor::{
    Tensor,
    rows::{Rows, records},
};

/// What tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The model's inputs.
    Features,
    /// The fields of the pipeline's record, one tensor each.
    Record,
}

/// What is asked of a model or a pipeline.
pub(crate) struct Question<'a> {
    /// The model or the pipeline that is asked.
    pub name: &'a str,
    /// The entity, for the split among a pipeline's variants.
    pub key: Option<&'a str>,
    /// The route to take.
    pub variant: Option<&'a str>,
    /// What the tensors hold, where it is said.
    pub form: Option<Form>,
    pub tensors: &'a [Tensor<'a>],
}

/// How the tensors hold the rows: the request says so, or their names do; a shape alone never does, or the raw values of a
/// record would be scored as features. Where names fit both, they are the record's: its rules for what is missing or out of
/// range hold then, and features that merely pass a field on come out the same. A tensor of neither's name is the matrix
/// of the model's inputs, unless the whole record could be one tensor as well. A record has no features: beside its fields they would be
/// computed anew, and what was sent of them ignored.
pub(super) fn form(pipeline: &Pipeline, question: &Question<'_>) -> Result<Form, Error> {
    let tensors = question.tensors;
    let is_input = |name: &str| pipeline.inputs().iter().any(|input| input == name);
    let feature = |it: &&Tensor<'_>| is_input(it.name) && !pipeline.has_field(it.name);
    match (question.form, tensors.iter().find(feature)) {
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
pub(super) fn check_finite(rows: &Rows, inputs: &[String]) -> Result<(), Error> {
    let Some(at) = rows.values.iter().position(|it| it.is_infinite()) else {
        return Ok(());
    };
    let width = inputs.len().max(1);
    let name = inputs.get(at % width).map_or("", String::as_str);
    let row = match rows.count {
        1 => String::new(),
        _ => format!("row {}: ", at / width),
    };
    Err(Error::Invalid(format!(
        "{row}input {name:?}: is not a finite number; send a finite number, or null"
    )))
}

fn mixed(name: &str) -> Error {
    Error::Invalid(format!(
        "input {}: the model reads it, and the record has no such field; send the record's fields alone (features are computed of \
         them), or the model's inputs alone, with the entity's key as the parameter \"key\"",
        quote(name)
    ))
}

fn ambiguous(pipeline: &Pipeline, name: &str, field: &str) -> Error {
    let inputs = match pipeline.inputs() {
        [input] => format!("{input:?} if it is the model's input"),
        inputs => format!(
            "after an input if it is one of the model's {}",
            inputs.len()
        ),
    };
    Error::Invalid(format!(
        "input {}: it may be the record's field or what the model reads; name it {field:?} if it is the record's (features \
         are computed of it then), {inputs}, or say which by the parameter \"inputs\": \"record\" or \"features\"",
        quote(name)
    ))
}

/// The model's rows of records, and their distinct keys in order.
pub(super) fn computed(
    pipeline: &Pipeline,
    tensors: &[Tensor<'_>],
    values_max: usize,
) -> Result<(Rows, Vec<String>), Error> {
    let records = records(tensors, |name| pipeline.elements(name))?;
    let width = pipeline.inputs().len().max(1);
    if records.count.saturating_mul(width) > values_max {
        return Err(Error::TooLarge(format!(
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
                1 => Error::Invalid(invalid.to_string()),
                _ => Error::Invalid(format!("row {at}: {invalid}")),
            })?;
        pipeline.features(&reading.values, &mut features)?;
        pipeline.model_inputs(&features, &mut values);
        if keys.last() != Some(&reading.key) {
            keys.push(reading.key);
        }
    }
    let count = records.count;
    Ok((Rows { values, count }, keys))
}
