//! `TreeEnsemble`: splits and leaves in lists of their own, one output a leaf.

use tract_onnx::pb::NodeProto;

use super::{
    Attributes, Child, Comparison, Error, Mode, Operands, TreeBuilder, column, of_targets,
    some_operand, targets,
};
use crate::forest::ensemble::{Aggregate, LeafTable, Parts, PostTransform, Precision};

/// The newer operator: splits and leaves in lists of their own, one output a leaf.
pub(super) fn tree_ensemble(
    node: &NodeProto,
    inputs: usize,
    precision: Precision,
) -> Result<Parts, Error> {
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
        let split = Comparison {
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
    let mut builder = TreeBuilder {
        operator,
        inputs,
        operands: Operands::default(),
        left: count,
    };
    let mut trees = Vec::new();
    for root in attributes.ints("tree_roots") {
        trees.push(builder.tree(child(*root, 0)?, look)?);
    }
    let aggregate = match attributes.int("aggregate_function").unwrap_or(1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Least,
        3 => Aggregate::Greatest,
        other => {
            return Err(error(format!(
                "the aggregate function {other} is not known"
            )));
        }
    };
    let post_transform = match attributes.int("post_transform").unwrap_or(0) {
        0 => PostTransform::None,
        // Softmax and logistic to the specification, logistic and softmax to ONNX Runtime.
        1 | 2 if targets > 1 => {
            return Err(error(
                "the post transforms 1 and 2 are ambiguous; use 0 and a node behind it".into(),
            ));
        }
        1 | 2 => PostTransform::None,
        3 => PostTransform::SoftmaxZero,
        4 => PostTransform::Probit,
        other => return Err(error(format!("the post transform {other} is not known"))),
    };
    Ok(Parts {
        inputs,
        precision,
        operands: some_operand(builder.operands.operands),
        trees,
        leaves,
        scores: targets,
        aggregate,
        base: Vec::new(),
        post_transform: of_targets(post_transform, targets),
    })
}
