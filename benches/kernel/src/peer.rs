//! ONNX Runtime as a contender: a Python process that scores the same trees when it is told to.

use std::{
    io::{BufRead, BufReader, Error, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use quadrille_model::forest::SourceNode;
use serde_json::json;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peer.py");

/// Ends when its input is closed.
pub struct Peer {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Child,
}

impl Peer {
    /// Starts `python` and hands it the trees.
    ///
    /// # Errors
    /// It does not start, or lacks a package, which it says on standard error.
    pub fn start(python: &Path, inputs: usize, trees: &[Vec<SourceNode>]) -> Result<Self, Error> {
        let mut child = Command::new(python)
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::other("no pipes to Python"));
        };
        let mut peer = Peer {
            input,
            output: BufReader::new(output),
            _child: child,
        };
        let nodes = trees.iter().enumerate().flat_map(|(tree, nodes)| {
            nodes.iter().enumerate().map(move |(node, kind)| match kind {
                SourceNode::Leaf { value } => {
                    json!({"tree": tree, "node": node, "leaf": true, "value": value, "input": 0, "at_most": 0, "above": 0})
                }
                SourceNode::Split { input, threshold, at_most, above } => {
                    json!({"tree": tree, "node": node, "leaf": false, "value": threshold, "input": input, "at_most": at_most, "above": above})
                }
            })
        });
        let nodes: Vec<_> = nodes.collect();
        peer.ask(&json!({"inputs": inputs, "nodes": nodes}).to_string())?;
        Ok(peer)
    }

    /// Rows a second over a turn.
    ///
    /// # Errors
    /// It has ended.
    pub fn rate(&mut self, batch: usize, turn: Duration) -> Result<f64, Error> {
        let answer = self.ask(&format!("{batch} {}", turn.as_millis()))?;
        answer.parse().map_err(Error::other)
    }

    fn ask(&mut self, line: &str) -> Result<String, Error> {
        let ended =
            || Error::other("ONNX Runtime's process has ended; what it lacked is said above");
        writeln!(self.input, "{line}").map_err(|_| ended())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        match answer.trim() {
            "" => Err(ended()),
            answer => Ok(answer.to_owned()),
        }
    }
}
