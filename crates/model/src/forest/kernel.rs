//! A forest as it is walked. Each step of a walk waits for the one before it, so several walks go at once: eight
//! rows down one tree or, where fewer rows are left, one row down sixteen trees. A step has no branch to guess
//! wrong: it adds the outcome of its comparison to an index, and a walk that has reached its leaf stays there.

use super::Node;

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

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tree {
    root: u32,
    /// Splits between the root and its deepest leaf.
    depth: u32,
}

#[derive(Default, Clone, PartialEq)]
pub(super) struct Kernel {
    inputs: usize,
    trees: Vec<Tree>,
    steps: Vec<Step>,
    /// Of each leaf, at its index.
    values: Vec<f64>,
}

impl Kernel {
    /// From nodes that were validated.
    pub fn new(inputs: usize, roots: &[u32], nodes: &[Node]) -> Self {
        let mut steps = Vec::with_capacity(nodes.len());
        let mut depths = vec![0_u32; nodes.len()];
        for (at, node) in nodes.iter().enumerate() {
            let is_leaf = node.child == 0;
            if !is_leaf {
                let (child, depth) = (node.child as usize, depths[at] + 1);
                depths[child..=child + 1].fill(depth);
            }
            steps.push(match is_leaf {
                true => Step {
                    threshold: f64::INFINITY,
                    input: inputs as u32,
                    child: at as u32,
                },
                false => Step {
                    threshold: node.value,
                    input: node.input,
                    child: node.child,
                },
            });
        }
        let ends = roots.iter().skip(1).map(|&root| root as usize);
        let ends = ends.chain([nodes.len()]);
        let depth = |root: u32, end: usize| depths[root as usize..end].iter().copied().max();
        let trees = roots.iter().zip(ends).map(|(&root, end)| Tree {
            root,
            depth: depth(root, end).unwrap_or(0),
        });
        Kernel {
            inputs,
            trees: trees.collect(),
            steps,
            values: nodes.iter().map(|node| node.value).collect(),
        }
    }

    /// Adds to each row's sum the leaves it reaches, tree after tree.
    pub fn add(&self, rows: &[f64], sums: &mut [f64]) {
        let mut lanes = vec![0.0; BLOCK_ROWS.min(sums.len()) * (self.inputs + 1)];
        let blocks = rows.chunks(BLOCK_ROWS * self.inputs);
        for (rows, sums) in blocks.zip(sums.chunks_mut(BLOCK_ROWS)) {
            let whole = sums.len() / ROWS * ROWS;
            let (together, alone) = sums.split_at_mut(whole);
            let (rows_together, rows_alone) = rows.split_at(whole * self.inputs);
            self.add_together(rows_together, together, &mut lanes);
            for (row, sum) in rows_alone.chunks_exact(self.inputs).zip(alone) {
                self.add_alone(row, sum, &mut lanes);
            }
        }
    }

    /// Eight rows at a time down each tree.
    fn add_together(&self, rows: &[f64], sums: &mut [f64], lanes: &mut [f64]) {
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
        for tree in &self.trees {
            for (lanes, sums) in lanes.chunks_exact(width).zip(sums.chunks_exact_mut(ROWS)) {
                let at = self.walk([tree.root; ROWS], tree.depth, |input, walk| {
                    lanes[input as usize * ROWS + walk]
                });
                for (sum, at) in sums.iter_mut().zip(at) {
                    *sum += self.values[at as usize];
                }
            }
        }
    }

    /// One row down sixteen trees at a time.
    fn add_alone(&self, row: &[f64], sum: &mut f64, lane: &mut [f64]) {
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
            for at in &at[..trees.len()] {
                *sum += self.values[*at as usize];
            }
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
