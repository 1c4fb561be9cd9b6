//! How trees lie in memory: flat arrays that are checked before anything walks them.

use super::{DEPTH_MAX, Error, Problem, SourceNode, TREES_MAX};
use crate::INPUTS_MAX;

/// A node as it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Node {
    /// The threshold of a split; of a leaf its value.
    pub value: f64,
    pub input: u32,
    /// Index in `Layout::nodes` of the child for `<=`; the other one is next to it. 0 for a leaf: no child is a root.
    pub child: u32,
}

/// Where a tree begins, and how deep it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tree {
    pub root: u32,
    /// Splits between the root and its deepest leaf.
    pub depth: u32,
}

/// The nodes of trees; sound only once validated.
#[derive(Clone, PartialEq)]
pub(super) struct Layout {
    pub inputs: usize,
    /// Where each tree begins in `nodes`; it ends where the next one begins.
    pub roots: Vec<u32>,
    pub nodes: Vec<Node>,
}

impl Layout {
    /// Lays out `trees`. What cannot be laid out is refused; the rest is for [`Layout::validate`].
    pub fn new(inputs: usize, trees: &[Vec<SourceNode>]) -> Result<Self, Error> {
        let mut layout = Self {
            inputs,
            roots: Vec::with_capacity(trees.len()),
            nodes: Vec::with_capacity(trees.iter().map(Vec::len).sum()),
        };
        for (tree, source) in trees.iter().enumerate() {
            layout
                .lay_out(source)
                .map_err(|(node, problem)| Error::Node {
                    tree,
                    node,
                    problem,
                })?;
        }
        Ok(layout)
    }

    /// Appends one tree, level by level, so that siblings are neighbours and children come after their parents.
    fn lay_out(&mut self, source: &[SourceNode]) -> Result<(), (usize, Problem)> {
        let start = self.nodes.len();
        self.roots
            .push(index_u32(start).ok_or((0, Problem::Children))?);
        let mut reached = vec![false; source.len()];
        let mut order = vec![0];
        let mut done = 0;
        while done < order.len() {
            let at: usize = order[done];
            let seen = reached.get_mut(at).ok_or((at, Problem::Absent))?;
            if std::mem::replace(seen, true) {
                return Err((at, Problem::Parents));
            }
            let node = match source[at] {
                SourceNode::Leaf { value } => Node {
                    value,
                    input: 0,
                    child: 0,
                },
                SourceNode::Split {
                    input,
                    threshold,
                    at_most,
                    above,
                } => {
                    let child = index_u32(start + order.len()).ok_or((at, Problem::Children))?;
                    order.extend([at_most, above]);
                    Node {
                        value: threshold,
                        input: index_u32(input).ok_or((at, Problem::Input(input)))?,
                        child,
                    }
                }
            };
            self.nodes.push(node);
            done += 1;
        }
        Ok(())
    }

    /// The trees of a layout that was validated.
    pub fn trees(&self) -> Vec<Tree> {
        // As children come after their parents, one pass finds every depth.
        let mut depths = vec![0_u32; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            if node.child != 0 {
                let (child, depth) = (node.child as usize, depths[at] + 1);
                depths[child..=child + 1].fill(depth);
            }
        }
        let depth = |root: u32, end: usize| depths[root as usize..end].iter().copied().max();
        let trees = self.roots.iter().zip(self.ends());
        trees
            .map(|(&root, end)| Tree {
                root,
                depth: depth(root, end).unwrap_or(0),
            })
            .collect()
    }

    /// Where each tree ends in `nodes`.
    fn ends(&self) -> impl Iterator<Item = usize> {
        let next = self.roots.iter().skip(1).map(|&root| root as usize);
        next.chain([self.nodes.len()])
    }

    /// Checks every node, so that walking a tree can neither leave it nor go on for ever;
    /// `leaf` says which values a leaf may have.
    pub fn validate(&self, leaf: impl Fn(f64) -> bool) -> Result<(), Error> {
        check_size("inputs", self.inputs, INPUTS_MAX)?;
        check_size("trees", self.roots.len(), TREES_MAX)?;
        // The first tree begins at the first node: with the ends below, every node is in a tree.
        if self.roots.first() != Some(&0) {
            return Err(Error::Node {
                tree: 0,
                node: 0,
                problem: Problem::Absent,
            });
        }
        for (tree, (&root, end)) in self.roots.iter().zip(self.ends()).enumerate() {
            self.validate_tree(root as usize, end, &leaf)
                .map_err(|(node, problem)| Error::Node {
                    tree,
                    node,
                    problem,
                })?;
        }
        Ok(())
    }

    /// Checks the tree that lies in `nodes[root..end]`; an error counts from the root.
    fn validate_tree(
        &self,
        root: usize,
        end: usize,
        leaf: &impl Fn(f64) -> bool,
    ) -> Result<(), (usize, Problem)> {
        let nodes = self.nodes.get(root..end).unwrap_or_default();
        if nodes.is_empty() {
            return Err((0, Problem::Absent));
        }
        // As children come after their parents, one pass sees every depth before it is asked for. None: no parent yet.
        let mut depths: Vec<Option<u8>> = vec![None; nodes.len()];
        depths[0] = Some(0);
        for (at, node) in nodes.iter().enumerate() {
            let depth = depths[at].ok_or((at, Problem::Parents))?;
            if node.child == 0 {
                if !leaf(node.value) {
                    return Err((at, Problem::Value(node.value)));
                }
                continue;
            }
            if node.value.is_nan() {
                return Err((at, Problem::Threshold));
            }
            if node.input as usize >= self.inputs {
                return Err((at, Problem::Input(node.input as usize)));
            }
            if usize::from(depth) >= DEPTH_MAX {
                return Err((at, Problem::Depth));
            }
            let child = (node.child as usize).saturating_sub(root);
            if child <= at || child + 1 >= nodes.len() {
                return Err((at, Problem::Children));
            }
            for depth_of_child in &mut depths[child..=child + 1] {
                if depth_of_child.replace(depth + 1).is_some() {
                    return Err((at, Problem::Parents));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn check_size(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
    if (1..=max).contains(&found) {
        return Ok(());
    }
    Err(Error::Size { what, found, max })
}

fn index_u32(index: usize) -> Option<u32> {
    u32::try_from(index).ok()
}
