//! Metrics and logs at the collector, beside what `/metrics` and standard error show.

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    metrics::v1::{metric::Data, number_data_point},
};
use quadrille_proto::Stage;

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, record},
    collector::{Collector, hex},
    eventually, http, oracle,
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

#[test]
fn every_services_metrics_reach_the_collector_by_opentelemetrys_names() {
    let world = World::new(2);
    let collector = Collector::start();
    let services = collector.start_all(&world, ("parentbased_always_on", ""));
    let client = Client::new(&world);
    client.send(
        &world.topics().inbox,
        &traced("p-1", record("r1", "p-1", 148)),
    );
    client.flush();
    oracle::stored(&world, services[3].address(), 1);
    for stage in Stage::ALL {
        eventually("the record is counted at the collector", PATIENCE, || {
            let metric = collector.metric(stage.name(), "messaging.client.consumed.messages")?;
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
            eventually(name, PATIENCE, || collector.metric(stage.name(), name));
        }
    }
    eventually("the model's times", PATIENCE, || {
        collector.metric("inference", "quadrille.model.stage.duration")
    });
}

#[test]
fn a_duration_shows_the_trace_of_one_that_took_it() {
    let world = World::new(1);
    let collector = Collector::start();
    let services = collector.start_all(&world, ("parentbased_always_on", ""));
    let client = Client::new(&world);
    client.send(
        &world.topics().inbox,
        &traced("p-1", record("r1", "p-1", 148)),
    );
    client.flush();
    oracle::stored(&world, services[3].address(), 1);
    let (_, text) = http::get(services[1].address(), "/metrics");
    let example = format!("# {{trace_id=\"{TRACE}\"}}");
    let shown = |line: &str| {
        line.starts_with("messaging_process_duration_seconds_bucket") && line.contains(&example)
    };
    assert!(text.lines().any(shown), "{text}");
}

#[test]
fn a_dead_letter_is_logged_with_its_trace() {
    let world = World::new(1);
    let collector = Collector::start();
    let services = collector.start_all(&world, ("parentbased_always_on", ""));
    let client = Client::new(&world);
    client.send(&world.topics().inbox, &traced("p-1", "not JSON".to_owned()));
    client.flush();
    let record = eventually("the line is at the collector", PATIENCE, || {
        let mut lines = collector.logs("ingest");
        lines.retain(|line| hex(&line.trace_id) == TRACE);
        lines.pop()
    });
    assert_eq!(record.severity_text, "WARN");
    let body = record.body.and_then(|body| body.value);
    let Some(Value::StringValue(body)) = body else {
        panic!("a text: {body:?}");
    };
    assert!(body.starts_with("dead-lettered: "), "{body}");
    let log = services[0].log();
    assert!(log.contains(&format!("\"trace_id\":\"{TRACE}\"")), "{log}");
}
