//! The protocol's REST form, with and without binary tensors.

use serde_json::{Value, json};

use crate::server::{http, scores, server};

const ROW: [f64; 10] = [6.0, 148.0, 72.0, 35.0, 0.0, 33.6, 0.627, 50.0, 1.0, 0.1];

fn get(path: &str) -> (u16, Value) {
    let (status, _, body) = http(server().address, "GET", path, &[], b"");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn post(path: &str, body: &Value) -> (u16, Value) {
    let (status, _, body) = http(
        server().address,
        "POST",
        path,
        &[],
        body.to_string().as_bytes(),
    );
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

const INFER: &str = "/v2/models/diabetes-forest/infer";

#[test]
fn health_metadata_and_readiness_are_told() {
    assert_eq!(get("/v2/health/live"), (200, json!({"live": true})));
    assert_eq!(get("/v2/health/ready"), (200, json!({"ready": true})));
    assert_eq!(get("/v2").1["name"], "quadrille");
    let (status, about) = get("/v2/models/diabetes-forest");
    assert_eq!(status, 200);
    assert_eq!(about["versions"], json!(["7"]));
    assert_eq!(
        about["outputs"][0],
        json!({"name": "probabilities", "datatype": "FP64", "shape": [-1, 1]})
    );
    assert_eq!(get("/v2/models/diabetes-forest/versions/7").0, 200);
    assert_eq!(get("/v2/models/diabetes-forest/versions/7/ready").0, 200);
    assert_eq!(get("/v2/models/diabetes/ready").0, 200);
    for path in [
        "/v2/models/nobody",
        "/v2/models/nobody/ready",
        "/v2/models/diabetes-forest/versions/8",
        "/v2/other",
    ] {
        let (status, body) = get(path);
        assert_eq!(status, 404, "{path}");
        assert!(body["error"].is_string(), "{path}: {body}");
    }
    assert_eq!(get(INFER).0, 405);
}

#[test]
fn numbers_go_in_and_come_out_to_the_last_bit_nested_or_flat() {
    let expected = scores(&server().diabetes, &ROW);
    for data in [json!([ROW]), json!(ROW)] {
        let request = json!({
            "id": "7",
            "inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP64", "data": data}],
        });
        let (status, answer) = post(INFER, &request);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["outputs"][0]["data"], json!(expected));
        assert_eq!(
            (&answer["id"], &answer["model_version"]),
            (&json!("7"), &json!("7"))
        );
        assert!(answer.get("parameters").is_none());
    }
    // A null is a missing number.
    let mut data: Vec<Value> = ROW.iter().map(|it| json!(it)).collect();
    data[4] = Value::Null;
    let mut row = ROW;
    row[4] = f64::NAN;
    let request =
        json!({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP64", "data": data}]});
    let answer = post("/v2/models/diabetes-forest/versions/7/infer", &request).1;
    assert_eq!(
        answer["outputs"][0]["data"],
        json!(scores(&server().diabetes, &row))
    );
}

#[test]
fn a_pipeline_is_asked_by_its_records_fields_and_names_who_answered() {
    let request = json!({
        "parameters": {"key": "a-1", "variant": "local"},
        "inputs": [
            {"name": "weight", "shape": [1], "datatype": "FP64", "data": [70]},
            {"name": "coat", "shape": [1, 1], "datatype": "BYTES", "data": [["red"]]},
            {"name": "tame", "shape": [1], "datatype": "BOOL", "data": [true]},
        ],
        "outputs": [{"name": "decision"}, {"name": "probabilities", "parameters": {"datatype": "FP32"}}],
    });
    let (status, answer) = post("/v2/models/animals/infer", &request);
    assert_eq!(status, 200, "{answer}");
    let expected = scores(&server().animals, &[70.0, 1.0, 0.0, 1.0])[0];
    let number = answer["outputs"][1]["data"][0].as_f64().expect("a number");
    assert_eq!(
        (number as f32, &answer["outputs"][1]["datatype"]),
        (expected as f32, &json!("FP32"))
    );
    assert_eq!(
        answer["outputs"][0]["data"][0],
        if expected >= 0.5 { "keep" } else { "leave" }
    );
    assert_eq!(
        answer["parameters"],
        json!({"model": "zoo-forest", "version": "7", "variant": "local"})
    );
}

fn binary(request: &Value, bytes: &[u8]) -> (u16, Option<usize>, Vec<u8>) {
    let text = request.to_string();
    let length = text.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let body = [text.as_bytes(), bytes].concat();
    http(server().address, "POST", INFER, &headers, &body)
}

#[test]
fn binary_tensors_follow_the_json_in_requests_and_answers() {
    let raw: Vec<u8> = ROW
        .iter()
        .flat_map(|it| (*it as f32).to_le_bytes())
        .collect();
    let row: Vec<f64> = ROW.iter().map(|it| f64::from(*it as f32)).collect();
    let expected = scores(&server().diabetes, &row)[0];
    let input = json!({"name": "x", "shape": [1, 10], "datatype": "FP32", "parameters": {"binary_data_size": 40}});
    let mut request = json!({"inputs": [input], "parameters": {"binary_data_output": true}});
    let (status, length, body) = binary(&request, &raw);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let (text, bytes) = body.split_at(length.expect("the JSON's length"));
    let answer: Value = serde_json::from_slice(text).expect("JSON");
    assert_eq!(answer["outputs"][0]["parameters"]["binary_data_size"], 8);
    assert!(answer["outputs"][0].get("data").is_none());
    assert_eq!(bytes[..8], expected.to_le_bytes());
    let label = if expected >= 0.5 {
        b"\x03\0\0\0pos"
    } else {
        b"\x03\0\0\0neg"
    };
    assert_eq!(&bytes[8..], label);

    // An output's own word is stronger.
    request["outputs"] =
        json!([{"name": "probabilities", "parameters": {"binary_data": false}}, {"name": "label"}]);
    let (_, length, body) = binary(&request, &raw);
    let answer: Value = serde_json::from_slice(&body[..length.expect("a length")]).expect("JSON");
    assert_eq!(answer["outputs"][0]["data"], json!([expected]));
    assert_eq!(answer["outputs"][1]["parameters"]["binary_data_size"], 7);
}

#[test]
fn what_cannot_be_answered_says_what_to_change() {
    let input = |data: Value| json!({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP64", "data": data}]});
    let good = input(json!(ROW));
    let with = |name: &str, value: Value| {
        let mut request = good.clone();
        request[name] = value;
        request
    };
    for (path, request, status, part) in [
        (
            "/v2/models/nobody/infer",
            good.clone(),
            404,
            "diabetes-forest",
        ),
        (INFER, json!({"inputs": []}), 400, "no inputs"),
        (INFER, json!({}), 400, "inputs"),
        (INFER, with("input", json!(1)), 400, "unknown field"),
        (
            INFER,
            input(json!([[1, 2], [3]])),
            400,
            "input \"x\": the data is ragged",
        ),
        (INFER, input(json!([1, "a"])), 400, "mixes"),
        (INFER, input(json!([ROW, ROW])), 400, "agree"),
        (INFER, input(json!(ROW[..9])), 400, "10 elements, not 9"),
        (
            INFER,
            with("outputs", json!([{"name": "z"}])),
            400,
            "probabilities, label",
        ),
        (
            INFER,
            with("parameters", json!({"datatype": "FP16"})),
            400,
            "FP32",
        ),
        (INFER, with("parameters", json!({"key": [1]})), 400, "key"),
        (
            "/v2/models/diabetes/infer",
            with("parameters", json!({"variant": "x"})),
            404,
            "local",
        ),
    ] {
        let (found, answer) = post(path, &request);
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!(found, status, "{error} {request}");
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
    let of = |size: u64| json!({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "parameters": {"binary_data_size": size}}]});
    for (request, bytes, part) in [
        (of(40), 39, "binary_data_size"),
        (of(39), 39, "40 bytes of raw contents, not 39"),
        (of(40), 41, "1 bytes after the JSON"),
    ] {
        let (status, _, body) = binary(&request, &vec![0; bytes]);
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(
            status == 400 && body.contains(part),
            "{part}: {status} {body}"
        );
    }
    let address = server().address;
    let (status, _, _) = http(
        address,
        "POST",
        INFER,
        &[("Inference-Header-Content-Length", "9")],
        b"{}",
    );
    assert_eq!(status, 400);
}

#[test]
fn names_configurations_and_statistics_are_listed() {
    let (status, listed) = get("/v2/models");
    assert_eq!(status, 200);
    let names = listed["models"].as_array().expect("a list");
    for name in ["diabetes-forest", "zoo-forest", "diabetes", "animals"] {
        assert!(names.contains(&json!(name)), "{listed}");
    }
    let (status, config) = get("/v2/models/animals/config");
    assert_eq!(status, 200, "{config}");
    assert_eq!(
        config["input"][1],
        json!({"name": "coat", "data_type": "TYPE_STRING", "dims": [1], "reshape": {"shape": []}})
    );
    assert_eq!(get("/v2/models/diabetes-forest/versions/7/config").0, 200);
    for path in [
        "/v2/models/stats",
        "/v2/models/zoo-forest/stats",
        "/v2/models/zoo-forest/versions/7/stats",
        "/v2/models/animals/stats",
    ] {
        let (status, answer) = get(path);
        assert_eq!(status, 200, "{path}: {answer}");
        let models = answer["model_stats"].as_array().expect("a list");
        let zoo = models.iter().find(|it| it["name"] == "zoo-forest");
        let zoo = zoo.expect("the model");
        assert_eq!(zoo["version"], "7");
        for part in [
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
        ] {
            let times = &zoo["inference_stats"][part];
            assert!(
                times["count"].is_u64() && times["ns"].is_u64(),
                "{part}: {answer}"
            );
        }
    }
    assert_eq!(get("/v2/models/nobody/stats").0, 404);
    assert_eq!(get("/v2/models/nobody/config").0, 404);
}

#[test]
fn what_the_path_says_may_be_said_again_in_the_body() {
    let mut request = json!({
        "model_name": "diabetes-forest",
        "model_version": "7",
        "inputs": [{"name": "x", "shape": [0, 10], "datatype": "FP64", "data": []}],
    });
    let (status, answer) = post(INFER, &request);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"][0]["shape"], json!([0, 1]));
    request["model_version"] = Value::Null;
    assert_eq!(post(INFER, &request).0, 200);
}

#[test]
fn a_body_that_names_another_model_or_version_than_its_path_is_refused() {
    let of = |name: Value, version: Value| {
        json!({
            "model_name": name,
            "model_version": version,
            "inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP64", "data": ROW}],
        })
    };
    let versioned = "/v2/models/diabetes-forest/versions/7/infer";
    for (path, name, version, status, part) in [
        (
            versioned,
            json!("zoo-forest"),
            Value::Null,
            400,
            "model_name is \"zoo-forest\" in the body",
        ),
        (
            versioned,
            json!("diabetes-forest"),
            json!("8"),
            400,
            "model_version is \"8\" in the body and \"7\" in the path",
        ),
        (versioned, json!([1]), json!(""), 400, "must be a text"),
        // It is asked for by the body alone then.
        (INFER, json!("diabetes-forest"), json!("8"), 404, "7"),
        (INFER, Value::Null, json!(8), 404, "7"),
        (
            "/v2/models/diabetes/infer",
            json!("diabetes"),
            json!("7"),
            404,
            "has no versions",
        ),
    ] {
        let (found, answer) = post(path, &of(name, version));
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            found == status && error.contains(part),
            "{path}: {found} {answer}"
        );
    }
    for (path, name, version) in [
        (versioned, json!("diabetes-forest"), json!("7")),
        (versioned, json!(""), json!(7)),
        (INFER, json!("diabetes-forest"), json!("")),
        (INFER, Value::Null, json!("7")),
    ] {
        let (status, answer) = post(path, &of(name, version));
        assert_eq!(status, 200, "{path}: {answer}");
        assert_eq!(answer["model_version"], "7");
    }
}

#[test]
fn the_repository_is_told_as_over_grpc() {
    let (status, index) = post("/v2/repository/index", &json!({"ready": true}));
    assert_eq!(status, 200);
    let models = index.as_array().expect("a list");
    assert!(
        models.contains(
            &json!({"name": "zoo-forest", "version": "7", "state": "READY", "reason": ""})
        ),
        "{index}"
    );
    assert_eq!(
        post("/v2/repository/models/zoo-forest/load", &json!({})).0,
        200
    );
    assert_eq!(post("/v2/repository/models/nobody/load", &json!({})).0, 404);
    let config = json!({"parameters": {"config": "{}"}});
    assert_eq!(
        post("/v2/repository/models/zoo-forest/load", &config).0,
        400
    );
    let (status, answer) = post("/v2/repository/models/zoo-forest/unload", &json!({}));
    assert!(
        status == 409 && answer["error"].is_string(),
        "{status} {answer}"
    );
}
