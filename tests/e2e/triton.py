"""Asks a running inference service by Triton's own clients, gRPC and HTTP, as they come from PyPI.

Arguments: the service's address (host:port), the pipeline's name, the model's name. Ends with 1 at the first
thing that is not as it must be.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ADDRESS, PIPELINE, MODEL = sys.argv[1:]
FIELDS = {
    "pregnant": np.array([6, 1], np.int64),
    "glucose": np.array([148.0, 85.0]),
    "pressure": np.array([72.0, 66.0]),
    "triceps": np.array([35.0, 29.0]),
    "insulin": np.array([0.0, 0.0]),
    "mass": np.array([33.6, 26.6]),
    "pedigree": np.array([0.627, 0.351]),
    "age": np.array([50, 31], np.int64),
}
ROWS = np.array([[6, 120, 72, 35, 0, 33, 1, 50, 1, 0], [1, 85, 66, 29, 0, 26, 0, 31, 1, 0]])
DATATYPES = [
    np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64,
    np.float16, np.float32, np.float64, np.object_,
]  # fmt: skip


def tensor(kind, name, values, **how):
    made = kind.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, **how)
    return made


def as_datatype(datatype):
    if datatype is np.object_:
        return np.array([[str(value).encode() for value in row] for row in ROWS], np.object_)
    return ROWS.astype(datatype)


def refused(call, *parts):
    try:
        call()
    except InferenceServerException as error:
        assert all(part in str(error) for part in parts), error
        return error
    raise AssertionError(f"not refused: {parts}")


def common(kind, client):
    """What both clients do alike; gives the answers to compare them."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert client.is_model_ready(PIPELINE)
    assert not client.is_model_ready("nobody")
    client.load_model(MODEL)
    refused(lambda: client.unload_model(MODEL), "deploy set")
    refused(lambda: client.get_model_metadata("nobody"), MODEL)

    answers = []
    for datatype in DATATYPES:
        values = as_datatype(datatype)
        result = client.infer(MODEL, [tensor(kind, "input", values)], model_version="1")
        probabilities, label = result.as_numpy("probabilities"), result.as_numpy("label")
        assert probabilities.shape == (2, 1) and probabilities.dtype == np.float64, probabilities
        assert label.shape == (2,) and set(label) <= {b"neg", b"pos"}, label
        answers.append(probabilities)
    # Whole numbers are the same in all of these.
    for other in answers[1:9] + answers[10:]:
        assert (other == answers[-1]).all(), answers

    columns = [tensor(kind, name, values) for name, values in FIELDS.items()]
    wanted = [
        kind.InferRequestedOutput("decision"),
        kind.InferRequestedOutput("probabilities", class_count=2),
    ]
    result = client.infer(
        PIPELINE, columns, outputs=wanted, request_id="r-1", parameters={"key": "p-1"}
    )
    assert result.as_numpy("label") is None
    decision, classes = result.as_numpy("decision"), result.as_numpy("probabilities")
    assert classes.shape == (2, 2), classes
    for row, top in zip(decision, classes):
        value, index, label = top[0].decode().split(":")
        assert float(value) >= 0.5 and label == ["neg", "pos"][int(index)], top
        assert row == (b"diabetic" if label == "pos" else b"healthy"), (row, top)

    wrong = tensor(kind, "input", np.zeros((1, 9), np.float32))
    refused(lambda: client.infer(MODEL, [wrong]), "send [N, 10]")
    missing = kind.InferRequestedOutput("nothing")
    right = tensor(kind, "input", ROWS.astype(np.float32))
    refused(lambda: client.infer(MODEL, [right], outputs=[missing]), "probabilities, label")
    refused(lambda: client.infer("nobody", [right]), MODEL)
    refused(lambda: client.infer(PIPELINE, columns[1:]), "pregnant")
    return answers, decision, classes


def by_grpc():
    with grpc.InferenceServerClient(ADDRESS) as client:
        answers = common(grpc, client)
        about = client.get_model_metadata(MODEL)
        assert about.name == MODEL and list(about.inputs[0].shape) == [-1, 10], about
        assert client.get_server_metadata().name == "quadrille"
        index = {(it.name, it.state) for it in client.get_model_repository_index().models}
        assert {(MODEL, "READY"), (PIPELINE, "READY")} <= index, index

        right = tensor(grpc, "input", ROWS.astype(np.float32))
        result = client.infer(PIPELINE, [right], client_timeout=60)
        by = result.get_response().parameters
        assert by["model"].string_param == MODEL and by["version"].string_param == "1", by
        refused(lambda: client.infer(PIPELINE, [right], parameters={"variant": "x"}), "variant")
        error = refused(lambda: client.infer(PIPELINE, [right], headers={"quadrille-variant": "x"}))
        assert error.status() == "StatusCode.NOT_FOUND", error

        config = client.get_model_config(MODEL).config
        assert config.name == MODEL and list(config.input[0].dims) == [10], config
        [stats] = client.get_inference_statistics(MODEL).model_stats
        # Each of 13 datatypes is two rows; the pipeline's model is the same.
        assert stats.version == "1" and stats.inference_count >= 26, stats
        assert stats.inference_stats.success.ns > stats.inference_stats.compute_infer.ns > 0, stats

        many = tensor(grpc, "input", ROWS.repeat(500, 0).astype(np.float32))
        plain = client.infer(MODEL, [many]).as_numpy("probabilities")
        for coding in ["gzip", "deflate"]:
            result = client.infer(MODEL, [many], compression_algorithm=coding)
            assert (result.as_numpy("probabilities") == plain).all(), coding

        calls = queue.Queue()
        client.async_infer(MODEL, [right], lambda result, error: calls.put((result, error)))
        result, error = calls.get(timeout=60)
        assert error is None and (result.as_numpy("probabilities") == answers[0][10]).all()

        client.start_stream(lambda result, error: calls.put((result, error)))
        for number in range(20):
            client.async_stream_infer(MODEL, [right], request_id=str(number))
        client.async_stream_infer("nobody", [right])
        for number in range(20):
            result, error = calls.get(timeout=60)
            assert error is None and result.get_response().id == str(number), (result, error)
            assert result.get_response().parameters["triton_final_response"].bool_param
        _, error = calls.get(timeout=60)
        assert "nobody" in str(error), error
        client.stop_stream()
    return answers


def by_http():
    with http.InferenceServerClient(ADDRESS) as client:
        answers = common(http, client)
        about = client.get_model_metadata(MODEL)
        assert about["versions"] == ["1"] and about["inputs"][0]["shape"] == [-1, 10], about
        assert client.get_server_metadata()["name"] == "quadrille"
        index = {(it["name"], it["state"]) for it in client.get_model_repository_index()}
        assert {(MODEL, "READY"), (PIPELINE, "READY")} <= index, index

        config = client.get_model_config(MODEL)
        assert config["input"][0]["dims"] == [10], config
        [stats] = client.get_inference_statistics(MODEL)["model_stats"]
        assert stats["inference_count"] >= 26 and stats["execution_count"] >= 13, stats

        # All as JSON, and each half as bytes.
        for datatype, expected in zip(DATATYPES, answers[0]):
            values = as_datatype(datatype)
            for binary_in, binary_out in [(False, False), (False, True), (True, False)]:
                if datatype is np.float16 and not binary_in:
                    continue
                inputs = [tensor(http, "input", values, binary_data=binary_in)]
                outputs = [http.InferRequestedOutput("probabilities", binary_data=binary_out)]
                result = client.infer(MODEL, inputs, outputs=outputs)
                found = result.as_numpy("probabilities")
                assert (found == expected).all(), (datatype, found, expected)
        for values in [ROWS.repeat(500, 0).astype(np.float32), ROWS.astype(np.float32)]:
            plain = client.infer(MODEL, [tensor(http, "input", values)])
            plain = plain.as_numpy("probabilities")
            for coding in ["gzip", "deflate"]:
                for binary in [True, False]:
                    inputs = [tensor(http, "input", values, binary_data=binary)]
                    outputs = [http.InferRequestedOutput("probabilities", binary_data=binary)]
                    result = client.infer(
                        MODEL,
                        inputs,
                        outputs=outputs,
                        request_compression_algorithm=coding,
                        response_compression_algorithm=coding,
                    )
                    assert (result.as_numpy("probabilities") == plain).all(), (coding, binary)
        inputs = [tensor(http, "input", as_datatype(DATATYPES[-1]))]
        result = client.async_infer(MODEL, inputs).get_result()
        assert (result.as_numpy("probabilities") == answers[0][-1]).all()
    return answers


def main():
    over_grpc, over_http = by_grpc(), by_http()
    for one, other in zip(over_grpc[0], over_http[0]):
        assert (one == other).all(), (one, other)
    assert (over_grpc[1] == over_http[1]).all() and (over_grpc[2] == over_http[2]).all()
    print("as it must be, over gRPC and HTTP")


main()
