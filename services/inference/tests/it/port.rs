//! What all endpoints of the port have in common: who is counted, what is listed, what a body must say of itself.

use quadrille_proto::v1::{PredictRequest, predict_service_client::PredictServiceClient};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::server::{Server, http, server, start};

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn running() -> &'static Server {
    tokio::task::spawn_blocking(server).await.expect("a server")
}

/// The records that the route of a pipeline has answered.
fn counted(server: &Server, pipeline: &str) -> f64 {
    let (_, _, body) = http(server.address, "GET", "/metrics", &[], b"");
    let text = String::from_utf8_lossy(&body).into_owned();
    let line = format!("quadrille_variant_records_total{{pipeline=\"{pipeline}\"");
    let found = text.lines().find(|it| it.starts_with(&line));
    let value = found.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.expect("it is counted")
}

fn animals(rows: usize) -> Value {
    let column = |name: &str, datatype: &str, value: Value| json!({"name": name, "datatype": datatype, "shape": [rows], "data": vec![value; rows]});
    json!({"inputs": [
        column("weight", "FP64", json!(12.0)),
        column("coat", "BYTES", json!("red")),
        column("tame", "BOOL", json!(true)),
    ]})
}

fn animal() -> prost_types::Struct {
    use prost_types::value::Kind;
    let fields = [
        ("weight", Kind::NumberValue(12.0)),
        ("coat", Kind::StringValue("red".to_owned())),
        ("tame", Kind::BoolValue(true)),
    ];
    let fields = fields.into_iter();
    let fields = fields.map(|(name, kind)| {
        let kind = Some(kind);
        (name.to_owned(), prost_types::Value { kind })
    });
    prost_types::Struct {
        fields: fields.collect(),
    }
}

#[test]
fn a_route_counts_the_rows_it_answered_and_nothing_else() {
    let server = start();
    let ask = |method: &str, path: &str, body: &str| {
        http(server.address, method, path, &[JSON], body.as_bytes()).0
    };
    let infer = |request: &Value| ask("POST", "/v2/models/animals/infer", &request.to_string());
    // Probes and metadata.
    for path in [
        "/v2/models/animals/ready",
        "/v2/models/animals",
        "/v1/models/animals",
        "/v1/models/animals/metadata",
    ] {
        assert_eq!(ask("GET", path, ""), 200, "{path}");
    }
    // Refused: an output that there is not.
    let mut refused = animals(2);
    refused["outputs"] = json!([{"name": "nothing"}]);
    assert_eq!(infer(&refused), 400);
    assert_eq!(counted(&server, "animals"), 0.0);
    assert_eq!(infer(&animals(7)), 200);
    assert_eq!(counted(&server, "animals"), 7.0);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = PredictServiceClient::connect(server.url()).await;
        let request = PredictRequest {
            pipeline: "animals".to_owned(),
            record: Some(animal()),
            ..PredictRequest::default()
        };
        let mut client = client.expect("a connection");
        client.predict(request).await.expect("an answer");
    });
    assert_eq!(counted(&server, "animals"), 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_what_this_port_serves() {
    let server = running().await;
    let channel = Endpoint::from_shared(server.url()).expect("an address");
    let channel = channel.connect().await.expect("a connection");
    let mut client = ServerReflectionClient::new(channel);
    let mut ask = async |request| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let requests = tokio_stream::once(request);
        let answers = client.server_reflection_info(Request::new(requests)).await;
        let mut answers = answers.expect("a stream").into_inner();
        let answer = answers.message().await?;
        let answer = answer.and_then(|answer| answer.message_response);
        answer.ok_or_else(|| Status::unknown("nothing"))
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let Ok(MessageResponse::ListServicesResponse(listed)) = listed else {
        panic!("no list: {listed:?}");
    };
    let mut names: Vec<String> = listed.service.into_iter().map(|it| it.name).collect();
    names.sort();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "quadrille.v1.PredictService",
    ];
    assert_eq!(names, expected);
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let found = ask(symbol("quadrille.v1.PredictService")).await;
    let found = found.expect("it is served");
    assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)));
    let other = ask(symbol("quadrille.v1.IngestService")).await;
    assert_eq!(other.map_err(|it| it.code()), Err(Code::NotFound));
}

#[test]
fn a_body_says_that_it_is_json_unless_no_browser_can_have_sent_it() {
    let body = animals(1).to_string();
    let post = |headers: &[(&str, &str)]| {
        let path = "/v2/models/animals-of-nobody/infer";
        http(server().address, "POST", path, headers, body.as_bytes()).0
    };
    // curl's own, with -d.
    assert_eq!(
        post(&[("Content-Type", "application/x-www-form-urlencoded")]),
        415
    );
    assert_eq!(post(&[("Sec-Fetch-Mode", "no-cors")]), 415);
    // 404: it was read.
    assert_eq!(post(&[JSON]), 404);
    assert_eq!(post(&[]), 404, "as Triton's Python client asks");
    assert_eq!(post(&[JSON, ("Origin", "http://evil.example")]), 403);
}
