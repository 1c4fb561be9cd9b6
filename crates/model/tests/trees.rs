//! Trees as ONNX describes them against a plain reading of that description, node by node.

mod common;

use common::{import_options, named, score};
use proptest::prelude::*;
use prost::Message as _;
use quadrille_model::import::{ImportOptions, import};
use quadrille_model::package::{Activation, Error, Labels};
use quadrille_model::{Outputs, Package};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto,
    ValueInfoProto,
};

const INPUTS: usize = 3;

/// A node of a tree in pre-order; children come after their parents.
#[derive(Debug, Clone)]
enum Node {
    Split {
        mode: &'static str,
        input: usize,
        threshold: f32,
        missing_holds: bool,
        holds: usize,
        fails: usize,
    },
    Leaf(Vec<(usize, f32)>),
}

/// The definition: where a row ends.
fn walk<'a>(tree: &'a [Node], row: &[f64]) -> &'a [(usize, f32)] {
    let mut at = 0;
    loop {
        match &tree[at] {
            Node::Leaf(weights) => return weights,
            Node::Split {
                mode,
                input,
                threshold,
                missing_holds,
                holds,
                fails,
            } => {
                let value = row[*input] as f32;
                let met = match *mode {
                    "BRANCH_LEQ" => value <= *threshold,
                    "BRANCH_LT" => value < *threshold,
                    "BRANCH_GTE" => value >= *threshold,
                    "BRANCH_GT" => value > *threshold,
                    "BRANCH_EQ" => value == *threshold,
                    _ => value != *threshold,
                };
                let met = met || value.is_nan() && *missing_holds;
                at = if met { *holds } else { *fails };
            }
        }
    }
}

/// Means of what is asked at a node: mode, column, threshold, where missing goes.
type Ask = (&'static str, usize, f32, bool);

/// A tree grown from a stream of choices, at most eight deep; leaves' weights come from another one.
fn grow(
    asks: &mut impl Iterator<Item = Option<Ask>>,
    weights: &mut impl Iterator<Item = Vec<(usize, f32)>>,
) -> Vec<Node> {
    fn add(
        tree: &mut Vec<Node>,
        depth: usize,
        asks: &mut impl Iterator<Item = Option<Ask>>,
        weights: &mut impl Iterator<Item = Vec<(usize, f32)>>,
    ) -> usize {
        let at = tree.len();
        let ask = asks.next().flatten().filter(|_| depth < 8);
        tree.push(Node::Leaf(vec![]));
        tree[at] = match ask {
            None => Node::Leaf(weights.next().unwrap_or_default()),
            Some((mode, input, threshold, missing_holds)) => {
                let holds = add(tree, depth + 1, asks, weights);
                let fails = add(tree, depth + 1, asks, weights);
                Node::Split {
                    mode,
                    input,
                    threshold,
                    missing_holds,
                    holds,
                    fails,
                }
            }
        };
        at
    }
    let mut tree = vec![];
    add(&mut tree, 0, asks, weights);
    tree
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints,
        r#type: 7,
        ..AttributeProto::default()
    }
}

fn floats(name: &str, floats: Vec<f32>) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        floats,
        r#type: 6,
        ..AttributeProto::default()
    }
}

/// A regressor of these trees, as an ONNX file.
fn file(trees: &[Vec<Node>], targets: usize) -> Vec<u8> {
    let all = || {
        trees.iter().enumerate().flat_map(|(tree, nodes)| {
            nodes
                .iter()
                .enumerate()
                .map(move |(at, node)| (tree as i64, at as i64, node))
        })
    };
    let split = |get: fn(&Node) -> i64| all().map(|(.., node)| get(node)).collect::<Vec<_>>();
    let weights: Vec<(i64, i64, i64, f32)> = all()
        .filter_map(|(tree, at, node)| match node {
            Node::Leaf(weights) => Some(
                weights
                    .iter()
                    .map(move |(id, w)| (tree, at, *id as i64, *w)),
            ),
            Node::Split { .. } => None,
        })
        .flatten()
        .collect();
    let threshold = |node: &Node| match node {
        Node::Split { threshold, .. } => *threshold,
        Node::Leaf(_) => 0.0,
    };
    let mode = |node: &Node| match node {
        Node::Split { mode, .. } => mode.as_bytes().to_vec(),
        Node::Leaf(_) => b"LEAF".to_vec(),
    };
    let attribute = vec![
        ints("nodes_treeids", all().map(|(tree, ..)| tree).collect()),
        ints("nodes_nodeids", all().map(|(_, at, _)| at).collect()),
        ints(
            "nodes_featureids",
            split(|node| match node {
                Node::Split { input, .. } => *input as i64,
                Node::Leaf(_) => 0,
            }),
        ),
        ints(
            "nodes_truenodeids",
            split(|node| match node {
                Node::Split { holds, .. } => *holds as i64,
                Node::Leaf(_) => 0,
            }),
        ),
        ints(
            "nodes_falsenodeids",
            split(|node| match node {
                Node::Split { fails, .. } => *fails as i64,
                Node::Leaf(_) => 0,
            }),
        ),
        ints(
            "nodes_missing_value_tracks_true",
            split(|node| match node {
                Node::Split { missing_holds, .. } => i64::from(*missing_holds),
                Node::Leaf(_) => 0,
            }),
        ),
        floats(
            "nodes_values",
            all().map(|(.., node)| threshold(node)).collect(),
        ),
        AttributeProto {
            name: "nodes_modes".to_owned(),
            strings: all().map(|(.., node)| mode(node)).collect(),
            ..AttributeProto::default()
        },
        ints("target_treeids", weights.iter().map(|it| it.0).collect()),
        ints("target_nodeids", weights.iter().map(|it| it.1).collect()),
        ints("target_ids", weights.iter().map(|it| it.2).collect()),
        floats("target_weights", weights.iter().map(|it| it.3).collect()),
        AttributeProto {
            name: "n_targets".to_owned(),
            i: targets as i64,
            ..AttributeProto::default()
        },
    ];
    let node = NodeProto {
        op_type: "TreeEnsembleRegressor".to_owned(),
        domain: "ai.onnx.ml".to_owned(),
        input: vec!["X".to_owned()],
        output: vec!["Y".to_owned()],
        attribute,
        ..NodeProto::default()
    };
    let value = |name: &str| ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Value::TensorType(Tensor {
                elem_type: DataType::Float.into(),
                shape: None,
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        input: vec![value("X")],
        output: vec![value("Y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        domain: "ai.onnx.ml".to_owned(),
        version: 3,
    };
    ModelProto {
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelProto::default()
    }
    .encode_to_vec()
}

fn package(trees: &[Vec<Node>], targets: usize) -> Package {
    let options = import_options(INPUTS, Outputs::Values(named("y", targets)));
    import(file(trees, targets), options).unwrap()
}

/// The sums of the definition, tree after tree.
fn expected(trees: &[Vec<Node>], rows: &[f64], targets: usize) -> Vec<f64> {
    rows.chunks(INPUTS)
        .flat_map(|row| {
            let mut sums = vec![0.0; targets];
            for (id, weight) in trees.iter().flat_map(|tree| walk(tree, row)) {
                sums[*id] += f64::from(*weight);
            }
            sums
        })
        .collect()
}

fn modes() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "BRANCH_LEQ",
        "BRANCH_LT",
        "BRANCH_GTE",
        "BRANCH_GT",
        "BRANCH_EQ",
        "BRANCH_NEQ",
    ])
}

/// Few numbers, so that rows lie on thresholds and one step beside them; and the edges of what a float is.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-2..3_i8).prop_map(f32::from),
        1 => (-2..3_i8).prop_map(|it| f32::from(it).next_up()),
        1 => (-2..3_i8).prop_map(|it| f32::from(it).next_down()),
        1 => Just(-0.0_f32),
        1 => Just(f32::MAX),
        1 => Just(f32::MIN),
        1 => Just(f32::from_bits(1)),
    ]
}

fn row_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => number().prop_map(f64::from),
        2 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        // What single precision cannot hold is rounded first.
        1 => (-2..3_i8).prop_map(|it| f64::from(it).next_up()),
        1 => Just(1e300),
    ]
}

fn leaf(targets: usize) -> impl Strategy<Value = Vec<(usize, f32)>> {
    // Quarters: their sums are exact, whatever the order.
    let weight = (-40..40_i16).prop_map(|it| f32::from(it) / 4.0);
    prop::collection::vec((0..targets, weight), 0..targets + 2)
}

proptest! {
    #[test]
    fn every_row_gets_the_sums_of_the_definition(
        asks in prop::collection::vec(prop::option::weighted(0.6, (modes(), 0..INPUTS, number(), any::<bool>())), 0..300),
        (targets, weights) in (1..5_usize).prop_flat_map(|targets| (Just(targets), prop::collection::vec(leaf(targets), 300))),
        trees in 1..20_usize,
        rows in prop::collection::vec(row_value(), 0..400),
    ) {
        let (mut asks, mut weights) = (asks.into_iter(), weights.into_iter());
        let trees: Vec<_> = (0..trees).map(|_| grow(&mut asks, &mut weights)).collect();
        let rows = &rows[..rows.len() / INPUTS * INPUTS];
        let mut found = vec![];
        package(&trees, targets).model().score(rows, &mut found);
        prop_assert_eq!(found, expected(&trees, rows, targets));
    }
}

#[test]
fn a_thousand_trees_of_sixty_four_classes_and_lone_leaves_are_summed_as_each_alone() {
    let split = |tree: usize| Node::Split {
        mode: ["BRANCH_LEQ", "BRANCH_GT", "BRANCH_LT"][tree % 3],
        input: tree % INPUTS,
        threshold: tree as f32 / 10.0,
        missing_holds: tree.is_multiple_of(2),
        holds: 1,
        fails: 2,
    };
    let dense = |scale: f32| Node::Leaf((0..64).map(|id| (id, scale * id as f32 / 4.0)).collect());
    let tree = |tree: usize| match tree % 5 {
        0 => vec![Node::Leaf(vec![(tree % 64, 0.5)])],
        _ => vec![split(tree), dense(1.0), dense(-0.5)],
    };
    for trees in [
        (0..1_000).map(tree).collect(),
        (0..1_000).filter(|it| it % 5 != 0).map(tree).collect(),
    ] {
        let trees: Vec<Vec<Node>> = trees;
        let mut rows: Vec<f64> = (0..300).map(|it| f64::from(it) / 3.0).collect();
        rows[7] = f64::NAN;
        let mut found = vec![];
        package(&trees, 64).model().score(&rows, &mut found);
        assert_eq!(found, expected(&trees, &rows, 64));
    }
}

#[test]
fn what_is_no_forest_is_refused_by_name() {
    let refused = |trees: &[Vec<Node>]| {
        let options = import_options(1, Outputs::Values(named("y", 1)));
        import(file(trees, 1), options).unwrap_err().to_string()
    };
    let split = |mode, input, threshold, holds, fails| Node::Split {
        mode,
        input,
        threshold,
        missing_holds: false,
        holds,
        fails,
    };
    let leaf = || Node::Leaf(vec![(0, 1.0)]);
    let below = |at: &str, trees: &[Vec<Node>]| {
        let found = refused(trees);
        assert!(found.contains(at), "{found}");
    };
    below(
        "column 1",
        &[vec![split("BRANCH_LEQ", 1, 0.0, 1, 2), leaf(), leaf()]],
    );
    below(
        "not a number",
        &[vec![split("BRANCH_LEQ", 0, f32::NAN, 1, 2), leaf(), leaf()]],
    );
    below(
        "BRANCH_MEMBER",
        &[vec![split("BRANCH_MEMBER", 0, 0.0, 1, 2), leaf(), leaf()]],
    );
    below(
        "can never hold",
        &[vec![
            split("BRANCH_LT", 0, f32::NEG_INFINITY, 1, 2),
            leaf(),
            leaf(),
        ]],
    );
    below(
        "no child 7",
        &[vec![split("BRANCH_LEQ", 0, 0.0, 1, 7), leaf()]],
    );
    below(
        "two trees, or its own descendant",
        &[vec![split("BRANCH_LEQ", 0, 0.0, 1, 1), leaf()]],
    );
    below(
        "in no tree",
        &[
            vec![leaf()],
            vec![split("BRANCH_LEQ", 0, 0.0, 0, 1), leaf()],
        ],
    );
    below("output 3", &[vec![Node::Leaf(vec![(3, 1.0)])]]);
}

#[test]
fn logits_are_no_probabilities_and_are_refused_where_rows_are_recorded() {
    let trees = [vec![Node::Leaf(vec![(0, 4.25)])]];
    let labels = Labels {
        negative: "ok".to_owned(),
        positive: "fraud".to_owned(),
    };
    let with = |outputs, activation| {
        let options = ImportOptions {
            activation,
            recorded: vec![1.0; 2 * INPUTS],
            ..import_options(INPUTS, outputs)
        };
        import(file(&trees, 1), options)
    };
    let binary = Outputs::Binary(labels);
    let refused = with(binary.clone(), Activation::None).unwrap_err();
    assert!(
        matches!(&refused, Error::NoProbability { row: 1, .. }),
        "{refused}"
    );
    let said = refused.to_string();
    assert!(
        said.contains("4.25 for \"fraud\"") && said.contains("activation sigmoid"),
        "{said}"
    );
    let package = with(binary, Activation::Sigmoid).unwrap();
    let probability = score(&package, &[1.0; INPUTS]);
    assert!((probability[0] - 0.9859).abs() < 1e-3, "{probability:?}");
    // A regression's value may be any number.
    let values = Outputs::Values(vec!["y".to_owned()]);
    with(values, Activation::None).unwrap();
}
