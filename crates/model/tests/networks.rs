//! Networks that would cost more than they are worth, or reach out of their file, are refused by name before they run.

mod common;

use common::{import_options, named};
use prost::Message as _;
use quadrille_model::import::{ImportOptions, import};
use quadrille_model::package::Error;
use quadrille_model::{Outputs, Package};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};

fn node(operator: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        input: input.iter().map(|it| (*it).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: ints.to_vec(),
        r#type: 7,
        ..AttributeProto::default()
    }
}

fn constant(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float.into(),
        float_data: vec![0.5; dims.iter().product::<i64>() as usize],
        ..TensorProto::default()
    }
}

fn value(name: &str, sizes: &[i64]) -> ValueInfoProto {
    let dim = sizes.iter().map(|size| Dimension {
        value: Some(dimension::Value::DimValue(*size)),
        ..Dimension::default()
    });
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Value::TensorType(Tensor {
                elem_type: DataType::Float.into(),
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// A graph from "X" to "Y" for rows of these sizes, as it is imported for `inputs` inputs.
fn imported(
    sizes: &[i64],
    inputs: usize,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
) -> Result<(), Error> {
    package(sizes, inputs, 1, node, initializer).map(drop)
}

fn package(
    sizes: &[i64],
    inputs: usize,
    width: usize,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
) -> Result<Package, Error> {
    recorded(sizes, inputs, width, node, initializer, vec![])
}

/// As [`package`], with answers to these rows recorded.
fn recorded(
    sizes: &[i64],
    inputs: usize,
    width: usize,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    rows: Vec<f64>,
) -> Result<Package, Error> {
    let graph = GraphProto {
        node,
        initializer,
        input: vec![value("X", sizes)],
        output: vec![value("Y", &[1, 1])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        version: 17,
        ..OperatorSetIdProto::default()
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelProto::default()
    };
    let options = ImportOptions {
        recorded: rows,
        ..import_options(inputs, Outputs::Values(named("y", width)))
    };
    import(model.encode_to_vec(), options)
}

fn refused(
    expected: &str,
    sizes: &[i64],
    inputs: usize,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) {
    let error = imported(sizes, inputs, nodes, constants).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(expected), "{expected:?} is not in {error:?}");
}

#[test]
fn a_plain_network_is_taken() {
    let nodes = vec![node("MatMul", &["X", "w"], "Y", vec![])];
    imported(&[0, 2], 2, nodes, vec![constant("w", &[2, 1])]).unwrap();
}

#[test]
fn a_row_that_a_run_fails_at_costs_no_other_row_its_answer() {
    let to = AttributeProto {
        name: "to".to_owned(),
        i: DataType::Int64 as i64,
        r#type: 2,
        ..AttributeProto::default()
    };
    let nodes = vec![
        node("Cast", &["X"], "at", vec![to]),
        node("Gather", &["w", "at"], "Y", vec![]),
    ];
    let package = package(&[0, 2], 2, 2, nodes, vec![constant("w", &[4])]).unwrap();
    // Place 9 is none of the four.
    let mut rows = [0.0, 3.0].repeat(100);
    rows[2 * 17] = 9.0;
    let mut answers = vec![];
    package.model().score(&rows, &mut answers);
    assert_eq!(answers.len(), 200);
    for (row, answer) in answers.chunks(2).enumerate() {
        match row {
            17 => assert!(answer.iter().all(|it| it.is_nan()), "{answer:?}"),
            _ => assert_eq!(answer, [0.5, 0.5], "row {row}"),
        }
    }
}

/// Examples that are alike hide it: what all of them have in common does not change by mixing.
#[test]
fn a_network_that_mixes_rows_is_noticed_by_one_example_and_asked_row_by_row() {
    let nodes = vec![
        node("ReduceMean", &["X"], "mean", vec![ints("axes", &[0])]),
        node("Sub", &["X", "mean"], "Y", vec![]),
    ];
    let rows = vec![3.0, 5.0];
    let package = recorded(&[0, 2], 2, 2, nodes, vec![], rows).unwrap();
    let mut answers = vec![];
    let rows: Vec<f64> = (0..200).map(f64::from).collect();
    package.model().score(&rows, &mut answers);
    // A row alone is its own mean.
    assert_eq!(answers, vec![0.0; 200]);
}

#[test]
fn a_comparison_is_no_test_for_what_is_missing() {
    let to = to_floats();
    let answered = |test: NodeProto, row: [f64; 2]| {
        let nodes = vec![
            test,
            node("Cast", &["test"], "is", vec![to.clone()]),
            node("Mul", &["is", "w"], "Y", vec![]),
        ];
        let package = package(&[0, 2], 2, 2, nodes, vec![constant("w", &[1, 2])]).unwrap();
        let mut answers = vec![];
        package.model().score(&row, &mut answers);
        answers
    };
    let gap = [f64::NAN, 7.0];
    let greater = || node("Greater", &["X", "w"], "test", vec![]);
    assert!(answered(greater(), gap).iter().all(|it| it.is_nan()));
    assert_eq!(answered(greater(), [0.0, 7.0]), [0.0, 0.5]);
    let other = node("Equal", &["X", "w"], "test", vec![]);
    assert!(answered(other, gap).iter().all(|it| it.is_nan()));
    // NaN alone differs from itself.
    let itself = node("Equal", &["X", "X"], "test", vec![]);
    assert_eq!(answered(itself, gap), [0.0, 0.5]);
    let is_nan = node("IsNaN", &["X"], "test", vec![]);
    assert_eq!(answered(is_nan, gap), [0.5, 0.0]);
}

fn to_floats() -> AttributeProto {
    AttributeProto {
        name: "to".to_owned(),
        i: DataType::Float as i64,
        r#type: 2,
        ..AttributeProto::default()
    }
}

fn places(name: &str, places: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![places.len() as i64],
        data_type: DataType::Int64.into(),
        int64_data: places.to_vec(),
        ..TensorProto::default()
    }
}

/// A network of two columns that ends in what an engine makes numbers of NaN by; `first` makes "c" of "X".
fn behind(first: Vec<NodeProto>) -> impl Fn([f64; 2]) -> f64 {
    let last = [
        node("Gemm", &["c", "w"], "h", vec![]),
        node("Relu", &["h"], "r", vec![]),
        node("Gemm", &["r", "v"], "o", vec![]),
        node("Sigmoid", &["o"], "Y", vec![]),
    ];
    let nodes = first.into_iter().chain(last).collect();
    let constants = vec![
        constant("w", &[2, 3]),
        constant("v", &[3, 1]),
        constant("fill", &[1]),
        places("0", &[0]),
        places("1", &[1]),
        places("2", &[2]),
        places("end", &[i64::MAX]),
    ];
    let package = package(&[0, 2], 2, 1, nodes, constants).unwrap();
    move |row| {
        let mut answers = vec![];
        package.model().score(&row, &mut answers);
        answers[0]
    }
}

#[test]
fn a_test_of_one_column_is_none_of_the_others() {
    let concat = |inputs: &[&str]| {
        let axis = AttributeProto {
            name: "axis".to_owned(),
            i: 1,
            r#type: 2,
            ..AttributeProto::default()
        };
        node("Concat", inputs, "c", vec![axis])
    };
    let one = behind(vec![
        node("Slice", &["X", "0", "1", "1"], "a", vec![]),
        node("IsNaN", &["a"], "t", vec![]),
        node("Where", &["t", "fill", "a"], "f", vec![]),
        node("Slice", &["X", "1", "end", "1"], "b", vec![]),
        concat(&["f", "b"]),
    ]);
    assert!(one([3.0, f64::NAN]).is_nan(), "{}", one([3.0, f64::NAN]));
    assert_eq!(one([f64::NAN, 3.0]), one([0.5, 3.0]));
    assert_ne!(one([0.5, 3.0]), one([0.5, 4.0]));
    // No network tests for infinity, nor for what single precision makes one of.
    for beyond in [f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        assert!(one([beyond, 3.0]).is_nan() && one([3.0, beyond]).is_nan());
    }
    let both = behind(vec![
        node("Slice", &["X", "0", "1", "1"], "a", vec![]),
        node("Equal", &["a", "a"], "t", vec![]),
        node("Where", &["t", "a", "fill"], "f", vec![]),
        node("Slice", &["X", "1", "2", "1"], "b", vec![]),
        node("IsNaN", &["b"], "u", vec![]),
        node("Where", &["u", "fill", "b"], "g", vec![]),
        concat(&["f", "g"]),
    ]);
    assert_eq!(both([f64::NAN; 2]), both([0.5, 0.5]));
}

#[test]
fn only_a_choice_by_the_very_test_fills_what_is_missing() {
    let chosen = |choice: NodeProto| {
        let mut nodes = vec![
            node("Sub", &["X", "fill"], "s", vec![]),
            node("IsNaN", &["X"], "t", vec![]),
            node("Not", &["t"], "n", vec![]),
            node("Greater", &["X", "fill"], "g", vec![]),
        ];
        nodes.push(choice);
        behind(nodes)([f64::NAN, 3.0])
    };
    let by = |inputs: &[&str]| node("Where", inputs, "c", vec![]);
    for filled in [
        ["t", "fill", "X"],
        ["n", "X", "fill"],
        ["t", "fill", "s"],
        ["n", "s", "fill"],
    ] {
        assert!(chosen(by(&filled)).is_finite(), "{filled:?}");
    }
    for lost in [["n", "fill", "X"], ["t", "X", "fill"], ["t", "s", "X"]] {
        assert!(chosen(by(&lost)).is_nan(), "{lost:?}");
    }
    // A mask beside the values as they came.
    let nodes = vec![
        node("IsNaN", &["X"], "t", vec![]),
        node("Cast", &["t"], "m", vec![to_floats()]),
        node("Add", &["X", "m"], "c", vec![]),
    ];
    assert!(behind(nodes)([f64::NAN, 3.0]).is_nan());
}

#[test]
fn an_operator_that_is_not_known_is_named() {
    let nodes = vec![node("Expand", &["X", "w"], "Y", vec![])];
    refused("Expand", &[0, 2], 2, nodes, vec![constant("w", &[2])]);
}

#[test]
fn constants_that_multiply_into_billions_are_refused() {
    let nodes = vec![
        node("Mul", &["a", "b"], "c", vec![]),
        node("MatMul", &["X", "c"], "Y", vec![]),
    ];
    let constants = vec![constant("a", &[20_000, 1]), constant("b", &[1, 20_000])];
    refused("its constants are too large", &[0, 2], 2, nodes, constants);
}

#[test]
fn values_that_grow_beyond_memory_are_refused() {
    let nodes = vec![
        node("MatMul", &["X", "a"], "b", vec![]),
        node("MatMul", &["d", "b"], "c", vec![]),
        node("ReduceSum", &["c"], "Y", vec![]),
    ];
    // One row becomes 300,000 × 1,000.
    let constants = vec![constant("a", &[1, 1_000]), constant("d", &[300_000, 1])];
    refused("its values are too large", &[0, 1], 1, nodes, constants);
}

#[test]
fn absurd_windows_and_pads_are_refused() {
    let conv = |attribute| vec![node("Conv", &["X", "w"], "Y", vec![attribute])];
    let weights = || vec![constant("w", &[1, 1, 1, 1])];
    for attribute in [
        ints("pads", &[1 << 40, 0, 0, 0]),
        ints("strides", &[i64::MIN, 1]),
        ints("kernel_shape", &[60_000, 60_000]),
    ] {
        let expected = format!("its {} are absurdly large", attribute.name);
        refused(&expected, &[0, 1, 2, 2], 4, conv(attribute), weights());
    }
    // A stride of nothing is a division by it.
    let stopped = conv(ints("strides", &[0, 0]));
    assert!(imported(&[0, 1, 2, 2], 4, stopped, weights()).is_err());
}

#[test]
fn data_outside_the_file_are_not_read() {
    let mut weights = constant("w", &[2, 1]);
    weights.data_location = Some(1);
    let nodes = vec![node("MatMul", &["X", "w"], "Y", vec![])];
    refused("data in other files", &[0, 2], 2, nodes, vec![weights]);
}

#[test]
fn a_tensor_whose_data_are_cut_off_is_refused() {
    let mut weights = constant("w", &[2, 1]);
    weights.dims = vec![1 << 40, 1];
    let nodes = vec![node("MatMul", &["X", "w"], "Y", vec![])];
    refused("whose data are cut off", &[0, 2], 2, nodes, vec![weights]);
}

#[test]
fn an_image_of_another_size_than_the_inputs_is_refused() {
    let nodes = vec![node("ReduceSum", &["X"], "Y", vec![])];
    refused(
        "rows of [1, 8, 8] numbers where 63 inputs",
        &[0, 1, 8, 8],
        63,
        nodes,
        vec![],
    );
}
