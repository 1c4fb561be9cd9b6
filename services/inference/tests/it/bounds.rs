//! What a request may cost, whatever it holds.

use quadrille_proto::oip::{
    ModelInferRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use serde_json::json;
use tonic::{Code, transport::Channel};

use crate::server::{http, server};

/// What a header of a gRPC answer has room for at every client.
const MESSAGE_MAX: usize = 4_200;

async fn client() -> GrpcInferenceServiceClient<Channel> {
    let server = tokio::task::spawn_blocking(server).await.expect("a server");
    let client = GrpcInferenceServiceClient::connect(server.url()).await;
    client.expect("a connection")
}

fn input(name: &str, shape: Vec<i64>) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: "UINT8".to_owned(),
        shape,
        ..InferInputTensor::default()
    }
}

#[tokio::test]
async fn a_refusal_over_grpc_is_short_whatever_it_names() {
    let mut client = client().await;
    let long = "\u{1}".repeat(1 << 20);
    let request = |model: &str, version: &str, inputs: Vec<InferInputTensor>| ModelInferRequest {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        raw_input_contents: vec![vec![0; 10].into(); inputs.len()],
        inputs,
        ..ModelInferRequest::default()
    };
    let forest = |inputs| request("diabetes-forest", "", inputs);
    let mut datatype = forest(vec![input("x", vec![1, 10])]);
    datatype.inputs[0].datatype.clone_from(&long);
    let mut output = forest(vec![input("x", vec![1, 10])]);
    output.outputs = vec![InferRequestedOutputTensor {
        name: long.clone(),
        ..InferRequestedOutputTensor::default()
    }];
    for request in [
        request(&long, "", vec![input("x", vec![1, 10])]),
        request("diabetes-forest", &long, vec![input("x", vec![1, 10])]),
        forest(vec![input(&long, vec![1, 9])]),
        forest(vec![input("x", vec![1; 1 << 20])]),
        forest(vec![input("x", vec![-1; 1 << 20])]),
        forest(vec![input(&long, vec![10]), input(&long, vec![10])]),
        request(
            "diabetes",
            "",
            vec![input(&long, vec![10]), input("age", vec![10])],
        ),
        datatype,
        output,
    ] {
        let refused = client.model_infer(request).await.expect_err("refused");
        assert!(
            matches!(refused.code(), Code::InvalidArgument | Code::NotFound),
            "{:?} {}",
            refused.code(),
            refused.message().len()
        );
        let length = refused.message().len();
        assert!(length < MESSAGE_MAX, "{length}");
    }
}

#[tokio::test]
async fn a_request_of_nothing_but_inputs_is_refused_before_it_is_read() {
    let mut client = client().await;
    let mut request = ModelInferRequest {
        model_name: "diabetes-forest".to_owned(),
        inputs: vec![InferInputTensor::default(); 70_000],
        ..ModelInferRequest::default()
    };
    let refused = client
        .model_infer(request.clone())
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("65536 messages"), "{refused}");
    request.inputs.truncate(9_000);
    let refused = client.model_infer(request).await.expect_err("refused");
    assert!(refused.message().contains("8192 inputs"), "{refused}");
}

#[test]
fn lists_in_parameters_and_too_many_inputs_are_refused_over_rest() {
    let ask = |body: String| {
        let path = "/v2/models/diabetes-forest/infer";
        let (status, _, answer) = http(server().address, "POST", path, &[], body.as_bytes());
        (status, String::from_utf8_lossy(&answer).into_owned())
    };
    let list = vec![r#"{"":0}"#; 10_000].join(",");
    let (status, answer) = ask(format!(
        r#"{{"inputs": [], "parameters": {{"x": [{list}]}}}}"#
    ));
    assert!(
        status == 400 && answer.contains("must be a text"),
        "{answer}"
    );
    let input = r#"{"name":"","shape":[],"datatype":""}"#;
    let inputs = vec![input; 9_000].join(",");
    let (status, answer) = ask(format!(r#"{{"inputs": [{inputs}]}}"#));
    assert!(
        status == 400 && answer.contains("8192 elements"),
        "{answer}"
    );
    // Each is small enough; together they are not.
    let numbers = vec!["0"; 1 << 20].join(",");
    let input = format!(r#"{{"name":"x","shape":[1048576],"datatype":"FP64","data":[{numbers}]}}"#);
    let (status, answer) = ask(format!(r#"{{"inputs": [{input},{input},{input}]}}"#));
    assert!(
        status == 400 && answer.contains("of all inputs"),
        "{answer}"
    );
}

#[test]
fn a_refusal_over_rest_is_short_whatever_it_names() {
    let long = "x".repeat(1 << 20);
    let input = json!({"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]});
    let bodies = [
        (
            "/v2/models/diabetes-forest/infer",
            json!({"inputs": [], &*long: 1}),
        ),
        (
            "/v2/models/diabetes-forest/infer",
            json!({"inputs": [input], "outputs": [{"name": long}]}),
        ),
        (
            "/v1/models/diabetes-forest:predict",
            json!({"instances": [{&*long: 1}, {"x": 1}]}),
        ),
        ("/v1/models/diabetes-forest:predict", json!({&*long: []})),
    ];
    for (path, body) in bodies {
        let body = body.to_string();
        let (status, _, answer) = http(server().address, "POST", path, &[], body.as_bytes());
        assert!(
            status == 400 && answer.len() < MESSAGE_MAX,
            "{path}: {status} {}",
            answer.len()
        );
    }
}
