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
