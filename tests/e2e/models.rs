//! Models that change while they serve: pushed, tried, promoted, rolled back and shadowed under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use quadrille_choreography::{Cluster, TableEvent, TableWrite, read_table, write_table};
use quadrille_proto::{
    Service, Topics,
    v1::{PredictRequest, Prediction, predict_service_client::PredictServiceClient},
};
use quadrille_registry::{Action, Deployment, ModelId, Role, Route, Split};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::{
    PATIENCE,
    cli::{Cli, written},
    client::{record, structure},
    eventually, eventually_or_show, http,
    oracle::{self, Load},
    process::Process,
    world::World,
};

/// Patients, in the stream and over gRPC.
const KEYS: u32 = 64;

/// A world whose inference serves what is deployed, with versions 1 to 3 of one model pushed.
struct Shop {
    world: World,
    cli: Cli,
    model: String,
    _packages: TempDir,
}

impl Shop {
    fn new() -> Self {
        let world = World::new(4);
        let cli = Cli(world.bootstrap.clone());
        let packages = TempDir::new().expect("a folder");
        let model = format!("{}-m", world.pipeline);
        for version in ["1", "2", "3"] {
            let package = written(packages.path(), &model, version, "test");
            cli.good(&["model", "push", &package.display().to_string()]);
        }
        Shop {
            world,
            cli,
            model,
            _packages: packages,
        }
    }

    fn version(&self, version: &str) -> String {
        format!("{}:{version}", self.model)
    }

    /// A change, which every replica has made when it returns.
    fn deploy(&self, what: &str, routes: &[&str]) {
        let mut args = vec!["deploy", what, &self.world.pipeline];
        args.extend(routes);
        args.push("--wait");
        self.cli.good(&args);
    }

    /// How a live version and a canary share the keys, in this order.
    fn split(&self, share: u32) -> Split {
        let route = |name: &str, role| Route {
            name: name.to_owned(),
            model: ModelId {
                name: self.model.clone(),
                version: "any".to_owned(),
            },
            role,
        };
        let live = route("live", Role::Live { weight: 1 });
        let deployment = Deployment {
            pipeline: self.world.pipeline.clone(),
            revision: 1,
            routes: vec![live, route("canary", Role::Canary { share })],
            ranges: None,
            action: Action::Set,
            by: "test".to_owned(),
            at_ms: 0,
            reason: String::new(),
        };
        Split::of(&deployment).expect("routes that agree")
    }

    /// Waits until a variant's version has predicted for so many keys.
    #[track_caller]
    fn met(&self, variant: &str, version: &str, count: usize) {
        eventually_or_show("the stream meets the change", PATIENCE, || {
            let seen = oracle::predictions(&self.world);
            let its = seen
                .iter()
                .filter(|(_, it)| (&*it.variant, &*it.version) == (variant, version));
            let keys: BTreeSet<&str> = its.map(|(_, it)| &*it.key).collect();
            let told = || format!("{variant} {version}: {keys:?} of {}", seen.len());
            (keys.len() >= count).then_some(()).ok_or_else(told)
        });
    }

    fn inference(&self, instance: &str) -> Process {
        let mut launch = self.world.launch(Service::Inference, instance);
        launch.env.remove("QUADRILLE_MODEL");
        launch.start()
    }

    /// One of each service, and a second inference at the end.
    fn start_all(&self) -> Vec<Process> {
        let mut all = vec![
            self.world.start(Service::Ingest, "a"),
            self.world.start(Service::Feature, "a"),
            self.inference("a"),
            self.world.start(Service::Results, "a"),
            self.inference("b"),
        ];
        for service in &mut all {
            service.ready();
        }
        all
    }
}

/// Who answered for whom: the patient, the variant, the version.
type Answers = Vec<(String, String, String)>;

/// Calls of Predict, one after another, until stopped; a call that fails ends the test.
struct Calls {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    thread: JoinHandle<Answers>,
}

impl Calls {
    fn start(pipeline: &str, replicas: &[&Process]) -> Self {
        let urls: Vec<String> = replicas
            .iter()
            .map(|replica| format!("http://{}", replica.address()))
            .collect();
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let pipeline = pipeline.to_owned();
        let thread = std::thread::spawn({
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            move || {
                let runtime = Runtime::new().expect("a runtime");
                runtime.block_on(call(&stop, &asked, &pipeline, &urls))
            }
        });
        Calls {
            stop,
            asked,
            thread,
        }
    }

    fn stop(self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every call is answered")
    }
}

async fn call(stop: &AtomicBool, asked: &AtomicU32, pipeline: &str, urls: &[String]) -> Answers {
    let mut clients = Vec::new();
    for url in urls {
        let client = PredictServiceClient::connect(url.clone()).await;
        clients.push(client.expect("connected"));
    }
    let mut answers = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("p{}", n % KEYS);
        let request = PredictRequest {
            pipeline: pipeline.to_owned(),
            record: Some(structure(&record("r", &key, 100))),
            ..PredictRequest::default()
        };
        let client = n as usize % clients.len();
        let answer = clients[client].predict(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("call {n}: {status}"));
        let answer = answer.into_inner();
        answers.push((key, answer.variant, answer.version));
        asked.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

/// The keys of each variant.
fn keys<'a>(of: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (variant, key) in of {
        keys.entry(variant).or_default().insert(key);
    }
    keys
}

fn split(predictions: &[Prediction]) -> BTreeMap<&str, BTreeSet<&str>> {
    keys(predictions.iter().map(|p| (&*p.variant, &*p.key)))
}

/// Runs `operate` while records flow; returns what was sent.
fn under_load(world: &World, operate: impl FnOnce() + Send) -> BTreeSet<String> {
    let done = AtomicBool::new(false);
    let load = Load {
        records: 1_000_000,
        keys: KEYS,
        rate: 300,
    };
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
        load.send_while(world, |_| !done.load(Ordering::Relaxed))
    })
}

#[test]
fn a_model_is_tried_promoted_rolled_back_and_shadowed_without_a_failed_call() {
    let shop = Shop::new();
    let [one, two, three] = ["1", "2", "3"].map(|version| shop.version(version));
    shop.cli
        .good(&["deploy", "set", &shop.world.pipeline, "--live", &one]);
    let services = shop.start_all();
    let calls = Calls::start(&shop.world.pipeline, &[&services[2], &services[4]]);
    let shares = shop.split(2_500);
    let of_the_canary: BTreeSet<String> = (0..KEYS)
        .map(|key| format!("p{key}"))
        .filter(|key| shares.pick(key).route == 1)
        .collect();
    // Each change lasts until the stream has met it: on a busy machine it is behind.
    let sent = under_load(&shop.world, || {
        let canary = format!("{two}@25%");
        shop.deploy("set", &["--live", &one, "--canary", &canary]);
        shop.met("canary", "2", of_the_canary.len());
        shop.deploy("promote", &["--reason", "it is better"]);
        shop.met("live", "2", 1);
        shop.deploy("rollback", &["--reason", "it is not"]);
        shop.deploy("set", &["--live", &one, "--shadow", &three]);
        shop.met("shadow", "3", 1);
    });
    let answers = calls.stop();
    let results = services[3].address();
    // Shadows aside, every record has one prediction, in order, and one row.
    oracle::check(&shop.world, results, &sent);

    let all: Vec<Prediction> = oracle::predictions(&shop.world)
        .into_iter()
        .map(|(_, prediction)| prediction)
        .collect();
    let (shadows, live): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.shadow);
    let versions: BTreeSet<&str> = live.iter().map(|p| &*p.version).collect();
    assert_eq!(
        versions,
        BTreeSet::from(["1", "2"]),
        "a shadow decides nothing"
    );
    assert!(!shadows.is_empty() && shadows.iter().all(|p| p.version == "3"));
    let counted: BTreeSet<&String> = live.iter().map(|p| &p.id).collect();
    assert!(shadows.iter().all(|p| counted.contains(&p.id)));

    // A patient has one variant, in the stream and over gRPC alike.
    let in_the_stream = split(&live);
    let over_grpc = keys(answers.iter().map(|(key, variant, _)| (&**variant, &**key)));
    let of_the_canary: BTreeSet<&str> = of_the_canary.iter().map(|key| &**key).collect();
    assert_eq!(in_the_stream["canary"], of_the_canary);
    assert!(
        over_grpc["canary"].is_subset(&of_the_canary),
        "{over_grpc:?}"
    );
    let versions: BTreeSet<&str> = answers.iter().map(|(_, _, version)| &**version).collect();
    assert_eq!(versions, BTreeSet::from(["1", "2"]));

    // Stored apart, shown when asked for.
    let path = format!(
        "/v1/pipelines/{}/predictions?shadow=true&limit=1000",
        shop.world.pipeline
    );
    eventually_or_show("shadows are stored", PATIENCE, || {
        let (_, body) = http::get(results, &path);
        let rows: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let rows = rows["predictions"].as_array().expect("a list").clone();
        let right = rows.iter().all(|row| row["version"] == "3");
        let enough = rows.len() == shadows.len().min(1_000);
        (right && enough).then_some(()).ok_or(body)
    });
    let history = shop.cli.good(&["deploy", "history", &shop.world.pipeline]);
    for word in ["promote", "rollback", "it is better", "it is not"] {
        assert!(history.contains(word), "{history}");
    }
}

#[test]
fn a_replica_that_was_away_serves_what_was_deployed_meanwhile() {
    let shop = Shop::new();
    let [one, two] = ["1", "2"].map(|version| shop.version(version));
    let pipeline = &shop.world.pipeline;
    shop.cli.good(&["deploy", "set", pipeline, "--live", &one]);
    let mut services = shop.start_all();
    let sent = under_load(&shop.world, || {
        services[4].kill();
        shop.cli.good(&["deploy", "set", pipeline, "--live", &two]);
        services[4] = shop.inference("b");
        services[4].ready();
    });
    let answers = {
        let calls = Calls::start(pipeline, &[&services[4]]);
        eventually("every patient is asked for", PATIENCE, || {
            (calls.asked.load(Ordering::Relaxed) > KEYS).then_some(())
        });
        calls.stop()
    };
    assert!(answers.iter().all(|(_, _, version)| version == "2"));
    oracle::check(&shop.world, services[3].address(), &sent);
}

#[test]
fn a_replica_killed_while_models_change_loses_and_doubles_nothing() {
    let shop = Shop::new();
    let pipeline = &shop.world.pipeline;
    let [one, two] = ["1", "2"].map(|version| shop.version(version));
    shop.cli.good(&["deploy", "set", pipeline, "--live", &one]);
    let mut services = shop.start_all();
    let sent = under_load(&shop.world, || {
        for version in [&two, &one, &two] {
            shop.cli
                .good(&["deploy", "set", pipeline, "--live", version]);
            services[2].kill();
            services[2] = shop.inference("a");
            services[2].ready();
        }
    });
    oracle::check(&shop.world, services[3].address(), &sent);
}

/// Overwrites a chunk of a version on the log, as a broken disk would.
fn damage(cluster: &Cluster, version: &str) {
    let mut chunk = None;
    read_table(cluster, Topics::MODELS, PATIENCE, |event| {
        if let TableEvent::Record(record) = event
            && let Ok(key) = std::str::from_utf8(record.key)
            && key.starts_with(version)
            && key.contains("/chunk/")
        {
            chunk = record.value.map(|value| (key.to_owned(), value.to_vec()));
        }
        std::ops::ControlFlow::Continue(())
    })
    .expect("the topic is read");
    let (key, mut bytes) = chunk.expect("a chunk");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let write = TableWrite {
        key,
        value: Some(&bytes),
    };
    write_table(cluster, Topics::MODELS, &[write]).expect("written");
}

#[test]
fn a_damaged_package_leaves_the_old_model_serving_and_says_so() {
    let shop = Shop::new();
    let pipeline = &shop.world.pipeline;
    let [one, two] = ["1", "2"].map(|version| shop.version(version));
    shop.cli.good(&["deploy", "set", pipeline, "--live", &one]);
    let services = shop.start_all();
    damage(&shop.world.cluster(), &format!("{}/2/", shop.model));
    let sent = under_load(&shop.world, || {
        shop.cli.good(&["deploy", "set", pipeline, "--live", &two]);
        eventually_or_show("the failure is told", PATIENCE, || {
            let list = shop.cli.good(&["model", "list", &shop.model]);
            let told = list.contains("failed") && list.contains("SHA-256");
            told.then_some(()).ok_or(list)
        });
    });
    oracle::check(&shop.world, services[3].address(), &sent);
    let live = oracle::predictions(&shop.world);
    assert!(live.iter().all(|(_, prediction)| prediction.version == "1"));
}

#[test]
fn a_replica_that_stops_is_not_listed_any_more() {
    let shop = Shop::new();
    let mut replica = shop.inference("a");
    let (pipeline, one) = (&shop.world.pipeline, shop.version("1"));
    shop.cli.good(&["deploy", "set", pipeline, "--live", &one]);
    let list = || shop.cli.good(&["model", "list", &shop.model]);
    eventually_or_show("it is listed", PATIENCE, || {
        let list = list();
        list.contains("1 ready").then_some(()).ok_or(list)
    });
    replica.signal("TERM");
    assert!(replica.wait().success());
    // Sooner than by its silence.
    assert!(!list().contains("1 ready"), "{}", list());
}
