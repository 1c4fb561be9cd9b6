//! `PredictService`, beside the protocol.

use quadrille_proto::v1::{PredictRequest, predict_service_client::PredictServiceClient};
use tonic::{Code, Request};

use super::{ask, client, doubles, typed_doubles};
use crate::server::server;

#[tokio::test]
async fn predict_says_which_variant_answered_and_agrees_with_the_protocol() {
    let mut client = client().await;
    let mut predict = PredictServiceClient::connect(server().url())
        .await
        .expect("a connection");
    let number = |number: f64| prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(number)),
    };
    let text_of = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let fields = [
        ("weight", number(70.0)),
        ("coat", text_of("red")),
        (
            "tame",
            prost_types::Value {
                kind: Some(prost_types::value::Kind::BoolValue(true)),
            },
        ),
        ("animal", text_of("a-1")),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    let request = PredictRequest {
        pipeline: "animals".to_owned(),
        record: Some(prost_types::Struct {
            fields: fields.into(),
        }),
        ..PredictRequest::default()
    };
    let answer = predict
        .predict(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        (
            answer.model.as_str(),
            answer.version.as_str(),
            answer.variant.as_str()
        ),
        ("zoo-forest", "7", "local")
    );
    let rows = vec![doubles("x", &[1, 4], &[70.0, 1.0, 0.0, 1.0])];
    let response = client
        .model_infer(ask("animals", rows))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(typed_doubles(&response, 0), [answer.probability]);
    let mut other = Request::new(request);
    other
        .metadata_mut()
        .insert("quadrille-variant", "canary".parse().expect("a value"));
    let refused = predict.predict(other).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
}
