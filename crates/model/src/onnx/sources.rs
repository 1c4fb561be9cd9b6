//! Where a graph's input tensors stand in a row: one tensor of all columns, or a tensor for each column, as skl2onnx exports a
//! `ColumnTransformer` of a data frame. Of several each is found by its name, in whatever order the file has them.

use std::collections::HashMap;

use tract_onnx::pb::ValueInfoProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::Error;
use super::attributes::short;
use super::graph::{Graph, tensor_type};

/// Names that a message lists.
const NAMES_MAX: usize = 8;

/// The columns of a row that an input tensor reads, and its number type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    pub tensor: String,
    pub kind: DataType,
    pub columns: Vec<usize>,
}

/// All input tensors that the answers need.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sources {
    pub tensors: Vec<Source>,
    /// Values in a row; of several tensors not all need be read.
    pub inputs: usize,
}

impl Sources {
    /// For rows of the inputs of these names.
    pub fn new(graph: &Graph, names: &[String]) -> Result<Self, Error> {
        let inputs = names.len();
        if !graph.has_several_inputs {
            let input = graph.input()?;
            let (kind, _) = numbers(input)?;
            return Ok(Sources {
                tensors: vec![Source {
                    tensor: input.name.clone(),
                    kind,
                    columns: (0..inputs).collect(),
                }],
                inputs,
            });
        }
        let places = by_name(names)?;
        let place = |tensor: &str| places.get(tensor).or_else(|| places.get(&exported(tensor)));
        let found = |tensor: &String| place(tensor).is_some();
        let strangers: Vec<&String> = graph.inputs.iter().filter(|it| !found(it)).collect();
        let read: Vec<usize> = (graph.inputs.iter())
            .filter_map(|it| place(it).copied())
            .collect();
        let unread: Vec<&String> = (names.iter().enumerate())
            .filter(|(at, _)| !read.contains(at))
            .map(|(_, name)| name)
            .collect();
        if !(strangers.is_empty() && unread.is_empty()) {
            return Err(mismatch(&strangers, &unread));
        }
        let mut readers: HashMap<usize, &str> = HashMap::new();
        for (tensor, at) in graph.inputs.iter().zip(&read) {
            if let Some(other) = readers.insert(*at, tensor) {
                return Err(Error::graph(format!(
                    "has the tensors {:?} and {:?} for the one input {:?}; give each tensor an input of its own name",
                    short(other),
                    short(tensor),
                    short(&names[*at])
                )));
            }
        }
        let tensors = graph.graph().input.iter().map(|input| {
            let (kind, columns) = numbers(input)?;
            if !matches!(columns[..], [] | [_] | [_, Some(1)]) {
                return Err(Error::graph(format!(
                    "reads several inputs, and {:?} is not one column; export it with a tensor [N, 1] for each column, or with one for all",
                    short(&input.name)
                )));
            }
            let at = place(&input.name).copied().unwrap_or_default();
            Ok(Source {
                tensor: input.name.clone(),
                kind,
                columns: vec![at],
            })
        });
        let tensors: Vec<Source> = tensors.collect::<Result<_, Error>>()?;
        match tensors.is_empty() {
            true => Err(Error::graph("reads no input")),
            false => Ok(Sources { tensors, inputs }),
        }
    }

    pub fn of(&self, tensor: &str) -> Option<&Source> {
        self.tensors.iter().find(|it| it.tensor == tensor)
    }

    /// The number type of each column; none where it is not read.
    pub fn kinds(&self) -> Vec<Option<DataType>> {
        let mut kinds = vec![None; self.inputs];
        for source in &self.tensors {
            for column in &source.columns {
                kinds[*column] = Some(source.kind);
            }
        }
        kinds
    }
}

/// The place of each name, as exporters write it too.
fn by_name(names: &[String]) -> Result<HashMap<String, usize>, Error> {
    let mut places = HashMap::new();
    for (at, name) in names.iter().enumerate() {
        if let Some(other) = places.insert(exported(name), at) {
            return Err(Error::graph(format!(
                "has an input for each column, and its exporter writes {:?} and {:?} alike, so they cannot be told apart; rename one \
                 of them",
                short(&names[other]),
                short(name)
            )));
        }
    }
    for (at, name) in names.iter().enumerate() {
        places.insert(name.clone(), at);
    }
    Ok(places)
}

/// A name as skl2onnx writes it: what is no letter, digit, `_` or `+` becomes `_`, and a digit does not come first.
fn exported(name: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '+';
    let cleaned = name.chars().map(|it| if plain(it) { it } else { '_' });
    let first_is_digit = name.starts_with(|it: char| it.is_ascii_digit());
    first_is_digit
        .then_some('_')
        .into_iter()
        .chain(cleaned)
        .collect()
}

fn mismatch(strangers: &[&String], unread: &[&String]) -> Error {
    let list = |names: &[&String]| {
        let mut shown: Vec<String> = names
            .iter()
            .take(NAMES_MAX)
            .map(|it| format!("{:?}", short(it)))
            .collect();
        if names.len() > NAMES_MAX {
            shown.push(format!("… and {} more", names.len() - NAMES_MAX));
        }
        shown.join(", ")
    };
    let mut parts = Vec::new();
    if !strangers.is_empty() {
        parts.push(format!(
            "no input of the model is called as its tensor {}",
            list(strangers)
        ));
    }
    if !unread.is_empty() {
        parts.push(format!("it has no tensor for {}", list(unread)));
    }
    Error::graph(format!(
        "has an input tensor for each column, found by name, but {}; give the pipeline's model.inputs (or --inputs) the names of the \
         training data's columns",
        parts.join(", and ")
    ))
}

/// The number type and the sizes of an input.
fn numbers(input: &ValueInfoProto) -> Result<(DataType, Vec<Option<usize>>), Error> {
    let (kind, sizes) = tensor_type(input)
        .ok_or_else(|| Error::graph("has an input that is not a tensor of numbers"))?;
    match kind {
        DataType::Float | DataType::Double | DataType::Int64 | DataType::Int32 | DataType::Bool => {
            Ok((kind, sizes))
        }
        DataType::String => Err(Error::graph(format!(
            "reads texts in its input {:?}, and a model's inputs are numbers: encode the column in the pipeline (a feature of kind \
             one_hot has an input for each category), train the model on these columns instead, and export it again",
            short(&input.name)
        ))),
        other => Err(Error::graph(format!(
            "has an input {:?} of {other:?}, not of float, double, int64, int32 or bool",
            short(&input.name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_skl2onnx_writes_them() {
        for (name, written) in [
            ("amount", "amount"),
            ("Amount (EUR)", "Amount__EUR_"),
            ("3ds?", "_3ds_"),
            ("category=grocery", "category_grocery"),
            ("größe", "größe"),
            ("a+b", "a+b"),
        ] {
            assert_eq!(exported(name), written, "{name}");
        }
    }

    #[test]
    fn names_that_an_exporter_writes_alike_are_refused() {
        let names = ["a b", "a_b"].map(str::to_owned);
        let error = by_name(&names).unwrap_err().to_string();
        assert!(error.contains("\"a b\" and \"a_b\" alike"), "{error}");
    }
}
