//! TensorFlow Serving's REST form.

use serde_json::{Value, json};

use crate::server::{http, scores, server};

const ROW: [f64; 10] = [6.0, 148.0, 72.0, 35.0, 0.0, 33.6, 0.627, 50.0, 1.0, 0.1];

fn ask(method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let (status, _, body) = http(server().address, method, path, &[], body.as_bytes());
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn the_status_of_a_version_is_as_health_checks_know_it() {
    let expected = json!({"model_version_status": [{
        "version": "7",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }]});
    for path in [
        "/v1/models/diabetes-forest",
        "/v1/models/diabetes-forest/versions/7",
        "/v1/models/diabetes-forest/labels/local",
        "/v1/models/diabetes",
        "/v1/models/diabetes/labels/local",
    ] {
        assert_eq!(
            ask("GET", path, &Value::Null),
            (200, expected.clone()),
            "{path}"
        );
    }
    for (path, part) in [
        ("/v1/models/nobody", "diabetes-forest"),
        ("/v1/models/diabetes-forest/versions/8", "7"),
        ("/v1/models/diabetes-forest/labels/stable", "local"),
        ("/v1/models/diabetes/labels/stable", "local"),
        ("/v1/models/nobody/labels/local", "diabetes-forest"),
    ] {
        let (status, answer) = ask("GET", path, &Value::Null);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            status == 404 && error.contains(part),
            "{path}: {status} {error}"
        );
    }
}

#[test]
fn metadata_has_a_signature() {
    let (status, about) = ask("GET", "/v1/models/diabetes-forest/metadata", &Value::Null);
    assert_eq!(status, 200);
    let signature = &about["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["inputs"]["input"]["dtype"], "DT_DOUBLE");
    let sides = &signature["inputs"]["input"]["tensor_shape"]["dim"];
    assert_eq!(
        (&sides[0]["size"], &sides[1]["size"]),
        (&json!("-1"), &json!("10"))
    );
    assert_eq!(signature["outputs"]["label"]["dtype"], "DT_STRING");
    assert_eq!(about["model_spec"]["version"], "7");
}

#[test]
fn predict_takes_rows_and_columns_by_model_version_and_label() {
    let expected = scores(&server().diabetes, &ROW);
    let rows = json!({"instances": [ROW, ROW]});
    let both = json!([expected, expected]);
    for path in [
        "/v1/models/diabetes-forest:predict",
        "/v1/models/diabetes-forest/versions/7:predict",
        "/v1/models/diabetes-forest/labels/local:predict",
        "/v1/models/diabetes:predict",
        "/v1/models/diabetes/labels/local:predict",
    ] {
        assert_eq!(
            ask("POST", path, &rows),
            (200, json!({"predictions": both})),
            "{path}"
        );
    }
    let path = "/v1/models/diabetes-forest:predict";
    let columns = json!({"signature_name": "serving_default", "inputs": {"x": [ROW, ROW]}});
    assert_eq!(ask("POST", path, &columns), (200, json!({"outputs": both})));
    let named = json!({"instances": [{"input": ROW}]});
    assert_eq!(
        ask("POST", path, &named),
        (200, json!({"predictions": [expected]}))
    );
}

#[test]
fn any_signature_tokens_for_numbers_and_bytes_are_taken() {
    let post = |path: &str, body: &str| {
        let (status, _, body) = http(server().address, "POST", path, &[], body.as_bytes());
        (
            status,
            serde_json::from_slice::<Value>(&body).unwrap_or_default(),
        )
    };
    // To a forest an infinity is missing as NaN is.
    let mut row = ROW;
    row[4] = f64::NAN;
    let expected = scores(&server().diabetes, &row);
    for token in ["NaN", "Infinity", "-Infinity", "null"] {
        let body = format!(
            r#"{{"signature_name": "predict_images", "instances": [[6.0, 148.0, 72.0, 35.0, {token}, 33.6, 0.627, 50.0, 1.0, 0.1]]}}"#
        );
        let found = post("/v1/models/diabetes-forest:predict", &body);
        assert_eq!(found, (200, json!({"predictions": [expected]})), "{token}");
    }
    let expected = scores(&server().animals, &[70.0, 1.0, 0.0, 1.0]);
    let body = r#"{"instances": [{"weight": 70, "coat": {"b64": "cmVk"}, "tame": true}]}"#;
    let found = post("/v1/models/animals:predict", body);
    assert_eq!(found, (200, json!({"predictions": [expected]})));
    let listed = r#"{"inputs": {"weight": [70], "coat": [{"b64": "cmVk"}], "tame": [true]}}"#;
    let found = post("/v1/models/animals:predict", listed);
    assert_eq!(found, (200, json!({"outputs": [expected]})));
}

#[test]
fn objects_are_records_of_a_pipeline_and_inputs_of_a_model() {
    let expected = scores(
        &server().animals,
        &[70.0, 1.0, 0.0, 1.0, f64::NAN, 0.0, 1.0, 0.0],
    );
    let rows = json!({"instances": [
        {"weight": 70, "coat": "red", "tame": true, "animal": "a"},
        {"animal": "b", "tame": false, "coat": "blue", "weight": null},
    ]});
    let (status, answer) = ask("POST", "/v1/models/animals:predict", &rows);
    assert_eq!(
        (status, answer),
        (200, json!({"predictions": [[expected[0]], [expected[1]]]}))
    );
    let inputs = json!({"instances": [{"weight": 70, "coat=red": 1, "coat=blue": [0], "tame": 1}]});
    let (status, answer) = ask("POST", "/v1/models/zoo-forest:predict", &inputs);
    assert_eq!(
        (status, answer),
        (200, json!({"predictions": [[expected[0]]]}))
    );
}

#[test]
fn examples_are_classified_and_regressed() {
    let expected = scores(&server().animals, &[70.0, 1.0, 0.0, 1.0])[0];
    let examples = json!({"context": {"tame": true}, "examples": [{"weight": 70, "coat": "red"}]});
    let (status, answer) = ask("POST", "/v1/models/animals:classify", &examples);
    assert_eq!(status, 200, "{answer}");
    let (first, second) = (json!(["pos", expected]), json!(["neg", 1.0 - expected]));
    let ranked = if expected > 0.5 {
        [first, second]
    } else {
        [second, first]
    };
    assert_eq!(answer, json!({"results": [ranked]}));
    let (status, answer) = ask("POST", "/v1/models/animals:regress", &examples);
    assert_eq!((status, answer), (200, json!({"results": [expected]})));
}

#[test]
fn what_cannot_be_answered_says_what_to_change() {
    let path = "/v1/models/diabetes-forest:predict";
    for (path, body, status, part) in [
        (path, json!({}), 400, "instances"),
        (path, json!({"instances": [], "inputs": []}), 400, "either"),
        (path, json!({"instances": []}), 400, "send"),
        (path, json!({"instances": [ROW[..9]]}), 400, "[N, 10]"),
        (
            path,
            json!({"instances": [{"a": 1}, {"b": 1}]}),
            400,
            "row 1",
        ),
        (
            path,
            json!({"instances": [{"a": {"b64": "/w=="}}]}),
            400,
            "no text",
        ),
        (path, json!({"instances": [{"a": {"b": 1}}]}), 400, "b64"),
        (
            "/v1/models/nobody:predict",
            json!({"instances": [ROW]}),
            404,
            "diabetes-forest",
        ),
        (
            "/v1/models/diabetes-forest/labels/canary:predict",
            json!({"instances": [ROW]}),
            404,
            "local",
        ),
        (
            "/v1/models/diabetes-forest:explain",
            json!({"instances": [ROW]}),
            400,
            ":predict",
        ),
        (
            "/v1/models/diabetes-forest:classify",
            json!({"instances": [ROW]}),
            400,
            "examples",
        ),
    ] {
        let (found, answer) = ask("POST", path, &body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            found == status && error.contains(part),
            "{path} {body}: {found} {error}"
        );
    }
}
