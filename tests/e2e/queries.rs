//! Questions about a key: an answer is what a replay of the records before the offset that it states has of the key. What is asked
//! while partitions move is in `survival`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use quadrille_history::History;
use quadrille_pipeline::{Arrival, Pipeline, Scratch};
use quadrille_proto::{
    RETRY_PUSHBACK_MS, Service,
    v1::{
        Feature, FeatureVector, FeaturesSource, GetFeaturesRequest, GetFeaturesResponse, Record,
        RecordPosition, feature_service_client::FeatureServiceClient,
    },
};
use rdkafka::Message;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::harness::{
    cards::{self, KEYS, PARTITIONS, PIPELINE, SHORT, bits, decode, record, start_ms},
    client::{Client, Raw},
    process::Process,
    world::World,
};

const CALL_TAKES_MAX: Duration = Duration::from_secs(5);

/// Its store is in a folder of its own, which outlives it.
fn start(world: &World, instance: &str) -> Process {
    let folder = world.folder.path().join(instance);
    let launch = world.launch(Service::Feature, instance);
    launch
        .env("KAFKA_PROPERTIES", SHORT)
        .env("QUADRILLE_STATE_DIR", &folder.display().to_string())
        .start()
}

/// Asks, once.
pub(crate) struct Asker {
    runtime: Runtime,
    pipeline: String,
}

impl Asker {
    pub fn new(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Asker {
            runtime: runtime.expect("a runtime"),
            pipeline: world.pipeline.clone(),
        }
    }

    fn ask(
        &self,
        address: SocketAddr,
        request: GetFeaturesRequest,
    ) -> Result<GetFeaturesResponse, Status> {
        let mut request = tonic::Request::new(GetFeaturesRequest {
            pipeline: self.pipeline.clone(),
            ..request
        });
        request.set_timeout(CALL_TAKES_MAX);
        self.runtime.block_on(async {
            let client = FeatureServiceClient::connect(format!("http://{address}")).await;
            let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(client.get_features(request).await?.into_inner())
        })
    }

    /// The key as of its newest event, asked for again as the replica says, for as long as a caller waits; and how often it was asked for.
    pub fn key_patiently(
        &self,
        address: SocketAddr,
        key: &str,
    ) -> (Result<GetFeaturesResponse, Status>, usize) {
        let until = Instant::now() + CALL_TAKES_MAX;
        for tries in 1.. {
            let answer = self.key(address, key);
            let told = answer.as_ref().err().and_then(|status| {
                let hint = status.metadata().get(RETRY_PUSHBACK_MS)?;
                hint.to_str().ok()?.parse().ok().map(Duration::from_millis)
            });
            match told {
                Some(wait) if Instant::now() + wait < until => std::thread::park_timeout(wait),
                _ => return (answer, tries),
            }
        }
        unreachable!("it ends with its time")
    }

    /// The key as of its newest event.
    pub fn key(&self, address: SocketAddr, key: &str) -> Result<GetFeaturesResponse, Status> {
        let request = GetFeaturesRequest {
            key: key.to_owned(),
            ..GetFeaturesRequest::default()
        };
        self.ask(address, request)
    }
}

/// By key, and how many records of its partition the answer takes into account.
pub(crate) type Answers = Vec<(String, GetFeaturesResponse)>;

fn values(features: &[Feature]) -> Vec<f64> {
    let values = features.iter().map(|it| it.value);
    values.map(|value| value.unwrap_or(f64::NAN)).collect()
}

/// Compares each answer with a replay up to the offset that it states.
pub(crate) fn check(world: &World, pipeline: &Pipeline, client: &Client, answers: &Answers) {
    let state = pipeline.state().expect("it looks back");
    let mut open: BTreeMap<(i32, i64), Vec<&(String, GetFeaturesResponse)>> = BTreeMap::new();
    for answer in answers {
        let as_of = answer.1.as_of.as_ref().expect("it says as of when");
        let offset = as_of.records_offset.expect("records were applied");
        open.entry((as_of.partition, offset))
            .or_default()
            .push(answer);
    }
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    let (mut scratch, mut features, mut aggregates) = (Scratch::default(), vec![], vec![]);
    let mut compare = |histories: &BTreeMap<String, History>, from: (i32, i64), to: (i32, i64)| {
        while let Some((place, answers)) = open.range(from..=to).next() {
            let place = *place;
            for (key, answer) in answers {
                let history = histories.get(key).expect("the key came before");
                let newest_ms = history.newest_ms().expect("it has events");
                let as_of = answer.as_of.as_ref().expect("checked before");
                assert_eq!(
                    as_of.newest_event_time_ms,
                    Some(newest_ms),
                    "{key} {place:?}"
                );
                aggregates.clear();
                let looked = history.look_at(state.definition(), newest_ms, &mut aggregates);
                looked.expect("the newest");
                pipeline.features_without_record(&aggregates, &mut features);
                assert_eq!(
                    bits(&features),
                    bits(&values(&answer.features)),
                    "{key} {place:?}"
                );
            }
            open.remove(&place);
        }
    };
    let mut last = (-1, -1);
    let mut vector = vec![];
    for message in client.read(&world.topics().records) {
        let place = (message.partition(), message.offset());
        let from = match last.0 == place.0 {
            true => last,
            false => (place.0, 0),
        };
        compare(&histories, from, place);
        last = (place.0, place.1 + 1);
        let record: Record = decode(&message).expect("a record");
        let arrival = Arrival {
            id: &record.id,
            key: &record.key,
            time_ms: record.event_time_ms,
            values: &record.values,
        };
        let history = histories.entry(record.key.clone()).or_default();
        let _ = state.take(history, &arrival, &mut scratch, &mut vector);
        // Markers of transactions follow, which are no records.
        compare(&histories, last, last);
    }
    assert!(
        open.is_empty(),
        "of offsets that no record has: {:?}",
        open.keys()
    );
}

#[test]
fn a_past_record_has_the_vector_of_then_and_one_that_is_not_there_has_none() {
    let world = World::pipeline("cards", PIPELINE, PARTITIONS);
    let (client, asker) = (Client::new(&world), Asker::new(&world));
    let mut ingest = world.start(Service::Ingest, "a");
    let mut feature = start(&world, "a");
    ingest.ready();
    feature.ready();
    let start_ms = start_ms();
    for n in 0..400 {
        let (card, json) = record(n, KEYS, start_ms);
        client.send(&world.topics().inbox, &Raw::json(&card, json));
    }
    client.flush();
    let ids = |topic: &str| -> Vec<(i32, i64, String)> {
        let read = client.read(topic).into_iter();
        read.map(|it| {
            (
                it.partition(),
                it.offset(),
                decode::<Record>(&it).expect("a record").id,
            )
        })
        .collect()
    };
    cards::check(&world, &world.parsed(), &client, 400);
    let mut vectors = BTreeMap::new();
    for message in client.read(&world.topics().features) {
        let vector: FeatureVector = decode(&message).expect("a vector");
        let offset = vector.records_offset.expect("its record's place");
        vectors.insert((message.partition(), offset), vector);
    }
    let ask = |partition: i32, offset: i64| {
        let request = GetFeaturesRequest {
            position: Some(RecordPosition { partition, offset }),
            ..GetFeaturesRequest::default()
        };
        asker.ask(feature.address(), request)
    };
    for (partition, offset, _) in ids(&world.topics().records).into_iter().step_by(13) {
        match (vectors.get(&(partition, offset)), ask(partition, offset)) {
            (Some(vector), Ok(answer)) => {
                assert_eq!(bits(&vector.values), bits(&values(&answer.features)));
                let as_of = answer.as_of.expect("it says as of when");
                assert_eq!(as_of.source(), FeaturesSource::Stored);
                assert_eq!(as_of.event_time_ms, vector.event_time_ms);
            }
            (None, Err(status)) => assert_eq!(status.code(), Code::NotFound, "{status}"),
            (expected, found) => panic!("{partition} {offset}: {expected:?}, {found:?}"),
        }
    }
    for (partition, offset) in [(0, 1_000_000), (PARTITIONS, 0), (-1, 0), (0, -1)] {
        let status = ask(partition, offset).expect_err("no such record");
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
}
