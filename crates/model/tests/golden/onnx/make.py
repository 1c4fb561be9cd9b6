"""Writes the ONNX goldens beside this file: models, rows, and what ONNX Runtime answers to them.

    pip install numpy scikit-learn skl2onnx onnx onnxruntime onnxmltools xgboost lightgbm
    python make.py

`<name>.onnx` has its rows and answers in `<name>.json`; null is missing. `special.json` holds many tiny graphs, in
hexadecimal: every node mode, transform, aggregate function and the special cases of two classes.
"""

import json
import pathlib
import sys
import warnings

import lightgbm
import numpy as np
import onnx
import onnxruntime
import xgboost
from onnx import TensorProto, helper, numpy_helper
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as MlFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
RANDOM = np.random.default_rng(5)
OPSETS = {"": 17, "ai.onnx.ml": 3}


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def cells(array):
    return [[None if np.isnan(v) else float(v) for v in row] for row in np.asarray(array, np.float64)]


def answers(model, rows, kind=np.float32):
    run = session(model)
    values = run.run(None, {run.get_inputs()[0].name: rows.astype(kind)})
    scores = values[-1]
    if isinstance(scores, list):
        scores = [[row[key] for key in row] for row in scores]
    return np.asarray(scores, np.float64).reshape(len(rows), -1)


def write(name, model, rows, kind=np.float32):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.doc_string = ""
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())
    expected = answers(model, rows, kind)
    case = {"inputs": rows.shape[1], "rows": cells(rows), "expected": cells(expected)}
    (HERE / f"{name}.json").write_text(json.dumps(case) + "\n")
    print(name, expected.shape, len(model.SerializeToString()), "bytes")


def rows_of(data, holes=False):
    """Rows of the data and between them, and rows with holes where the model can take them."""
    picked = data[RANDOM.integers(0, len(data), 24)].astype(np.float32)
    mixed = np.stack([RANDOM.choice(column, 24) for column in data.T], axis=1).astype(np.float32)
    rows = np.concatenate([picked, mixed])
    if holes:
        rows[RANDOM.random(rows.shape) < 0.25] = np.nan
    return rows


def scikit_learn():
    iris, wine, diabetes = load_iris(), load_wine(), load_diabetes()
    two = (wine.target > 0).astype(int)
    several = np.stack([diabetes.target, diabetes.data[:, 0] * 1e3, diabetes.target**0.5], axis=1)
    # As the graphs will see it.
    x_iris, x_wine, x_diabetes = (it.data.astype(np.float32) for it in (iris, wine, diabetes))
    holes = x_wine.copy()
    holes[RANDOM.random(holes.shape) < 0.1] = np.nan

    def export(name, model, x, y, rows=None, **options):
        model.fit(x, y)
        options = {id(model): options} if options else None
        kinds = [("X", FloatTensorType([None, x.shape[1]]))]
        graph = to_onnx(model, initial_types=kinds, options=options, target_opset=OPSETS)
        write(name, graph, rows_of(x) if rows is None else rows)

    export("rf-iris", RandomForestClassifier(20, random_state=1), x_iris, iris.target)
    export("rf-iris-array", RandomForestClassifier(8, random_state=2), x_iris, iris.target, zipmap=False)
    export("rf-wine-two", RandomForestClassifier(12, max_depth=4, random_state=1), x_wine, two, zipmap=False)
    export("extra-wine", ExtraTreesClassifier(10, max_depth=5, random_state=1), x_wine, wine.target, zipmap=False)
    export("tree-iris", DecisionTreeClassifier(random_state=1), x_iris, iris.target, zipmap=False)
    export("rf-regression", RandomForestRegressor(10, max_depth=4, random_state=1), x_diabetes, diabetes.target)
    export("rf-regression-three", RandomForestRegressor(8, max_depth=4, random_state=1), x_diabetes, several)
    export("gb-two", GradientBoostingClassifier(n_estimators=15, random_state=1), x_wine, two, zipmap=False)
    export("gb-three", GradientBoostingClassifier(n_estimators=8, random_state=1), x_wine, wine.target, zipmap=False)
    export("gb-regression", GradientBoostingRegressor(n_estimators=15, random_state=1), x_diabetes, diabetes.target)
    filled = make_pipeline(SimpleImputer(), StandardScaler(), RandomForestClassifier(8, max_depth=4, random_state=1))
    export("pipeline-wine", filled, holes, wine.target, rows_of(x_wine, True), zipmap=False)
    export("mlp-iris", MLPClassifier(hidden_layer_sizes=(16, 8), max_iter=400, random_state=1), x_iris, iris.target, zipmap=False)
    scaled = make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(8,), max_iter=400, random_state=1))
    export("mlp-wine-two", scaled, x_wine, two, zipmap=False)
    scaled = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=400, random_state=1))
    export("mlp-regression", scaled, x_diabetes, several / several.std(axis=0))
    export("logistic-iris", LogisticRegression(max_iter=500), x_iris, iris.target, zipmap=False)
    filled = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    export("logistic-wine-two", filled, holes, two, rows_of(x_wine, True), zipmap=False)
    export("linear-regression", LinearRegression(), x_diabetes, diabetes.target / 100)


def boosted():
    wine, diabetes = load_wine(), load_diabetes()
    x = wine.data.astype(np.float32)
    x[RANDOM.random(x.shape) < 0.1] = np.nan
    two = (wine.target > 0).astype(int)
    settings = {"n_estimators": 12, "max_depth": 4, "random_state": 1}

    def export(name, model, convert, x, y, rows):
        model.fit(x, y)
        kinds = [("X", MlFloat([None, x.shape[1]]))]
        write(name, convert(model, initial_types=kinds, target_opset=15), rows)

    for name, library, convert in [("xgb", xgboost, convert_xgboost), ("lgbm", lightgbm, convert_lightgbm)]:
        extra = {"verbose": -1, "num_leaves": 8} if name == "lgbm" else {}
        classes = getattr(library, "XGBClassifier" if name == "xgb" else "LGBMClassifier")
        values = getattr(library, "XGBRegressor" if name == "xgb" else "LGBMRegressor")
        try:
            export(f"{name}-two", classes(**settings, **extra), convert, x, two, rows_of(x, True))
            export(f"{name}-three", classes(**settings, **extra), convert, x, wine.target, rows_of(x, True))
            y, data = diabetes.target / 10, diabetes.data.astype(np.float32)
            export(f"{name}-regression", values(**settings, **extra), convert, data, y, rows_of(data, True))
        except Exception as error:  # a converter that does not know a newer library
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]


def graph(operator, attributes, outputs, width=2, version=3, kind=TensorProto.FLOAT):
    node = helper.make_node(operator, ["X"], outputs, domain="ai.onnx.ml", **attributes)
    infos = [helper.make_tensor_value_info(outputs[-1], kind if version == 5 else TensorProto.FLOAT, [None, None])]
    if len(outputs) == 2:
        infos.insert(0, helper.make_tensor_value_info(outputs[0], TensorProto.INT64, [None]))
    body = helper.make_graph([node], "g", [helper.make_tensor_value_info("X", kind, [None, width])], infos)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8)


def stumps(mode, missing, thresholds):
    """A tree of one split for each threshold, on the first column."""
    count = len(thresholds)
    return {
        "nodes_treeids": [tree for tree in range(count) for _ in range(3)],
        "nodes_nodeids": [0, 1, 2] * count,
        "nodes_featureids": [0] * 3 * count,
        "nodes_values": [value for threshold in thresholds for value in (float(threshold), 0.0, 0.0)],
        "nodes_modes": [mode, "LEAF", "LEAF"] * count,
        "nodes_truenodeids": [1, 0, 0] * count,
        "nodes_falsenodeids": [2, 0, 0] * count,
        "nodes_missing_value_tracks_true": [missing, 0, 0] * count,
    }


def leaves(what, per_tree, trees):
    """`per_tree`: for the nodes 1 and 2 of every tree the pairs of output and weight."""
    entries = [(t, n, i, w * (t + 1)) for t in range(trees) for n, pairs in per_tree.items() for i, w in pairs]
    names = ["treeids", "nodeids", "ids", "weights"]
    return {f"{what}_{name}": [entry[at] for entry in entries] for at, name in enumerate(names)}


def special():
    cases = []

    def add(name, model, rows, kind=np.float32):
        expected = answers(model, rows, kind)
        if np.isfinite(expected).all():
            text = model.SerializeToString().hex()
            cases.append({"name": name, "onnx": text, "rows": cells(rows), "expected": cells(expected)})

    half = np.float32(0.1)
    edges = [half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0)), 0.0, -0.0, np.nan]
    edges += [1e-45, -1e-45, 3.4e38, -3.4e38, 1.0]
    rows = np.array([[edge, 1.0] for edge in edges], np.float32)
    for mode in MODES:
        for missing in (0, 1):
            tree = stumps(mode, missing, [half, 0.0, -1e-45, 3.4e38])
            tree |= leaves("target", {1: [(0, 0.25)], 2: [(0, 0.5)]}, 4) | {"n_targets": 1}
            add(f"{mode} missing {missing}", graph("TreeEnsembleRegressor", tree, ["Y"]), rows)

    rows = np.array([[-1, 0], [1, 0], [0.3, 0]], np.float32)
    weights = {
        "first positive": {1: [(0, 0.2)], 2: [(0, 0.7)]},
        "second positive": {1: [(1, 0.2)], 2: [(1, 0.7)]},
        "first mixed": {1: [(0, -0.2)], 2: [(0, 0.7)]},
        "second mixed": {1: [(1, -0.2)], 2: [(1, 0.7)]},
        "both positive": {1: [(0, 0.8), (1, 0.2)], 2: [(0, 0.3), (1, 0.7)]},
        "both mixed": {1: [(0, 0.8), (1, -0.2)], 2: [(0, -0.3), (1, 0.7)]},
    }
    for name, pairs in weights.items():
        for base in ([], [0.1]):
            for transform in TRANSFORMS:
                if transform == "PROBIT" and not name.startswith("both"):
                    continue
                tree = stumps("BRANCH_LEQ", 0, [0.0]) | leaves("class", pairs, 1)
                tree |= {"classlabels_int64s": [0, 1], "post_transform": transform}
                tree |= {"base_values": base} if base else {}
                model = graph("TreeEnsembleClassifier", tree, ["label", "scores"])
                add(f"two classes, {name}, base {base}, {transform}", model, rows)
    for base in ([], [0.1, 0.2, -0.3]):
        for transform in TRANSFORMS[:4]:
            pairs = {1: [(0, 0.2), (1, 0.3)], 2: [(1, -0.4), (2, 0.6)]}
            tree = stumps("BRANCH_LEQ", 0, [0.0, 0.5]) | leaves("class", pairs, 2)
            tree |= {"classlabels_int64s": [0, 1, 2], "post_transform": transform}
            tree |= {"base_values": base} if base else {}
            model = graph("TreeEnsembleClassifier", tree, ["label", "scores"])
            add(f"three classes, base {base}, {transform}", model, rows)
    for targets in (1, 3):
        for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
            for base in ([], [0.05, 0.1, -0.1][:targets]):
                for transform in TRANSFORMS:
                    pairs = {1: [(t, 0.1 + 0.1 * t) for t in range(targets)], 2: [(t, 0.3 - 0.1 * t) for t in range(targets)]}
                    # Without a weight for it ONNX Runtime forgets an output's base value.
                    if targets == 3 and not base:
                        pairs[2].pop(1)
                    tree = stumps("BRANCH_LEQ", 0, [0.0, 0.5]) | leaves("target", pairs, 2)
                    tree |= {"n_targets": targets, "aggregate_function": aggregate, "post_transform": transform}
                    tree |= {"base_values": base} if base else {}
                    name = f"{targets} targets, {aggregate}, base {base}, {transform}"
                    add(name, graph("TreeEnsembleRegressor", tree, ["Y"]), rows)

    # Double precision: thresholds that single precision cannot tell apart.
    thresholds = [0.1, np.nextafter(0.1, 1)]
    tree = stumps("BRANCH_LEQ", 0, thresholds) | leaves("target", {1: [(0, 0.25)], 2: [(0, 0.5)]}, 2) | {"n_targets": 1}
    for name in ("nodes_values", "target_weights"):
        tree[f"{name}_as_tensor"] = numpy_helper.from_array(np.array(tree.pop(name), np.float64), name)
    doubles = np.array([[0.1, 0], [thresholds[1], 0], [np.nextafter(thresholds[1], 1), 0]])
    model = graph("TreeEnsembleRegressor", tree, ["Y"], kind=TensorProto.DOUBLE)
    add("double precision", model, doubles, np.float64)

    def tensor(values, kind):
        return numpy_helper.from_array(np.array(values, kind), "t")

    for aggregate in range(4):
        # Of 1 and 2 the specification says softmax and logistic, ONNX Runtime does it the other way round.
        for transform in (0, 3):
            tree = {
                "n_targets": 2,
                "aggregate_function": aggregate,
                "post_transform": transform,
                "tree_roots": [0, 2],
                "nodes_featureids": [0, 1, 1],
                "nodes_modes": tensor([0, 1, 3], np.uint8),
                "nodes_splits": tensor([0.0, 0.5, -0.5], np.float32),
                "nodes_truenodeids": [1, 1, 3],
                "nodes_trueleafs": [0, 1, 1],
                "nodes_falsenodeids": [0, 2, 4],
                "nodes_falseleafs": [1, 1, 1],
                "leaf_targetids": [0, 1, 0, 1, 0],
                "leaf_weights": tensor([0.3, 0.6, -0.2, 0.9, 0.4], np.float32),
            }
            model = graph("TreeEnsemble", tree, ["Y"], version=5)
            add(f"TreeEnsemble {aggregate} {transform}", model, rows)
    (HERE / "special.json").write_text(json.dumps(cases) + "\n")
    print("special", len(cases), "graphs")


if __name__ == "__main__":
    scikit_learn()
    boosted()
    special()
