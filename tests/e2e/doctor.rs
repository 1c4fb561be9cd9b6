//! What the command line says of a system that is not well, or not there.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use quadrille_local::kafka::secured::USER;
use serde_json::Value;

use crate::harness::{
    PATIENCE, broker,
    cli::{Cli, written},
    eventually, eventually_or_show,
    world::World,
};

/// Kafka's client is asked for 10 s; the rest is the process on a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(20);

/// The first of four ports that nobody listens on, and nobody else will: below those that the system gives away, to the services
/// of other tests and to outgoing connections, and those of local brokers.
fn free_ports() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const FOURS: u16 = 1_200;
    let own = (std::process::id() % u32::from(FOURS)) as u16;
    let four = || {
        let turn = TAKEN.fetch_add(1, Ordering::Relaxed);
        let first = FIRST + 4 * (own.wrapping_add(turn) % FOURS);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        (first..first + 4).all(is_free).then(|| first.to_string())
    };
    eventually("four ports in a row are free", PATIENCE, four)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn status<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str) {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|it| it["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no check {check}: {report}"));
    let word = |field: &str| found[field].as_str().expect("a text");
    (word("status"), word("found"))
}

#[test]
fn a_doctor_says_what_is_well_what_is_missing_and_what_to_do() {
    let world = World::new(2);
    let (name, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let examine = |file: &str, code: i32| {
        let port = free_ports();
        let database = world.database_url.as_str();
        let args = ["doctor", "--pipeline", file, "--database-url", database];
        let output = cli.run(&[&args[..], &["--port", &port, "--output", "json"]].concat());
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let report = examine(&world.pipeline_file().display().to_string(), 0);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(status(&report, "kafka").0, "ok");
    let topics = status(&report, &format!("{name} topics"));
    assert_eq!(topics, ("ok", "all there, 2 partitions each"));
    let (word, found) = status(&report, &format!("{name} feature"));
    assert!(word == "warning" && found.contains("start it"), "{found}");
    let (word, found) = status(&report, &format!("{name} model"));
    assert!(word == "warning" && found.contains("deploy set"), "{found}");
    let file = std::fs::read_to_string(world.pipeline_file()).expect("read");
    let other = world.folder.path().join("other.toml");
    let renamed = file.replacen(name.as_str(), &format!("{name}-no"), 1);
    std::fs::write(&other, renamed).expect("written");
    let report = examine(&other.display().to_string(), 1);
    let (word, found) = status(&report, &format!("{name}-no topics"));
    assert!(
        word == "failed"
            && found.contains(&format!("{name}-no.inbox"))
            && found.contains("topics create"),
        "{found}"
    );
}

#[test]
fn without_kafka_commands_give_up_soon_with_a_plain_message() {
    let cli = Cli("127.0.0.1:1".to_owned());
    let timed = |args: &[&str]| -> Output {
        let began = Instant::now();
        let output = cli.run(args);
        let took = began.elapsed();
        assert!(took < GIVEN_UP_WITHIN, "{args:?} took {took:?}");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = text(&output.stderr);
        assert!(!error.contains("{\""), "{args:?}: {error}");
        output
    };
    let listed = timed(&["model", "list"]);
    let error = text(&listed.stderr);
    assert!(
        error.starts_with("error: Kafka at 127.0.0.1:1 does not answer"),
        "{error}"
    );
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    let looked = timed(&["doctor", "--pipeline", pipelines, "--port", &free_ports()]);
    let report = text(&looked.stdout);
    assert!(report.contains("127.0.0.1:1 does not answer"), "{report}");
    let files = report.lines().find(|line| line.starts_with("pipelines"));
    assert!(
        files.is_some_and(|line| line.contains("diabetes")),
        "{report}"
    );
}

#[test]
fn a_deployed_version_that_no_replica_serves_is_a_warning() {
    let world = World::new(2);
    let (name, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("{name}-m");
    let package = written(folder.path(), &model, "1", "test");
    cli.good(&["model", "push", &package.display().to_string()]);
    cli.good(&["deploy", "set", name, "--live", &format!("{model}:1")]);
    let file = world.pipeline_file().display().to_string();
    let port = free_ports();
    let json = ["--port", &port, "--output", "json"];
    let url = ["--database-url", &world.database_url];
    let args = [&["doctor", "--pipeline", &file], &url[..], &json].concat();
    let report = serde_json::from_str::<Value>(&cli.good(&args)).expect("JSON");
    let (word, found) = status(&report, &format!("{name} model"));
    assert!(
        word == "warning" && found.contains(&format!("{model}:1")) && found.contains("no replica"),
        "{found}"
    );
}

#[test]
fn a_watch_waits_for_a_kafka_that_starts_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("watch.log");
    let errors = std::fs::File::create(&log).expect("a log");
    let path = folder.path().display().to_string();
    let mut watch = Cli("127.0.0.1:1".to_owned())
        .command(&["model", "watch", &path, "--every", "0.1"])
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .expect("the CLI starts");
    eventually_or_show("it says that it tries again", PATIENCE, || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.contains("tried again").then_some(()).ok_or(log)
    });
    let interrupted = Command::new("kill")
        .args(["-INT", &watch.id().to_string()])
        .status();
    assert!(interrupted.is_ok_and(|status| status.success()));
    let status = eventually("it ends", PATIENCE, || {
        watch.try_wait().expect("a child of ours")
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_doctor_says_why_kafka_does_not_let_it_in() {
    let mut options = broker::options();
    options.secured = true;
    let kafka = options.start().expect("Apache Kafka starts");
    let secured = kafka.secured().expect("secured listeners");
    let certificate = secured.certificate.display();
    let wrong = format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.username={USER}\nsasl.password=wrong\n\
         ssl.ca.location={certificate}"
    );
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    let port = free_ports();
    let args = ["doctor", "--pipeline", pipelines, "--port", &port];
    for (servers, properties, why) in [
        (&secured.sasl, wrong.as_str(), "Authentication failed"),
        (
            &secured.tls,
            "security.protocol=SSL",
            "certificate verify failed",
        ),
    ] {
        let mut command = Cli(servers.clone()).command(&args);
        let output = command.env("KAFKA_PROPERTIES", properties).output();
        let output = output.expect("the CLI starts");
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(report.contains(why), "{report}");
    }
}
