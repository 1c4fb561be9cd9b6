//! Growing a forest with smartcore, and reading its nodes.
//!
//! smartcore's forest classifier answers labels only, so we grow its regression forest on labels 0 and 1: a leaf's mean is
//! then the share of positives among the training rows that fell into it. Its nodes are private; they are read once, here,
//! through its serde form.

use serde::Deserialize;
use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;

use super::{Forest, SourceNode};

/// Growing went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the forest could not be grown: {0}")]
    Grow(#[from] smartcore::error::Failed),
    #[error("smartcore's forest is not in the form that this version reads: {0}")]
    Read(#[from] serde_json::Error),
    #[error("smartcore's forest has a split without {0}")]
    Split(&'static str),
    #[error("smartcore's forest is not sound: {0}")]
    Forest(#[from] super::Error),
}

/// How a forest is grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub trees: usize,
    /// The most splits between root and leaf.
    pub depth_max: u16,
    /// The fewest (bootstrapped) rows in a leaf.
    pub min_leaf: usize,
    /// How many inputs, drawn anew for each split, it may choose from.
    pub inputs_per_split: usize,
    pub seed: u64,
}

type Regressor = RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

/// Grows a forest on `rows` (row-major, n × `width`, nothing missing) with `labels` 0 or 1. The same parameters and rows
/// give the same forest.
///
/// # Errors
/// smartcore refuses the parameters, or its forest has changed its form.
pub fn fit(
    rows: &[f64],
    width: usize,
    labels: &[f64],
    parameters: Parameters,
) -> Result<Forest, Error> {
    read(&grow(rows, width, labels, parameters)?, width)
}

fn grow(
    rows: &[f64],
    width: usize,
    labels: &[f64],
    parameters: Parameters,
) -> Result<Regressor, Error> {
    let matrix = DenseMatrix::new(labels.len(), width, rows.to_vec(), false)?;
    let settings = RandomForestRegressorParameters::default()
        .with_n_trees(parameters.trees)
        // smartcore counts levels, a lone root being one.
        .with_max_depth(parameters.depth_max.saturating_add(1))
        .with_min_samples_leaf(parameters.min_leaf)
        .with_m(parameters.inputs_per_split)
        .with_seed(parameters.seed);
    Ok(Regressor::fit(&matrix, &labels.to_vec(), settings)?)
}

/// The part of smartcore's serde form that is needed to score.
#[derive(Deserialize)]
struct RegressorForm {
    forest_regressor: ForestForm,
}

#[derive(Deserialize)]
struct ForestForm {
    trees: Vec<TreeForm>,
}

#[derive(Deserialize)]
struct TreeForm {
    nodes: Vec<NodeForm>,
}

#[derive(Deserialize)]
struct NodeForm {
    output: f64,
    split_feature: usize,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

fn read(regressor: &Regressor, width: usize) -> Result<Forest, Error> {
    let form: RegressorForm = serde_json::from_value(serde_json::to_value(regressor)?)?;
    let trees: Result<Vec<Vec<SourceNode>>, Error> = form
        .forest_regressor
        .trees
        .iter()
        .map(|tree| tree.nodes.iter().map(source_node).collect())
        .collect();
    Ok(Forest::new(width, &trees?)?)
}

/// smartcore sends a row to the true child when its value is `<=` the split value, as we do.
fn source_node(node: &NodeForm) -> Result<SourceNode, Error> {
    // A node that smartcore meant to split but did not may keep a split value: children alone tell.
    let Some(at_most) = node.true_child else {
        // A mean of zeros and ones, but for rounding.
        let value = node.output.clamp(0.0, 1.0);
        return Ok(SourceNode::Leaf { value });
    };
    Ok(SourceNode::Split {
        input: node.split_feature,
        threshold: node.split_value.ok_or(Error::Split("threshold"))?,
        at_most,
        above: node.false_child.ok_or(Error::Split("second child"))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn depth(forest: &Forest, at: u32) -> usize {
        let node = forest.layout.nodes[at as usize];
        if node.child == 0 {
            return 0;
        }
        1 + depth(forest, node.child).max(depth(forest, node.child + 1))
    }

    fn parameters(depth_max: u16, seed: u64) -> Parameters {
        Parameters {
            trees: 12,
            depth_max,
            min_leaf: 1,
            inputs_per_split: 2,
            seed,
        }
    }

    /// Rows on a coarse grid (so that there are ties) and labels that depend on them with some noise.
    fn data() -> impl Strategy<Value = (usize, Vec<f64>, Vec<f64>)> {
        (1..5usize, 10..80usize).prop_flat_map(|(width, count)| {
            let coarse = (-8..8i32).prop_map(|value| f64::from(value) / 3.0);
            let value = prop_oneof![3 => coarse, 1 => -1e6..1e6f64];
            let rows = prop::collection::vec(value, width * count);
            let labels =
                prop::collection::vec(prop::bool::ANY.prop_map(|b| f64::from(u8::from(b))), count);
            (Just(width), rows, labels)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn our_answers_are_smartcores((width, rows, labels) in data(), depth_max in 1..10u16, seed: u64) {
            let regressor = grow(&rows, width, &labels, parameters(depth_max, seed)).unwrap();
            let forest = read(&regressor, width).unwrap();

            // The training rows, and rows made of the thresholds themselves: there `<=` and `<` part.
            let mut asked = rows;
            let thresholds = forest.layout.nodes.iter().filter(|node| node.child != 0).map(|node| node.value);
            asked.extend(thresholds);
            asked.truncate(asked.len() / width * width);

            let matrix = DenseMatrix::new(asked.len() / width, width, asked.clone(), false).unwrap();
            let expected: Vec<f64> = regressor.predict(&matrix).unwrap();
            let mut found = vec![];
            forest.score(&asked, &mut found);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
            }
        }

        #[test]
        fn no_tree_is_deeper_than_allowed((width, rows, labels) in data(), depth_max in 1..6u16) {
            let forest = fit(&rows, width, &labels, parameters(depth_max, 7)).unwrap();
            for &root in &forest.layout.roots {
                prop_assert!(depth(&forest, root) <= usize::from(depth_max));
            }
        }
    }

    #[test]
    fn depth_one_means_one_split() {
        let rows: Vec<f64> = (0..40).map(f64::from).collect();
        let labels: Vec<f64> = rows
            .iter()
            .map(|&x| f64::from(u8::from(x > 20.0)))
            .collect();
        let forest = fit(&rows, 1, &labels, parameters(1, 3)).unwrap();
        assert_eq!(forest.nodes(), 3 * forest.trees());
    }

    #[test]
    fn the_same_seed_grows_the_same_forest_and_another_seed_another() {
        let rows: Vec<f64> = (0..200).map(|i| f64::from((i * 37) % 101)).collect();
        let labels: Vec<f64> = (0..100)
            .map(|i| f64::from(u8::from((i * 13) % 7 > 2)))
            .collect();
        let grown = |seed| fit(&rows, 2, &labels, parameters(6, seed)).unwrap();
        assert_eq!(grown(1), grown(1));
        assert_ne!(grown(1), grown(2));
    }
}
