//! Requests that nobody thought of: schemathesis makes them of the description of the REST form. Kafka is the embedded
//! broker's: what is looked at is the answers, not delivery.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser;
use quadrille_choreography::{EmbeddedBroker, TopicSpec};
use quadrille_local::schemathesis::{self, AS_DESCRIBED};
use quadrille_proto::KeyedState;

const DESCRIPTION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi/ingest.yaml"
);
const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/diabetes.toml");
/// Longer than a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service, once it is ready; it ends with the test's process.
fn start(broker: &EmbeddedBroker) -> SocketAddr {
    let specs = TopicSpec::of_pipeline("diabetes", KeyedState::None, 1, 1_048_588);
    broker.create(&specs).expect("topics");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let line = ["ingest", "--pipeline", PIPELINE, "--lanes", "1"];
    let mut config = ingest::Cli::parse_from(line).config().expect("settings");
    config.service.cluster = broker.cluster().expect("a cluster");
    config.service.listen = address;
    config.service.listener = Some(listener);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let end = runtime.block_on(ingest::run(config, std::future::pending()));
        panic!("the service ended: {end:?}");
    });
    let deadline = Instant::now() + PATIENCE;
    while !is_ready(address) {
        assert!(Instant::now() < deadline, "not ready within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    address
}

fn is_ready(address: SocketAddr) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}

/// Without lines of JSON, which schemathesis cannot make.
fn description() -> String {
    let text = std::fs::read_to_string(DESCRIPTION).expect("the description");
    let (before, rest) = text
        .split_once("          application/x-ndjson:")
        .expect("a media type");
    let (_, after) = rest
        .split_once("          text/csv:")
        .expect("a media type");
    format!("{before}          text/csv:{after}")
}

#[test]
fn whatever_the_description_allows_is_answered_as_described() {
    let broker = EmbeddedBroker::start().expect("a broker");
    let url = format!("http://{}", start(&broker));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("ingest.yaml");
    std::fs::write(&path, description()).expect("written");
    match schemathesis::run(&path, &url, AS_DESCRIBED, folder) {
        Ok(report) => assert!(report.passed, "{}", report.text),
        // Not by a macro, whose output a test that passes does not show.
        Err(error) => {
            let why = format!("SKIPPED: no schemathesis here, it is not tried: {error}\n");
            let _ = std::io::stderr().write_all(why.as_bytes());
        }
    }
}
