//! What number type a column has on its way to trees or through a network: large integers and doubles answer as in ONNX Runtime,
//! whose answers (version 1.32) these are, or not at all. It has no regressor of integers; there the answers are its classifier's.

mod common;

use common::{import_options, named, score};
use prost::Message as _;
use quadrille_model::import::{ImportOptions, import};
use quadrille_model::{Outputs, Package};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};

fn node(operator: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    const ML: [&str; 4] = [
        "ArrayFeatureExtractor",
        "Imputer",
        "Scaler",
        "TreeEnsembleRegressor",
    ];
    let domain = if ML.contains(&operator) {
        "ai.onnx.ml"
    } else {
        ""
    };
    NodeProto {
        op_type: operator.to_owned(),
        domain: domain.to_owned(),
        input: input.iter().map(|it| (*it).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: kind,
        ..AttributeProto::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, 2)
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..attribute(name, 7)
    }
}

fn floats(name: &str, floats: &[f32]) -> AttributeProto {
    AttributeProto {
        floats: floats.to_vec(),
        ..attribute(name, 6)
    }
}

fn modes() -> AttributeProto {
    AttributeProto {
        strings: ["BRANCH_LEQ", "LEAF", "LEAF"].map(Into::into).to_vec(),
        ..attribute("nodes_modes", 8)
    }
}

fn doubles(name: &str, numbers: &[f64]) -> AttributeProto {
    let tensor = TensorProto {
        dims: vec![numbers.len() as i64],
        data_type: DataType::Double.into(),
        double_data: numbers.to_vec(),
        ..TensorProto::default()
    };
    AttributeProto {
        t: Some(tensor),
        ..attribute(name, 4)
    }
}

fn integers(name: &str, dims: &[i64], numbers: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Int64.into(),
        int64_data: numbers.to_vec(),
        ..TensorProto::default()
    }
}

fn cast(input: &str, output: &str, to: DataType) -> NodeProto {
    node("Cast", &[input], output, vec![int("to", to as i64)])
}

/// 1 where the first column is at most the threshold, else 2.
fn trees(input: &str, is_double: bool, threshold: f64) -> NodeProto {
    let mut attributes = vec![
        int("n_targets", 1),
        ints("nodes_treeids", &[0; 3]),
        ints("nodes_nodeids", &[0, 1, 2]),
        ints("nodes_featureids", &[0; 3]),
        ints("nodes_truenodeids", &[1, 0, 0]),
        ints("nodes_falsenodeids", &[2, 0, 0]),
        ints("target_treeids", &[0; 2]),
        ints("target_nodeids", &[1, 2]),
        ints("target_ids", &[0; 2]),
        modes(),
    ];
    attributes.extend(match is_double {
        true => [
            doubles("nodes_values_as_tensor", &[threshold, 0.0, 0.0]),
            doubles("target_weights_as_tensor", &[1.0, 2.0]),
        ],
        false => [
            floats("nodes_values", &[threshold as f32, 0.0, 0.0]),
            floats("target_weights", &[1.0, 2.0]),
        ],
    });
    node("TreeEnsembleRegressor", &[input], "Y", attributes)
}

/// A graph to "Y" of inputs of these widths, for as many columns as they have.
fn imported(
    inputs: &[(&str, DataType, i64)],
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    width: usize,
) -> Result<Package, String> {
    let columns = inputs.iter().map(|it| it.2).sum::<i64>() as usize;
    let names = match inputs {
        [_] => named("x", columns),
        several => several.iter().map(|it| it.0.to_owned()).collect(),
    };
    imported_as(inputs, &names, node, initializer, width)
}

fn imported_as(
    inputs: &[(&str, DataType, i64)],
    names: &[String],
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    width: usize,
) -> Result<Package, String> {
    let value = |name: &str, kind: DataType, sizes: &[Option<i64>]| ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Value::TensorType(Tensor {
                elem_type: kind.into(),
                shape: Some(TensorShapeProto {
                    dim: (sizes.iter())
                        .map(|size| Dimension {
                            value: size.map(dimension::Value::DimValue),
                            ..Dimension::default()
                        })
                        .collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let input = inputs.iter();
    let input = input.map(|(name, kind, width)| value(name, *kind, &[None, Some(*width)]));
    let graph = GraphProto {
        name: "numbers".to_owned(),
        node,
        initializer,
        input: input.collect(),
        output: vec![value("Y", DataType::Float, &[None, Some(width as i64)])],
        ..GraphProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: domain.to_owned(),
        version,
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset("", 17), opset("ai.onnx.ml", 3)],
        ..ModelProto::default()
    };
    let options = ImportOptions {
        inputs: names.to_vec(),
        ..import_options(names.len(), Outputs::Values(named("y", width)))
    };
    let bytes = model.encode_to_vec();
    import(bytes, options).map_err(|error| error.to_string())
}

#[test]
fn a_network_of_several_inputs_reads_all_integers_of_64_bits() {
    let package = imported(
        &[("a", DataType::Int64, 1), ("b", DataType::Double, 1)],
        vec![
            cast("a", "a.double", DataType::Double),
            node("Add", &["a.double", "b"], "sum", vec![]),
            node("Mul", &["sum", "sum"], "square", vec![]),
            cast("square", "Y", DataType::Float),
        ],
        vec![],
        1,
    )
    .unwrap();
    for (a, expected) in [
        (16_777_217.0, Some(1.0)),
        (-2_147_483_648.0, Some(4.611_686e18)),
        (2_147_483_647.0, Some(4.611_685_9e18)),
        (2_147_483_648.0, Some(4.611_686e18)),
        (3_000_000_000.0, Some(9e18)),
        (-9_007_199_254_740_992.0, Some(8.112_963_8e31)),
        (9_223_372_036_854_775_808.0, None),
        (0.5, None),
    ] {
        let b = if a == 16_777_217.0 {
            -16_777_216.0
        } else {
            0.0
        };
        let found = score(&package, &[a, b])[0];
        match expected {
            None => assert!(found.is_nan(), "{a}: {found}"),
            Some(expected) => {
                let off: f64 = found / expected - 1.0;
                assert!(off.abs() < 1e-6, "{a}: {found} is not {expected}");
            }
        }
    }
}

#[test]
fn a_network_casts_integers_of_64_bits_as_they_are() {
    let network = |nodes| imported(&[("X", DataType::Int64, 1)], nodes, vec![], 1).unwrap();
    let casting = network(vec![
        cast("X", "integer", DataType::Int64),
        cast("integer", "Y", DataType::Float),
    ]);
    let plain = network(vec![cast("X", "Y", DataType::Float)]);
    for package in [casting, plain] {
        assert_eq!(score(&package, &[-2_147_483_648.0]), [-2_147_483_648.0]);
        assert_eq!(score(&package, &[3_000_000_000.0]), [3_000_000_000.0]);
    }
}

#[test]
fn what_a_network_computes_is_cast_to_integers_of_64_bits() {
    let to = |kind| {
        let nodes = vec![
            node("Mul", &["X", "thousand"], "large", vec![]),
            cast("large", "integer", kind),
            cast("integer", "Y", DataType::Float),
        ];
        let tensor = TensorProto {
            data_type: DataType::Float.into(),
            float_data: vec![1000.0],
            int64_data: vec![],
            ..integers("thousand", &[1], &[])
        };
        imported(&[("X", DataType::Float, 1)], nodes, vec![tensor], 1).unwrap()
    };
    let package = to(DataType::Int64);
    for (x, expected) in [
        (3_000_000.0, 3e9_f32),
        (-3_000_000.0, -3e9),
        (4e15, 4e15_f32 * 1000.0),
        (0.0019, 1.0),
        (-0.0019, -1.0),
    ] {
        assert_eq!(score(&package, &[x]), [f64::from(expected)], "{x}");
    }
    // Where there is no such integer, ONNX Runtime's answer depends on the processor; here that row has none, and its neighbours have.
    let rows = [1.0, 1e16, 2.0, -1e16, 3e6];
    let found = score(&package, &rows);
    assert!(found[1].is_nan() && found[3].is_nan(), "{found:?}");
    assert_eq!([found[0], found[2], found[4]], [1e3, 2e3, 3e9]);
    let narrow = to(DataType::Int32);
    assert_eq!(score(&narrow, &[2e6]), [2e9]);
    assert!(score(&narrow, &[3e6])[0].is_nan());
}

#[test]
fn integers_of_rows_that_meet_sizes_are_refused_by_the_node() {
    let nodes = vec![
        node("Shape", &["X"], "sizes", vec![]),
        NodeProto {
            name: "stretch".to_owned(),
            ..node("Mul", &["X", "sizes"], "product", vec![])
        },
        cast("product", "Y", DataType::Float),
    ];
    let error = imported(&[("X", DataType::Int64, 2)], nodes, vec![], 2).unwrap_err();
    assert!(
        error.contains("stretch") && error.contains("together with sizes"),
        "{error}"
    );
}

#[test]
fn an_imputer_fills_integers_by_those_that_it_has_for_them() {
    let fill = |attributes: Vec<AttributeProto>| node("Imputer", &["X"], "filled", attributes);
    let whole = || {
        fill(vec![
            ints("imputed_value_int64s", &[16_777_217]),
            int("replaced_value_int64", -1),
        ])
    };
    let of_trees = |imputer, kind| {
        let nodes = vec![
            imputer,
            cast("filled", "double", DataType::Double),
            trees("double", true, 16_777_216.5),
        ];
        imported(&[("X", kind, 1)], nodes, vec![], 1)
    };
    let of_network = |imputer, kind| {
        let nodes = vec![
            imputer,
            cast("filled", "double", DataType::Double),
            node("Sub", &["double", "offset"], "moved", vec![]),
            cast("moved", "Y", DataType::Float),
        ];
        let offset = TensorProto {
            data_type: DataType::Double.into(),
            double_data: vec![16_777_216.0],
            int64_data: vec![],
            ..integers("offset", &[1], &[])
        };
        imported(&[("X", kind, 1)], nodes, vec![offset], 1)
    };
    let package = of_trees(whole(), DataType::Int64).unwrap();
    for (x, expected) in [(-1.0, 2.0), (16_777_216.0, 1.0), (16_777_217.0, 2.0)] {
        assert_eq!(score(&package, &[x]), [expected], "{x}");
    }
    let package = of_network(whole(), DataType::Int64).unwrap();
    for (x, expected) in [(-1.0, 1.0), (16_777_216.0, 0.0), (16_777_219.0, 3.0)] {
        assert_eq!(score(&package, &[x]), [expected], "{x}");
    }
    let float = || fill(vec![floats("imputed_value_floats", &[7.0])]);
    for (imputer, kind, reason) in [
        (float(), DataType::Int64, "no imputed_value_int64s"),
        (whole(), DataType::Int32, "not on Int32"),
        (whole(), DataType::Float, "no imputed_value_floats"),
    ] {
        for import in [
            of_trees(imputer.clone(), kind),
            of_network(imputer.clone(), kind),
        ] {
            let error = import.unwrap_err();
            assert!(
                error.contains("Imputer") && error.contains(reason),
                "{error}"
            );
        }
    }
}

#[test]
fn integers_reach_trees_of_doubles_as_they_are() {
    let package = imported(
        &[("a", DataType::Int64, 1), ("b", DataType::Double, 1)],
        vec![
            cast("a", "a.double", DataType::Double),
            node("Concat", &["a.double", "b"], "joined", vec![int("axis", 1)]),
            trees("joined", true, 16_777_216.5),
        ],
        vec![],
        1,
    )
    .unwrap();
    for (a, expected) in [
        (16_777_216.0, 1.0),
        (16_777_217.0, 2.0),
        (3_000_000_000.0, 2.0),
    ] {
        assert_eq!(score(&package, &[a, 0.0]), [expected], "{a}");
    }
}

#[test]
fn integers_are_rounded_where_floats_are_made_of_them() {
    let int64 = [("X", DataType::Int64, 1)];
    // 16777217 is no float; the nearest is 16777216.
    let direct = vec![trees("X", false, 16_777_216.0)];
    let as_float = vec![
        cast("X", "float", DataType::Float),
        cast("float", "double", DataType::Double),
        trees("double", true, 16_777_216.0),
    ];
    let scaled = vec![
        node(
            "Scaler",
            &["X"],
            "scaled",
            vec![floats("offset", &[16_777_216.0]), floats("scale", &[1.0])],
        ),
        trees("scaled", false, 0.0),
    ];
    for nodes in [direct, as_float, scaled] {
        let package = imported(&int64, nodes.clone(), vec![], 1).unwrap();
        for (x, expected) in [(16_777_217.0, 1.0), (16_777_218.0, 2.0)] {
            assert_eq!(score(&package, &[x]), [expected], "{x} {nodes:?}");
        }
    }
}

#[test]
fn arithmetic_on_integers_ahead_of_trees_is_refused_by_name() {
    for operator in ["Add", "Sub", "Mul", "Div"] {
        let nodes = |read: &str| {
            vec![
                cast("X", "float", DataType::Float),
                node(operator, &[read, "two"], "computed", vec![]),
                trees("computed", false, 3.2),
            ]
        };
        let two = || vec![integers("two", &[1], &[2])];
        for kind in [DataType::Int64, DataType::Int32] {
            let error = imported(&[("X", kind, 1)], nodes("X"), two(), 1).unwrap_err();
            assert!(
                error.contains(operator) && error.contains("cast the column to float"),
                "{error}"
            );
        }
        let float = TensorProto {
            data_type: DataType::Float.into(),
            float_data: vec![2.0],
            int64_data: vec![],
            ..integers("two", &[1], &[])
        };
        imported(&[("X", DataType::Int64, 1)], nodes("float"), vec![float], 1).unwrap();
    }
}

#[test]
fn a_scaler_computes_doubles_in_double_precision() {
    let scaler = |offset: &[f32], scale: &[f32], output: &str| {
        let attributes = vec![floats("offset", offset), floats("scale", scale)];
        node("Scaler", &["X"], output, attributes)
    };
    let (offset, scale) = ([1_764_357_632.0, 0.0], [1.0, 2.0]);
    let scaled = |kind| {
        let nodes = vec![scaler(&offset, &scale, "Y")];
        let package = imported(&[("X", kind, 2)], nodes, vec![], 2).unwrap();
        score(&package, &[1_764_357_650.0, 4.0])
    };
    assert_eq!(scaled(DataType::Double), [18.0, 8.0]);
    assert_eq!(scaled(DataType::Float), [0.0, 8.0]);
    assert_eq!(scaled(DataType::Int64), [0.0, 8.0]);

    // Ahead of trees: rounded once, three times this is the float at the threshold; rounded before, it is the next.
    let x = 1.0 + 2_f64.powi(-24) + 2_f64.powi(-40);
    let threshold = 3.0 + 2_f64.powi(-22);
    let nodes = vec![
        scaler(&[0.0], &[3.0], "scaled"),
        trees("scaled", false, threshold),
    ];
    let package = imported(&[("X", DataType::Double, 1)], nodes, vec![], 1).unwrap();
    assert_eq!(score(&package, &[x]), [1.0]);
}

#[test]
fn two_tensors_that_would_read_one_input_are_refused() {
    let error = imported_as(
        &[("a b", DataType::Float, 1), ("a_b", DataType::Float, 1)],
        &["a_b".to_owned()],
        vec![node("Add", &["a b", "a_b"], "Y", vec![])],
        vec![],
        1,
    )
    .unwrap_err();
    assert!(
        error.contains("the tensors \"a b\" and \"a_b\" for the one input \"a_b\""),
        "{error}"
    );
}

#[test]
fn columns_are_picked_of_tables_alone() {
    let picked = |ahead: Vec<NodeProto>, read: &str| {
        let pick = node("ArrayFeatureExtractor", &[read, "places"], "Y", vec![]);
        let nodes = ahead.into_iter().chain([pick]).collect();
        let constants = vec![integers("places", &[1], &[0]), integers("two", &[1], &[2])];
        imported(&[("X", DataType::Float, 3)], nodes, constants, 1)
    };
    assert_eq!(
        score(&picked(vec![], "X").unwrap(), &[5.0, 6.0, 7.0]),
        [5.0]
    );
    // Each row as three rows of one: the last axis has one place, and three numbers come of it.
    let deep = node("Unsqueeze", &["X", "two"], "deep", vec![]);
    let error = picked(vec![deep], "deep").unwrap_err();
    assert!(error.contains("tensor of rank 2"), "{error}");
}

#[test]
fn many_nodes_over_many_columns_ahead_of_trees_are_refused() {
    let columns = quadrille_model::INPUTS_MAX as i64;
    let with = |count: usize| {
        let mut nodes = vec![];
        let mut joined = vec![];
        for at in 0..count {
            let (all, one) = (format!("all{at}"), format!("one{at}"));
            nodes.push(node("Identity", &["X"], &all, vec![]));
            nodes.push(node(
                "Gather",
                &[&all, "places"],
                &one,
                vec![int("axis", 1)],
            ));
            joined.push(one);
        }
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        nodes.push(node("Concat", &joined, "joined", vec![int("axis", 1)]));
        nodes.push(trees("joined", false, 0.5));
        let places = vec![integers("places", &[1], &[1])];
        imported(&[("X", DataType::Float, columns)], nodes, places, 1)
    };
    with(20).unwrap();
    let error = with(1_000).unwrap_err();
    assert!(
        error.contains("columns and steps on them ahead of its trees"),
        "{error}"
    );
}
