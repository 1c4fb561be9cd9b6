//! Which rows can be put to a graph: its number type may not have their values, and it may make something of what is missing
//! that nobody meant.
//!
//! Whoever casts a row to integers all the same asks about another one (NaN becomes 0, 1.9 becomes 1). And to an engine's
//! fast functions NaN is a number: tract's sigmoid of NaN is 0 and its `max(NaN, 0)` is 0, so that a network would answer "certainly
//! not" to a row with a gap. A row that cannot be put has no answer.

use tract_onnx::pb::GraphProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::attributes::Attributes;

/// The values of a row that a graph can be asked about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Domain {
    /// All, what is missing too: the graph knows what to make of it.
    All,
    /// Finite ones up to this size.
    Finite { most: f64 },
    /// Whole numbers.
    Whole {
        least: f64,
        /// The first that is too large. The largest of 64 bits is no floating-point number, this one is.
        beyond: f64,
    },
}

impl Domain {
    /// Of trees, which say at each comparison where a missing value goes.
    pub fn of_trees(kind: DataType) -> Self {
        Self::whole(kind).unwrap_or(Domain::All)
    }

    /// Of a network. One that tests for NaN may mean something by what is missing. Arithmetic does not, nor does a comparison
    /// with something else: NaN is not greater, and not less.
    pub fn of_network(kind: DataType, graph: &GraphProto) -> Self {
        let mut nodes = graph.node.iter();
        let tests = nodes.any(
            |node| match (node.op_type.as_str(), node.input.as_slice()) {
                ("IsNaN", _) => true,
                ("Imputer", _) => Attributes(node).replaced().is_nan(),
                // NaN alone differs from itself.
                ("Equal", [one, other]) => one == other,
                _ => false,
            },
        );
        match (Self::whole(kind), tests) {
            (Some(whole), _) => whole,
            (None, true) => Domain::All,
            (None, false) => Domain::Finite {
                most: match kind {
                    DataType::Float => f32::MAX.into(),
                    _ => f64::MAX,
                },
            },
        }
    }

    fn whole(kind: DataType) -> Option<Self> {
        let bits = match kind {
            DataType::Int64 => 63,
            DataType::Int32 => 31,
            _ => return None,
        };
        let beyond = 2_f64.powi(bits);
        Some(Domain::Whole {
            least: -beyond,
            beyond,
        })
    }

    fn holds(self, value: f64) -> bool {
        // NaN is at most nothing and in no range.
        match self {
            Domain::All => true,
            Domain::Finite { most } => value.abs() <= most,
            Domain::Whole { least, beyond } => {
                (least..beyond).contains(&value) && value.fract() == 0.0
            }
        }
    }

    /// Takes back the answers to rows (of `inputs` values) that could not be asked about: they become NaN.
    pub fn withdraw(self, rows: &[f64], inputs: usize, answers: &mut [f64], width: usize) {
        if self == Domain::All {
            return;
        }
        let answers = answers.chunks_exact_mut(width.max(1));
        for (row, answer) in rows.chunks_exact(inputs.max(1)).zip(answers) {
            if !row.iter().all(|value| self.holds(*value)) {
                answer.fill(f64::NAN);
            }
        }
    }
}
