"""Trains the models of the examples and writes their packages and the data beside the Pima data.

    pip install numpy scikit-learn skl2onnx onnx onnxruntime
    python examples/train.py

Each model is trained on four rows of five and judged on the fifth, which `cargo test` does again by the package. The
recorded rows of a package are answered by ONNX Runtime, so that every load compares our engine with it.
"""

import csv
import hashlib
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data"
OPSETS = {"": 17, "ai.onnx.ml": 3}
IRIS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def held_out(count):
    """Every fifth row is never trained on."""
    return np.arange(count) % 5 == 4


def table(name, header, rows):
    with open(DATA / name, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def plain(value):
    """As short as single precision can be told."""
    return None if np.isnan(value) else float(f"{value:.9g}")


def package(name, model, inputs, outputs, data, rows, expected):
    """`rows` and `expected` are recorded."""
    folder = HERE / name / "package"
    folder.mkdir(parents=True, exist_ok=True)
    model.doc_string = ""
    artefact = model.SerializeToString()
    (folder / "model.onnx").write_bytes(artefact)
    recorded = [
        {"inputs": [plain(value) for value in row], "outputs": [plain(value) for value in answers]}
        for row, answers in zip(rows, expected)
    ]
    manifest = {
        "format": 2,
        "name": name,
        "version": "1",
        "backend": "onnx",
        "inputs": inputs,
        "outputs": outputs,
        "onnx": {"activation": "none"},
        "warm_up": {"tolerance": 1e-5, "rows": recorded},
        "artefact": {
            "file": "model.onnx",
            "bytes": len(artefact),
            "sha256": hashlib.sha256(artefact).hexdigest(),
        },
        "created_at": "2026-01-31T12:00:00Z",
        "written_by": "examples/train.py",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{name}: {len(artefact)} bytes of ONNX, data {data}")


def ask(model, rows):
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(run.run(None, {run.get_inputs()[0].name: rows.astype(np.float32)})[-1], np.float64)


def judge(name, answers, labels, out):
    right = (answers.argmax(axis=1) == labels)[out].mean()
    print(f"{name}: {right:.4f} of the {out.sum()} held-out rows are right")


def iris():
    data = load_iris()
    classes = [str(name) for name in data.target_names]
    table("iris.csv", IRIS + ["species"], [[*row, classes[label]] for row, label in zip(data.data, data.target)])
    out = held_out(len(data.target))
    forest = RandomForestClassifier(60, max_depth=5, random_state=1).fit(data.data[~out], data.target[~out])
    kinds = [("X", FloatTensorType([None, 4]))]
    model = to_onnx(forest, initial_types=kinds, options={id(forest): {"zipmap": False}}, target_opset=OPSETS)
    answers = ask(model, data.data)
    judge("iris", answers, data.target, out)
    picked = slice(4, None, 5)
    outputs = {"task": "classes", "names": classes}
    package("iris", model, IRIS, outputs, "data/iris.csv", data.data[picked], answers[picked])


def diabetes_net():
    with open(DATA / "pima.csv") as file:
        lines = list(csv.reader(file))
    names = lines[0][:-1]
    rows = np.array([line[:-1] for line in lines[1:]], np.float64)
    labels = np.array([line[-1] == "pos" for line in lines[1:]], int)
    for column in ("glucose", "pressure", "triceps", "insulin", "mass"):
        at = names.index(column)
        rows[rows[:, at] == 0, at] = np.nan
    missing = np.isnan(rows[:, [names.index("insulin"), names.index("triceps")]]).astype(float)
    rows = np.concatenate([rows, missing], axis=1)
    inputs = names + ["insulin_missing", "triceps_missing"]
    out = held_out(len(labels))
    net = MLPClassifier(hidden_layer_sizes=(16, 8), alpha=3.0, max_iter=800, random_state=1)
    net = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), net).fit(rows[~out], labels[~out])
    kinds = [("X", FloatTensorType([None, len(inputs)]))]
    model = to_onnx(net, initial_types=kinds, options={id(net): {"zipmap": False}}, target_opset=OPSETS)
    answers = ask(model, rows)
    judge("diabetes-net", answers, labels, out)
    picked = slice(4, 164, 5)
    outputs = {"task": "binary", "negative": "healthy", "positive": "diabetic"}
    package("diabetes-net", model, inputs, outputs, "data/pima.csv", rows[picked], answers[picked, 1:])


class Net:
    """Two convolutions of 3 × 3, a pooling, a dense layer: small enough for a loop of numpy."""

    def __init__(self, random):
        def weights(*shape):
            scale = np.sqrt(2.0 / np.prod(shape[1:]))
            return (random.standard_normal(shape) * scale).astype(np.float32)

        self.all = {
            "conv1": weights(8, 1, 3, 3),
            "bias1": np.zeros(8, np.float32),
            "conv2": weights(16, 8, 3, 3),
            "bias2": np.zeros(16, np.float32),
            "dense": weights(10, 16 * 4 * 4),
            "bias3": np.zeros(10, np.float32),
        }

    @staticmethod
    def patches(images):
        """The 3 × 3 surroundings of every pixel, as columns."""
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        count, channels, height, width = images.shape
        return windows.transpose(0, 2, 3, 1, 4, 5).reshape(count, height * width, channels * 9)

    def forward(self, images):
        it = self.all
        count = len(images)
        kept = {"patches1": self.patches(images)}
        kept["one"] = np.maximum(kept["patches1"] @ it["conv1"].reshape(8, -1).T + it["bias1"], 0)
        one = kept["one"].transpose(0, 2, 1).reshape(count, 8, 8, 8)
        kept["patches2"] = self.patches(one)
        kept["two"] = np.maximum(kept["patches2"] @ it["conv2"].reshape(16, -1).T + it["bias2"], 0)
        two = kept["two"].transpose(0, 2, 1).reshape(count, 16, 4, 2, 4, 2)
        pooled = two.max(axis=(3, 5))
        kept["mask"] = two == pooled[:, :, :, None, :, None]
        kept["flat"] = pooled.reshape(count, -1)
        scores = kept["flat"] @ it["dense"].T + it["bias3"]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True), kept

    def gradients(self, images, labels):
        shares, kept = self.forward(images)
        count = len(images)
        error = shares.copy()
        error[np.arange(count), labels] -= 1
        error /= count
        found = {"dense": error.T @ kept["flat"], "bias3": error.sum(axis=0)}
        back = (error @ self.all["dense"]).reshape(count, 16, 4, 1, 4, 1) * kept["mask"]
        back = back.reshape(count, 16, 64).transpose(0, 2, 1) * (kept["two"] > 0)
        found["conv2"] = np.einsum("npo,npi->oi", back, kept["patches2"]).reshape(16, 8, 3, 3)
        found["bias2"] = back.sum(axis=(0, 1))
        windows = (back @ self.all["conv2"].reshape(16, -1)).reshape(count, 8, 8, 8, 3, 3)
        one = np.zeros((count, 8, 10, 10), np.float32)
        for down in range(3):
            for right in range(3):
                one[:, :, down : down + 8, right : right + 8] += windows[..., down, right].transpose(0, 3, 1, 2)
        back = one[:, :, 1:-1, 1:-1].reshape(count, 8, 64).transpose(0, 2, 1) * (kept["one"] > 0)
        found["conv1"] = np.einsum("npo,npi->oi", back, kept["patches1"]).reshape(8, 1, 3, 3)
        found["bias1"] = back.sum(axis=(0, 1))
        return found

    def train(self, images, labels, random, rounds=40, batch=64, rate=2e-3):
        """Adam."""
        first = {name: np.zeros_like(value) for name, value in self.all.items()}
        second = {name: np.zeros_like(value) for name, value in self.all.items()}
        step = 0
        for _ in range(rounds):
            order = random.permutation(len(labels))
            for at in range(0, len(labels), batch):
                step += 1
                picked = order[at : at + batch]
                for name, gradient in self.gradients(images[picked], labels[picked]).items():
                    first[name] += 0.1 * (gradient - first[name])
                    second[name] += 0.001 * (gradient**2 - second[name])
                    size = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
                    self.all[name] -= (rate * first[name] / (1 - 0.9**step) / size).astype(np.float32)

    def onnx(self):
        node = helper.make_node
        nodes = [
            node("Div", ["image", "sixteen"], ["scaled"]),
            node("Conv", ["scaled", "conv1", "bias1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "conv2", "bias2"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["d"]),
            node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["e"], ["f"], axis=1),
            node("Gemm", ["f", "dense", "bias3"], ["scores"], transB=1),
            node("Softmax", ["scores"], ["probabilities"], axis=1),
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in self.all.items()]
        constants.append(numpy_helper.from_array(np.array(16, np.float32), "sixteen"))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
        answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])
        graph = helper.make_graph(nodes, "digits", [image], [answer], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def digits():
    data = load_digits()
    inputs = [f"pixels[{at}]" for at in range(64)]
    rows = [[*row.astype(int), label] for row, label in zip(data.data, data.target)]
    table("digits.csv", [f"pixels_{at}" for at in range(64)] + ["digit"], rows)
    out = held_out(len(data.target))
    images = (data.data / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    random = np.random.default_rng(3)
    net = Net(random)
    net.train(images[~out], data.target[~out], random)
    model = net.onnx()
    answers = ask(model, data.data.reshape(-1, 1, 8, 8))
    judge("digits", answers, data.target, out)
    picked = slice(4, 164, 5)
    outputs = {"task": "classes", "names": [str(digit) for digit in range(10)]}
    package("digits", model, inputs, outputs, "data/digits.csv", data.data[picked], answers[picked])


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["iris", "diabetes_net", "digits"]
    for name in chosen:
        globals()[name]()
