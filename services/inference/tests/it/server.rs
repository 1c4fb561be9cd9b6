//! One service for all tests of the run, its pipelines, and their models.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use quadrille_choreography::{EmbeddedBroker, TopicSpec};
use quadrille_model::{
    Model, Outputs, Package,
    import::{ImportOptions, import},
    package::{Activation, Digest, Identity, Labels, Overwrite},
    train::{Algorithm, Dataset, TrainOptions, train},
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{KeyedState, Service};
use quadrille_service::Config;
use tempfile::TempDir;

const DIABETES: &str = include_str!("../../../../pipelines/diabetes.toml");
const PIMA: &[u8] = include_bytes!("../../../../data/pima.csv");

/// Has what tensors make hard: a category, a truth, a number that stands for a missing one.
const ANIMALS: &str = r#"
name = "animals"
[record]
key = "animal"
[[record.fields]]
name = "weight"
type = "number"
min = 0
max = 100
missing = [0]
[[record.fields]]
name = "coat"
type = "category"
categories = ["red", "blue"]
[[record.fields]]
name = "tame"
type = "boolean"
[[features]]
name = "weight"
kind = "pass"
field = "weight"
[[features]]
name = "coat"
kind = "one_hot"
field = "coat"
[[features]]
name = "tame"
kind = "pass"
field = "tame"
[model]
inputs = ["weight", "coat=red", "coat=blue", "tame"]
[decision]
threshold = 0.5
positive = "keep"
negative = "leave"
"#;

/// One field, one input, and they differ: the raw value must never be scored as the feature.
pub const GAUGE: &str = r#"
name = "gauge"
[record]
key = "place"
[[record.fields]]
name = "level"
type = "number"
[[features]]
name = "level_log"
kind = "log"
field = "level"
[model]
inputs = ["level_log"]
[decision]
threshold = 0.5
positive = "flood"
negative = "dry"
"#;

/// Before a network that fills nothing, with a threshold that is not a half.
const CARDS: &str = r#"
name = "cards"
[record]
key = "card"
[[record.fields]]
name = "x0"
type = "number"
required = false
[[record.fields]]
name = "x1"
type = "number"
[[features]]
name = "x0"
kind = "pass"
field = "x0"
[[features]]
name = "x1"
kind = "pass"
field = "x1"
[model]
inputs = ["x0", "x1"]
[decision]
threshold = 0.3
positive = "block"
negative = "pay"
"#;

const NETWORK: &[u8] =
    include_bytes!("../../../../crates/model/tests/golden/onnx/logistic-tiny.onnx");

pub const ROWS_MAX: usize = 5_000;
pub const VALUES_MAX: usize = 20_000;

/// Longer than a loaded machine takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub address: SocketAddr,
    pub diabetes: Arc<dyn Model>,
    pub animals: Arc<dyn Model>,
    pub gauge: Arc<dyn Model>,
    _broker: EmbeddedBroker,
    _folder: TempDir,
}

/// The service, started by whoever asks first.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// What a model says of rows.
pub fn scores(model: &Arc<dyn Model>, rows: &[f64]) -> Vec<f64> {
    let mut outputs = Vec::new();
    model.score(rows, &mut outputs);
    outputs
}

/// A service of one's own, for what counts all that is asked.
pub fn start() -> Server {
    let folder = TempDir::new().expect("a folder");
    let diabetes = Pipeline::parse("diabetes.toml", DIABETES).expect("the shipped pipeline");
    let animals = Pipeline::parse("animals.toml", ANIMALS).expect("a pipeline");
    let training = diabetes.read_training(PIMA).expect("the shipped data");
    let pima = Dataset {
        inputs: training.inputs,
        rows: training.rows,
        labels: training.labels,
    };
    let diabetes_forest = package("diabetes-forest", pima, &folder.path().join("diabetes"));
    let zoo = package("zoo-forest", zoo(&animals), &folder.path().join("animals"));
    let counted = GAUGE.replacen("gauge", "counted", 1);
    let counted = Pipeline::parse("counted.toml", &counted).expect("a pipeline");
    let place = folder.path().join("counted");
    package("counted-forest", levels(&counted), &place);
    let gauge = Pipeline::parse("gauge.toml", GAUGE).expect("a pipeline");
    let levels = package("level-forest", levels(&gauge), &folder.path().join("gauge"));
    let cards = Pipeline::parse("cards.toml", CARDS).expect("a pipeline");
    let place = folder.path().join("cards");
    network(&cards)
        .save(&place, Overwrite::Refuse)
        .expect("saved");

    // Bytes are as by default; rows and values are few, so that tests can bring too many.
    let limits = inference::Limits {
        rows_max: ROWS_MAX,
        values_max: VALUES_MAX,
        ..inference::Limits::default()
    };
    let pipelines = vec![diabetes, animals, gauge, cards, counted];
    let (broker, address) = serve(pipelines, folder.path(), limits);
    Server {
        address,
        diabetes: diabetes_forest.model(),
        animals: zoo.model(),
        gauge: levels.model(),
        _broker: broker,
        _folder: folder,
    }
}

/// A service with the packages of this folder, once it is ready.
pub fn serve(
    pipelines: Vec<Pipeline>,
    models: &Path,
    limits: inference::Limits,
) -> (EmbeddedBroker, SocketAddr) {
    let broker = EmbeddedBroker::start().expect("a broker");
    let mut specs: Vec<TopicSpec> = Vec::new();
    for pipeline in &pipelines {
        for spec in TopicSpec::of_pipeline(pipeline.name(), KeyedState::None, 1, 1_048_588) {
            if specs.iter().all(|it| it.name != spec.name) {
                specs.push(spec);
            }
        }
    }
    broker.create(&specs).expect("topics");
    let cluster = broker.cluster().expect("a cluster");
    let pipelines = pipelines.into_iter().map(Arc::new).collect();
    let service = Config::on_loopback(Service::Inference, cluster, pipelines).expect("a port");
    let address = service.listen;
    let config = inference::Config {
        service,
        model: Some(models.to_owned()),
        batching: inference::serving::Batching::default(),
        limits,
    };
    // It has a runtime of its own, as the tests have: it outlives each of theirs.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let end = runtime.block_on(inference::run(config, std::future::pending()));
        panic!("the service ended: {end:?}");
    });
    let deadline = Instant::now() + PATIENCE;
    while http(address, "GET", "/v2/health/ready", &[], b"").0 != 200 {
        assert!(Instant::now() < deadline, "not ready within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    (broker, address)
}

fn zoo(pipeline: &Pipeline) -> Dataset {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for at in 0..80_u32 {
        let (weight, red, tame) = (f64::from(at * 37 % 100) + 1.0, at % 2, at / 2 % 2);
        rows.extend([weight, f64::from(red), f64::from(1 - red), f64::from(tame)]);
        labels.push(f64::from(u8::from(weight + 30.0 * f64::from(tame) > 60.0)));
    }
    Dataset {
        inputs: pipeline.inputs().to_vec(),
        rows,
        labels,
    }
}

fn levels(pipeline: &Pipeline) -> Dataset {
    let rows: Vec<f64> = (1..80_u32).map(|at| f64::from(at).ln()).collect();
    let labels = rows.iter().map(|it| f64::from(u8::from(*it > 3.0)));
    Dataset {
        inputs: pipeline.inputs().to_vec(),
        labels: labels.collect(),
        rows,
    }
}

fn network(pipeline: &Pipeline) -> Package {
    let options = ImportOptions {
        name: "fraud-network".to_owned(),
        version: "7".to_owned(),
        inputs: pipeline.inputs().to_vec(),
        outputs: Outputs::Binary(Labels {
            negative: "ok".to_owned(),
            positive: "fraud".to_owned(),
        }),
        output: None,
        activation: Activation::None,
        preprocess: None,
        warm_up: None,
        recorded: vec![],
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    import(NETWORK.to_vec(), options).expect("a network")
}

fn package(name: &str, data: Dataset, place: &Path) -> Package {
    forest(name, data, 20, place)
}

/// Trains a forest and keeps it there.
pub fn forest(name: &str, data: Dataset, trees: usize, place: &Path) -> Package {
    let mut options = TrainOptions::new(Algorithm::RandomForest);
    options.trees = trees;
    options.folds = 2;
    let trained = train(&data, &options, &mut |_| {}).expect("training");
    let identity = Identity {
        name: name.to_owned(),
        version: "7".to_owned(),
        labels: Labels {
            negative: "neg".to_owned(),
            positive: "pos".to_owned(),
        },
        data_sha256: Digest::of(PIMA),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    let package = trained.into_package(identity).expect("a package");
    package.save(place, Overwrite::Refuse).expect("saved");
    package
}

/// Asks once on a connection of its own: status, the header that tells the JSON's length, body.
pub fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Option<usize>, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("sent");
    // One that is refused early closes before it has read all.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let end = end.expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("inference-header-content-length: "))
        .map(|length| length.parse().expect("a number"));
    (
        status.expect("a status"),
        length,
        answer[end + 4..].to_vec(),
    )
}
