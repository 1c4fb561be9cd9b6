//! Which rows can be put to a graph: its number type may not have their values, and it may make something of what is missing
//! that nobody meant.
//!
//! Whoever casts a row to integers all the same asks about another one (NaN becomes 0, 1.9 becomes 1). And to an engine's
//! fast functions NaN is a number: tract's sigmoid of NaN is 0 and its `max(NaN, 0)` is 0, so that a network would answer "certainly
//! not" to a row with a gap. A row that cannot be put has no answer.

use tract_onnx::pb::tensor_proto::DataType;

use super::gaps;
use super::graph::Graph;
use super::sources::Sources;

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
    /// Each column its own.
    Columns(Vec<Domain>),
}

impl Domain {
    /// Of trees, which say at each comparison where a missing value goes.
    pub fn of_trees(sources: &Sources) -> Self {
        match &sources.tensors[..] {
            [all] if all.columns.len() == sources.inputs => {
                Self::whole(all.kind).unwrap_or(Domain::All)
            }
            _ => {
                let kinds = sources.kinds().into_iter();
                let domain =
                    |kind: Option<DataType>| kind.and_then(Self::whole).unwrap_or(Domain::All);
                let columns: Vec<Domain> = kinds.map(domain).collect();
                match columns.iter().all(|it| *it == Domain::All) {
                    true => Domain::All,
                    false => Domain::Columns(columns),
                }
            }
        }
    }

    /// Of a network. What is missing may mean something to it where it tests for that, which none does for infinity.
    pub fn of_network(kind: DataType, graph: &Graph, input: &str, shape: &[usize]) -> Self {
        Self::whole(kind).unwrap_or_else(|| Domain::Finite {
            most: largest(kind),
            gaps: gaps::tolerated(graph, input, shape),
        })
    }

    /// Of a network that reads each column by itself, though they were joined for it.
    pub fn of_columns(sources: &Sources, graph: &Graph, input: &str) -> Self {
        let gaps = gaps::tolerated(graph, input, &[sources.inputs]);
        let kinds = sources.kinds().into_iter().zip(gaps);
        let domain = |(kind, gap): (Option<DataType>, bool)| match kind {
            None => Domain::All,
            Some(kind) => Self::whole(kind).unwrap_or_else(|| Domain::Finite {
                most: largest(kind),
                gaps: vec![gap],
            }),
        };
        Domain::Columns(kinds.map(domain).collect())
    }

    fn whole(kind: DataType) -> Option<Self> {
        if kind == DataType::Bool {
            return Some(Domain::Whole {
                least: 0.0,
                beyond: 2.0,
            });
        }
        match kind {
            DataType::Int64 => Some(Self::bits(63)),
            DataType::Int32 => Some(Self::bits(31)),
            _ => None,
        }
    }

    /// Whole numbers of so many bits and a sign.
    fn bits(bits: i32) -> Self {
        let beyond = 2_f64.powi(bits);
        Domain::Whole {
            least: -beyond,
            beyond,
        }
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
            Domain::Columns(columns) => (columns.iter())
                .zip(row.chunks_exact(1))
                .all(|(column, value)| column.holds(value)),
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

fn largest(kind: DataType) -> f64 {
    match kind {
        DataType::Float => f32::MAX.into(),
        _ => f64::MAX,
    }
}
