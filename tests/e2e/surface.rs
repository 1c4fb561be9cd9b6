//! The surface people use: HTTP and gRPC in, Predict, features, results, probes.

use quadrille_proto::{
    Service,
    v1::{
        CountPredictionsRequest, GetFeaturesRequest, GetPredictionRequest, PredictRequest,
        SubmitRequest, feature_service_client::FeatureServiceClient,
        ingest_service_client::IngestServiceClient, predict_service_client::PredictServiceClient,
        results_service_client::ResultsServiceClient, submit_ack::Outcome,
    },
};
use tokio::runtime::Runtime;
use tonic::{Code, Request};

use crate::harness::{
    PATIENCE, broker,
    client::{Client, Raw, header, record, structure},
    eventually, http, oracle,
    process::Process,
    world::World,
};

pub fn records_path(world: &World) -> String {
    format!("/v1/pipelines/{}/records", world.pipeline)
}

pub fn url(process: &Process) -> String {
    format!("http://{}", process.address())
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn http_takes_json_ndjson_and_csv_and_answers_record_by_record() {
    let world = World::new(2);
    let services = world.start_all();
    let address = services[0].address();
    let path = records_path(&world);

    let (status, body) = http::post(
        address,
        &path,
        &[JSON],
        record("one", "p-1", 148).as_bytes(),
    );
    assert_eq!(status, 200, "{body}");
    assert!(
        body.contains("\"id\":\"one\"") && body.contains("\"offset\":"),
        "{body}"
    );

    let lines = format!(
        "{}\n\n{}\n{{\"x\":1}}\n",
        record("two", "p-1", 1),
        record("three", "p-2", 2)
    );
    let ndjson = ("Content-Type", "application/x-ndjson");
    let (status, body) = http::post(address, &path, &[ndjson], lines.as_bytes());
    assert_eq!(status, 207, "{body}");
    let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (answer["accepted"].as_u64(), answer["rejected"].as_u64()),
        (Some(2), Some(1)),
        "{body}"
    );
    assert_eq!(answer["records"][2]["line"], 4, "{body}");

    let csv = "\u{feff}id,patient_id,pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age,note\n\
        c1,p-1,6,148,72,35,0,33.6,0.627,50,\"two\nlines\"\n\
        c2,p-1,6,,72,35,0,33.6,0.627,50,\n";
    let kind = ("Content-Type", "text/csv; charset=utf-8");
    let (status, body) = http::post(address, &path, &[kind], csv.as_bytes());
    assert_eq!(status, 200, "{body}");

    let (status, body) = http::post(
        address,
        &path,
        &[kind],
        b"id,patient_id,pregnant\nx,p-1,6\n",
    );
    assert_eq!(status, 400, "{body}");
    assert!(
        body.contains("glucose"),
        "the missing column is named: {body}"
    );
    oracle::stored(&world, services[3].address(), 5);
}

#[test]
fn http_refuses_with_the_code_the_field_and_the_fix() {
    let world = World::new(2);
    let mut ingest = world
        .launch(Service::Ingest, "a")
        .env("QUADRILLE_BODY_BYTES", "20000")
        .env("QUADRILLE_RECORD_BYTES", "1000")
        .start();
    ingest.ready();
    let address = ingest.address();
    let path = records_path(&world);
    let bad = record("x", "p-1", 148).replace(":148", ":\"148\"");
    let (status, body) = http::post(address, &path, &[JSON], bad.as_bytes());
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("\"field\":\"glucose\""), "{body}");
    let large = vec![b'x'; 30_000];
    assert_eq!(http::post(address, &path, &[JSON], &large).0, 413);
    assert_eq!(http::post(address, &path, &[JSON], &large[..2_000]).0, 413);
    assert_eq!(
        http::post(address, &path, &[("Content-Type", "text/html")], b"x").0,
        415
    );
    assert_eq!(
        http::post(address, "/v1/pipelines/none/records", &[JSON], b"{}").0,
        404
    );
}

#[test]
fn a_push_with_an_idempotency_key_is_one_record_however_often_it_is_sent() {
    let world = World::new(2);
    let services = world.start_all();
    let body = record("x", "p-1", 148).replace("\"id\":\"x\",", "");
    let headers = [
        JSON,
        ("Idempotency-Key", "once"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    for _ in 0..2 {
        let (status, answer) = http::post(
            services[0].address(),
            &records_path(&world),
            &headers,
            body.as_bytes(),
        );
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("\"id\":\"once\""), "{answer}");
    }
    oracle::stored(&world, services[3].address(), 1);
    let predictions = Client::new(&world).read(&world.topics().predictions);
    let trace = header(&predictions[0], "traceparent").expect("the trace travels");
    assert!(
        trace.contains("0af7651916cd43dd8448eb211c80319c"),
        "{trace}"
    );
    // Each line of a body has a key of its own.
    let lines = format!("{body}\n{body}\n");
    let headers = [
        ("Content-Type", "application/x-ndjson"),
        ("Idempotency-Key", "lines"),
    ];
    let (address, path) = (services[0].address(), records_path(&world));
    for _ in 0..2 {
        let (status, answer) = http::post(address, &path, &headers, lines.as_bytes());
        assert_eq!(status, 200, "{answer}");
        for id in ["\"id\":\"lines-0\"", "\"id\":\"lines-1\""] {
            assert!(answer.contains(id), "{answer}");
        }
    }
    oracle::stored(&world, services[3].address(), 3);
}

/// A load balancer knows headers alone.
#[test]
fn a_call_by_grpc_has_the_key_of_its_header_unless_its_message_brings_one() {
    let world = World::new(2);
    let services = world.start_all();
    let json = record("x", "p-1", 148).replace("\"id\":\"x\",", "");
    let request = |own: &str| {
        let mut request = Request::new(SubmitRequest {
            pipeline: world.pipeline.clone(),
            record: Some(structure(&json)),
            sequence: 0,
            idempotency_key: own.to_owned(),
        });
        let key = "balancer".parse().expect("ASCII");
        request.metadata_mut().insert("idempotency-key", key);
        request
    };
    Runtime::new().expect("a runtime").block_on(async {
        let client = IngestServiceClient::connect(url(&services[0])).await;
        let mut client = client.expect("connected");
        for (own, id) in [("", "balancer"), ("", "balancer"), ("mine", "mine")] {
            let answer = client.submit(request(own)).await.expect("accepted");
            assert_eq!(answer.into_inner().id, id);
        }
    });
    oracle::stored(&world, services[3].address(), 2);
}

#[test]
fn grpc_submits_one_by_one_and_as_a_stream() {
    let world = World::new(2);
    let services = world.start_all();
    let request = |sequence: u64, json: &str| SubmitRequest {
        pipeline: world.pipeline.clone(),
        record: Some(structure(json)),
        sequence,
        idempotency_key: String::new(),
    };
    Runtime::new().expect("a runtime").block_on(async {
        let mut client = IngestServiceClient::connect(url(&services[0]))
            .await
            .expect("connected");
        let answer = client
            .submit(request(0, &record("g0", "p-1", 148)))
            .await
            .expect("accepted");
        assert_eq!(answer.into_inner().id, "g0");
        let bad = record("bad", "p-1", 148).replace(":148", ":-5");
        let status = client.submit(request(0, &bad)).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("glucose"), "{status}");

        let note = format!("{{\"note\":\"{}\",", "x".repeat(2 << 20));
        let large = record("large", "p-1", 148).replacen('{', &note, 1);
        let status = client
            .submit(request(0, &large))
            .await
            .expect_err("too large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

        let mut requests: Vec<SubmitRequest> = (1..=300)
            .map(|n| request(n, &record(&format!("g{n}"), "p-1", 148)))
            .collect();
        requests.push(request(301, &bad));
        let stream = client
            .submit_stream(tokio_stream::iter(requests))
            .await
            .expect("a stream");
        let mut acknowledgements = stream.into_inner();
        let (mut accepted, mut rejected) = (0, 0);
        while let Some(ack) = acknowledgements
            .message()
            .await
            .expect("an acknowledgement")
        {
            match ack.outcome.expect("an outcome") {
                Outcome::Accepted(_) => accepted += 1,
                Outcome::Rejected(error) => {
                    rejected += 1;
                    assert_eq!((ack.sequence, error.field.as_str()), (301, "glucose"));
                }
            }
        }
        assert_eq!((accepted, rejected), (300, 1));
    });
    oracle::stored(&world, services[3].address(), 301);
}

#[test]
fn predict_and_the_stream_give_the_same_answer() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    client.send(
        &world.topics().inbox,
        &Raw::json("p-1", record("same", "p-1", 171)),
    );
    client.flush();
    oracle::stored(&world, services[3].address(), 1);
    Runtime::new().expect("a runtime").block_on(async {
        let pipeline = world.pipeline.clone();
        let mut predict = PredictServiceClient::connect(url(&services[2]))
            .await
            .expect("connected");
        let mut fields = structure(&record("same", "p-1", 171));
        fields.fields.remove("id");
        fields.fields.remove("patient_id");
        let request = PredictRequest {
            pipeline: pipeline.clone(),
            record: Some(fields.clone()),
            ..PredictRequest::default()
        };
        let answer = predict
            .predict(request)
            .await
            .expect("an answer")
            .into_inner();
        let mut results = ResultsServiceClient::connect(url(&services[3]))
            .await
            .expect("connected");
        let request = GetPredictionRequest {
            pipeline: pipeline.clone(),
            id: "same".to_owned(),
            shadow_variant: String::new(),
        };
        let stored = results
            .get_prediction(request)
            .await
            .expect("stored")
            .into_inner();
        assert_eq!(stored.probability, answer.probability);
        assert_eq!(stored.decision, answer.decision);
        assert_eq!(
            (stored.model, stored.version),
            (answer.model, answer.version)
        );
        assert_eq!(stored.config_hash, answer.config_hash);

        let request = CountPredictionsRequest {
            pipeline: "none".to_owned(),
        };
        let status = results
            .count_predictions(request)
            .await
            .expect_err("not there");
        assert_eq!(status.code(), Code::NotFound);
        fields.fields.remove("glucose");
        let request = PredictRequest {
            pipeline: pipeline.clone(),
            record: Some(fields.clone()),
            ..PredictRequest::default()
        };
        let status = predict.predict(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("glucose"), "{status}");

        let mut features = FeatureServiceClient::connect(url(&services[1]))
            .await
            .expect("connected");
        let record = Some(structure(&record("x", "p-1", 0)));
        let request = GetFeaturesRequest {
            pipeline,
            record,
            ..GetFeaturesRequest::default()
        };
        let answer = features
            .get_features(request)
            .await
            .expect("features")
            .into_inner();
        let value = |name: &str| {
            answer
                .features
                .iter()
                .find(|f| f.name == name)
                .expect("there")
                .value
        };
        assert_eq!(value("pregnant"), Some(6.0));
        assert_eq!(value("glucose"), None, "0 was not measured");
    });
}

#[test]
fn a_call_whose_deadline_has_passed_says_so() {
    let world = World::new(2);
    let mut feature = world.start(Service::Feature, "a");
    feature.ready();
    Runtime::new().expect("a runtime").block_on(async {
        let mut client = FeatureServiceClient::connect(url(&feature))
            .await
            .expect("connected");
        let mut request = Request::new(GetFeaturesRequest::default());
        request
            .metadata_mut()
            .insert("grpc-timeout", "0n".parse().expect("a value"));
        let status = client.get_features(request).await.expect_err("too late");
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status}"
        );
    });
}

#[test]
fn a_push_is_refused_while_kafka_is_away_and_accepted_when_it_is_back() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 2);
    let mut ingest = world.start(Service::Ingest, "a");
    ingest.ready();
    let (address, path) = (ingest.address(), records_path(&world));
    broker.stop();
    let (status, body) = http::post(address, &path, &[JSON], record("x", "p-1", 1).as_bytes());
    assert_eq!(status, 503, "{body}");
    assert_eq!(http::get(address, "/livez").0, 200, "alive without Kafka");
    broker.restart().expect("it comes back");
    eventually("a push is accepted", PATIENCE, || {
        let answer = http::try_request(
            address,
            "POST",
            &path,
            &[JSON],
            record("y", "p-1", 1).as_bytes(),
        );
        (answer?.0 == 200).then_some(())
    });
}
