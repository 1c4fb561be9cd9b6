//! What an ONNX file calls the columns of its answers, where it says so. It is compared with what a package calls them: exporters order
//! classes by their names, pipelines have the negative one first.

use prost::Message as _;
use tract_onnx::pb::{ModelProto, NodeProto};

use super::attributes::{Attributes, short};
use super::graph::Graph;
use super::{BYTES_MAX, Error};

/// Nodes between a classifier and its map; longer chains are no exporter's.
const CHAIN_MAX: usize = 32;

/// The classes of an ONNX file, a column each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    pub names: Vec<String>,
    /// Whether the file has numbers for names: then they are positions, or the trainer's codes.
    pub are_numbers: bool,
}

impl Classes {
    /// The classes of the graph's output that holds the answers; none where the file does not say what they are called.
    ///
    /// # Errors
    /// The file is none, or has no such output.
    pub fn read(bytes: &[u8], output: Option<&str>) -> Result<Option<Self>, Error> {
        if bytes.len() > BYTES_MAX {
            return Err(Error::TooLarge);
        }
        let graph = Graph::new(ModelProto::decode(bytes)?, output)?;
        Ok(Classes::of_answers(&graph))
    }

    /// Whether a column is called what another one is called in the file: then answers would be given to the wrong class. Numbers are
    /// names only where all of them are.
    pub(crate) fn contradict(&self, named: &[&str]) -> bool {
        let place = |name: &String| named.iter().position(|it| it == name);
        let mut places = self.names.iter().map(place).enumerate();
        let is_known = !self.are_numbers || places.clone().all(|(_, place)| place.is_some());
        is_known && places.any(|(column, place)| place.is_some_and(|place| place != column))
    }

    /// By the map that the answers are packed into, or else by the classifier they come from.
    fn of_answers(graph: &Graph) -> Option<Self> {
        if let Some(classes) = graph.map.as_ref().and_then(Classes::of) {
            return Some(classes);
        }
        let mut value = graph.output.as_str();
        for _ in 0..CHAIN_MAX {
            let node = graph.maker(value)?;
            match &*node.op_type {
                // The first output is the label.
                "TreeEnsembleClassifier" | "LinearClassifier"
                    if node.output.first().is_none_or(|it| it != value) =>
                {
                    return Classes::of(node);
                }
                // They leave the columns where they are.
                "Identity" | "ZipMap" | "Cast" | "Sigmoid" | "Exp" | "Softmax" | "Normalizer" => {
                    value = node.input.first()?;
                }
                _ => return None,
            }
        }
        None
    }

    fn of(node: &NodeProto) -> Option<Self> {
        let attributes = Attributes(node);
        let texts = attributes.strings("classlabels_strings");
        if !texts.is_empty() {
            let names = texts
                .iter()
                .map(|it| short(&String::from_utf8_lossy(it)))
                .collect();
            return Some(Classes {
                names,
                are_numbers: false,
            });
        }
        // Classifiers and maps differ in the name.
        let numbers = ["classlabels_int64s", "classlabels_ints"].map(|it| attributes.ints(it));
        let numbers = numbers.into_iter().find(|it| !it.is_empty())?;
        Some(Classes {
            names: numbers.iter().map(i64::to_string).collect(),
            are_numbers: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_contradict_where_one_is_in_anothers_column() {
        let contradict = |names: &[&str], are_numbers, named: &[&str]| {
            let names = names.iter().map(|it| (*it).to_owned()).collect();
            Classes { names, are_numbers }.contradict(named)
        };
        for (names, named) in [
            (["a", "b"], ["a", "b"]),
            (["a", "b"], ["x", "y"]),
            (["a", "b"], ["a", "y"]),
        ] {
            assert!(!contradict(&names, false, &named), "{names:?} {named:?}");
        }
        assert!(contradict(&["a", "b"], false, &["b", "a"]));
        assert!(contradict(&["a", "b", "c"], false, &["a", "c", "b"]));
        assert!(contradict(&["a", "b"], false, &["b", "x"]));
        // Codes are not the names that they stand for.
        assert!(!contradict(&["0", "1", "2"], true, &["1", "2", "3"]));
        assert!(!contradict(&["0", "1"], true, &["no", "yes"]));
        assert!(!contradict(&["0", "1"], true, &["0", "1"]));
        assert!(contradict(&["1", "0"], true, &["0", "1"]));
    }
}
