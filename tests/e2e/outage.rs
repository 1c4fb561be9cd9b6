//! Kafka away: what answers requests stays ready and goes on answering, and says how old its view is.

use std::time::{Duration, Instant};

use crate::harness::{
    PATIENCE, broker, eventually, http,
    oracle::{self, Load},
    process::Process,
    world::World,
};

const AWAY_FOR: Duration = Duration::from_secs(15);

/// Of an answer of inference's, in seconds.
fn view_age(head: &str) -> Option<u64> {
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("quadrille-view-age")
            .then(|| value.parse().ok())?
    };
    head.lines().find_map(header)
}

#[test]
fn a_broker_that_is_away_for_15_s_takes_no_synchronous_answer_down() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 2);
    let mut services = world.start_all();
    for service in &mut services {
        service.ready();
    }
    let load = |records| Load {
        records,
        keys: 5,
        rate: 100,
    };
    let mut sent = load(50).send(&world, |_| {});
    oracle::check(&world, services[3].address(), &sent);
    let [ingest, feature, inference, results] = &services[..] else {
        panic!("four services")
    };
    let fields = [
        ("pregnant", "INT64", 6.0),
        ("glucose", "FP64", 148.0),
        ("pressure", "FP64", 72.0),
        ("triceps", "FP64", 35.0),
        ("insulin", "FP64", 0.0),
        ("mass", "FP64", 33.6),
        ("pedigree", "FP64", 0.627),
        ("age", "INT64", 50.0),
    ];
    let inputs = fields.map(|(name, datatype, value)| {
        let data = match datatype {
            "INT64" => serde_json::json!([value as i64]),
            _ => serde_json::json!([value]),
        };
        serde_json::json!({"name": name, "datatype": datatype, "shape": [1], "data": data})
    });
    let body = serde_json::json!({"inputs": inputs}).to_string();
    let path = format!("/v2/models/{}/infer", world.pipeline);
    let infer = || {
        let headers = [("Content-Type", "application/json")];
        let answer = http::try_whole(
            inference.address(),
            "POST",
            &path,
            &headers,
            body.as_bytes(),
        );
        let (status, head, body) = answer.expect("an answer");
        assert_eq!(status, 200, "{body}");
        view_age(&head)
    };
    assert_eq!(infer(), None, "a fresh view is not told");

    broker.stop();
    let stopped = Instant::now();
    let spent = ingest.cpu();
    let count = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    let mut oldest = None;
    // Readiness is asked as often as a load balancer asks, and more.
    while stopped.elapsed() < AWAY_FOR {
        oldest = oldest.max(infer());
        let (status, stored) = http::get(results.address(), &count);
        assert_eq!((status, stored.contains("50")), (200, true), "{stored}");
        for service in [feature, inference, results] {
            let asked: &Process = service;
            let (status, why) = http::get(asked.address(), "/readyz");
            let after = stopped.elapsed();
            assert_eq!(
                status, 200,
                "{} after {after:?}: {why}",
                asked.launch.binary
            );
        }
    }
    // Nobody asks ingest for anything.
    let spent = ingest.cpu() - spent;
    assert!(
        spent < AWAY_FOR / 5,
        "waiting for Kafka took {spent:?} of CPU"
    );
    let oldest = oldest.expect("answers said how old the view was");
    assert!((11..=20).contains(&oldest), "{oldest} s");

    broker.restart().expect("it comes back");
    eventually("the view is fresh again", PATIENCE, || {
        infer().is_none().then_some(())
    });
    sent.extend(load(100).send_from(&world, 50, |_| true));
    oracle::check(&world, results.address(), &sent);
}
