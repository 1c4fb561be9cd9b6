//! Any graph without trees: run by tract, in the graph's own number type.
//!
//! tract is given only operators whose results cannot outgrow what goes in ([`OPERATORS`]), and its plans are checked
//! before they are run. It may panic over a broken graph; for us that is an error like any other.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::Cost;

use super::Error;
use super::attributes::elements;
use super::casts;
use super::domain::Domain;
use super::graph::{Graph, tensor_type};
use super::rewrite;
use super::sources::Sources;

/// Rows of a plan, most first: a plan is made for each of these, and rows are cut accordingly.
const BATCHES: [usize; 4] = [64, 8, 2, 1];

/// The plan that the others are compared with: see [`Network::choose`].
const BATCH_MEASURE: usize = 8;

/// So many examples differ from each other.
const EXAMPLES_MANY: usize = 16;

/// The most nodes of a network.
const NODES_MAX: usize = 2_000;

/// The most numbers of all of a plan's values together: half a gigabyte.
const VALUES_MAX: usize = 128 << 20;

/// The most numbers that a constant may become while the network is prepared.
const CONSTANT_MAX: usize = 64 << 20;

/// The largest number in a list that an operator carries (pads, strides, the shape of a window).
const SIZE_MAX: i64 = 65_536;

/// What a network may be made of, in domain "".
pub(super) const OPERATORS: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "Not",
    "PRelu",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// What a network may be made of, in domain "ai.onnx.ml"; the first four become plain operators.
const OPERATORS_ML: &[&str] = &[
    "ArrayFeatureExtractor",
    "FeatureVectorizer",
    "Imputer",
    "Scaler",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
];

/// What may be computed of constants alone, before any row comes: nothing that can outgrow the product of its inputs.
const OPERATORS_OF_CONSTANTS: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Constant",
    "Div",
    "Exp",
    "Gather",
    "Identity",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Reshape",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

/// A network and its plans.
pub(crate) struct Network {
    inputs: usize,
    width: usize,
    /// The sizes of one row, without the batch's.
    shape: Vec<usize>,
    kind: DatumType,
    domain: Domain,
    /// Most rows first.
    plans: Vec<Plan>,
    multiply_adds: u64,
}

struct Plan {
    rows: usize,
    plan: Arc<TypedRunnableModel>,
}

/// Its size, not its numbers.
impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("inputs", &self.inputs)
            .field("width", &self.width)
            .field("multiply_adds", &self.multiply_adds)
            .finish_non_exhaustive()
    }
}

impl Network {
    pub fn new(mut graph: Graph, sources: &Sources, examples: &[f64]) -> Result<Self, Error> {
        check_nodes(graph.graph())?;
        let inputs = sources.inputs;
        if graph.has_several_inputs {
            rewrite::join_inputs(&mut graph, sources)?;
        }
        let (kind, domain, shape) = row_shape(&graph, sources)?;
        if let Some(graph) = graph.model.graph.as_mut() {
            rewrite::operators(graph, inputs)?;
            // The batch is ours to choose: what the file says of it would contradict.
            let kind = graph.input[0]
                .r#type
                .as_mut()
                .and_then(|it| it.value.as_mut());
            if let Some(Value::TensorType(tensor)) = kind {
                tensor.shape = None;
            }
        }
        let rows = probe(examples, inputs, BATCHES[0]);
        let network = Network {
            inputs,
            width: 0,
            shape,
            kind,
            domain,
            plans: Vec::new(),
            multiply_adds: 0,
        };
        guarded(|| network.compile(&graph, &rows))
    }

    fn compile(mut self, graph: &Graph, rows: &[f64]) -> Result<Self, Error> {
        let mut onnx = tract_onnx::onnx();
        onnx.op_register.insert("Cast", casts::cast);
        let model = onnx.model_for_proto_model(&graph.model).map_err(failed)?;
        // One row is what every network must do; some are made for no more.
        let (one, multiply_adds) = self.plan(&model, 1)?;
        self.multiply_adds = multiply_adds;
        self.width = one.run(&self, &vec![0.0; self.inputs])?.len();
        if !(1..=crate::OUTPUTS_MAX).contains(&self.width) {
            let found = self.width;
            return Err(Error::Network(format!(
                "it answers {found} numbers to one row"
            )));
        }
        self.choose(&model, one, rows);
        Ok(self)
    }

    /// Keeps the plans that give the same answers, bit by bit: a row's answer must not depend on the rows that it is scored
    /// with, or it could not be shown again. tract sums one row in another order than several; where that shows, a lone row
    /// is scored together with a copy of itself. Whether it shows is tried with `rows`, as many as the largest plan takes.
    fn choose(&mut self, model: &InferenceModel, one: Plan, rows: &[f64]) {
        let most = BATCHES[0];
        let several = BATCHES.into_iter().filter(|rows| *rows > 1);
        let compile = |size| {
            guarded(|| self.plan(model, size))
                .ok()
                .map(|(plan, _)| plan)
        };
        let plans = several.filter_map(compile).chain([one]);
        let answers = |plan: &Plan| {
            let parts = rows.chunks(plan.rows * self.inputs);
            let parts = parts.map(|part| guarded(|| plan.run(self, part)));
            let answers: Result<Vec<Vec<f64>>, Error> = parts.collect();
            let answers = answers.ok()?.concat();
            let whole = answers.len() == most * self.width;
            whole.then(|| answers.iter().map(|it| it.to_bits()).collect::<Vec<_>>())
        };
        let mut answered: Vec<(Plan, Option<Vec<u64>>)> = plans
            .map(|plan| {
                let answers = answers(&plan);
                (plan, answers)
            })
            .collect();
        let measure = answered.iter().find(|(plan, _)| plan.rows == BATCH_MEASURE);
        let measure = measure.and_then(|(_, answers)| answers.clone());
        let same = |answers: &Option<Vec<u64>>| measure.is_some() && *answers == measure;
        let small = answered
            .iter()
            .any(|(plan, answers)| plan.rows <= 2 && same(answers));
        answered.retain(|(plan, answers)| match small {
            true => same(answers),
            false => plan.rows == 1,
        });
        self.plans = answered.into_iter().map(|(plan, _)| plan).collect();
    }

    fn plan(&self, model: &InferenceModel, rows: usize) -> Result<(Plan, u64), Error> {
        let sizes: TVec<usize> = [rows]
            .into_iter()
            .chain(self.shape.iter().copied())
            .collect();
        let fact = InferenceFact::dt_shape(self.kind, sizes);
        let model = model.clone().with_input_fact(0, fact).map_err(failed)?;
        let model = model.into_typed().map_err(failed)?;
        check_sizes(&model)?;
        let multiply_adds = multiply_adds(&model).map_err(failed)?;
        let model = model.into_optimized().map_err(failed)?;
        casts::check_integers(&model)?;
        let plan = model.into_runnable().map_err(failed)?;
        Ok((Plan { rows, plan }, multiply_adds))
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Multiplications with their additions, for one row.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    /// Appends the answers. A row that the network fails at, though it did not at load, gets NaN; so does one that it cannot be
    /// asked about.
    pub fn score(&self, rows: &[f64], answers: &mut Vec<f64>) {
        let start = answers.len();
        let mut rest = rows;
        for plan in &self.plans {
            let size = plan.rows * self.inputs;
            while rest.len() >= size {
                let (rows, after) = rest.split_at(size);
                rest = after;
                self.answer(plan, rows, answers);
            }
        }
        // Fewer rows than the smallest plan takes: one.
        if let Some(plan) = self.plans.last().filter(|_| !rest.is_empty()) {
            let first = answers.len();
            self.answer(plan, &rest.repeat(plan.rows), answers);
            answers.truncate(first + self.width);
        }
        let answers = &mut answers[start..];
        self.domain.withdraw(rows, self.inputs, answers, self.width);
    }

    /// Where a run over several rows fails, each is tried alone: a row's failure is its own.
    fn answer(&self, plan: &Plan, rows: &[f64], answers: &mut Vec<f64>) {
        let alone = self.plans.last().filter(|alone| alone.rows < plan.rows);
        match (guarded(|| plan.run(self, rows)), alone) {
            (Ok(found), _) if found.len() == plan.rows * self.width => answers.extend(found),
            (_, Some(alone)) => {
                for row in rows.chunks_exact(self.inputs) {
                    let first = answers.len();
                    self.answer(alone, &row.repeat(alone.rows), answers);
                    answers.truncate(first + self.width);
                }
            }
            (_, None) => answers.extend(std::iter::repeat_n(f64::NAN, plan.rows * self.width)),
        }
    }
}

/// Rows to try: the examples over and over or, without any, numbers from -2 to 2 that look random. Where examples are
/// few, each third row is one of zeros: a network that mixes rows does not change rows that are equal, and with a third
/// of them no two plans have the same mixture.
fn probe(examples: &[f64], inputs: usize, rows: usize) -> Vec<f64> {
    let count = rows * inputs;
    if !examples.is_empty() {
        let mut probe: Vec<f64> = examples.iter().copied().cycle().take(count).collect();
        if examples.len() < EXAMPLES_MANY * inputs {
            let places = probe.chunks_exact_mut(inputs).enumerate();
            let zeros = places.filter(|(place, _)| place % 3 == 1);
            zeros.for_each(|(_, row)| row.fill(0.0));
        }
        return probe;
    }
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f64 / (1_u64 << 22) as f64 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

impl Plan {
    fn run(&self, network: &Network, rows: &[f64]) -> Result<Vec<f64>, Error> {
        let sizes = [self.rows].into_iter().chain(network.shape.iter().copied());
        let sizes: Vec<usize> = sizes.collect();
        let input = if network.kind == f32::datum_type() {
            let rows: Vec<f32> = rows.iter().map(|it| *it as f32).collect();
            Tensor::from_shape(&sizes, &rows).map_err(failed)?
        } else {
            let input = Tensor::from_shape(&sizes, rows).map_err(failed)?;
            input.cast_to_dt(network.kind).map_err(failed)?.into_owned()
        };
        let answers = self.plan.run(tvec!(input.into())).map_err(failed)?;
        let [answers] = &answers[..] else {
            return Err(Error::Network("it has several outputs".to_owned()));
        };
        if !answers.datum_type().is_float() {
            let kind = answers.datum_type();
            return Err(Error::Network(format!(
                "its output is of type {kind:?}, not of floats"
            )));
        }
        let answers = answers.cast_to::<f64>().map_err(failed)?;
        let view = answers.to_plain_array_view::<f64>().map_err(failed)?;
        Ok(view.iter().copied().collect())
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    // The cause is in the alternate form; a network of a stranger's may have long names.
    Error::Network(format!("{error:#}").chars().take(400).collect())
}

/// What tract panics over is an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::Network(
            "tract gave up on it; it is damaged or unusual".into(),
        ))
    })
}

/// The number type, the values that can be asked about, and the sizes of one row.
fn row_shape(graph: &Graph, sources: &Sources) -> Result<(DatumType, Domain, Vec<usize>), Error> {
    let inputs = sources.inputs;
    let input = graph.input()?;
    let (number, sizes) = tensor_type(input)
        .ok_or_else(|| Error::graph("has an input that is not a tensor of numbers"))?;
    let kind = match number {
        DataType::Float => f32::datum_type(),
        DataType::Double => f64::datum_type(),
        DataType::Int64 => i64::datum_type(),
        DataType::Int32 => i32::datum_type(),
        other => {
            return Err(Error::graph(format!(
                "has an input of {other:?}, not of numbers"
            )));
        }
    };
    let rest = sizes.get(1..).unwrap_or_default();
    let shape = match rest {
        [] | [None] => vec![inputs],
        rest => {
            let known: Option<Vec<usize>> = rest.iter().copied().collect();
            known.ok_or_else(|| Error::graph("has an input whose sizes are not fixed"))?
        }
    };
    let product = shape
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size));
    if product != Some(inputs) {
        return Err(Error::graph(format!(
            "reads rows of {shape:?} numbers where {inputs} inputs are named"
        )));
    }
    let domain = match graph.has_several_inputs {
        true => Domain::of_columns(sources, graph, &input.name),
        false => Domain::of_network(number, graph, &input.name, &shape),
    };
    Ok((kind, domain, shape))
}

fn check_nodes(graph: &GraphProto) -> Result<(), Error> {
    if graph.node.len() > NODES_MAX {
        return Err(Error::graph(format!("has more than {NODES_MAX} nodes")));
    }
    // By the name of each constant, the most numbers it can have.
    let mut constants: HashMap<&str, usize> = HashMap::new();
    for tensor in &graph.initializer {
        constants.insert(&tensor.name, elements(tensor)?.max(1));
    }
    for node in &graph.node {
        let known = match node.domain.as_str() {
            "" | "ai.onnx" => OPERATORS.contains(&node.op_type.as_str()),
            "ai.onnx.ml" => OPERATORS_ML.contains(&node.op_type.as_str()),
            _ => false,
        };
        if !known {
            let reason = match node.op_type.as_str() {
                "OneHotEncoder" | "LabelEncoder" | "CategoryMapper" | "StringNormalizer" => {
                    "it is not supported; encode categories in the pipeline (a feature of kind one_hot), not in the model"
                }
                _ => "it is not supported in a network",
            };
            return Err(Error::operator(&node.op_type, reason));
        }
        check_attributes(node)?;
        let inputs = node.input.iter().filter(|it| !it.is_empty());
        let sizes: Option<Vec<usize>> = inputs
            .map(|it| constants.get(it.as_str()).copied())
            .collect();
        let Some(sizes) = sizes else { continue };
        if !OPERATORS_OF_CONSTANTS.contains(&node.op_type.as_str()) {
            return Err(Error::operator(
                &node.op_type,
                "it is computed of constants alone",
            ));
        }
        let most = match node.op_type.as_str() {
            "Constant" => constant_size(node)?,
            "Concat" => sizes
                .iter()
                .try_fold(0_usize, |sum, size| sum.checked_add(*size)),
            _ => sizes
                .iter()
                .try_fold(1_usize, |product, size| product.checked_mul(*size)),
        };
        let most = most.filter(|most| *most <= CONSTANT_MAX);
        let most =
            most.ok_or_else(|| Error::operator(&node.op_type, "its constants are too large"))?;
        for output in &node.output {
            constants.insert(output, most);
        }
    }
    Ok(())
}

fn constant_size(node: &NodeProto) -> Result<Option<usize>, Error> {
    let attribute = node.attribute.first();
    let tensor = attribute
        .and_then(|it| it.t.as_ref())
        .map(elements)
        .transpose()?;
    let lists = attribute.map_or(0, |it| it.floats.len().max(it.ints.len()));
    Ok(Some(tensor.unwrap_or(lists).max(1)))
}

fn check_attributes(node: &NodeProto) -> Result<(), Error> {
    const SIZES: [&str; 4] = ["dilations", "kernel_shape", "pads", "strides"];
    for attribute in node
        .attribute
        .iter()
        .filter(|it| SIZES.contains(&it.name.as_str()))
    {
        let product = attribute
            .ints
            .iter()
            .try_fold(1_i64, |area, size| area.checked_mul(*size));
        let area = attribute.name != "kernel_shape" || product.is_some_and(|it| it <= SIZE_MAX);
        if !area
            || attribute
                .ints
                .iter()
                .any(|it| it.unsigned_abs() > SIZE_MAX as u64)
        {
            let reason = format!("its {} are absurdly large", attribute.name);
            return Err(Error::operator(&node.op_type, reason));
        }
    }
    Ok(())
}

/// Refuses a plan whose values would not fit into memory.
fn check_sizes(model: &TypedModel) -> Result<(), Error> {
    let mut total = 0_usize;
    for fact in model
        .nodes
        .iter()
        .flat_map(|node| &node.outputs)
        .map(|outlet| &outlet.fact)
    {
        let sizes = fact.shape.as_concrete();
        let sizes = sizes.ok_or_else(|| Error::Network("a size in it depends on values".into()))?;
        let size = sizes
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(*size));
        let sum = size
            .and_then(|size| total.checked_add(size))
            .filter(|sum| *sum <= VALUES_MAX);
        total = sum.ok_or_else(|| Error::Network("its values are too large".into()))?;
    }
    Ok(())
}

fn multiply_adds(model: &TypedModel) -> TractResult<u64> {
    let mut total = 0_u64;
    for node in &model.nodes {
        let facts = model.node_input_facts(node.id)?;
        for (cost, count) in node.op.cost(&facts)? {
            if matches!(cost, Cost::FMA(_)) {
                total = total.saturating_add(u64::try_from(count.to_i64()?).unwrap_or(0));
            }
        }
    }
    Ok(total)
}
