//! What exporters put ahead of trees (casts, scaling, imputing, columns that are picked and joined), column by column.

use std::borrow::Cow;
use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};

use super::Error;
use super::attributes::{Attributes, cast_type, tensor_numbers};
use super::graph::Graph;
use super::sources::Sources;
use crate::forest::ensemble::Precision;

/// Longer chains are no exporter's.
const DEPTH_MAX: usize = 32;

/// The most columns and steps of all values ahead of the trees together, which are kept while a file is read: some 40 MB. A
/// chain of ten nodes over as many columns as a model can have takes a quarter of them.
const KEPT_MAX: usize = 1 << 20;

/// The columns that trees read.
#[derive(Debug)]
pub(super) struct ColumnSteps {
    inputs: usize,
    columns: Vec<Column>,
    /// Rows reach the trees as they are.
    is_plain: bool,
}

/// A column that trees read, of one column of a row.
#[derive(Debug, Clone, PartialEq)]
struct Column {
    input: usize,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Round(Precision),
    /// `(value - offset) * scale`, rounded after each.
    Scale {
        offset: f64,
        scale: f64,
        precision: Precision,
    },
    /// What equals `replaced` (NaN: what is missing) becomes the fill.
    Fill {
        replaced: f64,
        fill: f64,
    },
    Arithmetic {
        operator: Arithmetic,
        operand: f64,
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

impl Step {
    fn apply(self, value: f64) -> f64 {
        match self {
            Step::Round(precision) => precision.round(value),
            Step::Scale {
                offset,
                scale,
                precision,
            } => precision.round(precision.round(value - offset) * scale),
            Step::Fill { replaced, fill } => {
                match value == replaced || value.is_nan() && replaced.is_nan() {
                    true => fill,
                    false => value,
                }
            }
            Step::Arithmetic {
                operator,
                operand,
                precision,
            } => precision.round(match operator {
                Arithmetic::Add => value + operand,
                Arithmetic::Subtract => value - operand,
                Arithmetic::Multiply => value * operand,
                Arithmetic::Divide => value / operand,
            }),
        }
    }
}

impl ColumnSteps {
    /// The columns that reach `trees`, and the precision in which they do.
    pub fn new(
        graph: &Graph,
        trees: &NodeProto,
        sources: &Sources,
    ) -> Result<(Self, Precision), Error> {
        let mut reader = Reader {
            graph,
            sources,
            known: HashMap::new(),
            kept: 0,
        };
        let read = trees.input.first().map_or("", String::as_str);
        let Value { kind, columns } = reader.value(read, 0)?;
        let precision = precision_of(kind)?;
        // Trees round by themselves.
        let is_as_it_is = |(at, it): (usize, &Column)| {
            it.input == at && it.steps.iter().all(|step| *step == Step::Round(precision))
        };
        let is_plain =
            columns.len() == sources.inputs && columns.iter().enumerate().all(is_as_it_is);
        let ahead = ColumnSteps {
            inputs: sources.inputs,
            columns,
            is_plain,
        };
        Ok((ahead, precision))
    }

    /// Values in a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Values in a row that the trees read.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// What the trees read of `rows` (row-major).
    pub fn prepared<'r>(&self, rows: &'r [f64]) -> Cow<'r, [f64]> {
        if self.is_plain {
            return Cow::Borrowed(rows);
        }
        let mut prepared = Vec::with_capacity(rows.len() / self.inputs * self.columns.len());
        for row in rows.chunks_exact(self.inputs) {
            let value = |column: &Column| {
                let steps = column.steps.iter();
                steps.fold(row[column.input], |value, step| step.apply(value))
            };
            prepared.extend(self.columns.iter().map(value));
        }
        Cow::Owned(prepared)
    }

    /// What belongs to columns of the trees (row-major, columns × scores) as what belongs to inputs; none where an input is
    /// several columns: their shares are those of players apart, not the input's.
    pub fn to_inputs(&self, parts: &[f64], scores: usize) -> Option<Vec<f64>> {
        let mut of_inputs = vec![0.0; self.inputs * scores];
        let mut is_taken = vec![false; self.inputs];
        for (column, parts) in self.columns.iter().zip(parts.chunks_exact(scores)) {
            if std::mem::replace(&mut is_taken[column.input], true) {
                return None;
            }
            let first = column.input * scores;
            of_inputs[first..first + scores].copy_from_slice(parts);
        }
        Some(of_inputs)
    }
}

fn precision_of(kind: DataType) -> Result<Precision, Error> {
    match kind {
        DataType::Double => Ok(Precision::Double),
        // Trees compare whole numbers and truths as floats.
        DataType::Float | DataType::Int64 | DataType::Int32 | DataType::Bool => {
            Ok(Precision::Single)
        }
        other => Err(Error::graph(format!(
            "has an input of {other:?}, not of numbers"
        ))),
    }
}

/// A value ahead of the trees.
#[derive(Debug, Clone)]
struct Value {
    kind: DataType,
    columns: Vec<Column>,
}

impl Value {
    fn is_float(&self) -> bool {
        matches!(self.kind, DataType::Float | DataType::Double)
    }

    /// Appends each column's step.
    fn then(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        let columns = self.columns.iter_mut().zip(steps);
        columns.for_each(|(column, step)| column.steps.push(step));
        self
    }

    fn rounded(self, kind: DataType) -> Result<Self, Error> {
        let step = Step::Round(precision_of(kind)?);
        Ok(Value {
            kind,
            ..self.then(std::iter::repeat(step))
        })
    }
}

struct Reader<'a> {
    graph: &'a Graph,
    sources: &'a Sources,
    known: HashMap<&'a str, Value>,
    /// Columns and steps of what is known.
    kept: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, name: &'a str, depth: usize) -> Result<Value, Error> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        if depth > DEPTH_MAX {
            return Err(Error::graph("has too many nodes ahead of its trees"));
        }
        let value = match self.sources.of(name) {
            Some(source) => {
                let column = |input: &usize| Column {
                    input: *input,
                    steps: Vec::new(),
                };
                let value = Value {
                    kind: source.kind,
                    columns: source.columns.iter().map(column).collect(),
                };
                // A whole number stays what it is until a node makes a float of it: as one of single precision it would be
                // another one beyond 2^24.
                match value.is_float() {
                    true => value.rounded(source.kind)?,
                    false => value,
                }
            }
            None => {
                let node = self.graph.maker(name);
                let node = node.ok_or_else(|| Error::graph("has trees that read no input"))?;
                self.of_node(node, depth)?
            }
        };
        let sizes = value.columns.iter().map(|it| 1 + it.steps.len());
        self.kept += sizes.sum::<usize>();
        if self.kept > KEPT_MAX {
            return Err(Error::graph(format!(
                "has more than {KEPT_MAX} columns and steps on them ahead of its trees"
            )));
        }
        self.known.insert(name, value.clone());
        Ok(value)
    }

    fn of_node(&mut self, node: &'a NodeProto, depth: usize) -> Result<Value, Error> {
        match node.op_type.as_str() {
            "Concat" | "FeatureVectorizer" => self.joined(node, depth),
            "Gather" | "ArrayFeatureExtractor" => self.picked(node, depth),
            _ => {
                // Of an addition or multiplication the constant may come first.
                let is_constant = |at: usize| {
                    let name = node.input.get(at);
                    name.is_some_and(|it| self.graph.constant(it).is_some())
                };
                let commutes = matches!(node.op_type.as_str(), "Add" | "Mul");
                let at = usize::from(commutes && is_constant(0));
                let read = node.input.get(at).map_or("", String::as_str);
                let value = self.value(read, depth + 1)?;
                step(self.graph, node, value)
            }
        }
    }

    /// Columns beside each other.
    fn joined(&mut self, node: &'a NodeProto, depth: usize) -> Result<Value, Error> {
        let refuse = |reason: &str| Error::operator(&node.op_type, reason);
        let is_vectorizer = node.op_type == "FeatureVectorizer";
        if !is_vectorizer && !matches!(Attributes(node).int("axis"), Some(1 | -1)) {
            return Err(refuse("ahead of trees it must join columns"));
        }
        let mut joined: Option<Value> = None;
        for read in &node.input {
            let mut value = self.value(read, depth + 1)?;
            if is_vectorizer {
                value = value.rounded(DataType::Float)?;
            }
            match &mut joined {
                None => joined = Some(value),
                Some(joined) if joined.kind == value.kind => {
                    joined.columns.append(&mut value.columns)
                }
                Some(_) => return Err(refuse("it joins columns of different number types")),
            }
            let width = joined.as_ref().map_or(0, |it| it.columns.len());
            if width > crate::INPUTS_MAX {
                return Err(refuse("it joins too many columns"));
            }
        }
        joined.ok_or_else(|| refuse("it joins nothing"))
    }

    /// Some of the columns.
    fn picked(&mut self, node: &'a NodeProto, depth: usize) -> Result<Value, Error> {
        let refuse = |reason: &str| Error::operator(&node.op_type, reason);
        let [read, places] = node.input.as_slice() else {
            return Err(refuse("it has other than two inputs"));
        };
        if node.op_type == "Gather" && !matches!(Attributes(node).int("axis"), Some(1 | -1)) {
            return Err(refuse("ahead of trees it must pick columns"));
        }
        let value = self.value(read, depth + 1)?;
        let places = self.graph.constant(places);
        let places = places.ok_or_else(|| refuse("its places must be constants"))?;
        let places = tensor_numbers(places)?;
        if places.len() > crate::INPUTS_MAX {
            return Err(refuse("it picks too many columns"));
        }
        let column = |place: &f64| {
            let at = if *place < 0.0 {
                *place + value.columns.len() as f64
            } else {
                *place
            };
            let column = (at >= 0.0)
                .then(|| value.columns.get(at as usize))
                .flatten();
            column
                .cloned()
                .ok_or_else(|| refuse("it picks a column that is not there"))
        };
        let columns = places.iter().map(column).collect::<Result<_, Error>>()?;
        Ok(Value {
            kind: value.kind,
            columns,
        })
    }
}

fn step(graph: &Graph, node: &NodeProto, value: Value) -> Result<Value, Error> {
    let attributes = Attributes(node);
    let operator = node.op_type.as_str();
    let refuse = |reason: &str| Error::operator(operator, reason);
    let width = value.columns.len();
    let full = |numbers: Vec<f64>| match numbers.len() {
        1 => Ok(vec![numbers[0]; width]),
        length if length == width => Ok(numbers),
        _ => Err(refuse("it does not fit the number of columns")),
    };
    match operator {
        "Identity" => Ok(value),
        "Cast" => match (value.kind, cast_type(node)) {
            (_, Some(to @ (DataType::Float | DataType::Double))) => value.rounded(to),
            (DataType::Bool | DataType::Int32, Some(to @ (DataType::Int32 | DataType::Int64))) => {
                Ok(Value { kind: to, ..value })
            }
            (kind, Some(to)) if kind == to => Ok(value),
            _ => Err(refuse("ahead of trees only a cast to floats is supported")),
        },
        "Scaler" => {
            // Its output is single whatever comes in. Doubles are computed as such, all else as singles.
            let offset = full(attributes.numbers("offset")?)?;
            let scale = full(attributes.numbers("scale")?)?;
            let precision = precision_of(value.kind)?;
            let value = match value.is_float() {
                true => value,
                false => value.rounded(DataType::Float)?,
            };
            let steps = offset
                .into_iter()
                .zip(scale)
                .map(|(offset, scale)| Step::Scale {
                    offset,
                    scale,
                    precision,
                });
            value.then(steps).rounded(DataType::Float)
        }
        "Imputer" => {
            let (replaced, fills) = attributes.filling(value.kind)?;
            let fills = full(fills)?;
            Ok(value.then(fills.into_iter().map(|fill| Step::Fill { replaced, fill })))
        }
        "Add" | "Sub" | "Mul" | "Div" => {
            if !value.is_float() {
                return Err(refuse(
                    "ahead of trees it is supported on floats only, not on whole numbers; cast the column to float before it",
                ));
            }
            let constants = node.input.iter().filter_map(|it| graph.constant(it));
            let constants: Vec<&TensorProto> = constants.collect();
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
            let precision = precision_of(value.kind)?;
            let operands = full(tensor_numbers(constant)?)?;
            Ok(
                value.then(operands.into_iter().map(|operand| Step::Arithmetic {
                    operator,
                    operand,
                    precision,
                })),
            )
        }
        _ => Err(refuse("ahead of a tree ensemble it is not supported")),
    }
}
