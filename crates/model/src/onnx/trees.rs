//! A graph around one tree ensemble: what exporters put before it (casts, scaling, imputing) and after it (casts, a
//! softmax, maps), run by us, with the roundings of the graph's own number type.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};

use super::Error;
use super::attributes::{Attributes, tensor_numbers};
use super::domain::Domain;
use super::graph::{Graph, is_trees, tensor_type};
use super::nodes;
use crate::Quantity;
use crate::forest::ensemble::{Ensemble, Finish, Precision, logistic, softmax};

/// Longer chains are no exporter's.
const CHAIN_MAX: usize = 32;

/// A tree ensemble and what surrounds it.
#[derive(Debug)]
pub(crate) struct Trees {
    domain: Domain,
    before: Vec<Before>,
    ensemble: Ensemble,
    after: Vec<After>,
}

/// A step on rows before the trees; lists are as long as a row.
#[derive(Debug, Clone, PartialEq)]
enum Before {
    Round(Precision),
    /// `(value - offset) * scale`, rounded after each.
    Scale {
        offset: Vec<f64>,
        scale: Vec<f64>,
        precision: Precision,
    },
    /// What equals `replaced` (NaN: what is missing) becomes the column's fill.
    Fill {
        replaced: f64,
        fills: Vec<f64>,
    },
    Arithmetic {
        operator: Arithmetic,
        operand: Vec<f64>,
        precision: Precision,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
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
    pub fn new(graph: &Graph, inputs: usize) -> Result<Self, Error> {
        let kind = check_input(graph, inputs)?;
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
        let (before, precision) = ahead(graph, node, inputs, kind)?;
        if node.op_type != "TreeEnsemble" || precision == Precision::Single {
            // To the file the scores are of single precision already, and so are whole numbers made of them.
            after.retain(|it| *it != After::Round(Precision::Single));
        }
        let ensemble = Ensemble::new(nodes::read(node, inputs, precision)?)?;
        Ok(Trees {
            domain: Domain::of_trees(kind),
            before,
            ensemble,
            after,
        })
    }

    pub fn width(&self) -> usize {
        self.ensemble.width()
    }

    /// What the ensemble's scores are to the answers.
    pub fn scores(&self) -> Quantity {
        match (self.ensemble.finish(), &self.after[..]) {
            (finish, []) if finish.keeps_scores() => Quantity::Output,
            (Finish::Logistic | Finish::LogisticPair, []) => Quantity::LogOdds,
            (Finish::None, [After::Logistic]) => Quantity::LogOdds,
            _ => Quantity::Score,
        }
    }

    pub fn score(&self, rows: &[f64], answers: &mut Vec<f64>) {
        let first = answers.len();
        match self.before.is_empty() {
            true => self.ensemble.score(rows, answers),
            false => self.ensemble.score(&self.prepared(rows), answers),
        }
        for answer in answers[first..].chunks_exact_mut(self.width()) {
            self.after.iter().for_each(|after| after.apply(answer));
        }
        let (inputs, width) = (self.ensemble.inputs(), self.width());
        self.domain
            .withdraw(rows, inputs, &mut answers[first..], width);
    }

    /// Shapley values of the scores (row-major, inputs × scores) and the scores' mean over the background.
    pub fn contributions(&self, row: &[f64], background: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
        let (row, background) = (self.prepared(row), self.prepared(background));
        self.ensemble.contributions(&row, &background)
    }

    fn prepared(&self, rows: &[f64]) -> Vec<f64> {
        let mut rows = rows.to_vec();
        for row in rows.chunks_exact_mut(self.ensemble.inputs()) {
            self.before.iter().for_each(|before| before.apply(row));
        }
        rows
    }
}

impl Before {
    fn apply(&self, row: &mut [f64]) {
        match self {
            Before::Round(precision) => row.iter_mut().for_each(|it| *it = precision.round(*it)),
            Before::Scale {
                offset,
                scale,
                precision,
            } => {
                for ((value, offset), scale) in row.iter_mut().zip(offset).zip(scale) {
                    *value = precision.round(precision.round(*value - offset) * scale);
                }
            }
            Before::Fill { replaced, fills } => {
                for (value, fill) in row.iter_mut().zip(fills) {
                    if value == replaced || value.is_nan() && replaced.is_nan() {
                        *value = *fill;
                    }
                }
            }
            Before::Arithmetic {
                operator,
                operand,
                precision,
            } => {
                for (value, operand) in row.iter_mut().zip(operand) {
                    *value = precision.round(match operator {
                        Arithmetic::Add => *value + operand,
                        Arithmetic::Subtract => *value - operand,
                        Arithmetic::Multiply => *value * operand,
                        Arithmetic::Divide => *value / operand,
                    });
                }
            }
        }
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

fn check_input(graph: &Graph, inputs: usize) -> Result<DataType, Error> {
    let (kind, sizes) = tensor_type(graph.input()?)
        .ok_or_else(|| Error::graph("has an input that is not a tensor of numbers"))?;
    match sizes.last() {
        Some(Some(columns)) if *columns != inputs => Err(Error::graph(format!(
            "reads rows of {columns} columns where {inputs} inputs are named"
        ))),
        _ => Ok(kind),
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

fn cast_type(node: &NodeProto) -> Option<DataType> {
    let to = Attributes(node).int("to")?;
    DataType::try_from(i32::try_from(to).ok()?).ok()
}

/// From the trees up to the graph's input: the steps in between in order, and the number type that reaches the trees.
fn ahead(
    graph: &Graph,
    trees: &NodeProto,
    inputs: usize,
    kind: DataType,
) -> Result<(Vec<Before>, Precision), Error> {
    let source = &graph.input()?.name;
    let mut chain = Vec::new();
    let mut value = trees.input.first().cloned().unwrap_or_default();
    while value != *source {
        let node = graph
            .maker(&value)
            .ok_or_else(|| Error::graph("has trees that read no input"))?;
        if chain.len() == CHAIN_MAX {
            return Err(Error::graph("has too many nodes ahead of its trees"));
        }
        chain.push(node);
        // Of an addition or multiplication the constant may come first.
        let constant_first = matches!(node.op_type.as_str(), "Add" | "Mul")
            && node
                .input
                .first()
                .is_some_and(|it| graph.constant(it).is_some());
        value = node
            .input
            .get(usize::from(constant_first))
            .cloned()
            .unwrap_or_default();
    }
    let mut precision = precision_of(kind)?;
    let mut before = vec![Before::Round(precision)];
    for node in chain.into_iter().rev() {
        if let Some(step) = step(graph, node, inputs, &mut precision)? {
            before.push(step);
        }
    }
    // The trees round by themselves.
    if before.len() == 1 {
        before.clear();
    }
    Ok((before, precision))
}

fn precision_of(kind: DataType) -> Result<Precision, Error> {
    match kind {
        DataType::Double => Ok(Precision::Double),
        // Whole numbers are compared as floats.
        DataType::Float | DataType::Int64 | DataType::Int32 => Ok(Precision::Single),
        other => Err(Error::graph(format!(
            "has an input of {other:?}, not of numbers"
        ))),
    }
}

fn step(
    graph: &Graph,
    node: &NodeProto,
    inputs: usize,
    precision: &mut Precision,
) -> Result<Option<Before>, Error> {
    let attributes = Attributes(node);
    let operator = node.op_type.as_str();
    let refuse = |reason: &str| Error::operator(operator, reason);
    let full = |numbers: Vec<f64>| match numbers.len() {
        1 => Ok(vec![numbers[0]; inputs]),
        length if length == inputs => Ok(numbers),
        _ => Err(refuse("it does not fit the number of columns")),
    };
    Ok(Some(match operator {
        "Identity" => return Ok(None),
        "Cast" => {
            *precision = match cast_type(node) {
                Some(DataType::Float) => Precision::Single,
                Some(DataType::Double) => Precision::Double,
                _ => return Err(refuse("ahead of trees only a cast to floats is supported")),
            };
            Before::Round(*precision)
        }
        "Scaler" => {
            // Its output is single whatever comes in.
            *precision = Precision::Single;
            Before::Scale {
                offset: full(attributes.numbers("offset")?)?,
                scale: full(attributes.numbers("scale")?)?,
                precision: *precision,
            }
        }
        "Imputer" => {
            let floats = attributes.floats("imputed_value_floats");
            let replaced = attributes.replaced();
            if floats.is_empty() {
                return Err(refuse("without floats to put in it is not supported"));
            }
            Before::Fill {
                replaced: f64::from(replaced),
                fills: full(floats.iter().map(|it| f64::from(*it)).collect())?,
            }
        }
        "Add" | "Sub" | "Mul" | "Div" => {
            let constants: Vec<&TensorProto> = node
                .input
                .iter()
                .filter_map(|it| graph.constant(it))
                .collect();
            let ([constant], [_, _]) = (&constants[..], &node.input[..]) else {
                return Err(refuse("ahead of trees one operand must be a constant"));
            };
            let constant_last = graph.constant(&node.input[1]).is_some();
            let operator = match (operator, constant_last) {
                ("Add", _) => Arithmetic::Add,
                ("Mul", _) => Arithmetic::Multiply,
                ("Sub", true) => Arithmetic::Subtract,
                ("Div", true) => Arithmetic::Divide,
                _ => return Err(refuse("ahead of trees the constant must come last")),
            };
            Before::Arithmetic {
                operator,
                operand: full(tensor_numbers(constant)?)?,
                precision: *precision,
            }
        }
        _ => return Err(refuse("ahead of a tree ensemble it is not supported")),
    }))
}
