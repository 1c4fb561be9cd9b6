//! The nodes of ONNX tree ensembles, in both of the forms that there are, as the kernel's trees.

mod lists;
mod tree_ensemble;

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use self::lists::NodeLists;
use self::tree_ensemble::tree_ensemble;
use super::Error;
use super::attributes::Attributes;
use crate::forest::SourceNode;
use crate::forest::ensemble::{Operand, Parts, PostTransform, Precision};

/// The most things that comparisons read, each an input as it is, negated, or compared for equality.
const OPERANDS_MAX: usize = crate::INPUTS_MAX;

/// What a node does, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
    NotEqual,
    Leaf,
}

impl Mode {
    /// By the text of `TreeEnsembleClassifier` and `TreeEnsembleRegressor`.
    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"BRANCH_LEQ" => Mode::AtMost,
            b"BRANCH_LT" => Mode::Below,
            b"BRANCH_GTE" => Mode::AtLeast,
            b"BRANCH_GT" => Mode::Above,
            b"BRANCH_EQ" => Mode::Equal,
            b"BRANCH_NEQ" => Mode::NotEqual,
            b"LEAF" => Mode::Leaf,
            _ => return None,
        })
    }

    /// By the number of `TreeEnsemble`, which has one more: membership of a set.
    fn numbered(number: f64) -> Option<Self> {
        let modes = [
            Mode::AtMost,
            Mode::Below,
            Mode::AtLeast,
            Mode::Above,
            Mode::Equal,
            Mode::NotEqual,
        ];
        let at = modes
            .iter()
            .zip(0_u8..)
            .find(|(_, at)| f64::from(*at) == number);
        at.map(|(mode, _)| *mode)
    }
}

/// A comparison, as the file says it.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    mode: Mode,
    input: u32,
    threshold: f64,
    /// Whether a missing value goes where the comparison holds.
    missing_holds: bool,
}

/// The operands in use, each once.
#[derive(Default)]
struct Operands {
    operands: Vec<Operand>,
    places: HashMap<(u8, u32, u64), usize>,
}

impl Operands {
    fn place(&mut self, operand: Operand) -> Option<usize> {
        let key = match operand {
            Operand::Input(input) => (0, input, 0),
            Operand::Negated(input) => (1, input, 0),
            Operand::Differs {
                input,
                value,
                missing_equals,
                // To a comparison 0 and -0 are the same.
            } => (2 + u8::from(missing_equals), input, (value + 0.0).to_bits()),
        };
        let next = self.operands.len();
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.operands.push(operand);
        }
        (place < OPERANDS_MAX).then_some(place)
    }
}

/// Turns a comparison into the kernel's: an operand, a threshold, where `<=` leads, and where everything else does, NaN too.
fn normalise(
    split: Comparison,
    operands: &mut Operands,
    holds: usize,
    fails: usize,
) -> Result<SourceNode, String> {
    let Comparison {
        mode,
        input,
        threshold: t,
        missing_holds,
    } = split;
    if t.is_nan() {
        return Err("a threshold is not a number".to_owned());
    }
    // Strictly below t is at most the number before t; there is none before -∞, where nothing is below.
    let before = |t: f64| match t {
        f64::NEG_INFINITY => Err("a comparison with an infinity can never hold".to_owned()),
        t => Ok(t.next_down()),
    };
    let plain = Operand::Input(input);
    let negated = Operand::Negated(input);
    let differs = |missing_equals| Operand::Differs {
        input,
        value: t,
        missing_equals,
    };
    // NaN never meets `<=`: where it is to go with `holds`, the opposite is asked for, and `fails` comes first.
    let (operand, threshold, at_most, above) = match (mode, missing_holds) {
        (Mode::AtMost, false) => (plain, t, holds, fails),
        (Mode::AtMost, true) => (negated, before(-t)?, fails, holds),
        (Mode::Below, false) => (plain, before(t)?, holds, fails),
        (Mode::Below, true) => (negated, -t, fails, holds),
        (Mode::AtLeast, false) => (negated, -t, holds, fails),
        (Mode::AtLeast, true) => (plain, before(t)?, fails, holds),
        (Mode::Above, false) => (negated, before(-t)?, holds, fails),
        (Mode::Above, true) => (plain, t, fails, holds),
        (Mode::Equal, missing) => (differs(missing), 0.0, holds, fails),
        // NaN differs from everything.
        (Mode::NotEqual, _) => (differs(false), 0.0, fails, holds),
        (Mode::Leaf, _) => return Err("a leaf was taken for a split".to_owned()),
    };
    let input = operands.place(operand).ok_or_else(|| {
        format!("the trees compare with more than {OPERANDS_MAX} different things")
    })?;
    Ok(SourceNode::Split {
        input,
        threshold,
        at_most,
        above,
    })
}

/// What a child is: another node of the file, or a leaf of the table.
#[derive(Debug, Clone, Copy)]
enum Child {
    Node(usize),
    Leaf(u32),
}

/// Trees being gathered from a file's nodes.
struct TreeBuilder<'a> {
    operator: &'a str,
    inputs: usize,
    operands: Operands,
    /// Nodes of the file that were not yet in a tree, by their number.
    left: usize,
}

impl TreeBuilder<'_> {
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::operator(self.operator, reason)
    }

    /// The tree below `root`; `node` says what a node of the file is.
    fn tree(
        &mut self,
        root: Child,
        node: impl Fn(usize) -> Result<Result<(Comparison, Child, Child), u32>, Error>,
    ) -> Result<Vec<SourceNode>, Error> {
        let mut tree: Vec<SourceNode> = Vec::new();
        let mut open = vec![root];
        // Children are appended in pairs, so a node's place is known when its parent is made.
        let mut done = 0;
        while done < open.len() {
            let found = match open[done] {
                Child::Leaf(ordinal) => Err(ordinal),
                Child::Node(at) => {
                    let shared = "a node is in two trees, or its own descendant";
                    self.left = self.left.checked_sub(1).ok_or_else(|| self.error(shared))?;
                    node(at)?
                }
            };
            tree.push(match found {
                Err(ordinal) => SourceNode::Leaf {
                    value: f64::from(ordinal),
                },
                Ok((split, holds, fails)) => {
                    if split.input as usize >= self.inputs {
                        let (input, inputs) = (split.input, self.inputs);
                        return Err(self.error(format!(
                            "a tree reads column {input} (counting from 0) where there are {inputs}"
                        )));
                    }
                    let first = open.len();
                    open.extend([holds, fails]);
                    normalise(split, &mut self.operands, first, first + 1)
                        .map_err(|reason| Error::operator(self.operator, reason))?
                }
            });
            done += 1;
        }
        Ok(tree)
    }
}

fn column(id: i64) -> u32 {
    // What does not fit is no column of any model.
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// Reads a tree ensemble for rows of `inputs` values of this precision.
pub(super) fn read(node: &NodeProto, inputs: usize, precision: Precision) -> Result<Parts, Error> {
    match node.op_type.as_str() {
        "TreeEnsembleClassifier" => NodeLists::new(node, "class", inputs)?.classifier(precision),
        "TreeEnsembleRegressor" => NodeLists::new(node, "target", inputs)?.regressor(precision),
        "TreeEnsemble" => tree_ensemble(node, inputs, precision),
        other => Err(Error::operator(other, "is not known")),
    }
}

/// A kernel needs something to read even where all trees are leaves.
fn some_operand(mut operands: Vec<Operand>) -> Vec<Operand> {
    if operands.is_empty() {
        operands.push(Operand::Input(0));
    }
    operands
}

fn targets(attributes: &Attributes<'_>) -> Result<usize, Error> {
    let targets = attributes.int("n_targets").unwrap_or(1);
    match usize::try_from(targets) {
        Ok(targets) if (1..=crate::OUTPUTS_MAX).contains(&targets) => Ok(targets),
        _ => Err(Error::operator(
            &attributes.0.op_type,
            format!("n_targets is {targets}"),
        )),
    }
}

fn post_transform(attributes: &Attributes<'_>) -> Result<PostTransform, Error> {
    Ok(match attributes.text("post_transform") {
        None | Some("NONE") => PostTransform::None,
        Some("LOGISTIC") => PostTransform::Logistic,
        Some("SOFTMAX") => PostTransform::Softmax,
        Some("SOFTMAX_ZERO") => PostTransform::SoftmaxZero,
        Some("PROBIT") => PostTransform::Probit,
        Some(other) => {
            let reason = format!("the post transform {other:?} is not known");
            return Err(Error::operator(&attributes.0.op_type, reason));
        }
    })
}

/// ONNX Runtime transforms a lone target by PROBIT only.
fn of_targets(post_transform: PostTransform, targets: usize) -> PostTransform {
    match post_transform {
        PostTransform::Probit => PostTransform::Probit,
        _ if targets == 1 => PostTransform::None,
        other => other,
    }
}
