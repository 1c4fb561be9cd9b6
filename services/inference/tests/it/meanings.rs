//! What a request means and what an answer says: of any two readings never the wrong one.

use quadrille_proto::{
    oip::{
        InferTensorContents, ModelInferRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
    v1::{PredictRequest, predict_service_client::PredictServiceClient},
};
use serde_json::{Value, json};
use tonic::Code;

use crate::server::{ROWS_MAX, VALUES_MAX, http, scores, server};

fn post(path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let (status, _, body) = http(server().address, "POST", path, &[], body.as_bytes());
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn tensor(name: &str, shape: Value, data: Value) -> Value {
    json!({"name": name, "shape": shape, "datatype": "FP64", "data": data})
}

/// The answer to these inputs by REST.
fn infer(model: &str, inputs: Value) -> (u16, Value) {
    post(
        &format!("/v2/models/{model}/infer"),
        &json!({ "inputs": inputs }),
    )
}

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

fn cards(x0: Value, x1: Value) -> Value {
    json!([
        tensor("x0", json!([1]), json!([x0])),
        tensor("x1", json!([1]), json!([x1]))
    ])
}

async fn grpc_cards(x0: f64, x1: f64) -> Result<(), tonic::Status> {
    let url = tokio::task::spawn_blocking(|| server().url()).await;
    let mut client = GrpcInferenceServiceClient::connect(url.expect("a server"))
        .await
        .expect("a connection");
    let input = InferInputTensor {
        name: "input".to_owned(),
        datatype: "FP64".to_owned(),
        shape: vec![2, 2],
        contents: Some(InferTensorContents {
            fp64_contents: vec![1.0, 1.0, x0, x1],
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "fraud-network".to_owned(),
        inputs: vec![input],
        ..Default::default()
    };
    client.model_infer(request).await.map(drop)
}

#[tokio::test]
async fn an_answer_that_is_no_number_is_refused_by_predict_with_the_missing_input() {
    let url = tokio::task::spawn_blocking(|| server().url()).await;
    let mut predict = PredictServiceClient::connect(url.expect("a server"))
        .await
        .expect("a connection");
    let record = |fields: &[(&str, f64)]| {
        let value = |number| prost_types::Value {
            kind: Some(prost_types::value::Kind::NumberValue(number)),
        };
        let fields = fields
            .iter()
            .map(|(name, it)| ((*name).to_owned(), value(*it)));
        PredictRequest {
            pipeline: "cards".to_owned(),
            record: Some(prost_types::Struct {
                fields: fields.collect(),
            }),
            ..PredictRequest::default()
        }
    };
    let refused = predict.predict(record(&[("x1", 2.0)])).await;
    let refused = refused.expect_err("no negative decision");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("x0 is missing"), "{refused}");
    let whole = predict.predict(record(&[("x0", 1.0), ("x1", 2.0)])).await;
    assert_eq!(whole.expect("an answer").into_inner().decision, "block");
}

#[tokio::test]
async fn an_answer_that_is_no_number_is_refused_over_grpc_by_its_row() {
    let refused = grpc_cards(f64::NAN, 2.0).await.expect_err("no label");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let message = refused.message();
    assert!(
        message.starts_with("row 1: the model answers NaN for \"fraud\"")
            && message.contains("x0 is missing"),
        "{message}"
    );
    // An infinite input is as good as none; large ones that the network overflows at are its author's affair.
    grpc_cards(f64::INFINITY, f64::INFINITY)
        .await
        .expect_err("no label");
    let refused = grpc_cards(1e300, 1e300).await.expect_err("no label");
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    grpc_cards(1.0, 2.0).await.expect("an answer");
}

#[test]
fn an_answer_that_is_no_number_is_refused_by_rest_and_by_tensorflow_serving() {
    for model in ["cards", "fraud-network"] {
        let (status, answer) = infer(model, cards(Value::Null, json!(2)));
        assert_eq!(status, 400, "{answer}");
        assert!(error(&answer).contains("x0 is missing"), "{answer}");
        for verb in ["predict", "classify", "regress"] {
            let rows = match verb {
                "predict" => "instances",
                _ => "examples",
            };
            let path = format!("/v1/models/{model}:{verb}");
            let (status, answer) = post(&path, &json!({rows: [{"x0": null, "x1": 2}]}));
            assert_eq!(status, 400, "{answer}");
            assert!(error(&answer).contains("x0 is missing"), "{answer}");
        }
        assert_eq!(infer(model, cards(json!(1), json!(2))).0, 200);
    }
}

#[test]
fn a_null_is_a_missing_truth_and_no_true_one() {
    let animals = |weight: Value, tame: Value| {
        let count = tame.as_array().map(Vec::len);
        let tensor = |name: &str, datatype: &str, data: Value| json!({"name": name, "shape": [count], "datatype": datatype, "data": data});
        let coat: Vec<&str> = vec!["red"; count.unwrap_or_default()];
        infer(
            "animals",
            json!([
                tensor("weight", "FP64", weight),
                tensor("coat", "BYTES", json!(coat)),
                tensor("tame", "BOOL", tame),
            ]),
        )
    };
    // As over the protocols that have a null of their own: the field is required.
    for (tame, row) in [
        (json!([null]), ""),
        (json!([1, null]), "row 1: "),
        (json!([true, null]), "row 1: "),
        (json!([null, false]), "row 0: "),
    ] {
        let weights = tame.as_array().map(|it| vec![50.0; it.len()]);
        let (status, answer) = animals(json!(weights), tame.clone());
        assert_eq!(status, 400, "{tame}: {answer}");
        let said = error(&answer);
        assert!(
            said.starts_with(row) && said.contains("field \"tame\": is null"),
            "{tame}: {answer}"
        );
    }
    let expected = scores(
        &server().animals,
        &[50.0, 1.0, 0.0, 1.0, 50.0, 1.0, 0.0, 0.0],
    );
    for tame in [json!([true, false]), json!([1, 0])] {
        let (status, answer) = animals(json!([50, 50]), tame);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["outputs"][0]["data"], json!(expected));
    }
    // What a model reads by its own name may be missing, as a number may be.
    let zoo = json!([{
        "name": "input", "shape": [1, 4], "datatype": "FP64", "data": [50, 1, 0, null]
    }]);
    let expected = scores(&server().animals, &[50.0, 1.0, 0.0, f64::NAN]);
    assert_eq!(
        infer("zoo-forest", zoo).1["outputs"][0]["data"],
        json!(expected)
    );
}

#[test]
fn a_name_that_comes_twice_is_refused_and_never_the_last_value_taken() {
    let model = "/v1/models/cards";
    let twice = r#"{"x0": -0.8, "x1": 0, "x\u0030": 10}"#;
    for (verb, body) in [
        ("predict", format!(r#"{{"instances": [{twice}]}}"#)),
        ("predict", format!(r#"{{"inputs": {twice}}}"#)),
        ("classify", format!(r#"{{"examples": [{twice}]}}"#)),
        (
            "regress",
            format!(r#"{{"examples": [{{"x1": 0}}], "context": {twice}}}"#),
        ),
    ] {
        let path = format!("{model}:{verb}");
        let (status, _, answer) = http(server().address, "POST", &path, &[], body.as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(
            answer.contains(r#"\"x0\" is there twice"#),
            "{body}: {answer}"
        );
    }
    // An example's own value instead of the one that all share is no second one.
    let body = json!({"examples": [{"x0": 1, "x1": 0}], "context": {"x0": 2}});
    let (status, answer) = post("/v1/models/cards:regress", &body);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_number_beyond_its_datatype_is_refused_and_no_infinity() {
    let wide = |datatype: &str| {
        let column = |name: &str, number: f64| json!({"name": name, "shape": [1], "datatype": datatype, "data": [number]});
        infer("cards", json!([column("x0", 1e39), column("x1", 0.0)]))
    };
    let (status, answer) = wide("FP32");
    assert_eq!(status, 400, "{answer}");
    assert!(error(&answer).contains("is no FP32"), "{answer}");
    assert!(!error(&wide("FP64").1).contains("is no FP"));
}

#[test]
fn an_infinity_is_refused_where_it_was_not_meant_and_by_pipelines_always() {
    let ask = |path: &str, body: &str| {
        let (status, _, answer) = http(server().address, "POST", path, &[], body.as_bytes());
        (status, String::from_utf8_lossy(&answer).into_owned())
    };
    let number = |number: &str| {
        format!(
            r#"{{"inputs": [{{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [{number}]}}]}}"#
        )
    };
    for model in ["level-forest", "gauge"] {
        for datatype in ["FP64", "FP32"] {
            let body = number("1e999").replace("FP64", datatype);
            let (status, answer) = ask(&format!("/v2/models/{model}/infer"), &body);
            assert_eq!(status, 400, "{answer}");
            assert!(answer.contains("1e999, which is too large"), "{answer}");
        }
        // TensorFlow Serving has a token for it.
        let path = format!("/v1/models/{model}:predict");
        let (status, answer) = ask(&path, r#"{"instances": [[1e999]]}"#);
        assert_eq!(status, 400, "{answer}");
    }
    let tokens = r#"{"instances": [{"level_log": Infinity}]}"#;
    let (status, answer) = ask("/v1/models/level-forest:predict", tokens);
    assert_eq!(status, 200, "{answer}");
    let refused = "is not a finite number; send a finite number";
    for instances in [
        r#"[{"level_log": -Infinity}]"#,
        r#"[{"level": Infinity}]"#,
        r#"[{"level_log": 1}, {"level_log": Infinity}]"#,
    ] {
        let body = format!(r#"{{"instances": {instances}}}"#);
        let (status, answer) = ask("/v1/models/gauge:predict", &body);
        assert_eq!(status, 400, "{instances}: {answer}");
        assert!(answer.contains(refused), "{instances}: {answer}");
    }
    // As bytes it is a number like any other, until it is a pipeline's.
    let of = |name: &str| {
        json!({"inputs": [{"name": name, "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}).to_string()
    };
    let binary = |model: &str, name: &str| {
        let json = of(name);
        let length = json.len().to_string();
        let body = [json.as_bytes(), &f32::INFINITY.to_le_bytes()].concat();
        let path = format!("/v2/models/{model}/infer");
        let header = [("Inference-Header-Content-Length", &*length)];
        let (status, _, answer) = http(server().address, "POST", &path, &header, &body);
        (status, String::from_utf8_lossy(&answer).into_owned())
    };
    assert_eq!(binary("level-forest", "level_log").0, 200);
    for name in ["level", "level_log"] {
        let (status, answer) = binary("gauge", name);
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(refused), "{answer}");
    }
}

#[test]
fn a_raw_value_is_never_scored_as_the_feature_that_is_made_of_it() {
    // Below the forest's split at 3 as a logarithm, above it as it came.
    let raw = 12.0_f64;
    let expected = scores(&server().gauge, &[raw.ln()]);
    assert_ne!(expected, scores(&server().gauge, &[raw]));
    for shape in [json!([1]), json!([1, 1])] {
        let level = json!([tensor("level", shape.clone(), json!([raw]))]);
        let (status, answer) = infer("gauge", level);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["outputs"][0]["data"], json!(expected));
        let feature = json!([tensor("level_log", shape.clone(), json!([raw.ln()]))]);
        let answer = infer("gauge", feature).1;
        assert_eq!(answer["outputs"][0]["data"], json!(expected));

        for name in ["input", "levle"] {
            let neither = json!([tensor(name, shape.clone(), json!([raw]))]);
            let (status, answer) = infer("gauge", neither.clone());
            let error = error(&answer);
            assert!(
                status == 400 && error.contains("\"level\"") && error.contains("\"level_log\""),
                "{status} {answer}"
            );
            let named = json!({"inputs": neither, "parameters": {"inputs": "features"}});
            let answer = post("/v2/models/gauge/infer", &named).1;
            assert_eq!(
                answer["outputs"][0]["data"],
                json!(scores(&server().gauge, &[raw]))
            );
        }
    }
    // Their own inputs are all that models know.
    let model = json!([tensor("x", json!([1, 1]), json!([raw.ln()]))]);
    let answer = infer("level-forest", model).1;
    assert_eq!(answer["outputs"][0]["data"], json!(expected));
}

#[test]
fn of_two_variants_or_one_that_is_no_text_none_answers() {
    let header = "quadrille-variant";
    let infer = json!({"inputs": cards(json!(1), json!(2))}).to_string();
    let instances = json!({"instances": [{"x0": 1, "x1": 2}]}).to_string();
    for (path, body) in [
        ("/v2/models/cards/infer", &infer),
        ("/v1/models/cards:predict", &instances),
    ] {
        let ask = |headers: &[(&str, &str)]| {
            let (status, _, answer) =
                http(server().address, "POST", path, headers, body.as_bytes());
            (status, String::from_utf8_lossy(&answer).into_owned())
        };
        assert_eq!(ask(&[(header, "local"), (header, "local")]).0, 200);
        assert_eq!(ask(&[(header, "loc\u{e4}l")]).0, 404);
        let (status, answer) = ask(&[(header, "local"), (header, "canary")]);
        assert!(
            status == 400 && answer.contains(header),
            "{status} {answer}"
        );
    }
}

#[test]
fn features_beside_a_records_fields_are_refused_and_never_ignored_or_computed_again() {
    // The record's fields, with insulin as it was measured.
    let fields = [
        ("pregnant", 6.0),
        ("glucose", 148.0),
        ("pressure", 72.0),
        ("triceps", 35.0),
        ("insulin", 100.0),
        ("mass", 33.6),
        ("pedigree", 0.627),
        ("age", 50.0),
    ];
    // As who asks knows better.
    let features = [("insulin_missing", 1.0), ("triceps_missing", 0.0)];
    let all = fields.iter().chain(&features);
    let mut row = serde_json::Map::new();
    row.insert("patient_id".to_owned(), json!("p-1"));
    row.extend(
        all.clone()
            .map(|(name, it)| ((*name).to_owned(), json!(it))),
    );
    let (status, answer) = post("/v1/models/diabetes:predict", &json!({"instances": [row]}));
    assert_eq!(status, 400, "{answer}");
    let said = error(&answer);
    assert!(
        said.contains("\"insulin_missing\"") && said.contains("parameter \"key\""),
        "{said}"
    );

    let tensors = |named: &[(&str, f64)]| -> Vec<Value> {
        let tensor = |(name, it): &(&str, f64)| tensor(name, json!([1]), json!([it]));
        named.iter().map(tensor).collect()
    };
    let ask = |tensors: Vec<Value>, parameters: Value| {
        let body = json!({"inputs": tensors, "parameters": parameters});
        post("/v2/models/diabetes/infer", &body)
    };
    let key = json!({"name": "patient_id", "shape": [1], "datatype": "BYTES", "data": ["p-1"]});
    let inputs: Vec<(&str, f64)> = all.copied().collect();
    let mut keyed = tensors(&inputs);
    keyed.push(key);
    let (status, answer) = ask(keyed, json!({}));
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = ask(tensors(&inputs), json!({"inputs": "record"}));
    assert_eq!(status, 400, "{answer}");

    // As it says: with the key as a parameter.
    let (status, answer) = ask(tensors(&inputs), json!({"key": "p-1"}));
    assert_eq!(status, 200, "{answer}");
    let numbers: Vec<f64> = inputs.iter().map(|(_, it)| *it).collect();
    let expected = json!(scores(&server().diabetes, &numbers));
    assert_eq!(answer["outputs"][0]["data"], expected);
    assert_eq!(ask(tensors(&fields), json!({})).0, 200);
}

#[test]
fn more_than_the_settings_allow_is_refused_with_the_setting_in_every_form() {
    let rows = vec![1.0; ROWS_MAX + 1];
    let values = vec![1.0; VALUES_MAX + 10];
    let shape = json!([ROWS_MAX + 1, 1]);
    let many = json!([tensor("x", shape.clone(), json!(rows))]);
    let level = json!([tensor("level", shape, json!(rows))]);
    let wide = json!([tensor("x", json!([VALUES_MAX / 10 + 1, 10]), json!(values))]);
    for (model, inputs, most) in [
        ("level-forest", many, ROWS_MAX),
        ("gauge", level, ROWS_MAX),
        ("diabetes-forest", wide, VALUES_MAX),
    ] {
        let (status, answer) = infer(model, inputs);
        assert_eq!(status, 400, "{answer}");
        assert!(error(&answer).contains(&most.to_string()), "{answer}");
    }
    let body = json!({ "instances": values.chunks(10).collect::<Vec<_>>() });
    let (status, answer) = post("/v1/models/diabetes-forest:predict", &body);
    assert_eq!(status, 400, "{answer}");
    assert!(error(&answer).contains(&VALUES_MAX.to_string()), "{answer}");
}

#[test]
fn tensorflow_servings_unnamed_values_are_the_one_field_that_there_is() {
    let expected = scores(&server().gauge, &[12.0_f64.ln()]);
    for instances in [json!([12]), json!([[12]]), json!([{"level": 12}])] {
        let body = json!({ "instances": instances });
        let (status, answer) = post("/v1/models/gauge:predict", &body);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer, json!({"predictions": [expected]}), "{body}");
    }
}

#[test]
fn label_and_decision_are_one_class_at_the_pipelines_threshold() {
    // A probability of 0.43: fraud to the pipeline, whose threshold is 0.3.
    let (status, answer) = infer("cards", cards(json!(-0.8), json!(0)));
    assert_eq!(status, 200, "{answer}");
    let outputs = &answer["outputs"];
    let probability = outputs[0]["data"][0].as_f64().expect("a probability");
    assert!((0.42..0.44).contains(&probability), "{probability}");
    assert_eq!(outputs[1]["data"], json!(["fraud"]));
    assert_eq!(outputs[2]["data"], json!(["block"]));
    let below = infer("cards", cards(json!(-4), json!(0))).1;
    assert_eq!(below["outputs"][1]["data"], json!(["ok"]));
    assert_eq!(below["outputs"][2]["data"], json!(["pay"]));

    // By the model's name there is no threshold but a half, and metadata say so.
    let answer = infer("fraud-network", cards(json!(-0.8), json!(0))).1;
    assert_eq!(answer["outputs"][1]["data"], json!(["ok"]));
    for (name, threshold) in [("cards", "0.3"), ("fraud-network", "0.5")] {
        let (_, _, about) = http(
            server().address,
            "GET",
            &format!("/v2/models/{name}"),
            &[],
            b"",
        );
        let about: Value = serde_json::from_slice(&about).expect("JSON");
        assert_eq!(about["properties"]["threshold"], threshold, "{about}");
    }
}
