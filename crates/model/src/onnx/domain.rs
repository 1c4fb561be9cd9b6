//! Which rows can be put to a graph: its number type may not have their values, and it may make something of what is missing
//! that nobody meant.
//!
//! Whoever casts a row to integers all the same asks about another one (NaN becomes 0, 1.9 becomes 1). And to an engine's
//! fast functions NaN is a number: tract's sigmoid of NaN is 0 and its `max(NaN, 0)` is 0, so that a network would answer "certainly
//! not" to a row with a gap. A row that cannot be put has no answer.

use tract_onnx::pb::tensor_proto::DataType;

use super::gaps;
use super::graph::Graph;

/// The values of a row that a graph can be asked about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Domain {
    /// All, what is missing too: the graph knows what to make of it.
    All,
    /// Finite ones up to this size.
    Finite {
        most: f64,
        /// Columns that may have gaps all the same; none where no column may.
        gaps: Vec<bool>,
    },
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

    /// Of a network. What is missing may mean something to it where it tests for that, which none does for infinity.
    pub fn of_network(kind: DataType, graph: &Graph, input: &str, shape: &[usize]) -> Self {
        Self::whole(kind).unwrap_or_else(|| Domain::Finite {
            most: match kind {
                DataType::Float => f32::MAX.into(),
                _ => f64::MAX,
            },
            gaps: gaps::tolerated(graph, input, shape),
        })
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

    fn holds(&self, row: &[f64]) -> bool {
        // NaN is at most nothing and in no range.
        match self {
            Domain::All => true,
            Domain::Finite { most, gaps } => row.iter().enumerate().all(|(at, value)| {
                value.abs() <= *most || (value.is_nan() && gaps.get(at).copied().unwrap_or(false))
            }),
            Domain::Whole { least, beyond } => row
                .iter()
                .all(|value| (*least..*beyond).contains(value) && value.fract() == 0.0),
        }
    }

    /// Takes back the answers to rows (of `inputs` values) that could not be asked about: they become NaN.
    pub fn withdraw(&self, rows: &[f64], inputs: usize, answers: &mut [f64], width: usize) {
        if *self == Domain::All {
            return;
        }
        let answers = answers.chunks_exact_mut(width.max(1));
        for (row, answer) in rows.chunks_exact(inputs.max(1)).zip(answers) {
            if !self.holds(row) {
                answer.fill(f64::NAN);
            }
        }
    }
}
