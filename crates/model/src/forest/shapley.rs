//! Exact Shapley values of trees against rows to compare with.
//!
//! The game: inputs that take part have the row's values, the others those of a row of the background. A tree then needs
//! no counts of training rows, which exchange formats do not carry. For one row of the background, a leaf is reached by
//! those coalitions that hold all inputs on its path where only the row's value leads there (A) and none where only the
//! other's does (B); with a = |A| and b = |B|, each input of A then owns w / (a · (a+b over a)) of its weight w, each of B
//! −w / (b · (a+b over a)). One walk over the leaves that either row's values can reach is exact.

use super::layout::Layout;

/// Trees to attribute.
pub(super) struct Walked<'a> {
    pub layout: &'a Layout,
    /// Of each operand the input that it reads.
    pub inputs: &'a [u32],
    /// Outputs of a leaf.
    pub width: usize,
}

/// What an input on the path must be for the path to be walked.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Open,
    Row,
    Other,
}

/// The values (row-major, inputs × width) of the row with these `operands` against `others` (rows of operands), averaged; and the
/// mean of the trees' sums over `others`. `leaf` gives the outputs and weights of a leaf by its node.
pub(super) fn values(
    walked: &Walked<'_>,
    operands: &[f64],
    others: &[f64],
    leaf: impl Fn(usize, &mut dyn FnMut(usize, f64)),
) -> (Vec<f64>, Vec<f64>) {
    let inputs = walked.inputs.iter().max().map_or(0, |it| *it as usize + 1);
    let mut found = Found {
        values: vec![0.0; inputs * walked.width],
        bias: vec![0.0; walked.width],
    };
    let mut sides = vec![Side::Open; inputs];
    let width = walked.layout.inputs;
    let count = (others.len() / width) as f64;
    for other in others.chunks_exact(width) {
        for &root in &walked.layout.roots {
            let mut walk = Walk {
                walked,
                operands,
                other,
                leaf: &leaf,
                sides: &mut sides,
                chosen: Vec::new(),
                found: &mut found,
            };
            walk.node(root as usize);
        }
    }
    let Found {
        mut values,
        mut bias,
    } = found;
    values
        .iter_mut()
        .chain(&mut bias)
        .for_each(|it| *it /= count);
    (values, bias)
}

struct Found {
    values: Vec<f64>,
    bias: Vec<f64>,
}

struct Walk<'a, F> {
    walked: &'a Walked<'a>,
    operands: &'a [f64],
    other: &'a [f64],
    leaf: &'a F,
    sides: &'a mut [Side],
    /// The inputs that are not open.
    chosen: Vec<usize>,
    found: &'a mut Found,
}

impl<F: Fn(usize, &mut dyn FnMut(usize, f64))> Walk<'_, F> {
    /// Trees are at most `DEPTH_MAX` deep, so the recursion is.
    fn node(&mut self, at: usize) {
        let node = self.walked.layout.nodes[at];
        if node.child == 0 {
            return self.add(at);
        }
        let operand = node.input as usize;
        let child = |value: f64| {
            let at_most = value <= node.value;
            node.child as usize + usize::from(!at_most)
        };
        let (row, other) = (child(self.operands[operand]), child(self.other[operand]));
        let input = self.walked.inputs[operand] as usize;
        match self.sides[input] {
            _ if row == other => self.node(row),
            Side::Row => self.node(row),
            Side::Other => self.node(other),
            Side::Open => {
                self.chosen.push(input);
                self.sides[input] = Side::Row;
                self.node(row);
                self.sides[input] = Side::Other;
                self.node(other);
                self.sides[input] = Side::Open;
                self.chosen.pop();
            }
        }
    }

    fn add(&mut self, leaf: usize) {
        let rows = |side: &&usize| self.sides[**side] == Side::Row;
        let with = self.chosen.iter().filter(rows).count();
        let without = self.chosen.len() - with;
        let ways = choose(with + without, with);
        let Found { values, bias } = &mut *self.found;
        let (sides, chosen, width) = (&*self.sides, &self.chosen, self.walked.width);
        (self.leaf)(leaf, &mut |output, weight| {
            if with == 0 {
                bias[output] += weight;
            }
            for &input in chosen {
                values[input * width + output] += match sides[input] {
                    Side::Row => weight / (with as f64 * ways),
                    _ => -weight / (without as f64 * ways),
                };
            }
        });
    }
}

/// `n` over `k`, for n within twice the deepest tree: a few units of rounding off.
fn choose(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).fold(1.0, |ways, i| ways * (n - i) as f64 / (i + 1) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SourceNode;
    use super::*;

    /// A full tree of depth 3 over three inputs.
    fn tree(values: &[(usize, f64)], leaves: &[f64]) -> Vec<SourceNode> {
        let splits = values
            .iter()
            .enumerate()
            .map(|(at, (input, threshold))| SourceNode::Split {
                input: *input,
                threshold: *threshold,
                at_most: 2 * at + 1,
                above: 2 * at + 2,
            });
        let leaves = leaves
            .iter()
            .map(|value| SourceNode::Leaf { value: *value });
        splits.chain(leaves).collect()
    }

    fn walk(layout: &Layout, row: &[f64]) -> f64 {
        let mut at = 0;
        while layout.nodes[at].child != 0 {
            let node = layout.nodes[at];
            at = node.child as usize + usize::from(row[node.input as usize] > node.value);
        }
        layout.nodes[at].value
    }

    /// The definition: the mean over all orders of what an input adds when it joins.
    fn definition(layout: &Layout, row: &[f64; 3], other: &[f64; 3]) -> [f64; 3] {
        let orders = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let mut values = [0.0; 3];
        for order in orders {
            let mut mixed = *other;
            for input in order {
                let before = walk(layout, &mixed);
                mixed[input] = row[input];
                values[input] += (walk(layout, &mixed) - before) / 6.0;
            }
        }
        values
    }

    proptest! {
        #[test]
        fn the_values_are_those_of_the_definition(
            splits in prop::array::uniform7((0..3_usize, -2.0..2.0)),
            leaves in prop::array::uniform8(-1.0..1.0),
            row in prop::array::uniform3(-3.0..3.0),
            other in prop::array::uniform3(-3.0..3.0),
        ) {
            let layout = Layout::new(3, &[tree(&splits, &leaves)]).unwrap();
            layout.validate(|_| true).unwrap();
            let walked = Walked { layout: &layout, inputs: &[0, 1, 2], width: 1 };
            let (found, bias) = values(&walked, &row, &other, |node, add| {
                add(0, layout.nodes[node].value);
            });
            for (found, expected) in found.iter().zip(definition(&layout, &row, &other)) {
                prop_assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
            }
            prop_assert!((bias[0] - walk(&layout, &other)).abs() < 1e-12);
        }
    }
}
