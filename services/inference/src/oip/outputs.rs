//! A model's scores as the tensors of an answer: which are asked for, and their bytes. Pure.

use std::borrow::Cow;

use quadrille_model::Outputs;
use quadrille_pipeline::{Pipeline, quote::quote};
use quadrille_proto::oip::{InferTensorContents, model_infer_request::InferRequestedOutputTensor};
use serde::Serialize;

use super::parameters::{self, Precision};
use crate::{
    scoring::outputs::{DECISION, LABEL, PROBABILITIES, VALUES, class, labels, ranked, threshold},
    tensor::{Error, is_beyond_single},
};

/// An output that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputSpec {
    pub name: &'static str,
    pub precision: Precision,
    /// So many of the largest, as texts "value:index:label".
    pub classes: Option<usize>,
    /// Whether it is to follow the JSON as bytes (REST), where the request says so of this output.
    pub binary: Option<bool>,
}

/// All outputs, or those that are asked for.
///
/// # Errors
/// One that there is not; those there are, are listed.
pub(crate) fn plan(
    asked: &[InferRequestedOutputTensor],
    offered: &[&'static str],
    precision: Precision,
) -> Result<Vec<OutputSpec>, Error> {
    if asked.is_empty() {
        let all = offered.iter().map(|name| OutputSpec {
            name,
            precision,
            classes: None,
            binary: None,
        });
        return Ok(all.collect());
    }
    let mut specs: Vec<OutputSpec> = Vec::with_capacity(asked.len().min(offered.len()));
    for output in asked {
        let name = offered.iter().find(|name| **name == output.name);
        let name = name.ok_or_else(|| {
            Error::Invalid(format!(
                "output {}: there is no such output; ask for {}",
                quote(&output.name),
                offered.join(", ")
            ))
        })?;
        if specs.iter().any(|before| before.name == *name) {
            return Err(Error::Invalid(format!(
                "output {name:?} is asked for twice; ask once"
            )));
        }
        specs.push(spec(name, output, precision)?);
    }
    Ok(specs)
}

fn spec(
    name: &'static str,
    output: &InferRequestedOutputTensor,
    precision: Precision,
) -> Result<OutputSpec, Error> {
    let mut spec = OutputSpec {
        name,
        precision,
        classes: None,
        binary: None,
    };
    for (parameter, value) in &output.parameters {
        match parameter.as_str() {
            "classification" => {
                let classes = parameters::whole(parameter, value)?;
                let classes = usize::try_from(classes).unwrap_or(usize::MAX);
                spec.classes = (classes > 0).then_some(classes);
            }
            "datatype" => spec.precision = parameters::precision(value)?,
            "binary_data" => spec.binary = Some(parameters::truth(parameter, value)?),
            "shared_memory_region" => return Err(parameters::no_shared_memory(name)),
            // Other servers' parameters are theirs.
            _ => {}
        }
    }
    if spec.classes.is_some() && !matches!(name, PROBABILITIES | VALUES) {
        return Err(Error::Invalid(format!(
            "output {name:?} has no numbers to classify; ask for {PROBABILITIES}"
        )));
    }
    Ok(spec)
}

/// An output tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputTensor<'a> {
    pub name: &'static str,
    pub shape: Vec<i64>,
    pub values: Values<'a>,
    pub binary: Option<bool>,
}

/// As JSON: the shortest digits that read back as the same; what is not finite is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Values<'a> {
    Doubles(&'a [f64]),
    Singles(Vec<f32>),
    Texts(Vec<Cow<'a, str>>),
}

/// Checks that the answer's numbers are ones of the precision that is asked for.
///
/// # Errors
/// A regression's value that single precision would make an infinity.
pub(crate) fn check_precision(specs: &[OutputSpec], scores: &[f64]) -> Result<(), Error> {
    let singles = specs.iter().find(|it| {
        matches!(it.name, PROBABILITIES | VALUES)
            && it.precision == Precision::Single
            && it.classes.is_none()
    });
    let beyond = singles.and_then(|spec| {
        let beyond = scores.iter().find(|it| is_beyond_single(**it));
        beyond.map(|beyond| (spec.name, beyond))
    });
    match beyond {
        None => Ok(()),
        Some((name, beyond)) => Err(Error::Invalid(format!(
            "output {name:?}: {beyond:e} is no FP32; ask for FP64"
        ))),
    }
}

/// Makes an output of `scores`, row-major, n × the width of `outputs`.
pub(crate) fn make<'a>(
    spec: &OutputSpec,
    outputs: &'a Outputs,
    pipeline: Option<&'a Pipeline>,
    scores: &'a [f64],
) -> OutputTensor<'a> {
    let width = outputs.width().max(1);
    let rows = scores.chunks_exact(width);
    let count = scores.len() / width;
    let (sides, values) = match (spec.name, spec.classes) {
        (LABEL, _) => {
            let threshold = threshold(pipeline);
            let label = |row| Cow::Borrowed(class(outputs, threshold, row));
            (None, Values::Texts(rows.map(label).collect()))
        }
        (DECISION, _) => {
            let decide = |row: &[f64]| {
                let decide = |pipeline: &'a Pipeline| pipeline.decide(row);
                Cow::Borrowed(pipeline.map_or("", decide))
            };
            (None, Values::Texts(rows.map(decide).collect()))
        }
        (_, Some(most)) => {
            let labels = labels(outputs);
            let most = most.min(labels.len());
            let texts = rows.flat_map(|row| classified(outputs, &labels, row, most));
            (Some(most), Values::Texts(texts.collect()))
        }
        (_, None) => {
            let numbers = match spec.precision {
                Precision::Double => Values::Doubles(scores),
                Precision::Single => Values::Singles(scores.iter().map(|it| *it as f32).collect()),
            };
            (Some(width), numbers)
        }
    };
    let mut shape = Vec::with_capacity(2);
    shape.push(side(count));
    shape.extend(sides.map(side));
    OutputTensor {
        name: spec.name,
        shape,
        values,
        binary: spec.binary,
    }
}

/// Bounded by what a request may hold.
fn side(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn classified<'a>(
    outputs: &Outputs,
    labels: &[&str],
    row: &[f64],
    most: usize,
) -> Vec<Cow<'a, str>> {
    let ranked = ranked(outputs, row).into_iter().take(most);
    let text = |(at, value): (usize, f64)| {
        let label = labels.get(at).copied().unwrap_or_default();
        Cow::Owned(format!("{value}:{at}:{label}"))
    };
    ranked.map(text).collect()
}

impl Values<'_> {
    pub(crate) fn datatype(&self) -> &'static str {
        match self {
            Values::Doubles(_) => Precision::Double.name(),
            Values::Singles(_) => Precision::Single.name(),
            Values::Texts(_) => "BYTES",
        }
    }

    /// As raw contents have it.
    pub(crate) fn raw(&self) -> Vec<u8> {
        match self {
            Values::Doubles(values) => little_endian(values, |it| it.to_le_bytes()),
            Values::Singles(values) => little_endian(values, |it| it.to_le_bytes()),
            Values::Texts(texts) => {
                let len = texts.iter().map(|text| 4 + text.len()).sum();
                let mut raw = Vec::with_capacity(len);
                for text in texts {
                    // A label is far shorter than what the length can say.
                    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    raw.extend_from_slice(&len.to_le_bytes());
                    raw.extend_from_slice(text.as_bytes());
                }
                raw
            }
        }
    }

    /// As typed contents have it.
    pub(crate) fn typed(&self) -> InferTensorContents {
        let mut contents = InferTensorContents::default();
        match self {
            Values::Doubles(values) => contents.fp64_contents = values.to_vec(),
            Values::Singles(values) => contents.fp32_contents = values.clone(),
            Values::Texts(texts) => {
                let bytes = texts.iter().map(|text| text.as_bytes().to_vec());
                contents.bytes_contents = bytes.collect();
            }
        }
        contents
    }
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(values.len() * N);
    for value in values {
        raw.extend_from_slice(&bytes(*value));
    }
    raw
}

#[cfg(test)]
mod tests {
    use quadrille_proto::oip::{InferParameter, infer_parameter::ParameterChoice};

    use super::*;
    use crate::scoring::outputs::offered;

    fn three() -> Outputs {
        Outputs::Classes(["a", "b", "c"].map(str::to_owned).to_vec())
    }

    fn asked(name: &str, parameter: Option<(&str, ParameterChoice)>) -> InferRequestedOutputTensor {
        let parameters = parameter.into_iter().map(|(name, choice)| {
            let parameter_choice = Some(choice);
            (name.to_owned(), InferParameter { parameter_choice })
        });
        InferRequestedOutputTensor {
            name: name.to_owned(),
            parameters: parameters.collect(),
        }
    }

    fn made<'a>(
        outputs: &'a Outputs,
        asked: &[InferRequestedOutputTensor],
        scores: &'a [f64],
    ) -> Vec<OutputTensor<'a>> {
        let wanted = plan(asked, offered(outputs, false), Precision::Double).unwrap();
        let made = wanted.iter().map(|it| make(it, outputs, None, scores));
        made.collect()
    }

    #[test]
    fn all_outputs_come_where_none_is_asked_for() {
        let outputs = three();
        let scores = [0.2, 0.5, 0.3, 0.4, 0.4, 0.2];
        let all = made(&outputs, &[], &scores);
        assert_eq!(
            (all[0].name, all[0].shape.as_slice()),
            (PROBABILITIES, [2, 3].as_slice())
        );
        assert_eq!(all[0].values, Values::Doubles(&scores));
        assert_eq!(
            (all[1].name, all[1].shape.as_slice()),
            (LABEL, [2].as_slice())
        );
        // Of equal ones the first.
        assert_eq!(all[1].values, Values::Texts(vec!["b".into(), "a".into()]));
        let values = Outputs::Values(vec!["y".to_owned(), "z".to_owned()]);
        let all = made(&values, &[], &scores);
        assert_eq!((all.len(), all[0].name), (1, VALUES));
        assert_eq!(all[0].shape, [3, 2]);
    }

    #[test]
    fn classification_gives_the_largest_with_index_and_label() {
        let outputs = three();
        let request = [asked(
            PROBABILITIES,
            Some(("classification", ParameterChoice::Int64Param(2))),
        )];
        let found = made(&outputs, &request, &[0.25, 0.5, 0.125]);
        assert_eq!(found[0].shape, [1, 2]);
        assert_eq!(
            found[0].values,
            Values::Texts(vec!["0.5:1:b".into(), "0.25:0:a".into()])
        );
    }

    #[test]
    fn both_classes_of_a_binary_classifier_can_be_had() {
        let outputs = Outputs::Binary(quadrille_model::package::Labels {
            negative: "no".to_owned(),
            positive: "yes".to_owned(),
        });
        let request = [asked(
            PROBABILITIES,
            Some(("classification", ParameterChoice::Int64Param(9))),
        )];
        let found = made(&outputs, &request, &[0.25]);
        let texts = Values::Texts(vec!["0.75:0:no".into(), "0.25:1:yes".into()]);
        assert_eq!((&found[0].shape, &found[0].values), (&vec![1, 2], &texts));
        let all = made(&outputs, &[], &[0.25, 0.5]);
        assert_eq!(all[0].shape, [2, 1]);
        assert_eq!(
            all[1].values,
            Values::Texts(vec!["no".into(), "yes".into()])
        );
    }

    #[test]
    fn a_value_that_single_precision_does_not_have_is_refused_where_it_is_asked_for() {
        let outputs = Outputs::Values(vec!["y".to_owned()]);
        let single = ParameterChoice::StringParam("FP32".to_owned());
        let asked = [asked(VALUES, Some(("datatype", single)))];
        let wanted = plan(&asked, offered(&outputs, false), Precision::Double).unwrap();
        let refused = check_precision(&wanted, &[1.0, 1e39]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "output \"values\": 1e39 is no FP32; ask for FP64"
        );
        assert!(check_precision(&wanted, &[3e38, -3e38]).is_ok());
        let double = plan(&[], offered(&outputs, false), Precision::Double).unwrap();
        assert!(check_precision(&double, &[1e39]).is_ok());
    }

    #[test]
    fn an_output_that_there_is_not_is_refused_with_those_there_are() {
        let refused = |request| {
            plan(&[request], offered(&three(), false), Precision::Double)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(asked("other", None)),
            "output \"other\": there is no such output; ask for probabilities, label"
        );
        let negative = ParameterChoice::Int64Param(-1);
        assert!(
            refused(asked(PROBABILITIES, Some(("classification", negative))))
                .contains("whole number")
        );
        let one = ParameterChoice::Int64Param(1);
        assert!(refused(asked(LABEL, Some(("classification", one)))).contains("no numbers"));
        let half = ParameterChoice::StringParam("FP16".to_owned());
        assert!(refused(asked(PROBABILITIES, Some(("datatype", half)))).contains("FP32"));
    }

    #[test]
    fn raw_outputs_are_little_endian_and_texts_have_their_length_before_them() {
        assert_eq!(Values::Doubles(&[1.0]).raw(), 1_f64.to_le_bytes());
        assert_eq!(Values::Singles(vec![1.5]).raw(), 1.5_f32.to_le_bytes());
        let texts = Values::Texts(vec!["ab".into(), "".into()]);
        assert_eq!(texts.raw(), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    }
}
