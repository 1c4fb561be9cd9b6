//! A forest of decision trees in our own form: flat arrays, whatever trained it.
//!
//! A tree asks at each split whether `row[input] <= threshold` and ends at a leaf, whose value is a probability; the forest
//! answers the mean over its trees. Rows come without missing values ([`crate::preprocess`] has filled them).
//!
//! Two ways in, both validated: [`Forest::new`] lays out trees as an importer describes them ([`SourceNode`]), and
//! [`Forest::decode`] reads an artefact. [`fit`] grows trees with smartcore.

mod artefact;
pub(crate) mod ensemble;
pub mod fit;
mod kernel;
mod layout;
mod leaves;
mod shapley;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_simd.rs")]
mod simd;

pub use artefact::MAGIC;

use std::fmt;

use self::kernel::Kernel;
use self::layout::{Layout, Node};
use self::shapley::Walked;

/// The most splits between a root and a leaf: bounds the time one row can take.
pub const DEPTH_MAX: usize = 250;

/// The most trees of a forest.
pub const TREES_MAX: usize = 100_000;

/// What is wrong with a forest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the artefact is not a forest: it does not begin with {:?}", MAGIC.escape_ascii().to_string())]
    Magic,
    #[error("the artefact has format {0}; this version reads {version}", version = artefact::FORMAT)]
    Format(u32),
    #[error(
        "the artefact has {found} bytes where {expected} are announced: it is cut off or has something appended"
    )]
    Length { expected: u64, found: u64 },
    #[error("there are {found} {what}; there can be 1 to {max}")]
    Size {
        what: &'static str,
        found: usize,
        max: usize,
    },
    #[error("tree {tree}, node {node}: {problem}")]
    Node {
        tree: usize,
        node: usize,
        problem: Problem,
    },
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("it does not exist")]
    Absent,
    #[error("its children are not two nodes after it in the same tree")]
    Children,
    #[error("it is not the child of exactly one node")]
    Parents,
    #[error("it asks for input {0}, which does not exist")]
    Input(usize),
    #[error("its threshold is not a number")]
    Threshold,
    #[error("its value {0} is not a probability")]
    Value(f64),
    #[error("it lies deeper than {DEPTH_MAX} splits")]
    Depth,
}

/// A node as something that imports trees describes it; indices count within the tree, the root is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SourceNode {
    Leaf {
        /// Probability of the positive class.
        value: f64,
    },
    Split {
        input: usize,
        threshold: f64,
        /// Where a row goes whose input is at most the threshold.
        at_most: usize,
        /// Where any other row goes.
        above: usize,
    },
}

/// A validated forest.
#[derive(Clone, PartialEq)]
pub struct Forest {
    layout: Layout,
    kernel: Kernel,
}

/// Its size, not its nodes: there are too many to look at.
impl fmt::Debug for Forest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forest")
            .field("inputs", &self.inputs())
            .field("trees", &self.trees())
            .field("nodes", &self.nodes())
            .finish()
    }
}

impl Forest {
    /// Lays out `trees` for rows of `inputs` values.
    ///
    /// # Errors
    /// No trees or too many, or the first node that is not sound: children that do not exist, are shared or form a circle,
    /// an input that does not exist, a threshold that is NaN, a value outside 0..=1, a tree too deep.
    pub fn new(inputs: usize, trees: &[Vec<SourceNode>]) -> Result<Self, Error> {
        Self::compiled(Layout::new(inputs, trees)?)
    }

    /// Ready to score, if the nodes are sound.
    fn compiled(layout: Layout) -> Result<Self, Error> {
        layout.validate(|value| (0.0..=1.0).contains(&value))?;
        let kernel = Kernel::new(&layout);
        Ok(Self { layout, kernel })
    }

    /// How many inputs a row has.
    pub fn inputs(&self) -> usize {
        self.layout.inputs
    }

    /// How many trees there are.
    pub fn trees(&self) -> usize {
        self.layout.roots.len()
    }

    /// How many nodes there are in all trees.
    pub fn nodes(&self) -> usize {
        self.layout.nodes.len()
    }

    /// Appends the probability of each of `rows` (row-major, n × [`Forest::inputs`], nothing missing).
    ///
    /// A row's leaves are summed in the order of the trees, whatever comes with it: the same row has the same answer.
    pub fn score(&self, rows: &[f64], probabilities: &mut Vec<f64>) {
        let first = probabilities.len();
        probabilities.resize(first + rows.len() / self.inputs(), 0.0);
        let sums = &mut probabilities[first..];
        self.kernel.add_values(rows, sums);
        let trees = self.trees() as f64;
        for sum in sums {
            *sum /= trees;
        }
    }

    /// Shapley values of the probability of `row` against each of `background`'s rows, averaged, one an input; and the
    /// background's mean probability. Nothing is missing in the rows.
    pub(crate) fn contributions(&self, row: &[f64], background: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let inputs: Vec<u32> = (0..self.inputs() as u32).collect();
        let walked = Walked {
            layout: &self.layout,
            inputs: &inputs,
            width: 1,
        };
        let (mut parts, mut bias) = shapley::values(&walked, row, background, |node, add| {
            add(0, self.layout.nodes[node].value);
        });
        let trees = self.trees() as f64;
        parts
            .iter_mut()
            .chain(&mut bias)
            .for_each(|it| *it /= trees);
        (parts, bias)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(value: f64) -> SourceNode {
        SourceNode::Leaf { value }
    }

    fn split(input: usize, threshold: f64, at_most: usize, above: usize) -> SourceNode {
        SourceNode::Split {
            input,
            threshold,
            at_most,
            above,
        }
    }

    fn problem(trees: &[Vec<SourceNode>]) -> (usize, Problem) {
        match Forest::new(2, trees) {
            Err(Error::Node { node, problem, .. }) => (node, problem),
            other => panic!("a bad node was expected, not {other:?}"),
        }
    }

    #[test]
    fn a_row_on_the_threshold_goes_to_the_at_most_side() {
        let forest = Forest::new(1, &[vec![split(0, 5.0, 2, 1), leaf(0.75), leaf(0.25)]]).unwrap();
        let mut probabilities = vec![];
        forest.score(&[4.0, 5.0, 5.000_001], &mut probabilities);
        assert_eq!(probabilities, [0.25, 0.25, 0.75]);
    }

    #[test]
    fn the_answer_is_the_mean_over_the_trees_and_is_appended() {
        let trees = [
            vec![leaf(0.5)],
            vec![
                split(0, 0.0, 1, 2),
                leaf(0.0),
                split(1, 1.0, 3, 4),
                leaf(0.25),
                leaf(1.0),
            ],
        ];
        let forest = Forest::new(2, &trees).unwrap();
        let mut probabilities = vec![9.0];
        forest.score(&[-1.0, 0.0, 1.0, 1.0, 1.0, 2.0], &mut probabilities);
        assert_eq!(probabilities, [9.0, 0.25, 0.375, 0.75]);
    }

    /// A tree grown from a stream of choices: where there are none left, and at depth 12, leaves.
    fn grow(choices: &mut impl Iterator<Item = (bool, usize, f64, f64)>) -> Vec<SourceNode> {
        let mut tree = vec![];
        let mut wanted = vec![0];
        while let Some(depth) = wanted.pop() {
            let at = tree.len();
            match choices.next() {
                Some((true, input, threshold, _)) if depth < 12 => {
                    // Depth first: the last one asked for comes next.
                    let next = at + 1;
                    tree.push(split(input, threshold, next, usize::MAX));
                    wanted.extend([depth + 1, depth + 1]);
                }
                Some((.., value)) => tree.push(leaf(value)),
                None => tree.push(leaf(0.5)),
            }
        }
        link(&mut tree, 0);
        tree
    }

    /// Sets the second child of every split of a depth-first tree; returns where the subtree ends.
    fn link(tree: &mut [SourceNode], at: usize) -> usize {
        if matches!(tree[at], SourceNode::Leaf { .. }) {
            return at + 1;
        }
        let second = link(tree, at + 1);
        if let SourceNode::Split { above, .. } = &mut tree[at] {
            *above = second;
        }
        link(tree, second)
    }

    /// The definition.
    fn walk(tree: &[SourceNode], row: &[f64]) -> f64 {
        let mut at = 0;
        loop {
            match tree[at] {
                SourceNode::Leaf { value } => return value,
                SourceNode::Split {
                    input,
                    threshold,
                    at_most,
                    above,
                } => {
                    at = if row[input] <= threshold {
                        at_most
                    } else {
                        above
                    }
                }
            }
        }
    }

    /// Few values, so that rows lie on thresholds; and the edges of what a float is.
    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-3..4_i8).prop_map(f64::from),
            1 => Just(f64::INFINITY),
            1 => Just(f64::NEG_INFINITY),
            1 => Just(-0.0),
            1 => Just(f64::MIN_POSITIVE / 2.0),
            1 => Just(1.0 + f64::EPSILON),
            1 => any::<f64>().prop_filter("a number", |value| !value.is_nan()),
        ]
    }

    proptest! {
        #[test]
        fn walks_at_once_end_where_each_alone_does(
            choices in prop::collection::vec((prop::bool::weighted(0.6), 0..3_usize, value(), 0.0..=1.0), 0..400),
            trees in 1..40_usize,
            rows in prop::collection::vec(prop_oneof![9 => value(), 1 => Just(f64::NAN)], 0..900),
        ) {
            let mut choices = choices.into_iter();
            let trees: Vec<_> = (0..trees).map(|_| grow(&mut choices)).collect();
            let forest = Forest::new(3, &trees).unwrap();
            let rows = &rows[..rows.len() / 3 * 3];
            let mut found = vec![];
            forest.score(rows, &mut found);
            let mean = |row: &[f64]| trees.iter().map(|tree| walk(tree, row)).sum::<f64>() / trees.len() as f64;
            let expected: Vec<f64> = rows.chunks(3).map(mean).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_thousand_trees_and_more_rows_than_a_block_are_scored_as_each_alone() {
        let tree = |n: usize| vec![split(n % 2, n as f64, 1, 2), leaf(0.25), leaf(1.0)];
        let trees: Vec<_> = (0..1_000).map(tree).collect();
        let forest = Forest::new(2, &trees).unwrap();
        let rows: Vec<f64> = (0..2_006).map(f64::from).collect();
        let mut found = vec![];
        forest.score(&rows, &mut found);
        for (row, found) in rows.chunks(2).zip(found) {
            let mean = trees.iter().map(|tree| walk(tree, row)).sum::<f64>() / 1_000.0;
            assert_eq!(found, mean, "{row:?}");
        }
    }

    #[test]
    fn unsound_nodes_are_refused_with_their_place() {
        assert_eq!(problem(&[vec![]]), (0, Problem::Absent));
        assert_eq!(problem(&[vec![leaf(1.5)]]), (0, Problem::Value(1.5)));
        let far = vec![split(0, 0.0, 1, 9), leaf(0.0)];
        assert_eq!(problem(&[far]), (9, Problem::Absent));
        let unknown = vec![split(2, 0.0, 1, 2), leaf(0.0), leaf(0.0)];
        assert_eq!(problem(&[unknown]), (0, Problem::Input(2)));
        let not_a_number = vec![split(0, f64::NAN, 1, 2), leaf(0.0), leaf(0.0)];
        assert_eq!(problem(&[not_a_number]), (0, Problem::Threshold));
    }

    #[test]
    fn circles_and_shared_children_are_refused() {
        let circle = vec![split(0, 0.0, 0, 1), leaf(0.0)];
        assert_eq!(problem(&[circle]).1, Problem::Parents);
        let shared = vec![split(0, 0.0, 1, 1), leaf(0.0)];
        assert_eq!(problem(&[shared]).1, Problem::Parents);
    }

    #[test]
    fn a_tree_too_deep_is_refused() {
        let mut chain: Vec<SourceNode> = vec![];
        for depth in 0..=DEPTH_MAX {
            chain.push(split(0, depth as f64, 2 * depth + 1, 2 * depth + 2));
            chain.push(leaf(0.0));
        }
        chain.push(leaf(0.0));
        let (_, problem) = problem(&[chain]);
        assert_eq!(problem, Problem::Depth);
    }

    #[test]
    fn a_forest_needs_trees_and_inputs() {
        assert!(matches!(
            Forest::new(1, &[]),
            Err(Error::Size { what: "trees", .. })
        ));
        let one = [vec![leaf(0.5)]];
        assert!(matches!(
            Forest::new(0, &one),
            Err(Error::Size { what: "inputs", .. })
        ));
    }
}
