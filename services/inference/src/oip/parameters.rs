//! The parameters of a request. Pure.

use std::{collections::BTreeMap, time::Duration};

use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::{InferParameter, infer_parameter::ParameterChoice};

use crate::{scoring::Form, tensor::Error};

/// The precision of numbers in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Double,
    Single,
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Precision::Double => "FP64",
            Precision::Single => "FP32",
        }
    }
}

/// What a request asks beside its tensors.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct InferParameters {
    /// The entity, for the split among a pipeline's variants.
    pub key: Option<String>,
    /// The route to take.
    pub variant: Option<String>,
    pub form: Option<Form>,
    pub precision: Option<Precision>,
    pub timeout: Option<Duration>,
    /// Whether outputs follow the JSON as bytes (REST).
    pub binary: bool,
}

impl InferParameters {
    /// Reads a request's parameters. Those of other servers are not refused: clients send them to all alike.
    ///
    /// # Errors
    /// One of ours whose value cannot be.
    pub(crate) fn read(parameters: &BTreeMap<String, InferParameter>) -> Result<Self, Error> {
        let mut read = InferParameters::default();
        for (name, value) in parameters {
            match name.as_str() {
                "key" => read.key = filled(text(name, value)?),
                "variant" => read.variant = filled(text(name, value)?),
                "inputs" => read.form = Some(form(value)?),
                "datatype" => read.precision = Some(precision(value)?),
                // Triton's, in microseconds; 0 is none.
                "timeout" => {
                    let timeout = Duration::from_micros(whole(name, value)?);
                    read.timeout = (!timeout.is_zero()).then_some(timeout);
                }
                "binary_data_output" => read.binary = truth(name, value)?,
                "sequence_id" => {
                    return Err(Error::Invalid(
                        "parameter \"sequence_id\": models here keep nothing between requests; leave it out"
                            .to_owned(),
                    ));
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn must(name: &str, what: &str) -> Error {
    Error::Invalid(format!("parameter {name:?} must be {what}"))
}

fn text<'a>(name: &str, value: &'a InferParameter) -> Result<&'a str, Error> {
    match &value.parameter_choice {
        Some(ParameterChoice::StringParam(text)) => Ok(text),
        _ => Err(must(name, "a text")),
    }
}

fn form(value: &InferParameter) -> Result<Form, Error> {
    match text("inputs", value)? {
        "record" => Ok(Form::Record),
        "features" => Ok(Form::Features),
        _ => Err(must("inputs", "\"record\" or \"features\"")),
    }
}

/// The precision that a `datatype` asks for.
pub(crate) fn precision(value: &InferParameter) -> Result<Precision, Error> {
    match text("datatype", value)? {
        "FP64" => Ok(Precision::Double),
        "FP32" => Ok(Precision::Single),
        _ => Err(must("datatype", "\"FP64\" or \"FP32\"")),
    }
}

/// A whole number that is not negative; clients choose the type as it comes.
pub(crate) fn whole(name: &str, value: &InferParameter) -> Result<u64, Error> {
    let whole = match &value.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(*number),
        Some(ParameterChoice::StringParam(text)) => text.parse().ok(),
        _ => None,
    };
    whole.ok_or_else(|| must(name, "a whole number, 0 or more"))
}

pub(crate) fn truth(name: &str, value: &InferParameter) -> Result<bool, Error> {
    match &value.parameter_choice {
        Some(ParameterChoice::BoolParam(truth)) => Ok(*truth),
        _ => Err(must(name, "true or false")),
    }
}

pub(crate) fn no_shared_memory(tensor: &str) -> Error {
    Error::Invalid(format!(
        "{} names shared memory, which this server does not have; send the data in the request",
        quote(tensor)
    ))
}
