use std::time::{Duration, Instant};

use prost_types::{Struct, Value, value::Kind};
use quadrille_choreography::{Cluster, Schemas};
use quadrille_pipeline::{Arrival, Scratch, Taken};
use quadrille_proto::v1::RecordPosition;
use tokio::sync::watch;
use tonic::Code;

use super::*;
use crate::state::{
    Holder, Life, Moment, Opener, Partition, Pending, SharedCommitted, Standby, Standbys, Unusable,
};

const FILE: &str = r#"
name = "p"
[record]
id = "id"
key = "k"
event_time = "at"
[[record.fields]]
name = "amount"
type = "number"
required = false
[[record.fields]]
name = "note"
type = "boolean"
required = false
[state]
lateness = "1m"
forget_after = "1h"
emit = { field = "note", is = [false] }
[[features]]
name = "spent"
kind = "sum"
field = "amount"
to = "10m"
[[features]]
name = "seen"
kind = "count"
[[features]]
name = "amount"
kind = "pass"
field = "amount"
[[features]]
name = "share"
kind = "ratio"
field = "amount"
over = "spent"
[model]
inputs = ["spent"]
"#;

const STATELESS: &str = r#"
name = "s"
[record]
key = "k"
[[record.fields]]
name = "amount"
type = "number"
[[features]]
name = "amount"
kind = "pass"
field = "amount"
[model]
inputs = ["amount"]
"#;

/// A lane that last gave a sign of life then.
fn lane(lane: u32, then: Moment) -> Holder {
    Holder {
        lane,
        life: Arc::new(Life::new(Duration::from_secs(6), then)),
    }
}

/// One that gave none for longer than its session.
fn frozen_lane() -> Holder {
    let then = Moment {
        at: Instant::now() - Duration::from_secs(10),
        wall_ms: now_ms() - 10_000,
    };
    lane(0, then)
}

/// A replica that holds the one partition of a pipeline, as a lane works on it.
struct World {
    pipeline: Arc<Pipeline>,
    stateless: Arc<Pipeline>,
    partition: Partition,
    shared: Shared,
    query: Query,
    start_ms: i64,
    offset: i64,
}

impl World {
    fn new() -> Self {
        Self::with(Standby::None)
    }

    fn with(standby: Standby) -> Self {
        let parse = |file| Arc::new(Pipeline::parse("p.toml", file).unwrap());
        let (pipeline, stateless) = (parse(FILE), parse(STATELESS));
        let shared = Shared::new(standby, watch::Sender::new(0));
        let standbys = Standbys::new(standby, Opener::Memory, shared.clone(), 1);
        let committed = standbys.open(0).unwrap().committed;
        // As a restore leaves them.
        committed
            .lock()
            .unwrap()
            .rows
            .apply(&Pending::default(), 0)
            .unwrap();
        let fingerprint = pipeline.state().unwrap().fingerprint();
        let partition = Partition::new(committed, fingerprint, None).unwrap();
        shared.insert(0, partition.committed(), &lane(0, Moment::now()));
        let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
        let served = [&pipeline, &stateless].map(|pipeline| Served {
            pipeline: Arc::clone(pipeline),
            partitions: 1,
            shared: shared.clone(),
        });
        World {
            pipeline,
            stateless,
            partition,
            shared,
            query: Query {
                served: served.into(),
                instance: "own".to_owned(),
                siblings: None,
                reads: Reads::default(),
                vectors: Vectors::new(cluster.clone(), Schemas::new(&cluster)),
                tracing: Tracing::off(),
            },
            start_ms: now_ms() - 3_600_000,
            offset: 0,
        }
    }

    /// A record of the stream, so many seconds after the start; its vector.
    fn take(&mut self, key: &str, id: &str, seconds: i64, amount: f64) -> Vec<f64> {
        let state = self.pipeline.state().unwrap();
        let values = [amount, 0.0];
        let arrival = Arrival {
            id,
            key,
            time_ms: self.start_ms + seconds * 1_000,
            values: &values,
        };
        let (mut scratch, mut features) = (Scratch::default(), Vec::new());
        let updated = self
            .partition
            .update(state.definition(), key.as_bytes(), |history| {
                state.take(history, &arrival, &mut scratch, &mut features)
            });
        let (taken, before) = updated.unwrap();
        assert_eq!(taken, Taken::Vector);
        self.offset += 1;
        self.partition.handled(self.offset - 1);
        self.partition.advance(arrival.time_ms);
        assert!(self.partition.changes(before).count() > 0);
        features
    }

    fn commit(&mut self) {
        self.partition.apply(Some(self.offset)).unwrap();
    }

    fn record(&self, fields: &[(&str, Kind)]) -> Struct {
        let value = |kind: &Kind| Value {
            kind: Some(kind.clone()),
        };
        let fields = fields.iter();
        Struct {
            fields: fields
                .map(|(name, kind)| ((*name).to_owned(), value(kind)))
                .collect(),
        }
    }

    /// A record of k1, so many seconds after the start.
    fn payment(&self, seconds: i64, amount: f64) -> GetFeaturesRequest {
        let at = (self.start_ms + seconds * 1_000) as f64;
        GetFeaturesRequest {
            record: Some(self.record(&[
                ("k", Kind::StringValue("k1".to_owned())),
                ("at", Kind::NumberValue(at)),
                ("amount", Kind::NumberValue(amount)),
                ("note", Kind::BoolValue(false)),
            ])),
            ..GetFeaturesRequest::default()
        }
    }

    async fn ask(&self, request: &GetFeaturesRequest) -> Result<GetFeaturesResponse, Error> {
        let metadata = MetadataMap::new();
        let call = Call {
            metadata: &metadata,
            deadline: None,
        };
        self.query.answer(&self.pipeline, request, &call).await
    }

    async fn refused(&self, request: &GetFeaturesRequest) -> (Code, String) {
        let status = tonic::Status::from(self.ask(request).await.unwrap_err());
        (status.code(), status.message().to_owned())
    }
}

fn key(key: &str) -> GetFeaturesRequest {
    GetFeaturesRequest {
        key: key.to_owned(),
        ..GetFeaturesRequest::default()
    }
}

fn values(answer: &GetFeaturesResponse) -> Vec<Option<f64>> {
    answer.features.iter().map(|it| it.value).collect()
}

#[tokio::test]
async fn a_key_answers_as_of_the_last_commit_and_says_so() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    world.take("k1", "b", 60, 3.0);
    let answer = world.ask(&key("k1")).await.unwrap();
    // What depends on a record in hand is missing.
    assert_eq!(values(&answer), [Some(2.0), Some(1.0), None, None]);
    let as_of = answer.as_of.unwrap();
    assert_eq!(as_of.source(), FeaturesSource::Owner);
    assert_eq!((as_of.instance.as_str(), as_of.partition), ("own", 0));
    assert_eq!(as_of.records_offset, Some(1));
    assert_eq!(as_of.newest_event_time_ms, Some(world.start_ms));
    assert_eq!(as_of.event_time_ms, world.start_ms);
    world.commit();
    let answer = world.ask(&key("k1")).await.unwrap();
    assert_eq!(values(&answer)[..2], [Some(5.0), Some(2.0)]);
    assert_eq!(answer.as_of.unwrap().records_offset, Some(2));
}

#[tokio::test]
async fn an_aborted_batch_is_in_no_answer() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    world.take("k1", "b", 60, 3.0);
    world.partition.aborted();
    let answer = world.ask(&key("k1")).await.unwrap();
    assert_eq!(values(&answer)[..2], [Some(2.0), Some(1.0)]);
}

#[tokio::test]
async fn a_given_record_has_the_vector_that_the_stream_gives_it_and_is_not_kept() {
    let mut world = World::new();
    for n in 0..20 {
        let amount = f64::from(n) / 7.0;
        let asked = world.payment(i64::from(n) * 40, amount);
        let first = world.ask(&asked).await.unwrap();
        let again = world.ask(&asked).await.unwrap();
        assert_eq!(values(&first), values(&again), "it left no trace");
        let streamed = world.take("k1", &format!("id{n}"), i64::from(n) * 40, amount);
        world.commit();
        let bits = |value: Option<f64>| value.map(f64::to_bits);
        let streamed = streamed.iter().map(|it| (!it.is_nan()).then_some(*it));
        assert!(values(&first).into_iter().map(bits).eq(streamed.map(bits)));
        let newest = (n > 0).then(|| world.start_ms + i64::from(n - 1) * 40_000);
        assert_eq!(first.as_of.unwrap().newest_event_time_ms, newest);
    }
}

#[tokio::test]
async fn a_key_that_nobody_has_seen_is_unknown_but_with_a_record_as_new() {
    let mut world = World::new();
    assert_eq!(world.refused(&key("k1")).await.0, Code::NotFound);
    let answer = world.ask(&world.payment(0, 4.0)).await.unwrap();
    assert_eq!(
        values(&answer),
        [Some(4.0), Some(1.0), Some(4.0), Some(1.0)]
    );
    assert_eq!(answer.as_of.unwrap().records_offset, None);
    world.take("k1", "a", 0, 2.0);
    world.commit();
    assert_eq!(world.refused(&key("k2")).await.0, Code::NotFound);
    // After forget_after it is new again.
    let mut later = key("k1");
    later.at_ms = Some(world.start_ms + 3_600_000);
    assert_eq!(world.refused(&later).await.0, Code::NotFound);
    later.at_ms = Some(world.start_ms + 3_599_999);
    assert!(world.ask(&later).await.is_ok());
}

#[tokio::test]
async fn an_answer_is_as_of_the_time_that_is_asked_for() {
    let mut world = World::new();
    for (n, seconds) in [0, 30, 60].into_iter().enumerate() {
        world.take("k1", &format!("id{n}"), seconds, 1.0);
    }
    world.commit();
    let at = |seconds: i64| GetFeaturesRequest {
        at_ms: Some(world.start_ms + seconds * 1_000),
        ..key("k1")
    };
    for (seconds, spent, seen) in [
        (0, 1.0, 1.0),
        (45, 2.0, 2.0),
        (60, 3.0, 3.0),
        (615, 2.0, 3.0),
    ] {
        let answer = world.ask(&at(seconds)).await.unwrap();
        assert_eq!(values(&answer)[..2], [Some(spent), Some(seen)], "{seconds}");
        let as_of = answer.as_of.unwrap();
        assert_eq!(as_of.event_time_ms, world.start_ms + seconds * 1_000);
    }
    let (code, why) = world.refused(&at(-1)).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(why.contains(&world.start_ms.to_string()), "{why}");
    // A record too is taken as of then.
    let mut record = world.payment(0, 5.0);
    record.at_ms = Some(world.start_ms + 30_000);
    let answer = world.ask(&record).await.unwrap();
    assert_eq!(values(&answer)[..2], [Some(7.0), Some(3.0)]);
}

#[tokio::test]
async fn a_record_that_the_stream_would_refuse_has_no_features() {
    let mut world = World::new();
    world.take("k1", "a", 600, 2.0);
    world.commit();
    let (code, why) = world.refused(&world.payment(539, 1.0)).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(why.contains("lateness"), "{why}");
    let with = |name: &str, kind: Kind| {
        let mut asked = world.payment(600, 1.0);
        let value = Value { kind: Some(kind) };
        let fields = &mut asked.record.as_mut().unwrap().fields;
        fields.insert(name.to_owned(), value);
        asked
    };
    let twice = with("id", Kind::StringValue("a".to_owned()));
    assert_eq!(world.refused(&twice).await.0, Code::AlreadyExists);
    let note = with("note", Kind::BoolValue(true));
    assert_eq!(world.refused(&note).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_question_without_a_key_or_with_two_is_refused() {
    let world = World::new();
    let mut record = world.payment(0, 1.0);
    record.key = "k2".to_owned();
    record.record.as_mut().unwrap().fields.remove("k");
    assert!(world.ask(&record).await.is_ok(), "beside the record");
    record.key.clear();
    assert_eq!(world.refused(&record).await.0, Code::InvalidArgument);
    let mut two = world.payment(0, 1.0);
    two.key = "k2".to_owned();
    let (code, why) = world.refused(&two).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(why.contains("\"k1\"") && why.contains("\"k2\""), "{why}");
    let long = key(&"k".repeat(40_000));
    assert_eq!(world.refused(&long).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_replica_that_does_not_hold_the_key_says_so_to_another_one() {
    let world = World::new();
    world.shared.remove(0, world.partition.committed());
    let forwarded = GetFeaturesRequest {
        forwarded: true,
        ..key("k1")
    };
    let status = tonic::Status::from(world.ask(&forwarded).await.unwrap_err());
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.metadata().get("quadrille-reason").unwrap(),
        "NOT_OWNER"
    );
}

#[tokio::test]
async fn a_lane_that_was_frozen_does_not_answer_before_it_knows_what_it_lost() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    let frozen = frozen_lane();
    world.shared.insert(0, world.partition.committed(), &frozen);
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
    frozen.life.beat(Moment::now());
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
}

#[tokio::test]
async fn a_standby_answers_as_of_what_it_knows_and_says_so() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    let committed = Arc::clone(world.partition.committed());
    world.shared.stand_by(0, &committed);
    let forwarded = GetFeaturesRequest {
        forwarded: true,
        ..key("k1")
    };
    for asked in [key("k1"), forwarded] {
        let answer = world.ask(&asked).await.unwrap();
        assert_eq!(values(&answer)[..2], [Some(2.0), Some(1.0)]);
        let as_of = answer.as_of.unwrap();
        assert_eq!(as_of.source(), FeaturesSource::Standby);
        assert_eq!(as_of.records_offset, Some(1));
    }
    let (code, why) = world.refused(&key("k2")).await;
    assert_eq!(code, Code::NotFound);
    assert!(why.contains("as of offset 1 of partition 0"), "{why}");
    // While its rows are of no one moment it knows nothing.
    committed.lock().unwrap().input_next = None;
    let (code, _) = world.refused(&key("k1")).await;
    assert_eq!(code, Code::Unavailable, "it is not denied for good");
}

#[tokio::test]
async fn a_damaged_row_that_a_question_to_a_standby_meets_has_it_begin_anew_or_is_the_topics() {
    for is_whole in [false, true] {
        let mut world = World::new();
        world.take("k1", "a", 0, 2.0);
        world.commit();
        let committed = Arc::clone(world.partition.committed());
        cut_row(&committed);
        world.take("k2", "b", 0, 2.0);
        world.commit();
        committed.lock().unwrap().is_whole = is_whole;
        world.shared.stand_by(0, &committed);
        assert!(world.ask(&key("k1")).await.is_err());
        let other = world.ask(&key("k2")).await;
        assert_eq!(other.is_ok(), is_whole, "{other:?}");
        let committed = committed.lock().unwrap();
        assert_eq!(committed.fault.is_none(), is_whole);
        assert_eq!(committed.unreadable.is_some(), is_whole);
    }
}

/// Damages the first row.
fn cut_row(committed: &SharedCommitted) {
    let mut committed = committed.lock().unwrap();
    let mut row = Vec::new();
    let add = &mut |key: &[u8], _: &[u8]| row = key.to_vec();
    committed.rows.scan(&[1], add).unwrap();
    let mut cut = Pending::default();
    cut.push(&row, Some(b"cut"));
    let next = committed.rows.next_offset().unwrap();
    committed.rows.apply(&cut, next).unwrap();
}

#[tokio::test]
async fn a_lane_that_was_frozen_answers_as_a_standby_where_these_are_asked_for() {
    let mut world = World::with(Standby::All);
    world.take("k1", "a", 0, 2.0);
    world.commit();
    let frozen = frozen_lane();
    world.shared.insert(0, world.partition.committed(), &frozen);
    let answer = world.ask(&key("k1")).await.unwrap();
    let as_of = answer.as_of.unwrap();
    assert_eq!(as_of.source(), FeaturesSource::Standby);
    assert_eq!(as_of.records_offset, Some(1));
}

#[tokio::test]
async fn rows_that_are_being_replaced_answer_nothing() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    let damage = Unusable::Corrupt(quadrille_history::Corrupt { row: 0, why: "cut" });
    world.partition.break_rows(&damage);
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
}

#[tokio::test]
async fn a_first_batch_whose_rows_are_lost_answers_nothing_and_stops_the_lane() {
    let mut world = World::new();
    world.partition.begin();
    world.take("k1", "a", 0, 2.0);
    // Where they stand in the changelog is not known.
    world.partition.apply(None).unwrap_err();
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
    let record = world.payment(60, 1.0);
    assert_eq!(world.refused(&record).await.0, Code::Unavailable);
    world.partition.begin();
    let state = world.pipeline.state().unwrap();
    let in_memory = (world.partition).update(state.definition(), b"k1", |_| ());
    assert!(in_memory.is_err(), "also a key that is in memory");
}

#[tokio::test]
async fn a_damaged_row_that_a_question_meets_is_restored_by_the_lane() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    cut_row(world.partition.committed());
    // Of a store that was kept, and read on from there.
    world.partition.committed().lock().unwrap().is_whole = false;
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
    world.partition.begin();
    let state = world.pipeline.state().unwrap();
    let next = (world.partition).update(state.definition(), b"k1", |_| ());
    assert!(next.is_err_and(|why| why.is_damage()));
}

#[tokio::test]
async fn a_row_that_is_damaged_in_the_topic_itself_is_not_restored_for_each_question() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    cut_row(world.partition.committed());
    world.take("k2", "b", 0, 2.0);
    world.commit();
    world.partition.committed().lock().unwrap().is_whole = true;
    assert_eq!(world.refused(&key("k1")).await.0, Code::Unavailable);
    assert!(world.ask(&key("k2")).await.is_ok());
    assert!(world.partition.committed().lock().unwrap().fault.is_none());
}

#[tokio::test]
async fn a_lane_that_notices_late_takes_nothing_from_the_one_that_has_its_partition() {
    let mut world = World::new();
    world.take("k1", "a", 0, 2.0);
    world.commit();
    let other = World::new();
    let its = lane(1, Moment::now());
    world.shared.insert(0, other.partition.committed(), &its);
    world.shared.remove(0, world.partition.committed());
    assert_eq!(world.shared.held()[0].lane, 1);
    assert_eq!(
        world.refused(&key("k1")).await.0,
        Code::NotFound,
        "of the other lane"
    );
    world.shared.remove(0, other.partition.committed());
    assert!(world.shared.held().is_empty());
}

#[tokio::test]
async fn a_pipeline_without_state_answers_of_the_record_alone() {
    let world = World::new();
    let metadata = MetadataMap::new();
    let call = Call {
        metadata: &metadata,
        deadline: None,
    };
    let asked = GetFeaturesRequest {
        record: Some(world.record(&[("amount", Kind::NumberValue(4.0))])),
        ..GetFeaturesRequest::default()
    };
    let answer = world.query.answer(&world.stateless, &asked, &call).await;
    let answer = answer.unwrap();
    assert_eq!(values(&answer), [Some(4.0)]);
    let as_of = answer.as_of.unwrap();
    assert_eq!(as_of.source(), FeaturesSource::Computed);
    let answer = world
        .query
        .answer(&world.stateless, &key("k1"), &call)
        .await;
    let status = tonic::Status::from(answer.unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_past_record_is_looked_for_in_kafka_and_nowhere_else() {
    let world = World::new();
    let asked = GetFeaturesRequest {
        position: Some(RecordPosition {
            partition: 0,
            offset: 5,
        }),
        ..GetFeaturesRequest::default()
    };
    let metadata = MetadataMap::new();
    let call = Call {
        metadata: &metadata,
        deadline: Some(Instant::now() + Duration::from_millis(50)),
    };
    let answer = world.query.answer(&world.pipeline, &asked, &call).await;
    let status = tonic::Status::from(answer.unwrap_err());
    assert_eq!(status.code(), Code::Unavailable, "there is no Kafka here");
}
