//! The shipped examples as a user meets them: records over HTTP and Kafka, Predict, stored results.

use std::{collections::BTreeMap, path::Path};

use quadrille_proto::{
    open,
    v1::{FeatureVector, PredictRequest, predict_service_client::PredictServiceClient},
};
use rdkafka::Message;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::harness::{
    cli::Cli,
    client::{Client, Raw, structure},
    http, oracle,
    world::World,
};
use crate::surface::{records_path, url};

const RECORDS: usize = 40;

/// Records of a data file, and the class of each.
fn records(
    file: &str,
    record: impl Fn(usize, &[f64]) -> Map<String, Value>,
) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(file);
    let text = std::fs::read_to_string(path).expect("the data");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    // Spread over the file, which may be sorted.
    let spread = lines.iter().step_by(lines.len() / RECORDS).take(RECORDS);
    let parse = |(n, line): (usize, &&str)| {
        let (values, class) = line.rsplit_once(',').expect("a class at the end");
        let values: Vec<f64> = values
            .split(',')
            .map(|it| it.parse().expect("a number"))
            .collect();
        (
            Value::Object(record(n, &values)).to_string(),
            class.to_owned(),
        )
    };
    spread.enumerate().map(parse).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

/// Half of the records over HTTP, half to Kafka; all are stored, Predict agrees, and most are right.
fn run(example: &str, records: &[(String, String)]) {
    let world = World::example(example);
    let services = world.start_all();
    let (over_http, to_kafka) = records.split_at(records.len() / 2);
    for (record, _) in over_http {
        let kind = ("Content-Type", "application/json");
        let (status, body) = http::post(
            services[0].address(),
            &records_path(&world),
            &[kind],
            record.as_bytes(),
        );
        assert_eq!(status, 200, "{body}");
    }
    let client = Client::new(&world);
    for (record, _) in to_kafka {
        client.send(&world.topics().inbox, &Raw::json("k", record.clone()));
    }
    client.flush();
    oracle::stored(&world, services[3].address(), records.len());

    // What is stored is all that the model gave: it is the same when it is computed again.
    let cli = Cli(world.bootstrap.clone());
    let id: Value = serde_json::from_str(&records[0].0).expect("JSON");
    let id = id["id"].as_str().expect("an id");
    let told = cli.good(&[
        "explain",
        id,
        "--address",
        &services[3].address().to_string(),
        "--pipeline",
        &world.pipeline_file().display().to_string(),
        "--model",
        &world.model.display().to_string(),
    ]);
    assert!(told.starts_with(&format!("{id}: equal, bit")), "{told}");

    let url = url(&services[2]);
    let mut right = 0;
    Runtime::new().expect("a runtime").block_on(async {
        let mut predict = PredictServiceClient::connect(url).await.expect("connected");
        for (record, class) in records {
            let request = PredictRequest {
                pipeline: world.pipeline.clone(),
                record: Some(structure(record)),
                ..PredictRequest::default()
            };
            let answer = predict
                .predict(request)
                .await
                .expect("answered")
                .into_inner();
            let id: Value = serde_json::from_str(record).expect("JSON");
            let id = id["id"].as_str().expect("an id");
            let path = format!("/v1/pipelines/{}/predictions/{id}", world.pipeline);
            let (status, body) = http::get(services[3].address(), &path);
            assert_eq!(status, 200, "{body}");
            let stored: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(stored["decision"], *answer.decision, "{body}");
            assert_eq!(stored["probability"], answer.probability, "{body}");
            right += usize::from(answer.decision == *class);
        }
    });
    assert!(
        right * 10 >= records.len() * 9,
        "{right} of {} are right",
        records.len()
    );
    for mut service in services {
        service.signal("TERM");
        assert_eq!(service.wait().code(), Some(0));
    }
}

#[test]
fn irises_are_told_apart() {
    let fields = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
    let records = records("iris.csv", |n, values| {
        let mut record = object(json!({"id": format!("f-{n}"), "plant": "p"}));
        let values = fields.iter().zip(values);
        record.extend(values.map(|(field, value)| ((*field).to_owned(), json!(value))));
        record
    });
    run("iris", &records);
}

#[test]
fn digits_are_read() {
    let records = records("digits.csv", |n, pixels| {
        object(json!({"id": format!("i-{n}"), "scanner": "s", "pixels": pixels}))
    });
    run("digits", &records);
}

/// Each record's features by id, as `quadrille features` computes them of the file; bit by bit.
fn replayed(cli: &Cli, world: &World, data: &str) -> BTreeMap<String, Vec<u64>> {
    let out = world.folder.path().join("features.csv");
    let (pipeline, out) = (world.pipeline_file(), out.display().to_string());
    let pipeline = pipeline.display().to_string();
    cli.good(&[
        "features",
        "--pipeline",
        &pipeline,
        "--data",
        data,
        "--out",
        &out,
    ]);
    let text = std::fs::read_to_string(out).expect("its output");
    let row = |line: &str| {
        let mut cells = line.split(',');
        let id = cells.next().expect("an id").to_owned();
        // Key and event time come next; a feature that is missing is empty.
        let values = cells.skip(2).map(|cell| match cell {
            "" => f64::NAN,
            cell => cell.parse().expect("a number"),
        });
        (id, values.map(bits).collect())
    };
    text.lines().skip(1).map(row).collect()
}

/// All missing values are one.
fn bits(value: f64) -> u64 {
    match value.is_nan() {
        true => f64::NAN.to_bits(),
        false => value.to_bits(),
    }
}

/// What the feature service made of the records.
fn streamed(client: &Client, world: &World) -> BTreeMap<String, Vec<u64>> {
    let vector = |message: rdkafka::message::OwnedMessage| {
        let (_, body) = open(message.payload().expect("a payload")).expect("sealed");
        let vector: FeatureVector = prost::Message::decode(body).expect("a vector");
        (vector.id, vector.values.into_iter().map(bits).collect())
    };
    let messages = client.read(&world.topics().features);
    messages.into_iter().map(vector).collect()
}

/// Some payments as CSV over HTTP, the others to Kafka. The stream and a replay of the file see the same past of each card.
#[test]
fn cards_are_remembered() {
    /// Rows over HTTP, in one request.
    const PUSHED: usize = 400;
    let world = World::example("cards");
    let services = world.start_all();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cards.csv");
    let text = std::fs::read_to_string(data).expect("the data");
    let lines: Vec<&str> = text.lines().collect();
    let (pushed, produced) = lines[1..].split_at(PUSHED);
    let with_header = |rows: &[&str]| format!("{}\n{}\n", lines[0], rows.join("\n"));

    let kind = ("Content-Type", "text/csv");
    let (status, body) = http::post(
        services[0].address(),
        &records_path(&world),
        &[kind],
        with_header(pushed).as_bytes(),
    );
    assert_eq!(status, 200, "{body}");
    let rest = world.folder.path().join("rest.csv");
    std::fs::write(&rest, with_header(produced)).expect("written");
    let cli = Cli(world.bootstrap.clone());
    let (pipeline, rest) = (world.pipeline_file(), rest.display().to_string());
    let pipeline = pipeline.display().to_string();
    cli.good(&["produce", &rest, "--pipeline", &pipeline]);
    oracle::stored(&world, services[3].address(), lines.len() - 1);

    let client = Client::new(&world);
    let expected = replayed(&cli, &world, data);
    let found = streamed(&client, &world);
    assert_eq!(
        (expected.len(), found.len()),
        (lines.len() - 1, lines.len() - 1)
    );
    for (id, vector) in &expected {
        assert_eq!(found.get(id), Some(vector), "{id}");
    }

    // Thieves are blocked, and few others.
    let results = services[3].address();
    let blocked = |row: &str| {
        let id = row.split(',').next().expect("an id");
        let path = format!("/v1/pipelines/{}/predictions/{id}", world.pipeline);
        let (status, body) = http::get(results, &path);
        assert_eq!(status, 200, "{body}");
        let stored: Value = serde_json::from_str(&body).expect("JSON");
        stored["decision"] == "block"
    };
    let (thieves, owners): (Vec<&str>, Vec<&str>) =
        lines[1..].iter().partition(|row| row.ends_with(",yes"));
    let caught = thieves.iter().filter(|row| blocked(row)).count();
    let asked = owners.iter().step_by(10).filter(|row| blocked(row)).count();
    assert!(caught * 10 > thieves.len() * 8, "{caught} are caught");
    assert!(asked * 100 < owners.len() / 10 * 5, "{asked} are not let");

    for mut service in services {
        service.signal("TERM");
        assert_eq!(service.wait().code(), Some(0));
    }
}
