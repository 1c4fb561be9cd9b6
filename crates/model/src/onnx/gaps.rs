//! Of which columns a network can be asked about rows with gaps: those of which all that reads them tests for NaN, or has filled what is
//! missing before.
//!
//! A test somewhere in the graph says nothing of other columns. What is missing there reaches arithmetic, and behind that an engine's
//! fast functions make a number of it: to tract `max(NaN, 0)` is 0, so that a network answers each such row by one constant.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::attributes::{Attributes, tensor_numbers};
use super::graph::Graph;

/// Nodes that are looked through; longer chains are no exporter's.
const CHAIN_MAX: usize = 32;

/// A truth for each column.
type Columns = Vec<bool>;

/// What a node makes of values with gaps.
enum Effect {
    /// As many gaps: NaN stays NaN.
    Gaps(Columns),
    /// A test, or values without gaps.
    Filled,
    /// It computes with them.
    Lost,
}

/// For each column, whether rows may have a gap there.
pub(super) fn tolerated(graph: &Graph, input: &str, shape: &[usize]) -> Vec<bool> {
    let inputs: usize = shape.iter().product();
    let mut gaps = Gaps {
        graph,
        input,
        flat: (shape == [inputs]).then_some(inputs),
        columns: HashMap::from([(input, vec![true; inputs])]),
    };
    // Once is enough where each node comes after those that it reads, as the specification has it; of other files nothing is known.
    let in_order = !gaps.spread() || !gaps.spread();
    let mut tolerated = vec![in_order && graph.graph().node.iter().any(tests); inputs];
    for node in &graph.graph().node {
        let read = gaps.read(node);
        if read.contains(&true) && matches!(gaps.effect(node, &read), Effect::Lost) {
            let columns = tolerated.iter_mut().zip(&read);
            columns.for_each(|(tolerated, read)| *tolerated &= !read);
        }
    }
    tolerated
}

struct Gaps<'a> {
    graph: &'a Graph,
    input: &'a str,
    /// Columns of a row, where rows are plain ones.
    flat: Option<usize>,
    /// Of which columns a value has the gaps. Values without any are not in it.
    columns: HashMap<&'a str, Columns>,
}

impl<'a> Gaps<'a> {
    /// Whether another value has turned out to have gaps, or one more of them.
    fn spread(&mut self) -> bool {
        let mut more = false;
        for node in &self.graph.graph().node {
            let read = self.read(node);
            if !read.contains(&true) {
                continue;
            }
            if let Effect::Gaps(columns) = self.effect(node, &read) {
                for output in &node.output {
                    let known = self.columns.get(output.as_str());
                    if known != Some(&columns) && columns.contains(&true) {
                        self.columns.insert(output, columns.clone());
                        more = true;
                    }
                }
            }
        }
        more
    }

    /// Of which columns a node reads the gaps.
    fn read(&self, node: &NodeProto) -> Columns {
        self.of(node.input.iter())
    }

    fn of<'v>(&self, values: impl Iterator<Item = &'v String>) -> Columns {
        let mut all = Columns::new();
        for columns in values.filter_map(|it| self.columns.get(it.as_str())) {
            all.resize(columns.len(), false);
            all.iter_mut().zip(columns).for_each(|(all, it)| *all |= it);
        }
        all
    }

    fn effect(&self, node: &NodeProto, read: &Columns) -> Effect {
        if tests(node) {
            return Effect::Filled;
        }
        match node.op_type.as_str() {
            // A shape has no values.
            "Shape" => Effect::Filled,
            "Where" => self.chosen(node),
            "Slice" => Effect::Gaps(self.slice(node).unwrap_or_else(|| read.clone())),
            "Gather" | "ArrayFeatureExtractor" => {
                Effect::Gaps(self.picked(node).unwrap_or_else(|| read.clone()))
            }
            "Identity" | "Dropout" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze"
            | "Transpose" | "Concat" | "FeatureVectorizer" | "Imputer" => {
                Effect::Gaps(read.clone())
            }
            // Of NaN they make NaN, number by number.
            "Neg" | "Add" | "Sub" | "Mul" | "Div" | "Scaler" => Effect::Gaps(read.clone()),
            "Cast" if is_to_floats(node) => Effect::Gaps(read.clone()),
            _ => Effect::Lost,
        }
    }

    /// What a `Where` has: the gaps of what it chooses from, but not of what it chooses where that is no NaN.
    fn chosen(&self, node: &NodeProto) -> Effect {
        let [condition, chosen, other] = node.input.as_slice() else {
            return Effect::Lost;
        };
        if self.columns.contains_key(condition.as_str()) {
            return Effect::Lost;
        }
        let tested = self.tested(condition);
        let is_filled = |value: &String, where_missing: bool| {
            tested.is_some_and(|(tested, missing)| {
                missing == where_missing && self.origin(tested) == self.origin(value)
            })
        };
        let mut gaps = Vec::new();
        gaps.extend((!is_filled(chosen, false)).then_some(chosen));
        gaps.extend((!is_filled(other, true)).then_some(other));
        let gaps = self.of(gaps.into_iter());
        match gaps.contains(&true) {
            true => Effect::Gaps(gaps),
            false => Effect::Filled,
        }
    }

    /// The value that a condition tests, and whether the condition is true where it is missing.
    fn tested(&self, condition: &str) -> Option<(&'a str, bool)> {
        let (mut value, mut straight) = (condition, true);
        for _ in 0..CHAIN_MAX {
            let node = self.graph.maker(value)?;
            let first = node.input.first()?;
            match node.op_type.as_str() {
                "IsNaN" => return Some((first, straight)),
                // NaN alone differs from itself.
                "Equal" if tests(node) => return Some((first, !straight)),
                "Not" => straight = !straight,
                "Identity" => {}
                _ => return None,
            }
            value = first;
        }
        None
    }

    /// The value that has the gaps of this one, at the same places.
    fn origin<'v>(&'v self, value: &'v str) -> &'v str {
        let mut value = value;
        for _ in 0..CHAIN_MAX {
            let Some(node) = self.graph.maker(value) else {
                break;
            };
            let before = match (node.op_type.as_str(), node.input.as_slice()) {
                ("Identity" | "Dropout" | "Neg" | "Scaler", [before, ..]) => before,
                ("Cast", [before]) if is_to_floats(node) => before,
                ("Add" | "Sub" | "Mul" | "Div", [before, other])
                    if self.graph.constant(other).is_some() =>
                {
                    before
                }
                ("Add" | "Sub" | "Mul" | "Div", [other, before])
                    if self.graph.constant(other).is_some() =>
                {
                    before
                }
                _ => break,
            };
            value = before;
        }
        value
    }

    /// The columns that a slice of whole rows takes.
    fn slice(&self, node: &NodeProto) -> Option<Columns> {
        let width = self.flat?;
        let [rows, start, end, axis, step @ ..] = node.input.as_slice() else {
            return None;
        };
        if self.origin(rows) != self.input {
            return None;
        }
        let number = |name: &String| -> Option<i64> {
            match tensor_numbers(self.graph.constant(name)?).ok()?[..] {
                [number] => Some(number as i64),
                _ => None,
            }
        };
        let step = step.first().map_or(Some(1), number);
        if !matches!((number(axis)?, step?), (1 | -1, 1)) {
            return None;
        }
        let width = i64::try_from(width).ok()?;
        let place = |at: i64| if at < 0 { at + width } else { at };
        let taken = place(number(start)?)..place(number(end)?);
        Some((0..width).map(|at| taken.contains(&at)).collect())
    }
}

impl Gaps<'_> {
    /// The columns that are picked of whole rows.
    fn picked(&self, node: &NodeProto) -> Option<Columns> {
        let width = self.flat?;
        let [rows, places] = node.input.as_slice() else {
            return None;
        };
        let picks_columns =
            node.op_type == "ArrayFeatureExtractor" || Attributes(node).int("axis") == Some(1);
        if self.origin(rows) != self.input || !picks_columns {
            return None;
        }
        let mut picked = vec![false; width];
        for place in tensor_numbers(self.graph.constant(places)?).ok()? {
            *picked.get_mut(place as usize).filter(|_| place >= 0.0)? = true;
        }
        Some(picked)
    }
}

/// Whether a node finds what is missing, or fills it. Comparisons do not: NaN is not greater, and not less.
fn tests(node: &NodeProto) -> bool {
    match (node.op_type.as_str(), node.input.as_slice()) {
        ("IsNaN", _) => true,
        ("Imputer", _) => {
            let attributes = Attributes(node);
            let fills = attributes.floats("imputed_value_floats");
            attributes.replaced().is_nan() && fills.iter().all(|it| it.is_finite())
        }
        // NaN alone differs from itself.
        ("Equal", [one, other]) => one == other,
        _ => false,
    }
}

/// To integers and truths NaN is a number.
fn is_to_floats(cast: &NodeProto) -> bool {
    let to = Attributes(cast).int("to");
    let kind = to.and_then(|to| DataType::try_from(i32::try_from(to).ok()?).ok());
    matches!(
        kind,
        Some(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
    )
}
