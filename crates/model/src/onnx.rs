//! ONNX files: what exporters write, read into something that scores.
//!
//! Two ways: a graph with a tree ensemble becomes our own flat form ([`trees`]), any other is run by tract ([`network`]).
//! Whatever is not understood is refused by its name at load; nothing is approximated silently. A file is a stranger's:
//! sizes are bounded, operators are those of [`network::OPERATORS`], data outside the file is not read, and what tract
//! makes of a broken graph, panics included, is an error.

mod attributes;
mod casts;
mod classes;
mod column_steps;
mod domain;
mod gaps;
mod graph;
mod network;
mod nodes;
mod rewrite;
mod sources;
mod trees;

use prost::Message as _;
use tract_onnx::pb::ModelProto;

pub use self::classes::Classes;
use self::graph::Graph;
pub(crate) use self::network::Network;
use self::sources::Sources;
pub(crate) use self::trees::Trees;
use crate::forest;

/// The largest ONNX file: some 16 million weights.
pub const BYTES_MAX: usize = 64 << 20;

/// Why an ONNX file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the ONNX file is larger than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not an ONNX file, or it is cut off: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the ONNX file has no graph")]
    NoGraph,
    #[error("the ONNX graph {0}")]
    Graph(String),
    #[error("the ONNX operator {operator}: {reason}")]
    Operator { operator: String, reason: String },
    #[error("the ONNX trees are not sound: {0}")]
    Trees(#[from] forest::Error),
    #[error("the ONNX network cannot be run: {0}")]
    Network(String),
}

impl Error {
    fn operator(operator: &str, reason: impl Into<String>) -> Self {
        Error::Operator {
            operator: operator.chars().take(80).collect(),
            reason: reason.into(),
        }
    }

    fn graph(reason: impl Into<String>) -> Self {
        Error::Graph(reason.into())
    }
}

/// An ONNX file that has been read.
#[derive(Debug)]
pub(crate) enum Program {
    Trees(Box<Trees>),
    Network(Network),
}

impl Program {
    /// Reads a file for rows of the inputs of these names: in their order where the file has one tensor of all columns, by their
    /// names where it has a tensor for each. `output` names the graph's output that holds the answers; without a name it
    /// is the first one that holds floating-point numbers. `examples` are rows (row-major) as they will come; there may be
    /// none.
    pub fn read(
        bytes: &[u8],
        names: &[String],
        output: Option<&str>,
        examples: &[f64],
    ) -> Result<Self, Error> {
        if bytes.len() > BYTES_MAX {
            return Err(Error::TooLarge);
        }
        let model = ModelProto::decode(bytes)?;
        let graph = Graph::new(model, output)?;
        let sources = Sources::new(&graph, names)?;
        match graph.has_trees() {
            true => Ok(Program::Trees(Box::new(Trees::new(&graph, &sources)?))),
            false => Ok(Program::Network(Network::new(graph, &sources, examples)?)),
        }
    }

    /// Values in a row of answers.
    pub fn width(&self) -> usize {
        match self {
            Program::Trees(trees) => trees.width(),
            Program::Network(network) => network.width(),
        }
    }

    /// Appends the answers to `rows` (row-major).
    pub fn score(&self, rows: &[f64], answers: &mut Vec<f64>) {
        match self {
            Program::Trees(trees) => trees.score(rows, answers),
            Program::Network(network) => network.score(rows, answers),
        }
    }
}
