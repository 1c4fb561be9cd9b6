//! `TreeEnsembleClassifier` and `TreeEnsembleRegressor`: a list of nodes, and a list of weights of leaves.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::{
    Attributes, Child, Comparison, Error, Mode, Operands, TreeBuilder, column, of_targets,
    post_transform, some_operand, targets,
};
use crate::forest::SourceNode;
use crate::forest::ensemble::{Aggregate, LeafTable, Operand, Parts, PostTransform, Precision};

/// The older two operators: a list of nodes, and a list of weights of leaves.
pub(super) struct NodeLists<'a> {
    node: &'a NodeProto,
    inputs: usize,
    operands: Vec<Operand>,
    trees: Vec<Vec<SourceNode>>,
    leaves: LeafTable,
    /// The outputs that a leaf has a weight for, and whether no weight is negative.
    outputs: Vec<u32>,
    positive: bool,
}

type Key = (i64, i64);

impl<'a> NodeLists<'a> {
    pub fn new(node: &'a NodeProto, what: &str, inputs: usize) -> Result<Self, Error> {
        let attributes = Attributes(node);
        let operator = node.op_type.as_str();
        let count = attributes.ints("nodes_nodeids").len();
        let mut builder = TreeBuilder {
            operator,
            inputs,
            operands: Operands::default(),
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
            let split = Comparison {
                mode: parsed[at],
                input: column(columns[at]),
                threshold: thresholds[at],
                missing_holds: missing.get(at).is_some_and(|it| *it != 0),
            };
            Ok(Ok((split, child(holds[at])?, child(fails[at])?)))
        };
        let mut trees = Vec::with_capacity(roots.len());
        for root in roots {
            trees.push(builder.tree(Child::Node(root), look)?);
        }
        if builder.left != 0 {
            return Err(Error::operator(operator, "some nodes are in no tree"));
        }
        Ok(NodeLists {
            node,
            inputs,
            operands: builder.operands.operands,
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
        aggregate: Aggregate,
        base: Vec<f64>,
        post_transform: PostTransform,
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
            operands: some_operand(self.operands),
            trees: self.trees,
            leaves: self.leaves,
            scores,
            aggregate,
            base,
            post_transform,
        })
    }

    pub fn regressor(self, precision: Precision) -> Result<Parts, Error> {
        let attributes = Attributes(self.node);
        let targets = targets(&attributes)?;
        let aggregate = match attributes.text("aggregate_function") {
            None | Some("SUM") => Aggregate::Sum,
            Some("AVERAGE") => Aggregate::Average,
            Some("MIN") => Aggregate::Least,
            Some("MAX") => Aggregate::Greatest,
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
        let post_transform = post_transform(&attributes)?;
        self.parts(
            precision,
            targets,
            aggregate,
            base,
            of_targets(post_transform, targets),
        )
    }

    pub fn classifier(self, precision: Precision) -> Result<Parts, Error> {
        let attributes = Attributes(self.node);
        let labels = attributes.ints("classlabels_int64s").len();
        let labels = labels.max(attributes.strings("classlabels_strings").len());
        let base = attributes.numbers("base_values")?;
        let post_transform = post_transform(&attributes)?;
        let refuse = |reason: &str| Err(Error::operator("TreeEnsembleClassifier", reason));
        match (labels, base.len(), &self.outputs[..]) {
            (0 | 1, ..) => refuse("it has fewer than two class labels"),
            // ONNX Runtime then answers something that follows from neither the weights nor the specification.
            (2, 2, _) => refuse("it has two classes and two base values, which has no one meaning"),
            (2, 0 | 1, [0]) => {
                // One score for two classes.
                let post_transform = match (post_transform, self.positive) {
                    (PostTransform::Logistic, _) => PostTransform::LogisticPair,
                    (PostTransform::Probit, _) => {
                        return refuse("PROBIT of one score for two classes");
                    }
                    (_, true) => PostTransform::Complement,
                    (_, false) => PostTransform::Opposite,
                };
                self.parts(precision, 1, Aggregate::Sum, base, post_transform)
            }
            // ONNX Runtime does not look at it.
            (2, 1, [1]) => self.parts(precision, 2, Aggregate::Sum, Vec::new(), post_transform),
            (classes, ..) => self.parts(precision, classes, Aggregate::Sum, base, post_transform),
        }
    }
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
