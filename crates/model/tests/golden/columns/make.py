"""Writes `columns.json` beside this file: models of data frames, which have an input tensor for each column, with ONNX Runtime's answers.

    pip install numpy pandas scikit-learn skl2onnx onnx onnxruntime
    python make.py

A model is in hexadecimal. `inputs` are the columns as the data frame calls them, in an order that is not the file's. In rows a null is
missing. An answer of null is none: ONNX Runtime cannot be asked (no integer is 1.9, or missing), or it answers NaN itself.
"""

import json
import pathlib
import warnings

import numpy as np
import onnxruntime
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
RANDOM = np.random.default_rng(11)
OPSETS = {"": 17, "ai.onnx.ml": 3}
TYPES = {
    "float32": (FloatTensorType, np.float32),
    "float64": (DoubleTensorType, np.float64),
    "int64": (Int64TensorType, np.int64),
    "bool": (BooleanTensorType, bool),
    "object": (StringTensorType, str),
    "str": (StringTensorType, str),
}
FLOATS = ["Amount (EUR)", "distance km", "prior-declines"]
CASES = []


def payments(count=400):
    """Columns of several types, with gaps in floats, and which rows are frauds."""
    frame = pd.DataFrame(
        {
            "Amount (EUR)": np.exp(RANDOM.normal(3.5, 1.1, count)).astype(np.float32),
            "distance km": np.exp(RANDOM.normal(2.0, 1.3, count)).astype(np.float32),
            "is_online": RANDOM.integers(0, 2, count),
            "3DS?": RANDOM.random(count) < 0.3,
            "prior-declines": RANDOM.poisson(0.6, count).astype(np.float32),
        }
    )
    odds = np.log(frame["Amount (EUR)"]) - 4 + frame["is_online"] - frame["3DS?"] + 0.5 * frame["prior-declines"]
    fraud = (RANDOM.random(count) < 1 / (1 + np.exp(-odds))).astype(int)
    for name in FLOATS:
        frame.loc[RANDOM.random(count) < 0.1, name] = np.nan
    return frame, fraud


def cell(value, kind):
    if kind in (np.int64, bool):
        whole = np.isfinite(value) and value == np.trunc(value) and (kind is not bool or value in (0, 1))
        return kind(value) if whole else None
    return kind(value)


def answer(session, row, kinds, needed):
    """Of one row, by the tensors' own names; None where it cannot be asked. What no node needs may be anything."""
    read = {tensor.name for tensor in session.get_inputs()}
    values = {}
    for (column, kind), value in zip(kinds.items(), row):
        if exported(column) in read:
            value = cell(value, kind) if exported(column) in needed else kind(0)
            if value is None:
                return None
            values[exported(column)] = np.array([[value]], kind)
    scores = session.run(None, values)[-1].reshape(-1)
    return None if np.isnan(scores).any() else [float(it) for it in scores]


def exported(name):
    name = "".join(it if it.isalnum() or it in "_+" else "_" for it in name)
    return "_" + name if name[0].isdigit() else name


def add(name, model, frame, truth, gaps=True):
    model.fit(frame, truth)
    kinds = {column: TYPES[str(kind)][1] for column, kind in frame.dtypes.items()}
    types = [(column, TYPES[str(kind)][0]([None, 1])) for column, kind in frame.dtypes.items()]
    options = None if isinstance(model[-1], RandomForestRegressor) else {"zipmap": False}
    graph = to_onnx(model, initial_types=types, options=options, target_opset=OPSETS)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    # scikit-learn itself has the probabilities that ONNX Runtime answers.
    if options:
        theirs = session.run(None, {exported(it): frame[[it]].to_numpy(kinds[it]) for it in frame if exported(it) in {t.name for t in session.get_inputs()}})
        print(name, "off scikit-learn by", np.abs(theirs[-1] - model.predict_proba(frame)).max())
    rows = frame.sample(40, random_state=3).to_numpy(np.float64)
    if not gaps:
        rows = np.nan_to_num(rows)
    odd = rows[:6].copy()
    odd[0, :] = np.nan
    odd[1, 2] = 1.9
    odd[2, 3] = np.nan
    odd[3, 0] = np.nan
    odd[4, 3] = 2.0
    rows = np.concatenate([rows, odd]) if gaps else rows
    order = list(reversed(range(len(frame.columns))))
    needed = {value for node in graph.graph.node for value in node.input}
    expected = [answer(session, row, kinds, needed) for row in rows]
    width = next(len(it) for it in expected if it)
    CASES.append(
        {
            "name": name,
            "onnx": graph.SerializeToString().hex(),
            "inputs": [frame.columns[at] for at in order],
            "rows": [[None if np.isnan(row[at]) else row[at] for at in order] for row in rows],
            "expected": [it or [None] * width for it in expected],
        }
    )
    print(name, [tensor.name for tensor in session.get_inputs()], width, "answers", len(graph.SerializeToString()), "bytes")


def main():
    frame, fraud = payments()
    filled = lambda: make_pipeline(SimpleImputer(), StandardScaler())
    columns = lambda: ColumnTransformer([("floats", filled(), FLOATS), ("rest", "passthrough", ["is_online", "3DS?"])])
    dropping = ColumnTransformer([("floats", SimpleImputer(strategy="median"), FLOATS[:2])], remainder="drop")
    add("linear", make_pipeline(columns(), LogisticRegression()), frame, fraud)
    add("network", make_pipeline(columns(), MLPClassifier((8,), max_iter=300, random_state=1)), frame, fraud)
    add("forest", make_pipeline(columns(), RandomForestClassifier(8, max_depth=4, random_state=1)), frame, fraud)
    add("boosted, columns dropped", make_pipeline(dropping, GradientBoostingClassifier(n_estimators=8, random_state=1)), frame, fraud)
    add("linear, columns dropped", make_pipeline(dropping, LogisticRegression()), frame, fraud)

    singles = frame.astype(np.float32)
    add("no transformer, forest", make_pipeline(filled(), RandomForestClassifier(6, max_depth=4, random_state=1)), singles, fraud)
    add("no transformer, linear", make_pipeline(filled(), LogisticRegression()), singles, fraud)
    add("no transformer, values", make_pipeline(SimpleImputer(), RandomForestRegressor(6, max_depth=4, random_state=1)), singles, fraud)
    # ONNX Runtime fills no doubles.
    whole = frame.fillna({name: 1.0 for name in FLOATS})
    scaled = ColumnTransformer([("one", StandardScaler(), ["distance km"]), ("others", StandardScaler(), FLOATS[::2])])
    for name, kinds in [("doubles", {it: np.float64 for it in FLOATS}), ("a double among floats", {"distance km": np.float64})]:
        table = whole.astype(kinds)
        add(f"{name}, linear", make_pipeline(scaled, LogisticRegression()), table, fraud, gaps=False)
        add(f"{name}, forest", make_pipeline(scaled, RandomForestClassifier(6, max_depth=4, random_state=1)), table, fraud, gaps=False)

    texts = frame.assign(category=RANDOM.choice(["travel", "grocery"], len(frame)).astype(object))
    encoded = ColumnTransformer([("floats", SimpleImputer(), FLOATS), ("text", OneHotEncoder(), ["category"])])
    model = make_pipeline(encoded, LogisticRegression(max_iter=500)).fit(texts, fraud)
    types = [(column, TYPES[str(kind)][0]([None, 1])) for column, kind in texts.dtypes.items()]
    graph = to_onnx(model, initial_types=types, options={"zipmap": False}, target_opset=OPSETS)
    CASES.append({"name": "texts", "onnx": graph.SerializeToString().hex(), "inputs": list(texts.columns), "rows": [], "expected": []})

    # One tensor of all columns, of which a transformer picks some.
    picking = ColumnTransformer([("some", filled(), [0, 1]), ("others", SimpleImputer(), [4])], remainder="drop")
    for name, last in [("forest", RandomForestClassifier(6, max_depth=4, random_state=1)), ("linear", LogisticRegression())]:
        table = singles.to_numpy()
        model = make_pipeline(picking, last).fit(table, fraud)
        graph = to_onnx(model, initial_types=[("X", FloatTensorType([None, 5]))], options={"zipmap": False}, target_opset=OPSETS)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        rows = table[:40]
        expected = session.run(None, {"X": rows})[-1]
        number = lambda it: None if np.isnan(it) else float(it)
        CASES.append(
            {
                "name": f"one tensor, columns picked, {name}",
                "onnx": graph.SerializeToString().hex(),
                "inputs": [f"x{at}" for at in range(5)],
                "rows": [[number(it) for it in row] for row in rows],
                "expected": [[number(it) for it in row] for row in expected],
            }
        )
        print("one tensor", name, [node.op_type for node in graph.graph.node])
    (HERE / "columns.json").write_text(json.dumps(CASES) + "\n")


main()
