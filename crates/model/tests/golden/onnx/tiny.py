"""Writes `tiny.json` beside this file: graphs of a few nodes about number types, in hexadecimal, with ONNX Runtime's answers.

    pip install numpy onnx onnxruntime
    python tiny.py

`logistic-tiny.onnx` and `.json` are as those of `make.py`: a network of two inputs that fills nothing.

In rows a null is missing. An answer of null is none: ONNX Runtime cannot be asked (no integer is 1.9, or missing), or it
answers NaN itself.
"""

import json
import pathlib

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}
WEIGHTS = numpy_helper.from_array(np.array([[0.5], [-0.25]], np.float32), "weights")
BIAS = numpy_helper.from_array(np.array([0.125], np.float32), "bias")
CASES = []


def node(operator, value, output, **attributes):
    domain = "" if operator in ("Cast", "MatMul", "Add", "Sigmoid") else "ai.onnx.ml"
    outputs = [output] if operator != "TreeEnsembleClassifier" else ["label", output]
    return helper.make_node(operator, [value], outputs, domain=domain, **attributes)


def network(value, output="Y"):
    """`value @ weights + bias`."""
    return [
        helper.make_node("MatMul", [value, "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], [output]),
    ]


SPLIT = {
    "nodes_treeids": [0] * 3,
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0] * 3,
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_missing_value_tracks_true": [0] * 3,
}


def stump(value, output, leaves=(0.25, 1.75)):
    """The first leaf where the first column is at most a half; what is missing takes the second."""
    weights = {"treeids": [0, 0], "nodeids": [1, 2], "ids": [0, 0], "weights": list(leaves)}
    weights = {f"target_{name}": values for name, values in weights.items()}
    return node("TreeEnsembleRegressor", value, output, n_targets=1, **SPLIT, **weights)


def classes(value, output):
    """As `stump`, of two classes: ONNX Runtime's regressor takes no integers."""
    weights = {"treeids": [0] * 4, "nodeids": [1, 1, 2, 2], "ids": [0, 1] * 2, "weights": [0.75, 0.25, 0.125, 0.875]}
    weights = {f"class_{name}": values for name, values in weights.items()}
    return node("TreeEnsembleClassifier", value, output, classlabels_int64s=[0, 1], **SPLIT, **weights)


def doubles(value, output):
    """As `stump`, in double precision to the end."""
    tensor = lambda values, kind: numpy_helper.from_array(np.array(values, kind), "t")
    return node(
        "TreeEnsemble",
        value,
        output,
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
        tree_roots=[0],
        nodes_featureids=[0],
        nodes_modes=tensor([0], np.uint8),
        nodes_splits=tensor([0.5], np.float64),
        nodes_truenodeids=[0],
        nodes_trueleafs=[1],
        nodes_falsenodeids=[1],
        nodes_falseleafs=[1],
        leaf_targetids=[0, 0],
        leaf_weights=tensor([16777217.0, 0.1], np.float64),
    )


def fits(row, kind):
    return kind not in (np.int32, np.int64) or all(
        np.isfinite(it) and it == np.trunc(it) and np.iinfo(kind).min <= it <= np.iinfo(kind).max for it in row
    )


def run(name, kind, nodes, rows, version=3):
    constants = [it for it in (WEIGHTS, BIAS) if any(it.name in node.input for node in nodes)]
    inputs = [helper.make_tensor_value_info("X", kind, [None, 2])]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = []
    for row in rows:
        answer = [np.nan] * session.run(None, {"X": np.zeros((1, 2), KINDS[kind])})[0].size
        if fits(row, KINDS[kind]):
            answer = session.run(None, {"X": np.array([row], KINDS[kind])})[0].reshape(-1)
        expected.append([None if np.isnan(it) else float(it) for it in answer])
    number = lambda it: None if np.isnan(it) else float(it)
    case = {"rows": [[number(it) for it in row] for row in rows], "expected": expected}
    print(name, expected)
    return model.SerializeToString(), case


def add(name, *graph, **options):
    model, case = run(name, *graph, **options)
    CASES.append({"name": name, "onnx": model.hex(), **case})


def main():
    nan = np.nan
    whole = [[1, 2], [-3, 0], [16777217, 0], [1.9, 2], [0, nan], [1e10, 0], [1e30, 0]]
    # 2^63 is the first that is too large; the number before it is the last float that is not.
    edges = [[2.0**63, 0], [np.nextafter(2.0**63, 0), 0], [-(2.0**63), 0], [2.0**31, 0], [2.0**31 - 1, 0]]
    for name, kind in [("INT64", TensorProto.INT64), ("INT32", TensorProto.INT32)]:
        cast = node("Cast", "X", "x", to=TensorProto.FLOAT)
        add(f"{name} into a network", kind, [cast, *network("x")], whole + edges)
        if name == "INT64":
            add(f"{name} into trees", kind, [classes("X", "Y")], whole + edges)
        add(f"{name} into trees by a cast", kind, [cast, stump("x", "Y")], whole + edges)

    rows = [[0, 1], [nan, 1], [1, 0], [-0.0, nan], [7, 7]]
    for name, replaced in [("absent", {}), ("NaN", {"replaced_value_float": nan}), ("7", {"replaced_value_float": 7.0})]:
        for fills in ([2.0, 3.0], [4.0]):
            imputer = node("Imputer", "X", "x", imputed_value_floats=fills, **replaced)
            add(f"Imputer of {name} by {fills}, network", TensorProto.FLOAT, [imputer, *network("x")], rows)
            add(f"Imputer of {name} by {fills}, trees", TensorProto.FLOAT, [imputer, stump("x", "Y")], rows)

    rows = [[0, 0], [1, 0], [nan, 0]]
    for name, to in [("INT64", TensorProto.INT64), ("INT32", TensorProto.INT32), ("BOOL", TensorProto.BOOL)]:
        for leaves in ((0.25, 1.75), (-1.75, 0.0), (-0.5, 3.0)):
            nodes = [stump("X", "y", leaves=leaves), node("Cast", "y", "z", to=to), node("Cast", "z", "Y", to=TensorProto.FLOAT)]
            add(f"cast to {name} after trees, {leaves}", TensorProto.FLOAT, nodes, rows)
    to_float = node("Cast", "y", "Y", to=TensorProto.FLOAT)
    add("cast to FLOAT after trees of DOUBLE", TensorProto.DOUBLE, [doubles("X", "y"), to_float], rows, version=5)
    (HERE / "tiny.json").write_text(json.dumps(CASES) + "\n")

    nodes = [*network("X", "sum"), node("Sigmoid", "sum", "Y")]
    model, case = run("logistic-tiny", TensorProto.FLOAT, nodes, [[0, 0], [1, 2], [-3, 5], [0.25, -8]])
    (HERE / "logistic-tiny.onnx").write_bytes(model)
    (HERE / "logistic-tiny.json").write_text(json.dumps({"inputs": 2, **case}) + "\n")


main()
