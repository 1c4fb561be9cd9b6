//! Metrics and logs at the collector, beside what `/metrics` and standard error show.

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    metrics::v1::{metric::Data, number_data_point},
};
use quadrille_proto::Service;

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, record},
    collector::{Collector, hex},
    eventually, http, oracle,
    process::Process,
    world::World,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A record whose trace is sampled.
fn traced(id: &str, value: String) -> Raw {
    let mut raw = Raw::json(id, value);
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    raw.headers = vec![("traceparent".to_owned(), traceparent.into_bytes())];
    raw
}

/// Four services that tell a collector, and a record sent to them.
struct Run {
    world: World,
    collector: Collector,
    services: Vec<Process>,
}

impl Run {
    /// With a record that is stored.
    fn stored(partitions: i32) -> Self {
        let record = traced("p-1", record("r1", "p-1", 148));
        let run = Run::with(partitions, &record);
        oracle::stored(&run.world, run.services[3].address(), 1);
        run
    }

    fn with(partitions: i32, record: &Raw) -> Self {
        let world = World::new(partitions);
        let collector = Collector::start();
        let services = collector.start_all(&world, ("parentbased_always_on", ""));
        let client = Client::new(&world);
        client.send(&world.topics().inbox, record);
        client.flush();
        Run {
            world,
            collector,
            services,
        }
    }
}

#[test]
fn every_services_metrics_reach_the_collector_by_opentelemetrys_names() {
    let run = Run::stored(2);
    for stage in Service::ALL {
        eventually("the record is counted at the collector", PATIENCE, || {
            let metric = run
                .collector
                .metric(stage.name(), "messaging.client.consumed.messages")?;
            let Some(Data::Sum(sum)) = metric.data else {
                panic!("a counter is a sum: {metric:?}");
            };
            let consumed = sum.data_points.iter().map(|point| point.value);
            let consumed: Vec<_> = consumed.collect();
            (consumed == [Some(number_data_point::Value::AsDouble(1.0))]).then_some(())
        });
        for name in [
            "kafka.consumergroup.lag",
            "quadrille.consumergroup.lag",
            "quadrille.queue_records",
            "quadrille.batch_records",
            "quadrille.record_age",
            "messaging.process.duration",
            "messaging.client.operation.duration",
        ] {
            eventually(name, PATIENCE, || run.collector.metric(stage.name(), name));
        }
    }
    eventually("the model's times", PATIENCE, || {
        run.collector
            .metric("inference", "quadrille.model.stage.duration")
    });
}

#[test]
fn a_duration_shows_the_trace_of_one_that_took_it() {
    let run = Run::stored(1);
    let (_, text) = http::get(run.services[1].address(), "/metrics");
    let example = format!("# {{trace_id=\"{TRACE}\"}}");
    let shown = |line: &str| {
        line.starts_with("messaging_process_duration_seconds_bucket") && line.contains(&example)
    };
    assert!(text.lines().any(shown), "{text}");
}

#[test]
fn a_dead_letter_is_logged_with_its_trace() {
    let run = Run::with(1, &traced("p-1", "not JSON".to_owned()));
    let record = eventually("the line is at the collector", PATIENCE, || {
        let mut lines = run.collector.logs("ingest");
        lines.retain(|line| hex(&line.trace_id) == TRACE);
        lines.pop()
    });
    assert_eq!(record.severity_text, "WARN");
    let body = record.body.and_then(|body| body.value);
    let Some(Value::StringValue(body)) = body else {
        panic!("a text: {body:?}");
    };
    assert!(body.starts_with("dead-lettered: "), "{body}");
    let log = run.services[0].log();
    assert!(log.contains(&format!("\"trace_id\":\"{TRACE}\"")), "{log}");
}
