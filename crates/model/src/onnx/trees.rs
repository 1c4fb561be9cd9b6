//! A graph around one tree ensemble: what exporters put before it (casts, scaling, imputing) and after it (casts, a
//! softmax, maps), run by us, with the roundings of the graph's own number type.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::Error;
use super::attributes::{Attributes, cast_type};
use super::column_steps::ColumnSteps;
use super::domain::Domain;
use super::graph::{Graph, is_trees, tensor_type};
use super::nodes;
use super::sources::Sources;
use crate::Quantity;
use crate::forest::ensemble::{Ensemble, PostTransform, Precision, logistic, softmax};

/// Longer chains are no exporter's.
const CHAIN_MAX: usize = 32;

/// A tree ensemble and what surrounds it.
#[derive(Debug)]
pub(crate) struct Trees {
    domain: Domain,
    steps: ColumnSteps,
    ensemble: Ensemble,
    after: Vec<After>,
}

/// A step on a row of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Logistic,
    Softmax,
    Exponential,
    /// Divided by the sum of the absolute values.
    Shares,
    Round(Precision),
    /// To a whole number, towards zero.
    Truncate,
    /// 1, but of 0.
    Truth,
}

impl Trees {
    pub fn new(graph: &Graph, sources: &Sources) -> Result<Self, Error> {
        if !graph.has_several_inputs {
            check_width(graph, sources.inputs)?;
        }
        let (node, output, mut after) = behind(graph)?;
        let scores = match node.op_type.as_str() {
            "TreeEnsembleClassifier" => node.output.get(1),
            _ => node.output.first(),
        };
        if scores != Some(&output) {
            return Err(Error::operator(
                &node.op_type,
                "the graph's output is the label, not the scores; name the output of the scores",
            ));
        }
        let (steps, precision) = ColumnSteps::new(graph, node, sources)?;
        if node.op_type != "TreeEnsemble" || precision == Precision::Single {
            // To the file the scores are of single precision already, and so are whole numbers made of them.
            after.retain(|it| *it != After::Round(Precision::Single));
        }
        let ensemble = Ensemble::new(nodes::read(node, steps.width(), precision)?)?;
        Ok(Trees {
            domain: Domain::of_trees(sources),
            steps,
            ensemble,
            after,
        })
    }

    pub fn width(&self) -> usize {
        self.ensemble.width()
    }

    /// What the ensemble's scores are to the answers.
    pub fn scores(&self) -> Quantity {
        match (self.ensemble.post_transform(), &self.after[..]) {
            (post_transform, []) if post_transform.keeps_scores() => Quantity::Output,
            (PostTransform::Logistic | PostTransform::LogisticPair, []) => Quantity::LogOdds,
            (PostTransform::None, [After::Logistic]) => Quantity::LogOdds,
            _ => Quantity::Score,
        }
    }

    pub fn score(&self, rows: &[f64], answers: &mut Vec<f64>) {
        let first = answers.len();
        self.ensemble.score(&self.steps.prepared(rows), answers);
        for answer in answers[first..].chunks_exact_mut(self.width()) {
            self.after.iter().for_each(|after| after.apply(answer));
        }
        let (inputs, width) = (self.steps.inputs(), self.width());
        self.domain
            .withdraw(rows, inputs, &mut answers[first..], width);
    }

    /// Shapley values of the scores (row-major, inputs × scores) and the scores' mean over the background.
    pub fn contributions(&self, row: &[f64], background: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
        let (row, background) = (self.steps.prepared(row), self.steps.prepared(background));
        let (parts, bias) = self.ensemble.contributions(&row, &background)?;
        Some((self.steps.to_inputs(&parts, bias.len())?, bias))
    }
}

impl After {
    fn apply(self, answer: &mut [f64]) {
        match self {
            After::Logistic => answer.iter_mut().for_each(|it| *it = logistic(*it)),
            After::Softmax => softmax(answer),
            After::Exponential => answer.iter_mut().for_each(|it| *it = it.exp()),
            After::Shares => {
                let sum: f64 = answer.iter().map(|it| it.abs()).sum();
                // Nothing is shared out by a row of zeros.
                if sum != 0.0 {
                    answer.iter_mut().for_each(|it| *it /= sum);
                }
            }
            After::Round(precision) => answer.iter_mut().for_each(|it| *it = precision.round(*it)),
            After::Truncate => answer.iter_mut().for_each(|it| *it = it.trunc()),
            // NaN is not 0.
            After::Truth => answer
                .iter_mut()
                .for_each(|it| *it = f64::from(u8::from(*it != 0.0))),
        }
    }
}

fn check_width(graph: &Graph, inputs: usize) -> Result<(), Error> {
    let sizes = tensor_type(graph.input()?).map(|(_, sizes)| sizes);
    match sizes.unwrap_or_default().last() {
        Some(Some(columns)) if *columns != inputs => Err(Error::graph(format!(
            "reads rows of {columns} columns where {inputs} inputs are named"
        ))),
        _ => Ok(()),
    }
}

/// From the graph's output up to the trees: their node, its output, and the steps in between in order.
fn behind(graph: &Graph) -> Result<(&NodeProto, String, Vec<After>), Error> {
    let mut value = graph.output.clone();
    let mut after = Vec::new();
    for _ in 0..CHAIN_MAX {
        let node = graph
            .maker(&value)
            .ok_or_else(|| Error::graph("has an output that no node computes"))?;
        if is_trees(node) {
            after.reverse();
            return Ok((node, value, after));
        }
        match node.op_type.as_str() {
            "Identity" | "ZipMap" | "Reshape" | "Flatten" | "Squeeze" => {}
            "Cast" => after.extend(cast_behind(node)?),
            "Sigmoid" => after.push(After::Logistic),
            "Exp" => after.push(After::Exponential),
            "Softmax" if matches!(Attributes(node).int("axis"), None | Some(-1 | 1)) => {
                after.push(After::Softmax);
            }
            "Normalizer" if Attributes(node).text("norm") == Some("L1") => {
                after.push(After::Shares);
            }
            other => {
                let reason = "after a tree ensemble it is not supported";
                return Err(Error::operator(other, reason));
            }
        }
        value = node.input.first().cloned().unwrap_or_default();
    }
    Err(Error::graph("has too many nodes behind its trees"))
}

/// What a cast of the scores does to them.
fn cast_behind(node: &NodeProto) -> Result<Option<After>, Error> {
    let refuse = || {
        Error::operator(
            "Cast",
            "after trees only a cast to floats, integers or truths is supported",
        )
    };
    Ok(match cast_type(node).ok_or_else(refuse)? {
        DataType::Double => None,
        DataType::Float => Some(After::Round(Precision::Single)),
        DataType::Int64 | DataType::Int32 => Some(After::Truncate),
        DataType::Bool => Some(After::Truth),
        _ => return Err(refuse()),
    })
}
