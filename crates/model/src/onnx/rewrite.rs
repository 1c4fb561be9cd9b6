//! A network's graph, rewritten into what tract knows.

use std::collections::HashMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};

use super::Error;
use super::attributes::{Attributes, cast_type, tensor_numbers};
use super::graph::{Graph, tensor_type};
use super::sources::Sources;

/// The one tensor of a graph that had one for each column.
const ROWS: &str = "quadrille-rows";

/// Gives a graph that reads a tensor for each column one of all columns, and takes each from there.
pub(super) fn join_inputs(graph: &mut Graph, sources: &Sources) -> Result<(), Error> {
    let Some(graph) = graph.model.graph.as_mut() else {
        return Err(Error::NoGraph);
    };
    check_free(graph, ROWS)?;
    let all_single = sources.tensors.iter().all(|it| it.kind == DataType::Float);
    // Doubles hold the values of all the number types, but for integers beyond 2^53, about which nobody can ask: rows are doubles.
    let kind = match all_single {
        true => DataType::Float,
        false => DataType::Double,
    };
    let ranks = graph.input.iter().map(|it| {
        let sizes = tensor_type(it).map(|(_, sizes)| sizes.len());
        (it.name.clone(), sizes)
    });
    let ranks: Vec<(String, Option<usize>)> = ranks.collect();
    let mut nodes = Vec::new();
    for (at, source) in sources.tensors.iter().enumerate() {
        let name = |what: &str| format!("{ROWS}.{at}.{what}");
        let places: Vec<f64> = source.columns.iter().map(|it| *it as f64).collect();
        let is_list = ranks.contains(&(source.tensor.clone(), Some(1)));
        let mut places = integers(name("places"), &places);
        if is_list {
            // One place, no list of places: what is picked has no second size.
            places.dims.clear();
        }
        graph.initializer.push(places);
        let is_cast = source.kind != kind;
        let picked = match is_cast {
            true => name("picked"),
            false => source.tensor.clone(),
        };
        let mut gather = plain(
            "Gather",
            vec![ROWS.to_owned(), name("places")],
            picked.clone(),
        );
        gather.attribute.push(int("axis", 1));
        nodes.push(gather);
        if is_cast {
            let mut cast = plain("Cast", vec![picked], source.tensor.clone());
            cast.attribute = vec![int("to", source.kind as i64)];
            nodes.push(cast);
        }
    }
    nodes.append(&mut graph.node);
    graph.node = nodes;
    let size = |size: Option<i64>| Dimension {
        value: size.map(dimension::Value::DimValue),
        ..Dimension::default()
    };
    graph.input = vec![ValueInfoProto {
        name: ROWS.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Value::TensorType(Tensor {
                elem_type: kind.into(),
                shape: Some(TensorShapeProto {
                    dim: vec![size(None), size(Some(sources.inputs as i64))],
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }];
    Ok(())
}

/// Refuses a graph that has values of the names that are to be added.
fn check_free(graph: &GraphProto, prefix: &str) -> Result<(), Error> {
    let outputs = graph.node.iter().flat_map(|it| &it.output);
    let names = outputs.chain(graph.input.iter().map(|it| &it.name));
    let mut names = names.chain(graph.initializer.iter().map(|it| &it.name));
    match names.any(|it| it.starts_with(prefix)) {
        true => Err(Error::graph(format!(
            "has a value whose name begins with {prefix}"
        ))),
        false => Ok(()),
    }
}

/// The number types of values, as far as plain operators hand them on.
fn kinds(graph: &GraphProto) -> HashMap<String, DataType> {
    let inputs = graph
        .input
        .iter()
        .filter_map(|it| Some((it.name.clone(), tensor_type(it)?.0)));
    let mut kinds: HashMap<String, DataType> = inputs.collect();
    for constant in &graph.initializer {
        if let Ok(kind) = DataType::try_from(constant.data_type) {
            kinds.insert(constant.name.clone(), kind);
        }
    }
    for node in &graph.node {
        let first = node.input.first().and_then(|it| kinds.get(it).copied());
        let kind = match (node.op_type.as_str(), node.domain.as_str()) {
            ("Cast", _) => cast_type(node),
            ("Imputer", _) => first,
            ("ArgMax" | "ArgMin" | "Shape", _) => Some(DataType::Int64),
            (
                "Equal" | "Greater" | "GreaterOrEqual" | "IsNaN" | "Less" | "LessOrEqual" | "Not",
                _,
            ) => Some(DataType::Bool),
            // Its first input is a truth.
            ("Where", _) => node.input.get(1).and_then(|it| kinds.get(it).copied()),
            // Of the others of this domain the outputs are single.
            (_, "ai.onnx.ml") => Some(DataType::Float),
            _ => first,
        };
        if let Some(kind) = kind {
            let outputs = node.output.iter().cloned();
            kinds.extend(outputs.map(|output| (output, kind)));
        }
    }
    kinds
}

fn constant_of<'g>(graph: &'g GraphProto, name: &str) -> Option<&'g TensorProto> {
    graph.initializer.iter().find(|it| it.name == name)
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int.into(),
        i: value,
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints.into(),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// A list of whole numbers.
fn integers(name: String, numbers: &[f64]) -> TensorProto {
    TensorProto {
        name,
        dims: vec![numbers.len() as i64],
        data_type: DataType::Int64.into(),
        int64_data: numbers.iter().map(|it| *it as i64).collect(),
        ..TensorProto::default()
    }
}

/// A list of floats.
fn floats(name: String, numbers: &[f64]) -> TensorProto {
    TensorProto {
        name,
        dims: vec![numbers.len() as i64],
        data_type: DataType::Float.into(),
        float_data: numbers.iter().map(|it| *it as f32).collect(),
        ..TensorProto::default()
    }
}

/// Turns what tract does not know (scalers, imputers, columns that are picked or joined) into plain operators.
pub(super) fn operators(graph: &mut GraphProto, inputs: usize) -> Result<(), Error> {
    check_free(graph, "quadrille.")?;
    let kinds = kinds(graph);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (at, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        let name = |what: &str| format!("quadrille.{at}.{what}");
        let attributes = Attributes(&node);
        let mut constant = |what: &str, numbers: &[f64], kind: DataType| {
            // Of some of the columns there are fewer; tract checks that they fit what they meet.
            if numbers.is_empty() || numbers.len() > inputs {
                let reason = "it does not fit the number of columns";
                return Err(Error::operator(&node.op_type, reason));
            }
            let tensor = match kind {
                DataType::Int64 => integers(name(what), numbers),
                _ => floats(name(what), numbers),
            };
            graph.initializer.push(TensorProto {
                dims: vec![1, numbers.len() as i64],
                ..tensor
            });
            Ok(name(what))
        };
        let value = node.input.first().cloned().unwrap_or_default();
        match node.op_type.as_str() {
            "Scaler" => {
                let offset = constant("offset", &attributes.numbers("offset")?, DataType::Float)?;
                let scale = constant("scale", &attributes.numbers("scale")?, DataType::Float)?;
                let output = node.output.first().cloned().unwrap_or_default();
                if kinds.get(&value) == Some(&DataType::Double) {
                    // Single precision only at the end: the difference of two large doubles may be all that there is to them.
                    for (single, double) in [(offset, "offsets"), (scale, "scales")] {
                        let mut cast = plain("Cast", vec![single], name(double));
                        cast.attribute = vec![int("to", DataType::Double as i64)];
                        nodes.push(cast);
                    }
                    nodes.push(plain("Sub", vec![value, name("offsets")], name("moved")));
                    let scaled = vec![name("moved"), name("scales")];
                    nodes.push(plain("Mul", scaled, name("scaled")));
                    nodes.push(plain("Cast", vec![name("scaled")], output));
                } else {
                    nodes.push(plain("Cast", vec![value], name("cast")));
                    nodes.push(plain("Sub", vec![name("cast"), offset], name("moved")));
                    nodes.push(plain("Mul", vec![name("moved"), scale], output));
                }
            }
            "Imputer" => {
                let kind = kinds.get(&value).copied().unwrap_or(DataType::Float);
                let (replaced, fills) = attributes.filling(kind)?;
                let fills = constant("fills", &fills, kind)?;
                let test = match replaced.is_nan() {
                    true => plain("IsNaN", vec![value.clone()], name("test")),
                    false => {
                        let replaced = constant("replaced", &[replaced], kind)?;
                        plain("Equal", vec![value.clone(), replaced], name("test"))
                    }
                };
                nodes.push(test);
                let output = node.output.first().cloned().unwrap_or_default();
                nodes.push(plain("Where", vec![name("test"), fills, value], output));
            }
            "FeatureVectorizer" => {
                let mut joined = Vec::new();
                for (place, value) in node.input.iter().enumerate() {
                    let cast = name(&format!("column.{place}"));
                    nodes.push(plain("Cast", vec![value.clone()], cast.clone()));
                    joined.push(cast);
                }
                let output = node.output.first().cloned().unwrap_or_default();
                let mut concat = plain("Concat", joined, output);
                concat.attribute.push(int("axis", 1));
                nodes.push(concat);
            }
            "ArrayFeatureExtractor" => {
                let places = node.input.get(1).and_then(|it| constant_of(graph, it));
                let places = places.ok_or_else(|| {
                    Error::operator(&node.op_type, "its places must be constants")
                })?;
                let places = tensor_numbers(places)?;
                graph.initializer.push(integers(name("places"), &places));
                let output = node.output.first().cloned().unwrap_or_default();
                // By the specification it picks along the last axis. Turned round, that is the first, and tract turns nothing of
                // other than two axes round so: it refuses.
                let turned = |read: String, output: String| {
                    let mut turned = plain("Transpose", vec![read], output);
                    turned.attribute.push(ints("perm", &[1, 0]));
                    turned
                };
                nodes.push(turned(value, name("columns")));
                let picked = vec![name("columns"), name("places")];
                nodes.push(plain("Gather", picked, name("picked")));
                nodes.push(turned(name("picked"), output));
            }
            // tract's knows no doubles.
            "Sigmoid" if kinds.get(&value) == Some(&DataType::Double) => {
                graph.initializer.push(TensorProto {
                    name: name("one"),
                    data_type: DataType::Double.into(),
                    double_data: vec![1.0],
                    ..TensorProto::default()
                });
                nodes.push(plain("Neg", vec![value], name("negative")));
                nodes.push(plain("Exp", vec![name("negative")], name("odds")));
                nodes.push(plain("Add", vec![name("odds"), name("one")], name("sum")));
                let output = node.output.first().cloned().unwrap_or_default();
                nodes.push(plain("Reciprocal", vec![name("sum")], output));
            }
            _ => nodes.push(node),
        }
    }
    graph.node = nodes;
    Ok(())
}

/// A node of domain "" with one output; a cast is one to floats.
fn plain(operator: &str, input: Vec<String>, output: String) -> NodeProto {
    let to = int("to", DataType::Float as i64);
    NodeProto {
        name: format!("quadrille.{output}"),
        op_type: operator.to_owned(),
        input,
        output: vec![output],
        attribute: Vec::from_iter((operator == "Cast").then_some(to)),
        ..NodeProto::default()
    }
}
