//! The artefact of a forest: a small binary file, little-endian throughout.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `QDFOREST` |
//! | 4 | format, 1 |
//! | 4 | inputs |
//! | 4 | trees |
//! | 4 | nodes, of all trees together |
//! | 4 × trees | index of each tree's first node; it ends where the next one begins |
//! | 16 × nodes | threshold of a split or value of a leaf (f64), input (u32), index of the `<=` child (u32; 0: leaf) |
//!
//! The child for `>` lies next to the one for `<=`; children come after their parents.

use super::layout::check_size;
use super::{Error, Forest, Layout, Node, TREES_MAX};

/// The first bytes of a forest's artefact.
pub const MAGIC: &[u8; 8] = b"QDFOREST";

/// The version of the form that this code writes and reads.
pub(super) const FORMAT: u32 = 1;

const HEADER_BYTES: usize = 24;
const ROOT_BYTES: usize = 4;
const NODE_BYTES: usize = 16;

impl Forest {
    /// The artefact's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Layout {
            inputs,
            roots,
            nodes,
        } = &self.layout;
        let size = HEADER_BYTES + ROOT_BYTES * roots.len() + NODE_BYTES * nodes.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(MAGIC);
        // Indices are u32 and there are no more inputs, trees or nodes than these can count: see `lay_out`, `validate`.
        let counts = [*inputs, roots.len(), nodes.len()];
        bytes.extend(FORMAT.to_le_bytes());
        for count in counts {
            bytes.extend((count as u32).to_le_bytes());
        }
        for root in roots {
            bytes.extend(root.to_le_bytes());
        }
        for node in nodes {
            bytes.extend(node.value.to_le_bytes());
            bytes.extend(node.input.to_le_bytes());
            bytes.extend(node.child.to_le_bytes());
        }
        bytes
    }

    /// Reads an artefact and validates it.
    ///
    /// # Errors
    /// It is not a forest, is of another format or length than it says, or has a node that is not sound. Nothing is allocated
    /// beyond what the bytes at hand fill.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut rest = Reader(bytes);
        if rest.take::<8>() != Some(*MAGIC) {
            return Err(Error::Magic);
        }
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = rest.u32().ok_or(Error::Length {
                expected: HEADER_BYTES as u64,
                found: bytes.len() as u64,
            })?;
        }
        let [format, inputs, trees, nodes] = counts;
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let expected = HEADER_BYTES as u64
            + ROOT_BYTES as u64 * u64::from(trees)
            + NODE_BYTES as u64 * u64::from(nodes);
        let found = bytes.len() as u64;
        if expected != found {
            return Err(Error::Length { expected, found });
        }
        check_size("trees", trees as usize, TREES_MAX)?;
        Forest::compiled(Layout {
            inputs: inputs as usize,
            roots: (0..trees).map_while(|_| rest.u32()).collect(),
            nodes: (0..nodes).map_while(|_| rest.node()).collect(),
        })
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn node(&mut self) -> Option<Node> {
        Some(Node {
            value: f64::from_le_bytes(self.take()?),
            input: self.u32()?,
            child: self.u32()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Problem, SourceNode};
    use super::*;

    fn small() -> Forest {
        let split = |input, threshold, at_most, above| SourceNode::Split {
            input,
            threshold,
            at_most,
            above,
        };
        let leaf = |value| SourceNode::Leaf { value };
        let trees = [
            vec![
                split(0, 0.5, 1, 2),
                leaf(0.1),
                split(1, -3.0, 3, 4),
                leaf(0.2),
                leaf(1.0),
            ],
            vec![split(1, 7.0, 1, 2), leaf(0.3), leaf(0.9)],
        ];
        Forest::new(2, &trees).unwrap()
    }

    #[test]
    fn a_forest_comes_back_as_it_was() {
        let forest = small();
        let bytes = forest.encode();
        assert_eq!(bytes.len(), 24 + 2 * 4 + 8 * 16);
        assert_eq!(Forest::decode(&bytes).unwrap(), forest);
    }

    #[test]
    fn every_cut_and_every_appended_byte_is_noticed() {
        let mut bytes = small().encode();
        for length in 0..bytes.len() {
            assert!(Forest::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        bytes.push(0);
        assert!(matches!(Forest::decode(&bytes), Err(Error::Length { .. })));
    }

    #[test]
    fn a_header_that_announces_billions_allocates_nothing() {
        let mut bytes = small().encode();
        bytes[16..24].fill(0xff);
        assert!(matches!(Forest::decode(&bytes), Err(Error::Length { .. })));
    }

    #[test]
    fn a_child_before_its_parent_is_refused() {
        let mut bytes = small().encode();
        // The third node is a split; its child becomes the second node.
        let child = 24 + 8 + 2 * 16 + 12;
        bytes[child..child + 4].copy_from_slice(&1u32.to_le_bytes());
        let error = Forest::decode(&bytes);
        assert!(matches!(
            error,
            Err(Error::Node {
                tree: 0,
                node: 2,
                problem: Problem::Children
            })
        ));
    }

    proptest! {
        #[test]
        fn changed_bytes_are_refused_or_still_give_probabilities(
            changes in prop::collection::vec((0..160usize, any::<u8>()), 1..4),
            row in prop::array::uniform2(prop::num::f64::ANY),
        ) {
            let mut bytes = small().encode();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(forest) = Forest::decode(&bytes) {
                let mut probabilities = vec![];
                let rows = row.repeat(forest.inputs());
                forest.score(&rows, &mut probabilities);
                prop_assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
            }
        }
    }
}
