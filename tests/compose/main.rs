//! compose.yaml as people run it: real containers on a Docker engine.
//!
//!     cargo test --features compose-tests --test compose
//!
//! Takes the ports that compose.yaml publishes; ends what it started, volumes included.

#[path = "../e2e/harness/mod.rs"]
#[allow(
    dead_code,
    reason = "processes and receivers are the end-to-end tests'"
)]
mod harness;
mod predicting;
mod system;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use harness::{
    client::{Client, Raw, Watch, record},
    eventually, eventually_or_show, http, oracle,
    oracle::Load,
    world::World,
};
use predicting::{Asking, Predicting};
use quadrille_proto::Service;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use system::{INFERENCE, INGEST, JAEGER, RESULTS, System};

const PATIENCE: Duration = Duration::from_secs(180);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Where the second load's numbers begin, far beyond the first one's.
const SECOND: u32 = 500_000;

/// What the test scales to.
const REPLICAS: [(Service, u32); 4] = [
    (Service::Ingest, 2),
    (Service::Feature, 3),
    (Service::Inference, 4),
    (Service::Results, 2),
];

/// Enough for every phase; each ends it when it is through.
fn load(rate: u32) -> Load {
    Load {
        records: 1_000_000,
        keys: 64,
        rate,
    }
}

/// The addresses of the members of a stage's group.
fn hosts(world: &World, stage: Service) -> BTreeSet<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .create()
        .expect("a consumer");
    let group = stage.group(&world.pipeline);
    let list = consumer.fetch_group_list(Some(&group), Duration::from_secs(10));
    let list = list.expect("the group");
    let members = list.groups().iter().flat_map(|group| group.members());
    members
        .map(|member| member.client_host().to_owned())
        .collect()
}

/// Runs `operate` under load, from the record of number `first` on; returns what was sent.
fn under_load(
    world: &World,
    rate: u32,
    first: u32,
    operate: impl FnOnce() + Send,
) -> BTreeSet<String> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Also when an assertion fails: the load would go on for ever.
            struct Ends<'a>(&'a AtomicBool);
            impl Drop for Ends<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _ends = Ends(&done);
            operate();
        });
        load(rate).send_from(world, first, |_| !done.load(Ordering::Relaxed))
    })
}

fn answer(path: &str) -> String {
    http::try_request(RESULTS, "GET", path, &[], b"").map_or_else(String::new, |(_, body)| body)
}

#[test]
fn the_system_scales_and_survives() {
    let system = System::up(&[]);
    let world = system.world();

    // A record of the user's own producer is one trace, down to the row.
    let mut raw = Raw::json("p-1", record("traced", "p-1", 148));
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    raw.headers = vec![("traceparent".to_owned(), traceparent.into_bytes())];
    let client = Client::new(&world);
    client.send(&world.topics().inbox, &raw);
    client.flush();
    eventually_or_show("the trace is in Jaeger", PATIENCE, || {
        let path = format!("/api/traces/{TRACE}");
        let found = http::try_request(JAEGER, "GET", &path, &[], b"");
        let body = found.map(|(_, body)| body).unwrap_or_default();
        let names = [
            "ingest",
            "feature",
            "inference",
            "results",
            "INSERT predictions",
        ];
        let whole = names
            .iter()
            .all(|name| body.contains(&format!("\"{name}\"")));
        whole.then_some(()).ok_or(body)
    });
    let mut sent = BTreeSet::from(["traced".to_owned()]);

    // A push through the load balancer.
    let path = format!("/v1/pipelines/{}/records", world.pipeline);
    let pushed = record("pushed", "p-2", 90);
    let headers = [("Content-Type", "application/json")];
    let (status, body) =
        http::try_request(INGEST, "POST", &path, &headers, pushed.as_bytes()).expect("an answer");
    assert_eq!(status, 200, "{body}");
    sent.insert("pushed".to_owned());

    // Up, down, a rolling restart, all under load, without a failed Predict and without a gap.
    let predicting = Predicting::start(INFERENCE);
    let topics = world.topics();
    let watched = [topics.records, topics.features, topics.predictions];
    let watches = watched.map(|topic| (Watch::start(&world, &topic), topic));
    let (mut began, mut steps) = (Instant::now(), Vec::new());
    sent.extend(under_load(&world, 200, 0, || {
        // The first records warm everything up: what follows is measured.
        eventually("records are stored", PATIENCE, || {
            let count = answer(&format!(
                "/v1/pipelines/{}/predictions/count",
                world.pipeline
            ));
            (!count.contains("\"count\":2,")).then_some(())
        });
        began = Instant::now();
        for (stage, replicas) in REPLICAS {
            steps.push((began.elapsed(), format!("{} {replicas}", stage.name())));
            system.scale(&[(stage.name(), replicas)]);
            eventually_or_show("the replicas share the partitions", PATIENCE, || {
                let hosts = hosts(&world, stage);
                let all = hosts.len() == replicas as usize;
                all.then_some(()).ok_or(format!("{stage:?}: {hosts:?}"))
            });
            // One step after the other: their pauses are told apart.
            system.settle(stage.name());
        }
        for (stage, _) in REPLICAS {
            steps.push((began.elapsed(), format!("{} restarts", stage.name())));
            system.restart_one_by_one(stage.name());
        }
        for (stage, _) in REPLICAS {
            steps.push((began.elapsed(), format!("{} 1", stage.name())));
            system.scale(&[(stage.name(), 1)]);
        }
    }));
    let pauses = watches.map(|(watch, topic)| (watch.pauses(began), topic));
    let mut longest = Duration::ZERO;
    for (index, (at, step)) in steps.iter().enumerate() {
        let next = steps.get(index + 1).map_or(Duration::MAX, |(at, _)| *at);
        let within = |(ended, _): &&(Duration, Duration)| (*at..next).contains(ended);
        // A stage's pause shows in its own output and in all that follow.
        let of_each = pauses.each_ref().map(|(pauses, topic)| {
            let pause = pauses.iter().filter(within).map(|(_, pause)| *pause).max();
            longest = longest.max(pause.unwrap_or_default());
            format!("{topic} {:.2?}", pause.unwrap_or_default())
        });
        let of_each = of_each.join(", ");
        println!("{at:8.1?}: {step}: a partition's longest pause: {of_each}");
    }
    let predicted = predicting.stop();
    println!("{predicted}");
    predicted.check();
    oracle::stored(&world, RESULTS, sent.len());

    // A container killed, Kafka stopped and started again.
    sent.extend(under_load(&world, 100, SECOND, || {
        for service in ["feature", "inference"] {
            system.kill(service);
            system.scale(&[(service, 1)]);
        }
        system.compose(&["stop", "kafka"]);
        system.compose(&["start", "kafka"]);
        eventually("Kafka is back", PATIENCE, || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &world.bootstrap)
                .create()
                .expect("a consumer");
            consumer.fetch_metadata(None, Duration::from_secs(2)).ok()
        });
    }));
    oracle::check(&world, RESULTS, &sent);
    assert!(longest < Duration::from_secs(8), "{longest:?}");
}

#[test]
fn only_the_content_check_finds_the_wrong_model() {
    let system = System::up(&[]);
    system.add_wrong_model();
    let mut client = Asking::new();
    for config in ["checks/tcp.cfg", "checks/status.cfg"] {
        let door = system.door(config);
        eventually_or_show("both models answer", PATIENCE, || {
            let versions = client.versions(door.0, 20);
            let both = versions.iter().map(String::as_str).eq(["1", "2"]);
            both.then_some(()).ok_or(format!("{config}: {versions:?}"))
        });
    }
    let door = system.door("checks/content.cfg");
    eventually_or_show("the right one answers alone", PATIENCE, || {
        let versions = client.versions(door.0, 60);
        let right = versions.iter().map(String::as_str).eq(["1"]);
        right.then_some(()).ok_or(format!("{versions:?}"))
    });
    drop(door);
    // A connection is balanced, not its calls: a gRPC client stays with one replica.
    let door = system.door("examples/layer4.cfg");
    eventually_or_show(
        "one replica has all calls of a connection",
        PATIENCE,
        || {
            let versions = client.versions(door.0, 60);
            (versions.len() == 1)
                .then_some(())
                .ok_or(format!("{versions:?}"))
        },
    );
}

#[test]
fn three_brokers_bear_the_loss_of_one() {
    let system = System::up(&["--env-file", "deploy/ha.env"]);
    let world = system.world();
    let sent = under_load(&world, 200, 0, || {
        eventually("records are stored", PATIENCE, || {
            let count = answer(&format!(
                "/v1/pipelines/{}/predictions/count",
                world.pipeline
            ));
            (!count.is_empty() && !count.contains("\"count\":0,")).then_some(())
        });
        // Not the one that a client on this machine begins with.
        system.kill("kafka-2");
        // Half a minute of load without it.
        eventually("the others go on", PATIENCE, || {
            let count = answer(&format!(
                "/v1/pipelines/{}/predictions/count",
                world.pipeline
            ));
            let count = count
                .split(':')
                .nth(1)?
                .split(',')
                .next()?
                .parse::<u32>()
                .ok()?;
            (count > 4_000).then_some(())
        });
        system.compose(&["start", "kafka-2"]);
    });
    oracle::check(&world, RESULTS, &sent);
}
