//! Traces end to end: the shape of each, its names and attributes, and what becomes of them when the
//! collector is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use quadrille_choreography::{
    Admin, CommitMode, Handler, Incoming, Item, Limits, Output, Redrive, StageConfig, handler,
};
use quadrille_proto::{
    Service, dlq_of,
    v1::{
        PredictRequest, SubmitRequest, ingest_service_client::IngestServiceClient,
        predict_service_client::PredictServiceClient,
    },
};
use quadrille_telemetry::{Registry, Tracing, metrics::LoopMetrics, traces::Sampling};
use tokio::runtime::Runtime;
use tonic::{Request, metadata::MetadataValue};

use crate::{
    harness::{
        PATIENCE,
        client::{Client, Raw, record, structure},
        collector::{self, Collector, Received, draw, hex},
        eventually, http, oracle,
        world::World,
    },
    surface::{records_path, url},
};

const ALWAYS: (&str, &str) = ("parentbased_always_on", "");
/// Only what a user's own trace, a header or an error asks for.
const ON_DEMAND: (&str, &str) = ("parentbased_traceidratio", "0");
const PARENT: &str = "b7ad6b7169203331";

fn trace_id(n: u32) -> String {
    format!("0af7651916cd43dd8448eb21{n:08x}")
}

fn traceparent(n: u32, flags: &str) -> String {
    format!("00-{}-{PARENT}-{flags}", trace_id(n))
}

fn raw(id: &str, headers: &[(&str, &str)]) -> Raw {
    let mut raw = Raw::json("p-1", record(id, "p-1", 148));
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    raw.headers = headers.iter().map(pair).collect();
    raw
}

/// Whether the row's span is there and none is without its parent but those of the user's own span.
fn is_stored(spans: &[Received]) -> bool {
    let ids: Vec<&[u8]> = spans.iter().map(|r| &r.span.span_id[..]).collect();
    let whole = |r: &Received| {
        let parent = &r.span.parent_span_id[..];
        parent.is_empty() || hex(parent) == PARENT || ids.contains(&parent)
    };
    spans.iter().any(|r| r.span.name == "INSERT predictions") && spans.iter().all(whole)
}

/// From the records topic on, indented under what sent it there.
fn from_records(pipeline: &str, depth: usize) -> String {
    let p = pipeline;
    let lines = format!(
        "feature: process {p}.records
  feature: commit {p}.records
  feature: features
  feature: send {p}.features
    inference: process {p}.features
      inference: batch wait
      inference: commit {p}.features
      inference: model
      inference: send {p}.predictions
        results: process {p}.predictions
          results: INSERT predictions"
    );
    let indent = "  ".repeat(depth);
    lines
        .lines()
        .map(|line| format!("\n{indent}{line}"))
        .collect()
}

fn from_inbox(pipeline: &str) -> String {
    format!(
        "ingest: process {pipeline}.inbox
  ingest: commit {pipeline}.inbox
  ingest: send {pipeline}.records{}",
        from_records(pipeline, 2)
    )
}

/// Names, kinds and attributes of the conventions, and nothing that they have given up.
fn check_conventions(spans: &[Received]) {
    const SERVER: i32 = 2;
    const CLIENT: i32 = 3;
    const PRODUCER: i32 = 4;
    const CONSUMER: i32 = 5;
    for received in spans {
        let span = &received.span;
        let attributes = received.attributes();
        let about = format!("{}: {} {attributes:?}", received.service, span.name);
        for old in [
            "messaging.operation",
            "messaging.kafka.consumer.group",
            "messaging.kafka.destination.partition",
            "messaging.kafka.message.offset",
            "messaging.client_id",
            "rpc.system",
            "db.system",
        ] {
            assert!(!attributes.contains_key(old), "{about}");
        }
        let get = |key: &str| attributes.get(key).map_or("", String::as_str);
        let operation = span.name.split(' ').next().unwrap_or_default();
        let (kind, operation_type) = match operation {
            "poll" => (CLIENT, "receive"),
            "process" => (CONSUMER, "process"),
            "send" => (PRODUCER, "send"),
            "commit" => (CLIENT, "settle"),
            "INSERT" => {
                assert_eq!(get("db.operation.name"), "INSERT", "{about}");
                assert_eq!(span.kind, CLIENT, "{about}");
                continue;
            }
            _ => {
                let server = !get("rpc.method").is_empty() || !get("http.route").is_empty();
                assert_eq!(span.kind == SERVER, server, "{about}");
                continue;
            }
        };
        assert_eq!(span.kind, kind, "{about}");
        assert_eq!(get("messaging.system"), "kafka", "{about}");
        assert_eq!(get("messaging.operation.name"), operation, "{about}");
        assert_eq!(get("messaging.operation.type"), operation_type, "{about}");
        let destination = get("messaging.destination.name");
        assert_eq!(span.name, format!("{operation} {destination}"), "{about}");
        assert_eq!(get("server.address"), "127.0.0.1", "{about}");
        assert!(!get("messaging.client.id").is_empty(), "{about}");
        let consumes = operation != "send";
        let group = get("messaging.consumer.group.name");
        assert_eq!(!group.is_empty(), consumes, "{about}");
        let counted = attributes.contains_key("messaging.batch.message_count");
        assert_eq!(counted, operation == "poll", "{about}");
        assert!(
            span.end_time_unix_nano >= span.start_time_unix_nano,
            "{about}"
        );
    }
}

#[test]
fn a_record_produced_to_the_inbox_has_one_trace_from_its_producer_to_its_row() {
    let world = World::new(2);
    let collector = Collector::start();
    let _services = collector.start_all(&world, ON_DEMAND);
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    // Not sampled by its producer: nothing is made of it.
    client.send(
        &inbox,
        &raw("quiet", &[("traceparent", &traceparent(1, "00"))]),
    );
    let headers = [
        ("traceparent", traceparent(2, "01")),
        ("tracestate", "ward=7".to_owned()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, &value[..]));
    client.send(&inbox, &raw("traced", &headers));
    client.flush();
    let spans = collector.trace(&trace_id(2), is_stored);
    assert_eq!(draw(&spans), from_inbox(&world.pipeline));
    for span in &spans {
        assert_eq!(span.span.trace_state, "ward=7", "{}", span.span.name);
    }
    check_conventions(&collector.spans());
    let quiet = collector
        .spans()
        .into_iter()
        .filter(|s| s.trace() == trace_id(1));
    assert_eq!(quiet.count(), 0);
}

#[test]
fn each_record_of_a_batch_has_its_own_trace_linked_to_the_batch() {
    let world = World::new(2);
    let collector = Collector::start();
    let _services = collector.start_all(&world, ON_DEMAND);
    let client = Client::new(&world);
    for n in 0..64 {
        let context = traceparent(n, "01");
        let raw = raw(&format!("r-{n}"), &[("traceparent", &context)]);
        client.send(&world.topics().inbox, &raw);
    }
    client.flush();
    let expected = from_inbox(&world.pipeline);
    for n in 0..64 {
        assert_eq!(draw(&collector.trace(&trace_id(n), is_stored)), expected);
    }
    let spans = collector.spans();
    check_conventions(&spans);
    let polls: BTreeMap<String, &Received> = spans
        .iter()
        .filter(|r| r.span.name.starts_with("poll "))
        .map(|r| (hex(&r.span.span_id), r))
        .collect();
    for process in spans.iter().filter(|r| r.span.name.starts_with("process ")) {
        let links: BTreeSet<String> = process.span.links.iter().map(|l| hex(&l.span_id)).collect();
        assert!(
            links.contains(&hex(&process.span.parent_span_id)),
            "the creation context is a link too"
        );
        let poll = links
            .iter()
            .find_map(|id| polls.get(id))
            .expect("its batch");
        assert_ne!(poll.trace(), process.trace(), "a batch is nobody's parent");
        let back = poll
            .span
            .links
            .iter()
            .any(|l| hex(&l.trace_id) == process.trace());
        assert!(back, "the batch links its records");
    }
}

#[test]
fn requests_over_http_and_grpc_are_the_roots_of_what_they_cause() {
    let world = World::new(2);
    let collector = Collector::start();
    let services = collector.start_all(&world, ON_DEMAND);
    let path = records_path(&world);
    let context = traceparent(1, "01");
    let headers = [
        ("Content-Type", "application/json"),
        ("traceparent", &context),
    ];
    let body = record("http", "p-1", 148);
    let (status, answer) = http::post(services[0].address(), &path, &headers, body.as_bytes());
    assert_eq!(status, 200, "{answer}");

    let call = |n: u32| -> MetadataValue<_> { traceparent(n, "01").parse().expect("a header") };
    Runtime::new().expect("a runtime").block_on(async {
        let mut ingest = IngestServiceClient::connect(url(&services[0]))
            .await
            .expect("connected");
        let mut request = Request::new(SubmitRequest {
            pipeline: world.pipeline.clone(),
            record: Some(structure(&record("grpc", "p-2", 148))),
            ..SubmitRequest::default()
        });
        request.metadata_mut().insert("traceparent", call(2));
        ingest.submit(request).await.expect("accepted");

        let mut predict = PredictServiceClient::connect(url(&services[2]))
            .await
            .expect("connected");
        let mut request = Request::new(PredictRequest {
            pipeline: world.pipeline.clone(),
            record: Some(structure(&record("asked", "p-3", 148))),
            ..PredictRequest::default()
        });
        request.metadata_mut().insert("traceparent", call(3));
        predict.predict(request).await.expect("an answer");
    });

    let p = &world.pipeline;
    let pushed = |root: &str| format!("{root}\n  ingest: send {p}.records{}", from_records(p, 2));
    assert_eq!(
        draw(&collector.trace(&trace_id(1), is_stored)),
        pushed("ingest: POST /v1/pipelines/{pipeline}/records")
    );
    assert_eq!(
        draw(&collector.trace(&trace_id(2), is_stored)),
        pushed("ingest: quadrille.v1.IngestService/Submit")
    );
    let predicted = collector.trace(&trace_id(3), |spans| spans.len() >= 3);
    assert_eq!(
        draw(&predicted),
        "inference: quadrille.v1.PredictService/Predict\n  inference: features\n  inference: model"
    );
    check_conventions(&collector.spans());
}

#[test]
fn what_a_stream_pushes_belongs_to_its_call() {
    let world = World::new(2);
    let collector = Collector::start();
    let services = collector.start_all(&world, ON_DEMAND);
    let runtime = Runtime::new().expect("tokio");
    runtime.block_on(async {
        let mut ingest = IngestServiceClient::connect(url(&services[0]))
            .await
            .expect("connected");
        let submits = ["r1", "r2"].map(|id| SubmitRequest {
            pipeline: world.pipeline.clone(),
            record: Some(structure(&record(id, id, 148))),
            ..SubmitRequest::default()
        });
        let mut request = Request::new(tokio_stream::iter(submits));
        let context = traceparent(1, "01").parse::<MetadataValue<_>>();
        let context = context.expect("a header");
        request.metadata_mut().insert("traceparent", context);
        let stream = ingest.submit_stream(request).await.expect("a stream");
        let mut acknowledgements = stream.into_inner();
        while acknowledgements.message().await.expect("one").is_some() {}
    });
    let of_call = |spans: &[Received]| {
        let mut names: Vec<_> = spans
            .iter()
            .filter(|r| r.service == "ingest")
            .map(|r| r.span.name.clone())
            .collect();
        names.sort();
        names
    };
    let spans = collector.trace(&trace_id(1), |spans| of_call(spans).len() >= 3);
    let send = format!("send {}", world.topics().records);
    let call = "quadrille.v1.IngestService/SubmitStream".to_owned();
    assert_eq!(of_call(&spans), [call.clone(), send.clone(), send]);
    let call = spans.iter().find(|r| r.span.name == call).expect("it");
    for sent in spans.iter().filter(|r| r.span.name.starts_with("send ")) {
        if sent.service == "ingest" {
            assert_eq!(sent.span.parent_span_id, call.span.span_id);
        }
    }
}

#[test]
fn a_dead_letter_and_its_redrive_stay_in_the_records_trace() {
    let world = World::new(2);
    let collector = Collector::start();
    let _services = collector.start_all(&world, ON_DEMAND);
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    let context = traceparent(1, "01");
    let mut bad = raw("bad", &[("traceparent", &context)]);
    bad.value = Some(
        record("bad", "p-1", 148)
            .replace(":148", ":-1")
            .into_bytes(),
    );
    client.send(&inbox, &bad);
    client.flush();
    let attempts = |spans: &[Received], count: usize| {
        let ended = |r: &&Received| r.span.name.starts_with("process ");
        spans.iter().filter(ended).count() == count && spans.len() == 3 * count
    };
    let first = collector.trace(&trace_id(1), |spans| attempts(spans, 1));
    let letter = format!(
        "ingest: process {inbox} !out_of_range\n  ingest: commit {inbox}\n  ingest: send {inbox}.dlq"
    );
    assert_eq!(draw(&first), letter);
    let process = first.iter().find(|r| r.span.name.starts_with("process "));
    let status = process
        .and_then(|r| r.span.status.clone())
        .expect("a status");
    assert!(status.message.contains("glucose"), "{status:?}");

    let (cluster, dlq) = (world.cluster(), dlq_of(&inbox));
    let redrive = Redrive {
        cluster: &cluster,
        topic: &dlq,
    };
    assert_eq!(redrive.run(|_| {}).expect("redriven"), 1);
    let both = collector.trace(&trace_id(1), |spans| attempts(spans, 2));
    assert_eq!(draw(&both), format!("{letter}\n{letter}"));
    check_conventions(&collector.spans());
}

#[test]
fn an_error_is_traced_from_where_it_is_seen_and_a_header_forces_a_trace() {
    let world = World::new(2);
    let collector = Collector::start();
    let _services = collector.start_all(&world, ON_DEMAND);
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    // Broken contexts are none: these records begin a trace where one is asked for, and flow on in any case.
    let broken = format!("00-{}-{PARENT}-01", "0".repeat(32));
    client.send(&inbox, &raw("b1", &[("traceparent", "nonsense")]));
    client.send(&inbox, &raw("b2", &[("traceparent", &broken)]));
    let forced = [("traceparent", &broken[..]), ("quadrille-trace", "1")];
    client.send(&inbox, &raw("forced", &forced));
    let mut bad = raw("bad", &[("traceparent", &traceparent(7, "00"))]);
    bad.value = Some(b"not JSON".to_vec());
    client.send(&inbox, &bad);
    client.flush();

    let error = collector.trace(&trace_id(7), |spans| spans.len() == 3);
    assert_eq!(
        draw(&error),
        format!(
            "ingest: process {inbox} !not_json\n  ingest: commit {inbox}\n  ingest: send {inbox}.dlq"
        )
    );
    let row = eventually("a row's span", PATIENCE, || {
        let spans = collector.spans();
        spans
            .into_iter()
            .find(|r| r.span.name == "INSERT predictions")
    });
    let forced = collector.trace(&row.trace(), is_stored);
    assert_eq!(draw(&forced), from_inbox(&world.pipeline));
    let traces: BTreeSet<String> = collector
        .spans()
        .iter()
        .filter(|r| !r.span.name.starts_with("poll "))
        .map(Received::trace)
        .collect();
    assert_eq!(traces.len(), 2, "of four records two are traced");
}

#[test]
fn a_record_slower_than_the_pipelines_objective_is_traced() {
    let world = World::new(2);
    let text = std::fs::read_to_string(world.pipeline_file()).expect("the pipeline");
    let text = text.replacen("[record]", "latency_objective = \"10m\"\n\n[record]", 1);
    std::fs::write(world.pipeline_file(), text).expect("written");
    let collector = Collector::start();
    let _services = collector.start_all(&world, ON_DEMAND);
    let client = Client::new(&world);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let hour_ago = now.as_millis() as i64 - 3_600_000;
    client.send(&world.topics().inbox, &raw("quick", &[]));
    let late = Raw {
        timestamp_ms: Some(hour_ago),
        ..raw("late", &[("traceparent", &traceparent(1, "00"))])
    };
    client.send(&world.topics().inbox, &late);
    client.flush();
    let spans = collector.trace(&trace_id(1), is_stored);
    assert_eq!(draw(&spans), from_inbox(&world.pipeline));
    let others = collector.spans().into_iter();
    let others = others.filter(|r| r.trace() != trace_id(1) && !r.span.name.starts_with("poll "));
    assert_eq!(others.count(), 0, "the quick one is not");
}

#[test]
fn records_without_a_context_begin_their_traces_in_ingest() {
    let world = World::new(2);
    let collector = Collector::start();
    let _services = collector.start_all(&world, ALWAYS);
    let client = Client::new(&world);
    client.send(&world.topics().inbox, &raw("plain", &[]));
    client.flush();
    let row = eventually("a row's span", PATIENCE, || {
        let spans = collector.spans();
        spans
            .into_iter()
            .find(|r| r.span.name == "INSERT predictions")
    });
    let spans = collector.trace(&row.trace(), is_stored);
    assert_eq!(draw(&spans), from_inbox(&world.pipeline));
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let world = World::new(2);
    // A port that is taken by nobody.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", nobody.local_addr().expect("an address"));
    drop(nobody);
    let mut services = collector::start_all(&world, &endpoint, ALWAYS);
    let load = oracle::Load {
        records: 500,
        keys: 20,
        rate: 1_000,
    };
    let sent = load.send(&world, |_| {});
    oracle::check(&world, services[3].address(), &sent);
    for service in &mut services {
        eventually("spans are counted as lost", PATIENCE, || {
            service
                .metric("otel_sdk_exporter_span_exported_total{error_type=\"rejected\"}")
                .filter(|lost| *lost > 0.0)
        });
        service.signal("TERM");
        assert!(service.wait().success(), "drains all the same");
    }
}

#[test]
fn a_wrong_sampler_is_refused_by_name() {
    let world = World::new(1);
    let launch = world
        .launch(Service::Feature, "a")
        .env("OTEL_TRACES_SAMPLER", "sometimes");
    let mut process = launch.start();
    assert_eq!(process.wait().code(), Some(64));
    assert!(
        process.log().contains("OTEL_TRACES_SAMPLER"),
        "{}",
        process.log()
    );
}

/// Asks for another try of every batch once, then passes records on as they are.
#[derive(Default)]
struct Hesitant {
    tries: u32,
}

impl Handler for Hesitant {
    type Record = Vec<u8>;

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut Vec<u8>,
    ) -> Result<(), handler::Error> {
        record.clear();
        record.extend_from_slice(incoming.payload.unwrap_or_default());
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
        self.tries += 1;
        for item in items {
            match self.tries {
                1 => output.fail(handler::Error::retry("busy", "the model is busy")),
                _ => output.emit(|bytes| bytes.extend_from_slice(item.record)),
            }
        }
    }
}

#[test]
fn a_retry_stays_in_its_trace_each_attempt_with_its_own_span() {
    let world = World::new(1);
    let collector = Collector::start();
    let (topics, registry) = (world.topics(), Registry::default());
    let runtime = Runtime::new().expect("a runtime");
    let sampling = Sampling::parse("always_on", "").expect("a sampler");
    let tracing = runtime.block_on(async {
        Tracing::to(&collector.endpoint, "feature", "test", sampling, &registry)
    });
    let tracing = tracing.expect("an exporter");
    let config = StageConfig {
        cluster: world.cluster(),
        service: "feature",
        pipeline: world.pipeline.clone(),
        group: Service::Feature.group(&world.pipeline),
        input: topics.records.clone(),
        outputs: vec![quadrille_choreography::OutputTopic {
            name: "out",
            topic: topics.features.clone(),
        }],
        instance: "test".to_owned(),
        lanes: 1,
        commit: CommitMode::Kafka,
        limits: Limits::default(),
        latency_objective: None,
    };
    let metrics = LoopMetrics::register(&registry);
    let admin = Admin::connect(&config.cluster).expect("a client");
    let stage = quadrille_choreography::Stage {
        topics: admin.prepare(&config).expect("topics"),
        metrics: metrics.stage(&config.pipeline, &config.group, &config.input),
        tracing: tracing.clone(),
        config,
    };
    let stage = stage.run(|_| Hesitant::default()).expect("a stage");
    let client = Client::new(&world);
    let id = trace_id(900);
    let header = traceparent(900, "01");
    client.send(&topics.records, &raw("again", &[("traceparent", &header)]));
    client.flush();
    let spans = collector.trace(&id, |spans| {
        let sent = spans.iter().any(|r| r.span.name.starts_with("commit"));
        sent && spans.iter().any(|r| r.attribute("error.type").is_some())
    });
    let p = &world.pipeline;
    let shape = format!(
        "feature: process {p}.records !busy
feature: process {p}.records
  feature: commit {p}.records
  feature: send {p}.features"
    );
    assert_eq!(draw(&spans), shape);
    check_conventions(&spans);
    stage.stop();
    stage.join().expect("drained");
    tracing.shutdown();
}
