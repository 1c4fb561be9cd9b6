//! Compressed requests and answers of all the service's protocols.

use std::io::{Read, Write};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use flate2::{
    Compression,
    read::GzDecoder,
    write::{GzEncoder, ZlibEncoder},
};
use prost::Message;
use quadrille_proto::oip::{
    ModelInferRequest, ModelInferResponse, model_infer_request::InferInputTensor,
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Endpoint};
use tower::ServiceExt;

use crate::server::{Server, scores, server};

const INFER: &str = "/v2/models/diabetes-forest/infer";
const ROW: [f64; 10] = [6.0, 148.0, 72.0, 35.0, 0.0, 33.6, 0.627, 50.0, 1.0, 0.1];
/// Enough that the answer is worth it.
const ROWS: usize = 500;
const JSON: (&str, &str) = ("content-type", "application/json");
const GZIPPED: (&str, &str) = ("content-encoding", "gzip");

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = GzDecoder::new(bytes).read_to_end(&mut plain);
    read.expect("gzip");
    plain
}

/// An answer: status, headers, body.
struct Heard(u16, HeaderMap, Vec<u8>);

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.2).unwrap_or_default()
    }
}

/// A request over HTTP/2, as gRPC is.
async fn ask(server: &Server, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Heard {
    let mut request = Request::post(format!("{}{path}", server.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(Body::from(body));
    let channel = Endpoint::from_shared(server.url()).expect("an address");
    let channel = channel.connect().await.expect("a connection");
    let answer = channel.oneshot(request.body(body).expect("a request"));
    let (head, body) = answer.await.expect("an answer").into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await;
    let body = body.expect("a body").to_vec();
    Heard(head.status.as_u16(), head.headers, body)
}

async fn running() -> &'static Server {
    tokio::task::spawn_blocking(server).await.expect("a server")
}

fn rows() -> Vec<f64> {
    ROW.repeat(ROWS)
}

fn expected(server: &Server) -> Vec<f64> {
    scores(&server.diabetes, &ROW).repeat(ROWS)
}

#[tokio::test(flavor = "multi_thread")]
async fn inference_over_rest_goes_in_and_comes_out_compressed() {
    let server = running().await;
    let request =
        json!({"inputs": [{"name": "x", "shape": [ROWS, 10], "datatype": "FP64", "data": rows()}]});
    let request = request.to_string().into_bytes();
    for (coding, body) in [("gzip", gzip(&request)), ("deflate", deflate(&request))] {
        let headers = [JSON, ("content-encoding", coding)];
        let plain = ask(server, INFER, &headers, body.clone()).await;
        assert_eq!(plain.0, 200, "{}", plain.json());
        assert!(!plain.1.contains_key("content-encoding"));
        assert_eq!(plain.json()["outputs"][0]["data"], json!(expected(server)));
        let headers = [
            JSON,
            ("content-encoding", coding),
            ("accept-encoding", "gzip"),
        ];
        let packed = ask(server, INFER, &headers, body).await;
        assert_eq!(packed.1["content-encoding"], "gzip");
        assert!(packed.2.len() < plain.2.len() / 4);
        assert_eq!(gunzip(&packed.2), plain.2);
    }
    let request = json!({"instances": [ROW]}).to_string();
    let path = "/v1/models/diabetes-forest:predict";
    let answer = ask(server, path, &[JSON, GZIPPED], gzip(request.as_bytes())).await;
    let score = scores(&server.diabetes, &ROW);
    assert_eq!(answer.json(), json!({ "predictions": [score] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_of_the_json_before_bytes_counts_uncompressed_bytes() {
    let server = running().await;
    let bytes: Vec<u8> = rows().iter().flat_map(|it| it.to_le_bytes()).collect();
    let request = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "shape": [ROWS, 10], "datatype": "FP64", "parameters": {"binary_data_size": bytes.len()}}],
    });
    let request = request.to_string();
    let length = request.len().to_string();
    let body = gzip(&[request.as_bytes(), &bytes].concat());
    assert!(body.len() < request.len() + bytes.len() / 10);
    let headers = [
        ("content-type", "application/octet-stream"),
        GZIPPED,
        ("accept-encoding", "gzip"),
        ("inference-header-content-length", &length),
    ];
    let answer = ask(server, INFER, &headers, body).await;
    assert_eq!(answer.0, 200, "{}", answer.json());
    assert_eq!(answer.1["content-encoding"], "gzip");
    let length = answer.1["inference-header-content-length"].to_str();
    let length: usize = length.expect("text").parse().expect("a number");
    let plain = gunzip(&answer.2);
    let (text, bytes) = plain.split_at(length);
    let about: Value = serde_json::from_slice(text).expect("JSON");
    let size = &about["outputs"][0]["parameters"]["binary_data_size"];
    assert_eq!(size, &json!(ROWS * 8));
    let found = bytes.chunks_exact(8).take(ROWS);
    let found = found.map(|it| f64::from_le_bytes(it.try_into().expect("eight")));
    assert_eq!(found.collect::<Vec<_>>(), expected(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_too_large_by_the_limit_of_what_came_uncompressed() {
    let server = running().await;
    // A tenth of a megabyte.
    let bomb = gzip(&vec![b' '; 21 << 20]);
    for path in [INFER, "/v1/models/diabetes-forest:predict"] {
        let answer = ask(server, path, &[JSON, GZIPPED], bomb.clone()).await;
        let error = answer.json()["error"].to_string();
        assert_eq!(answer.0, 413, "{error}");
        for part in ["20971520 bytes", "QUADRILLE_REQUEST_BYTES"] {
            assert!(error.contains(part), "{error}");
        }
    }
    let (_, status) = call(server, &bomb, true).await;
    let status = status.expect("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for part in ["20971520 bytes", "QUADRILLE_REQUEST_BYTES"] {
        assert!(status.message().contains(part), "{status}");
    }
    // And uncompressed.
    let (_, status) = call(server, &vec![0; 21 << 20], false).await;
    let status = status.expect("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("QUADRILLE_REQUEST_BYTES"));
}

/// The answer to a message, or why there is none.
async fn call(server: &Server, message: &[u8], packed: bool) -> (Heard, Option<Status>) {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let body = [&[u8::from(packed)], &length[..], message].concat();
    let headers = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("grpc-encoding", "gzip"),
    ];
    let headers = match packed {
        true => &headers[..],
        false => &headers[..3],
    };
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let answer = ask(server, path, headers, body).await;
    let status = Status::from_header_map(&answer.1);
    (answer, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn inference_over_grpc_goes_in_and_comes_out_compressed() {
    let server = running().await;
    let request = ModelInferRequest {
        model_name: "diabetes-forest".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP64".to_owned(),
            shape: vec![ROWS as i64, 10],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![rows().iter().flat_map(|it| it.to_le_bytes()).collect()],
        ..ModelInferRequest::default()
    };
    let request = request.encode_to_vec();
    // What clients say anyway compresses nothing.
    let (plain, status) = call(server, &request, false).await;
    assert!(status.is_none(), "{status:?}");
    assert!(!plain.1.contains_key("grpc-encoding") && plain.2[0] == 0);
    let (packed, status) = call(server, &gzip(&request), true).await;
    assert!(status.is_none(), "{status:?}");
    assert_eq!(packed.1["grpc-encoding"], "gzip");
    assert!(packed.2[0] == 1 && packed.2.len() < plain.2.len() / 4);
    assert_eq!(gunzip(&packed.2[5..]), plain.2[5..]);
    let answer = ModelInferResponse::decode(&plain.2[5..]).expect("an answer");
    let found = answer.raw_output_contents[0].chunks_exact(8);
    let found = found.map(|it| f64::from_le_bytes(it.try_into().expect("eight")));
    assert_eq!(found.collect::<Vec<_>>(), expected(server));
}
