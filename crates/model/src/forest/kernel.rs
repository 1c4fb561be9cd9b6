//! A forest as it is walked, by our own code: tract evaluates a tree ensemble far too slowly. Each step of a walk waits for
//! the one before it, so several walks go at once: eight rows down one tree or, where fewer rows are left, one row down
//! sixteen trees. A step has no branch to guess wrong: it adds the outcome of its comparison to an index, and a walk that
//! has reached its leaf stays there.

use super::layout::{Layout, Node, Tree};
use super::leaves::{Leaves, Values};
use super::simd::Complete;

/// Rows that walk a tree at once: enough to hide the latency of a load, few enough for the registers.
const ROWS: usize = 8;
/// Trees that a row walks at once: they lie in a farther cache.
const TREES: usize = 16;
/// Rows that go through all trees before the next ones do: they and one tree fit a core's first cache.
const BLOCK_ROWS: usize = 128;
/// Steps between two looks at whether all walks have ended: trees may be far from balanced.
const STEPS: u32 = 4;

/// A split, or a leaf: 16 bytes, four to a cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    /// Infinity for a leaf.
    threshold: f64,
    /// Of a leaf the input after the last, which is 0: never above infinity, unlike NaN.
    input: u32,
    /// Of the child for `<=`; the other one is next to it. A leaf's is its own.
    child: u32,
}

#[derive(Default, Clone, PartialEq)]
pub(super) struct Kernel {
    inputs: usize,
    trees: Vec<Tree>,
    steps: Vec<Step>,
    /// Of each leaf, at its index.
    values: Vec<f64>,
    /// Where the CPU and the trees are made for it.
    complete: Option<Box<Complete>>,
}

impl Kernel {
    /// From nodes that were validated.
    pub fn new(layout: &Layout) -> Self {
        let inputs = layout.inputs;
        let step = |(at, node): (usize, &Node)| match node.child {
            0 => Step {
                threshold: f64::INFINITY,
                input: inputs as u32,
                child: at as u32,
            },
            child => Step {
                threshold: node.value,
                input: node.input,
                child,
            },
        };
        let trees = layout.trees();
        Kernel {
            inputs,
            complete: Complete::new(layout, &trees).map(Box::new),
            trees,
            steps: layout.nodes.iter().enumerate().map(step).collect(),
            values: layout.nodes.iter().map(|node| node.value).collect(),
        }
    }

    /// Adds to each row's sum the values of the leaves it reaches, tree after tree.
    pub fn add_values(&self, rows: &[f64], sums: &mut [f64]) {
        let complete = self.complete.as_ref();
        let done = complete.map_or(0, |complete| complete.add_values(rows, sums));
        let rows = &rows[done * self.inputs..];
        self.add_walks(rows, &mut sums[done..], &Values(&self.values));
    }

    /// Adds to each row's sums (row-major) the leaves it reaches, tree after tree.
    pub fn add(&self, rows: &[f64], sums: &mut [f64], leaves: &impl Leaves) {
        let complete = self.complete.as_ref();
        let done = complete.map_or(0, |complete| complete.add(rows, sums, leaves));
        let rows = &rows[done * self.inputs..];
        self.add_walks(rows, &mut sums[done * leaves.width()..], leaves);
    }

    /// As [`Kernel::add`] does, by walks from node to node.
    fn add_walks(&self, rows: &[f64], sums: &mut [f64], leaves: &impl Leaves) {
        let width = leaves.width();
        let count = rows.len() / self.inputs;
        let mut lanes = vec![0.0; BLOCK_ROWS.min(count) * (self.inputs + 1)];
        let blocks = rows.chunks(BLOCK_ROWS * self.inputs);
        for (rows, sums) in blocks.zip(sums.chunks_mut(BLOCK_ROWS * width)) {
            let whole = rows.len() / self.inputs / ROWS * ROWS;
            let (together, alone) = sums.split_at_mut(whole * width);
            let (rows_together, rows_alone) = rows.split_at(whole * self.inputs);
            self.add_together(rows_together, together, &mut lanes, leaves);
            let rows_alone = rows_alone.chunks_exact(self.inputs);
            for (row, sums) in rows_alone.zip(alone.chunks_exact_mut(width)) {
                self.add_alone(row, sums, &mut lanes, leaves);
            }
        }
    }

    /// Eight rows at a time down each tree.
    fn add_together(
        &self,
        rows: &[f64],
        sums: &mut [f64],
        lanes: &mut [f64],
        leaves: &impl Leaves,
    ) {
        let width = (self.inputs + 1) * ROWS;
        // Of eight rows all first inputs, then all second ones, ...: a step's load has one place to be.
        let groups = rows.chunks_exact(self.inputs * ROWS);
        for (rows, lanes) in groups.zip(lanes.chunks_exact_mut(width)) {
            for (walk, row) in rows.chunks_exact(self.inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    lanes[input * ROWS + walk] = *value;
                }
            }
            lanes[self.inputs * ROWS..].fill(0.0);
        }
        let outputs = leaves.width();
        for tree in &self.trees {
            let groups = sums.chunks_exact_mut(ROWS * outputs);
            for (lanes, sums) in lanes.chunks_exact(width).zip(groups) {
                let at = self.walk([tree.root; ROWS], tree.depth, |input, walk| {
                    lanes[input as usize * ROWS + walk]
                });
                for (sums, at) in sums.chunks_exact_mut(outputs).zip(at) {
                    leaves.add(at as usize, sums);
                }
            }
        }
    }

    /// One row down sixteen trees at a time.
    fn add_alone(&self, row: &[f64], sums: &mut [f64], lane: &mut [f64], leaves: &impl Leaves) {
        let lane = &mut lane[..=self.inputs];
        lane[..self.inputs].copy_from_slice(row);
        lane[self.inputs] = 0.0;
        for trees in self.trees.chunks(TREES) {
            let mut roots = [trees[0].root; TREES];
            for (root, tree) in roots.iter_mut().zip(trees) {
                *root = tree.root;
            }
            let depth = trees.iter().map(|tree| tree.depth).max().unwrap_or(0);
            let at = self.walk(roots, depth, |input, _| lane[input as usize]);
            leaves.add_all(&at[..trees.len()], sums);
        }
    }

    /// Where `N` walks end that begin at `roots`; `value` gives an input of a walk's row.
    #[inline(always)]
    fn walk<const N: usize>(
        &self,
        roots: [u32; N],
        depth: u32,
        value: impl Fn(u32, usize) -> f64,
    ) -> [u32; N] {
        let steps = self.steps.as_slice();
        let mut at = roots;
        let mut left = depth;
        while left > 0 {
            let before = at;
            for _ in 0..left.min(STEPS) {
                for (walk, at) in at.iter_mut().enumerate() {
                    let step = steps[*at as usize];
                    let at_most = value(step.input, walk) <= step.threshold;
                    *at = step.child + u32::from(!at_most);
                }
            }
            left -= left.min(STEPS);
            if at == before {
                break;
            }
        }
        at
    }
}

#[cfg(test)]
impl Kernel {
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    pub fn without_vectors(&self) -> Self {
        Self {
            complete: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SourceNode;
    use super::*;

    /// A tree of at most `depth` splits on a path, grown from a stream of choices; leaves where there are none left.
    fn grow(
        tree: &mut Vec<SourceNode>,
        depth: u32,
        inputs: usize,
        choices: &mut impl Iterator<Item = (bool, usize, f64)>,
    ) -> usize {
        let at = tree.len();
        let (is_split, input, threshold) = choices.next().unwrap_or((false, 0, 0.1));
        tree.push(SourceNode::Leaf { value: threshold });
        if is_split && depth > 0 {
            let at_most = grow(tree, depth - 1, inputs, choices);
            let above = grow(tree, depth - 1, inputs, choices);
            tree[at] = SourceNode::Split {
                input: input % inputs,
                threshold,
                at_most,
                above,
            };
        }
        at
    }

    /// Few values, so that rows lie on thresholds and one step beside them; and the edges of what a float is.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-9..9_i8).prop_map(|it| f64::from(it) / 3.0),
            1 => (-9..9_i8).prop_map(|it| (f64::from(it) / 3.0).next_up()),
            1 => (-9..9_i8).prop_map(|it| (f64::from(it) / 3.0).next_down()),
            1 => prop::sample::select(vec![-0.0, f64::MAX, f64::MIN, f64::from_bits(1), -f64::from_bits(1)]),
            1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY]),
            2 => -4.0..4.0,
        ]
    }

    /// Three weights a leaf, from its node.
    struct Three;

    impl Leaves for Three {
        fn width(&self) -> usize {
            3
        }

        fn add(&self, leaf: usize, sums: &mut [f64]) {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = *sum * 0.9 + 1.0 / (leaf + at + 1) as f64;
            }
        }
    }

    proptest! {
        /// Where the CPU has no such vectors, this compares nothing.
        #[test]
        fn vectors_add_what_walks_add_to_the_bit(
            (inputs, depth) in (1..36_usize, 0..10_u32),
            choices in prop::collection::vec((prop::bool::weighted(0.8), 0..36_usize, number()), 0..3_000),
            trees in 1..120_usize,
            values in prop::collection::vec(prop_oneof![9 => number(), 1 => Just(f64::NAN)], 36..400),
            rows in 0..300_usize,
        ) {
            let mut choices = choices.into_iter();
            let trees: Vec<_> = (0..trees).map(|_| {
                let mut tree = vec![];
                grow(&mut tree, depth, inputs, &mut choices);
                tree
            }).collect();
            let layout = Layout::new(inputs, &trees).unwrap();
            let kernel = Kernel::new(&layout);
            let walks = kernel.without_vectors();
            let rows: Vec<f64> = values.into_iter().cycle().take(rows * inputs).collect();
            let bits = |sums: &[f64]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();

            let mut found = vec![0.25; rows.len() / inputs];
            let mut expected = found.clone();
            kernel.add_values(&rows, &mut found);
            walks.add_values(&rows, &mut expected);
            prop_assert_eq!(bits(&found), bits(&expected));

            let mut found = vec![0.25; rows.len() / inputs * 3];
            let mut expected = found.clone();
            kernel.add(&rows, &mut found, &Three);
            walks.add(&rows, &mut expected, &Three);
            prop_assert_eq!(bits(&found), bits(&expected));
        }
    }
}
