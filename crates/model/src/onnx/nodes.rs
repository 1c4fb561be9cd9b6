//! The nodes of ONNX tree ensembles, in both of the forms that there are, as the kernel's trees.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::Error;
use super::attributes::Attributes;
use crate::forest::SourceNode;
use crate::forest::ensemble::{Combine, Finish, Lane, LeafTable, Parts, Precision};

/// The most things that comparisons read, each an input as it is, negated, or compared for equality.
const LANES_MAX: usize = crate::INPUTS_MAX;

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
struct Split {
    mode: Mode,
    input: u32,
    threshold: f64,
    /// Whether a missing value goes where the comparison holds.
    missing_holds: bool,
}

/// The lanes in use, each once.
#[derive(Default)]
struct Lanes {
    lanes: Vec<Lane>,
    places: HashMap<(u8, u32, u64), usize>,
}

impl Lanes {
    fn place(&mut self, lane: Lane) -> Option<usize> {
        let key = match lane {
            Lane::Input(input) => (0, input, 0),
            Lane::Negated(input) => (1, input, 0),
            Lane::Differs {
                input,
                value,
                missing_equals,
                // To a comparison 0 and -0 are the same.
            } => (2 + u8::from(missing_equals), input, (value + 0.0).to_bits()),
        };
        let next = self.lanes.len();
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.lanes.push(lane);
        }
        (place < LANES_MAX).then_some(place)
    }
}

/// Turns a comparison into the kernel's: a lane, a threshold, where `<=` leads, and where everything else does, NaN too.
fn normalise(
    split: Split,
    lanes: &mut Lanes,
    holds: usize,
    fails: usize,
) -> Result<SourceNode, String> {
    let Split {
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
    let plain = Lane::Input(input);
    let negated = Lane::Negated(input);
    let differs = |missing_equals| Lane::Differs {
        input,
        value: t,
        missing_equals,
    };
    // NaN never meets `<=`: where it is to go with `holds`, the opposite is asked for, and `fails` comes first.
    let (lane, threshold, at_most, above) = match (mode, missing_holds) {
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
    let input = lanes
        .place(lane)
        .ok_or_else(|| format!("the trees compare with more than {LANES_MAX} different things"))?;
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
struct Gather<'a> {
    operator: &'a str,
    inputs: usize,
    lanes: Lanes,
    /// Nodes of the file that were not yet in a tree, by their number.
    left: usize,
}

impl Gather<'_> {
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::operator(self.operator, reason)
    }

    /// The tree below `root`; `node` says what a node of the file is.
    fn tree(
        &mut self,
        root: Child,
        node: impl Fn(usize) -> Result<Result<(Split, Child, Child), u32>, Error>,
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
                    normalise(split, &mut self.lanes, first, first + 1)
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
        "TreeEnsembleClassifier" => Listed::new(node, "class", inputs)?.classifier(precision),
        "TreeEnsembleRegressor" => Listed::new(node, "target", inputs)?.regressor(precision),
        "TreeEnsemble" => tree_ensemble(node, inputs, precision),
        other => Err(Error::operator(other, "is not known")),
    }
}

/// The older two operators: a list of nodes, and a list of weights of leaves.
struct Listed<'a> {
    node: &'a NodeProto,
    inputs: usize,
    lanes: Vec<Lane>,
    trees: Vec<Vec<SourceNode>>,
    leaves: LeafTable,
    /// The outputs that a leaf has a weight for, and whether no weight is negative.
    outputs: Vec<u32>,
    positive: bool,
}

type Key = (i64, i64);

impl<'a> Listed<'a> {
    fn new(node: &'a NodeProto, what: &str, inputs: usize) -> Result<Self, Error> {
        let attributes = Attributes(node);
        let operator = node.op_type.as_str();
        let count = attributes.ints("nodes_nodeids").len();
        let mut gather = Gather {
            operator,
            inputs,
            lanes: Lanes::default(),
            left: count,
        };
        let same = |name: &str, length: usize, count: usize| {
            if length == count {
                return Ok(());
            }
            let reason = format!("{name} has {length} entries where there are {count}");
            Err(Error::operator(operator, reason))
        };
        let ints = |name: &str, count| {
            let list = attributes.ints(name);
            same(name, list.len(), count).map(|()| list)
        };
        let ids = ints("nodes_nodeids", count)?;
        let tree_ids = ints("nodes_treeids", count)?;
        let columns = ints("nodes_featureids", count)?;
        let holds = ints("nodes_truenodeids", count)?;
        let fails = ints("nodes_falsenodeids", count)?;
        let thresholds = attributes.numbers("nodes_values")?;
        same("nodes_values", thresholds.len(), count)?;
        let modes = attributes.strings("nodes_modes");
        same("nodes_modes", modes.len(), count)?;
        let missing = attributes.ints("nodes_missing_value_tracks_true");
        if !missing.is_empty() {
            same("nodes_missing_value_tracks_true", missing.len(), count)?;
        }

        let (leaves, ordinals, outputs, positive) = leaf_table(&attributes, operator, what)?;
        let mut places: HashMap<Key, usize> = HashMap::with_capacity(count);
        for (at, key) in tree_ids
            .iter()
            .copied()
            .zip(ids.iter().copied())
            .enumerate()
        {
            if places.insert(key, at).is_some() {
                let reason = format!("tree {} has node {} twice", key.0, key.1);
                return Err(Error::operator(operator, reason));
            }
        }
        let parsed: Option<Vec<Mode>> = modes.iter().map(|name| Mode::named(name)).collect();
        let parsed = parsed.ok_or_else(|| {
            let unknown = modes.iter().find(|name| Mode::named(name).is_none());
            let unknown = String::from_utf8_lossy(unknown.map_or(&[], |it| it)).into_owned();
            Error::operator(
                operator,
                format!("a node's mode is {unknown:?}, which is not known"),
            )
        })?;
        // A root is nobody's child; each tree has one.
        let mut is_child = vec![false; count];
        for at in (0..count).filter(|at| parsed[*at] != Mode::Leaf) {
            for id in [holds[at], fails[at]] {
                if let Some(&child) = places.get(&(tree_ids[at], id)) {
                    is_child[child] = true;
                }
            }
        }
        let roots: Vec<usize> = (0..count).filter(|at| !is_child[*at]).collect();
        let mut trees_with_root = std::collections::HashSet::new();
        let twice = roots
            .iter()
            .find(|at| !trees_with_root.insert(tree_ids[**at]));
        if let Some(&at) = twice {
            let reason = format!("tree {} has several roots", tree_ids[at]);
            return Err(Error::operator(operator, reason));
        }
        let empty = ordinals.get(&None).copied().unwrap_or(0);
        let look = |at: usize| {
            if parsed[at] == Mode::Leaf {
                let key = Some((tree_ids[at], ids[at]));
                return Ok(Err(ordinals.get(&key).copied().unwrap_or(empty)));
            }
            let child = |id: i64| {
                let place = places.get(&(tree_ids[at], id)).copied();
                place.map(Child::Node).ok_or_else(|| {
                    let (tree, node) = (tree_ids[at], ids[at]);
                    let reason = format!("node {node} of tree {tree} has no child {id}");
                    Error::operator(operator, reason)
                })
            };
            let split = Split {
                mode: parsed[at],
                input: column(columns[at]),
                threshold: thresholds[at],
                missing_holds: missing.get(at).is_some_and(|it| *it != 0),
            };
            Ok(Ok((split, child(holds[at])?, child(fails[at])?)))
        };
        let mut trees = Vec::with_capacity(roots.len());
        for root in roots {
            trees.push(gather.tree(Child::Node(root), look)?);
        }
        if gather.left != 0 {
            return Err(Error::operator(operator, "some nodes are in no tree"));
        }
        Ok(Listed {
            node,
            inputs,
            lanes: gather.lanes.lanes,
            trees,
            leaves,
            outputs,
            positive,
        })
    }

    fn parts(
        self,
        precision: Precision,
        scores: usize,
        combine: Combine,
        base: Vec<f64>,
        finish: Finish,
    ) -> Result<Parts, Error> {
        if let Some(output) = self.outputs.iter().find(|it| **it as usize >= scores) {
            let reason = format!("a leaf is for output {output} where there are {scores}");
            return Err(Error::operator(&self.node.op_type, reason));
        }
        if base.len() > scores {
            let reason = format!("there are {} base values for {scores} outputs", base.len());
            return Err(Error::operator(&self.node.op_type, reason));
        }
        Ok(Parts {
            inputs: self.inputs,
            precision,
            lanes: some_lane(self.lanes),
            trees: self.trees,
            leaves: self.leaves,
            scores,
            combine,
            base,
            finish,
        })
    }

    fn regressor(self, precision: Precision) -> Result<Parts, Error> {
        let attributes = Attributes(self.node);
        let targets = targets(&attributes)?;
        let combine = match attributes.text("aggregate_function") {
            None | Some("SUM") => Combine::Sum,
            Some("AVERAGE") => Combine::Average,
            Some("MIN") => Combine::Least,
            Some("MAX") => Combine::Greatest,
            Some(other) => {
                let reason = format!("the aggregate function {other:?} is not known");
                return Err(Error::operator(&self.node.op_type, reason));
            }
        };
        let base = attributes.numbers("base_values")?;
        // ONNX Runtime forgets them for an output of which the leaves that a row reaches have no weight; we do not.
        if !base.is_empty() && base.len() != targets {
            let reason = format!("there are {} base values for {targets} targets", base.len());
            return Err(Error::operator(&self.node.op_type, reason));
        }
        let finish = finish(&attributes)?;
        self.parts(
            precision,
            targets,
            combine,
            base,
            of_targets(finish, targets),
        )
    }

    fn classifier(self, precision: Precision) -> Result<Parts, Error> {
        let attributes = Attributes(self.node);
        let labels = attributes.ints("classlabels_int64s").len();
        let labels = labels.max(attributes.strings("classlabels_strings").len());
        let base = attributes.numbers("base_values")?;
        let finish = finish(&attributes)?;
        let refuse = |reason: &str| Err(Error::operator("TreeEnsembleClassifier", reason));
        match (labels, base.len(), &self.outputs[..]) {
            (0 | 1, ..) => refuse("it has fewer than two class labels"),
            // ONNX Runtime then answers something that follows from neither the weights nor the specification.
            (2, 2, _) => refuse("it has two classes and two base values, which has no one meaning"),
            (2, 0 | 1, [0]) => {
                // One score for two classes.
                let finish = match (finish, self.positive) {
                    (Finish::Logistic, _) => Finish::LogisticPair,
                    (Finish::Probit, _) => return refuse("PROBIT of one score for two classes"),
                    (_, true) => Finish::Complement,
                    (_, false) => Finish::Opposite,
                };
                self.parts(precision, 1, Combine::Sum, base, finish)
            }
            // ONNX Runtime does not look at it.
            (2, 1, [1]) => self.parts(precision, 2, Combine::Sum, Vec::new(), finish),
            (classes, ..) => self.parts(precision, classes, Combine::Sum, base, finish),
        }
    }
}

/// A kernel needs something to read even where all trees are leaves.
fn some_lane(mut lanes: Vec<Lane>) -> Vec<Lane> {
    if lanes.is_empty() {
        lanes.push(Lane::Input(0));
    }
    lanes
}

/// The weights of the leaves, by tree and node, in the file's order; none is the leaf without a weight.
#[expect(clippy::type_complexity, reason = "used once, beside its definition")]
fn leaf_table(
    attributes: &Attributes<'_>,
    operator: &str,
    what: &str,
) -> Result<(LeafTable, HashMap<Option<Key>, u32>, Vec<u32>, bool), Error> {
    let tree_ids = attributes.ints(&format!("{what}_treeids"));
    let node_ids = attributes.ints(&format!("{what}_nodeids"));
    let outputs = attributes.ints(&format!("{what}_ids"));
    let weights = attributes.numbers(&format!("{what}_weights"))?;
    let count = weights.len();
    if [tree_ids.len(), node_ids.len(), outputs.len()] != [count; 3] {
        let reason = format!("{what}_treeids, _nodeids, _ids and _weights differ in length");
        return Err(Error::operator(operator, reason));
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        let reason = format!("a leaf's weight is {weight}");
        return Err(Error::operator(operator, reason));
    }
    // Weights of one leaf need not be neighbours. A stable sort keeps their order.
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| (tree_ids[*at], node_ids[*at]));
    let mut table = LeafTable::default();
    let mut ordinals = HashMap::new();
    let too_many = || Error::operator(operator, "the leaves have too many weights");
    ordinals.insert(None, table.push([]).ok_or_else(too_many)?);
    let same = |a: &usize, b: &usize| (tree_ids[*a], node_ids[*a]) == (tree_ids[*b], node_ids[*b]);
    for leaf in order.chunk_by(same) {
        let pairs = leaf.iter().map(|at| (column(outputs[*at]), weights[*at]));
        let ordinal = table.push(pairs).ok_or_else(too_many)?;
        let key = leaf.first().map(|at| (tree_ids[*at], node_ids[*at]));
        ordinals.insert(key, ordinal);
    }
    let mut distinct: Vec<u32> = outputs.iter().map(|id| column(*id)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let positive = weights.iter().all(|weight| *weight >= 0.0);
    Ok((table, ordinals, distinct, positive))
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

fn finish(attributes: &Attributes<'_>) -> Result<Finish, Error> {
    Ok(match attributes.text("post_transform") {
        None | Some("NONE") => Finish::None,
        Some("LOGISTIC") => Finish::Logistic,
        Some("SOFTMAX") => Finish::Softmax,
        Some("SOFTMAX_ZERO") => Finish::SoftmaxZero,
        Some("PROBIT") => Finish::Probit,
        Some(other) => {
            let reason = format!("the post transform {other:?} is not known");
            return Err(Error::operator(&attributes.0.op_type, reason));
        }
    })
}

/// ONNX Runtime transforms a lone target by PROBIT only.
fn of_targets(finish: Finish, targets: usize) -> Finish {
    match finish {
        Finish::Probit => Finish::Probit,
        _ if targets == 1 => Finish::None,
        other => other,
    }
}

/// The newer operator: splits and leaves in lists of their own, one output a leaf.
fn tree_ensemble(node: &NodeProto, inputs: usize, precision: Precision) -> Result<Parts, Error> {
    let attributes = Attributes(node);
    let operator = node.op_type.as_str();
    let error = |reason: String| Error::operator(operator, reason);
    let thresholds = attributes.tensor("nodes_splits")?;
    let count = thresholds.len();
    let ints = |name: &str| match attributes.ints(name) {
        list if list.len() == count => Ok(list),
        list => Err(error(format!(
            "{name} has {} entries where there are {count}",
            list.len()
        ))),
    };
    let columns = ints("nodes_featureids")?;
    let holds = ints("nodes_truenodeids")?;
    let fails = ints("nodes_falsenodeids")?;
    let holds_leaf = ints("nodes_trueleafs")?;
    let fails_leaf = ints("nodes_falseleafs")?;
    let missing = attributes.ints("nodes_missing_value_tracks_true");
    let modes = attributes.tensor("nodes_modes")?;
    let modes: Option<Vec<Mode>> = modes.iter().map(|mode| Mode::numbered(*mode)).collect();
    let modes = modes.ok_or_else(|| error("a node's mode is BRANCH_MEMBER or not known".into()))?;
    if modes.len() != count || !(missing.is_empty() || missing.len() == count) {
        return Err(error("the lists of nodes differ in length".into()));
    }
    let targets_of = attributes.ints("leaf_targetids");
    let weights = attributes.tensor("leaf_weights")?;
    if targets_of.len() != weights.len() || weights.iter().any(|weight| !weight.is_finite()) {
        return Err(error(
            "leaf_targetids and leaf_weights do not fit each other".into(),
        ));
    }
    let targets = targets(&attributes)?;
    let mut leaves = LeafTable::default();
    for (target, weight) in targets_of.iter().zip(&weights) {
        let output = column(*target);
        if output as usize >= targets {
            return Err(error(format!(
                "a leaf is for output {target} where there are {targets}"
            )));
        }
        leaves.push([(output, *weight)]);
    }
    let child = |id: i64, is_leaf: i64| {
        let limit = if is_leaf == 0 { count } else { weights.len() };
        match usize::try_from(id) {
            Ok(at) if at < limit && is_leaf == 0 => Ok(Child::Node(at)),
            Ok(at) if at < limit => Ok(Child::Leaf(at as u32)),
            _ => Err(error(format!("there is no child {id}"))),
        }
    };
    let look = |at: usize| {
        let split = Split {
            mode: modes[at],
            input: column(columns[at]),
            threshold: thresholds[at],
            missing_holds: missing.get(at).is_some_and(|it| *it != 0),
        };
        let (holds, fails) = (
            child(holds[at], holds_leaf[at])?,
            child(fails[at], fails_leaf[at])?,
        );
        Ok(Ok((split, holds, fails)))
    };
    let mut gather = Gather {
        operator,
        inputs,
        lanes: Lanes::default(),
        left: count,
    };
    let mut trees = Vec::new();
    for root in attributes.ints("tree_roots") {
        trees.push(gather.tree(child(*root, 0)?, look)?);
    }
    let combine = match attributes.int("aggregate_function").unwrap_or(1) {
        0 => Combine::Average,
        1 => Combine::Sum,
        2 => Combine::Least,
        3 => Combine::Greatest,
        other => {
            return Err(error(format!(
                "the aggregate function {other} is not known"
            )));
        }
    };
    let finish = match attributes.int("post_transform").unwrap_or(0) {
        0 => Finish::None,
        // Softmax and logistic to the specification, logistic and softmax to ONNX Runtime.
        1 | 2 if targets > 1 => {
            return Err(error(
                "the post transforms 1 and 2 are ambiguous; use 0 and a node behind it".into(),
            ));
        }
        1 | 2 => Finish::None,
        3 => Finish::SoftmaxZero,
        4 => Finish::Probit,
        other => return Err(error(format!("the post transform {other} is not known"))),
    };
    Ok(Parts {
        inputs,
        precision,
        lanes: some_lane(gather.lanes.lanes),
        trees,
        leaves,
        scores: targets,
        combine,
        base: Vec::new(),
        finish: of_targets(finish, targets),
    })
}
