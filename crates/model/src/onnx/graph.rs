//! The graph of an ONNX file, cut down to what one output needs.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Size;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use super::Error;
use super::attributes::{elements, short};

/// The most nodes of a graph.
const NODES_MAX: usize = 20_000;

pub(crate) struct Graph {
    /// With one output, the nodes it needs, and no node whose output is none.
    pub model: ModelProto,
    /// The name of the value that holds the answers: a node's output.
    pub output: String,
    /// The map that the file packs them into, of which none is among the nodes: its keys are names of the columns.
    pub map: Option<NodeProto>,
    /// The input tensors of the file, also those that the answers do not need.
    pub inputs: Vec<String>,
    /// Whether the file has several: then each is a column.
    pub has_several_inputs: bool,
}

impl Graph {
    pub fn new(mut model: ModelProto, output: Option<&str>) -> Result<Self, Error> {
        let domains: HashSet<String> = model
            .opset_import
            .iter()
            .map(|it| domain(&it.domain).to_owned())
            .collect();
        let graph = model.graph.as_mut().ok_or(Error::NoGraph)?;
        if let Some(node) = graph
            .node
            .iter()
            .find(|it| !domains.contains(domain(&it.domain)))
        {
            let reason = "the file does not say of which version it is; is it cut off?";
            return Err(Error::operator(&node.op_type, reason));
        }
        if !model.functions.is_empty() {
            return Err(Error::graph(
                "has functions of its own; inline them before the export",
            ));
        }
        check(graph)?;
        // A value that is both given and computed, or computed twice, has no one meaning.
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for value in node.output.iter().filter(|value| !value.is_empty()) {
                if makers.insert(value, at).is_some() {
                    return Err(Error::graph(format!("computes {:?} twice", short(value))));
                }
            }
        }
        let (wanted, map) = choose(graph, &makers, output)?;
        let map = map.map(|at| graph.node[at].clone());
        let kept = ancestors(graph, &makers, &wanted);
        let mut at = 0;
        graph.node.retain(|_| {
            at += 1;
            kept.contains(&(at - 1))
        });
        // Old files name constants among the inputs.
        let constants: HashSet<&str> = graph.initializer.iter().map(|it| &*it.name).collect();
        graph.input.retain(|it| !constants.contains(&*it.name));
        let inputs: Vec<String> = graph.input.iter().map(|it| it.name.clone()).collect();
        let mut distinct = HashSet::new();
        if let Some(twice) = inputs.iter().find(|it| !distinct.insert(*it)) {
            return Err(Error::graph(format!(
                "has the input {:?} twice",
                short(twice)
            )));
        }
        let needed: HashSet<String> = graph.node.iter().flat_map(|it| it.input.clone()).collect();
        graph.initializer.retain(|it| needed.contains(&it.name));
        graph.input.retain(|it| needed.contains(&it.name));
        graph.value_info.clear();
        graph.output = vec![ValueInfoProto {
            name: wanted.clone(),
            ..ValueInfoProto::default()
        }];
        Ok(Graph {
            model,
            output: wanted,
            map,
            has_several_inputs: inputs.len() > 1,
            inputs,
        })
    }

    pub fn graph(&self) -> &GraphProto {
        // There was one in `new`.
        self.model.graph.as_ref().expect("a graph keeps its graph")
    }

    pub fn has_trees(&self) -> bool {
        self.graph().node.iter().any(is_trees)
    }

    /// The one input that is not a constant.
    pub fn input(&self) -> Result<&ValueInfoProto, Error> {
        match &self.graph().input[..] {
            [input] => Ok(input),
            [] => Err(Error::graph("reads no input")),
            several => Err(Error::graph(format!("reads {} inputs", several.len()))),
        }
    }

    pub fn maker(&self, value: &str) -> Option<&NodeProto> {
        let mut nodes = self.graph().node.iter();
        nodes.find(|node| node.output.iter().any(|it| it == value))
    }

    pub fn constant(&self, name: &str) -> Option<&TensorProto> {
        let initializer = self.graph().initializer.iter().find(|it| it.name == name);
        initializer.or_else(|| {
            let node = self.maker(name).filter(|node| node.op_type == "Constant")?;
            node.attribute
                .iter()
                .find(|it| it.name == "value")?
                .t
                .as_ref()
        })
    }
}

pub(super) fn is_trees(node: &NodeProto) -> bool {
    node.domain == "ai.onnx.ml" && node.op_type.starts_with("TreeEnsemble")
}

/// The element type and the sizes of a tensor; a size that is not fixed is none.
pub(super) fn tensor_type(value: &ValueInfoProto) -> Option<(DataType, Vec<Option<usize>>)> {
    let Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    let kind = DataType::try_from(tensor.elem_type).ok()?;
    let sizes = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let size = |value: &Option<Size>| match value {
        Some(Size::DimValue(size)) if *size > 0 => usize::try_from(*size).ok(),
        _ => None,
    };
    Some((kind, sizes.iter().map(|it| size(&it.value)).collect()))
}

/// The default domain has two names.
fn domain(name: &str) -> &str {
    match name {
        "ai.onnx" => "",
        other => other,
    }
}

fn check(graph: &GraphProto) -> Result<(), Error> {
    if graph.node.len() > NODES_MAX {
        return Err(Error::graph(format!("has more than {NODES_MAX} nodes")));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(Error::graph("has sparse initializers"));
    }
    let tensors = graph.node.iter().flat_map(|node| &node.attribute);
    let tensors = tensors
        .filter_map(|it| it.t.as_ref())
        .chain(&graph.initializer);
    for tensor in tensors {
        if tensor.data_location == Some(1) || !tensor.external_data.is_empty() {
            return Err(Error::graph(
                "keeps data in other files; save it as one file",
            ));
        }
        // A shape larger than its data would be filled by whoever believes it. The smallest elements are bytes.
        let data = tensor.raw_data.len()
            + tensor.float_data.len()
            + tensor.double_data.len()
            + tensor.int32_data.len()
            + tensor.int64_data.len()
            + tensor.uint64_data.len()
            + tensor.string_data.len();
        if elements(tensor)? > data {
            return Err(Error::graph(format!(
                "has a tensor {:?} whose data are cut off",
                short(&tensor.name)
            )));
        }
    }
    for node in &graph.node {
        if node
            .attribute
            .iter()
            .any(|it| it.g.is_some() || !it.graphs.is_empty())
        {
            return Err(Error::operator(
                &node.op_type,
                "has a graph inside, which is not supported",
            ));
        }
    }
    Ok(())
}

/// The value that holds the answers. Maps and what packs tensors into them are looked through; the map's node is returned, too.
fn choose(
    graph: &GraphProto,
    makers: &HashMap<&str, usize>,
    output: Option<&str>,
) -> Result<(String, Option<usize>), Error> {
    let names = || {
        let names: Vec<String> = graph.output.iter().map(|it| short(&it.name)).collect();
        names.join(", ")
    };
    let through = |value: &str| {
        let at = *makers.get(value)?;
        let node = &graph.node[at];
        let packed = node.input.first().filter(|_| node.op_type == "ZipMap")?;
        Some((packed.clone(), Some(at)))
    };
    if let Some(output) = output {
        return match graph.output.iter().any(|it| it.name == output) {
            true => Ok(through(output).unwrap_or_else(|| (output.to_owned(), None))),
            false => Err(Error::graph(format!(
                "has no output {:?}; it has {}",
                short(output),
                names()
            ))),
        };
    }
    for value in &graph.output {
        if let Some(packed) = through(&value.name) {
            return Ok(packed);
        }
        let kind = tensor_type(value).map(|(kind, _)| kind);
        if matches!(kind, Some(DataType::Float | DataType::Double)) {
            return Ok((value.name.clone(), None));
        }
    }
    Err(Error::graph(format!(
        "has no output of floating-point numbers, only {:?}",
        names()
    )))
}

/// The nodes that a value needs.
fn ancestors(graph: &GraphProto, makers: &HashMap<&str, usize>, value: &str) -> HashSet<usize> {
    let mut kept = HashSet::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        if let Some(&at) = makers.get(value)
            && kept.insert(at)
        {
            open.extend(graph.node[at].input.iter().map(String::as_str));
        }
    }
    kept
}
