//! The reference: trees in one flat array, walked one row and one tree at a time. Trees outside, rows inside: a
//! tree stays in the cache while all rows of a batch walk it.

use quadrille_model::forest::SourceNode;

#[derive(Clone, Copy)]
struct Node {
    /// The threshold of a split, the value of a leaf.
    value: f64,
    input: u32,
    /// Of the child for `<=`, the other one is next to it; 0 for a leaf.
    child: u32,
}

pub struct Plain {
    inputs: usize,
    roots: Vec<usize>,
    nodes: Vec<Node>,
}

impl Plain {
    /// From trees whose siblings are neighbours.
    pub fn new(inputs: usize, trees: &[Vec<SourceNode>]) -> Self {
        let mut plain = Plain {
            inputs,
            roots: vec![],
            nodes: vec![],
        };
        for tree in trees {
            let root = plain.nodes.len();
            plain.roots.push(root);
            plain.nodes.extend(tree.iter().map(|node| match *node {
                SourceNode::Leaf { value } => Node {
                    value,
                    input: 0,
                    child: 0,
                },
                SourceNode::Split {
                    input,
                    threshold,
                    at_most,
                    ..
                } => Node {
                    value: threshold,
                    input: input as u32,
                    child: (root + at_most) as u32,
                },
            }));
        }
        plain
    }

    /// Appends the mean over the trees for each row.
    pub fn score(&self, rows: &[f64], means: &mut Vec<f64>) {
        let first = means.len();
        means.resize(first + rows.len() / self.inputs, 0.0);
        let sums = &mut means[first..];
        for &root in &self.roots {
            for (row, sum) in rows.chunks_exact(self.inputs).zip(&mut *sums) {
                let mut node = self.nodes[root];
                while node.child != 0 {
                    let at_most = row[node.input as usize] <= node.value;
                    node = self.nodes[(node.child + u32::from(!at_most)) as usize];
                }
                *sum += node.value;
            }
        }
        let trees = self.roots.len() as f64;
        for sum in sums {
            *sum /= trees;
        }
    }
}
