"""ONNX Runtime scoring the trees that bench-kernel sends: a contender in its run.

Reads the trees as one line of JSON, then for each line "batch milliseconds" answers rows a second.
One thread. Needs the packages numpy, onnx and onnxruntime.
"""

import json
import sys
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper

ROWS = 16_384


def session(forest):
    nodes = forest["nodes"]
    leaves = [node for node in nodes if node["leaf"]]
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        ["rows"],
        ["means"],
        domain="ai.onnx.ml",
        nodes_treeids=[node["tree"] for node in nodes],
        nodes_nodeids=[node["node"] for node in nodes],
        nodes_featureids=[node["input"] for node in nodes],
        nodes_values=[0.0 if node["leaf"] else node["value"] for node in nodes],
        nodes_modes=["LEAF" if node["leaf"] else "BRANCH_LEQ" for node in nodes],
        nodes_truenodeids=[node["at_most"] for node in nodes],
        nodes_falsenodeids=[node["above"] for node in nodes],
        target_treeids=[node["tree"] for node in leaves],
        target_nodeids=[node["node"] for node in leaves],
        target_ids=[0] * len(leaves),
        target_weights=[node["value"] for node in leaves],
        n_targets=1,
        aggregate_function="AVERAGE",
        post_transform="NONE",
    )
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, forest["inputs"]])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph([trees], "forest", [rows], [means])
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main():
    forest = json.loads(sys.stdin.readline())
    run = session(forest).run
    rows = numpy.random.default_rng(1).random((ROWS, forest["inputs"]), dtype=numpy.float32)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, milliseconds = map(int, line.split())
        scored, at, start = 0, 0, time.perf_counter()
        while time.perf_counter() - start < milliseconds / 1e3:
            part = rows[at : at + batch]
            run(None, {"rows": part})
            scored += len(part)
            at = (at + batch) % ROWS
        print(scored / (time.perf_counter() - start), flush=True)


main()
