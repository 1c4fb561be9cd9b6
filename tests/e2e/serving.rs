//! Models change while they serve: nothing is lost, nothing fails, and everybody sees the same deployment.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quadrille_model::Package;
use quadrille_proto::{
    Service,
    v1::{PredictRequest, Prediction, predict_service_client::PredictServiceClient},
};
use quadrille_registry::{Action, Deployment, ModelId, PackageBytes, Registry, Role, Route};
use tokio::{runtime::Runtime, time::MissedTickBehavior};

use crate::harness::{
    PATIENCE,
    client::{record, structure},
    eventually, eventually_or_show, http,
    oracle::{self, Load},
    process::Process,
    world::{World, model},
};
use crate::surface::url;

const LIVE: Role = Role::Live { weight: 1 };

/// What an operator does.
struct Operator {
    registry: Registry,
    pipeline: String,
}

impl Operator {
    fn new(world: &World) -> Self {
        Operator {
            registry: Registry::open(&world.cluster()).expect("the log"),
            pipeline: world.pipeline.clone(),
        }
    }

    fn id(&self, version: &str) -> ModelId {
        ModelId {
            // The log is all tests'.
            name: self.pipeline.clone(),
            version: version.to_owned(),
        }
    }

    /// The test's model as another version.
    fn push(&self, version: &str) {
        self.push_changed(version, |_| {});
    }

    /// A version that calls its inputs otherwise.
    fn push_with(&self, version: &str, names: &[&str]) {
        self.push_changed(version, |manifest| {
            let inputs = manifest["inputs"].as_array_mut().expect("inputs");
            for (input, name) in inputs.iter_mut().zip(names.iter().rev()) {
                *input = (*name).into();
            }
        });
    }

    fn push_changed(&self, version: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let package = Package::load(model()).expect("a package");
        let mut manifest: serde_json::Value =
            serde_json::from_slice(package.manifest_bytes()).expect("a manifest");
        change(&mut manifest);
        manifest["name"] = self.pipeline.clone().into();
        manifest["version"] = version.into();
        let files = PackageBytes {
            manifest: manifest.to_string().into_bytes(),
            artefact: package.artefact_bytes().to_vec(),
        };
        let pushed = self.registry.push(&self.id(version), &files, "test", 0);
        pushed.expect("pushed");
    }

    fn deploy(&self, revision: u64, routes: &[(&str, &str, Role)]) {
        let route = |(name, version, role): &(&str, &str, Role)| Route {
            name: (*name).to_owned(),
            model: self.id(version),
            role: *role,
        };
        let deployment = Deployment {
            pipeline: self.pipeline.clone(),
            revision,
            routes: routes.iter().map(route).collect(),
            ranges: None,
            action: Action::Set,
            by: "test".to_owned(),
            at_ms: 0,
            reason: "a test".to_owned(),
        };
        self.registry.deploy(&deployment).expect("deployed");
    }
}

/// Waits until a replica serves a revision.
fn serves(replica: &Process, pipeline: &str, revision: u64) {
    let line = format!("quadrille_deployment_revision{{pipeline=\"{pipeline}\"}}");
    eventually_or_show(
        &format!("revision {revision} serves"),
        PATIENCE,
        || match replica.metric(&line) {
            Some(serving) if serving == revision as f64 => Ok(()),
            _ => Err(replica.log()),
        },
    );
}

/// Asks again and again until it is over; what was answered, by version.
fn ask(
    replica: &Process,
    pipeline: String,
    over: Arc<AtomicBool>,
) -> std::thread::JoinHandle<BTreeMap<String, u64>> {
    let url = url(replica);
    std::thread::spawn(move || {
        Runtime::new().expect("a runtime").block_on(async {
            let client = PredictServiceClient::connect(url).await;
            let (mut client, mut answers) = (client.expect("connected"), BTreeMap::new());
            // The cores are for the stream, too.
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for n in 0.. {
                pace.tick().await;
                if over.load(Ordering::Acquire) {
                    break;
                }
                let key = format!("p{}", n % 40);
                let request = PredictRequest {
                    pipeline: pipeline.clone(),
                    record: Some(structure(&record("asked", &key, 100))),
                    ..PredictRequest::default()
                };
                let answer = client.predict(request).await.expect("no call fails");
                *answers.entry(answer.into_inner().version).or_default() += 1;
            }
            answers
        })
    })
}

/// Whose predictions are a variant's.
fn keys_of<'a>(predictions: &'a [(i32, Prediction)], variant: &str) -> BTreeSet<&'a str> {
    let its = predictions.iter().filter(|(_, it)| it.variant == variant);
    its.map(|(_, it)| it.key.as_str()).collect()
}

#[test]
fn versions_come_and_go_under_load_and_nothing_fails_or_is_lost() {
    let world = World::new(4);
    let mut services = world.start_all();
    let mut second = world.start(Service::Inference, "b");
    second.ready();
    let operator = Operator::new(&world);
    let over = Arc::new(AtomicBool::new(false));
    let asking = ask(&services[2], world.pipeline.clone(), Arc::clone(&over));
    let load = Load {
        records: 1_500,
        keys: 40,
        rate: 200,
    };
    let canary = Role::Canary { share: 3_000 };
    let sent = load.send(&world, |n| match n {
        100 => ["1", "2", "3"].iter().for_each(|it| operator.push(it)),
        200 => operator.deploy(1, &[("stable", "1", LIVE)]),
        400 => {
            let routes = [
                ("stable", "1", LIVE),
                ("new", "2", canary),
                ("watch", "3", Role::Shadow),
            ];
            operator.deploy(2, &routes);
        }
        // As it loads and swaps.
        410 => second.kill(),
        800 => {
            eventually("the canary meets keys of its own", PATIENCE, || {
                let seen = oracle::predictions(&world);
                (keys_of(&seen, "new").len() >= 2).then_some(())
            });
            operator.deploy(3, &[("stable", "2", LIVE), ("watch", "3", Role::Shadow)]);
        }
        900 => second = second.launch.start(),
        1_200 => operator.deploy(4, &[("stable", "1", LIVE)]),
        _ => {}
    });
    for replica in [&services[2], &second] {
        serves(replica, &world.pipeline, 4);
    }
    second.ready();
    oracle::check(&world, services[3].address(), &sent);
    over.store(true, Ordering::Release);
    let answers = asking.join().expect("no call failed");
    assert!(
        answers.contains_key("1") && answers.contains_key("2"),
        "{answers:?}"
    );
    assert!(!answers.contains_key("3"), "a shadow answered: {answers:?}");

    let predictions = oracle::predictions(&world);
    let shadows: BTreeSet<&str> = predictions
        .iter()
        .filter(|(_, it)| it.shadow)
        .map(|(_, it)| it.id.as_str())
        .collect();
    assert!(shadows.len() > 100, "{} shadows", shadows.len());
    for (_, it) in &predictions {
        let expected: &[(&str, &str, bool)] = &[
            ("local", "1", false),
            ("stable", "1", false),
            ("stable", "2", false),
            ("new", "2", false),
            ("watch", "3", true),
        ];
        let told = (it.variant.as_str(), it.version.as_str(), it.shadow);
        assert!(expected.contains(&told), "{told:?}");
    }
    // A patient's variant is his own: 12 of 40 are expected, by a split that is another in each run.
    let tried = keys_of(&predictions, "new");
    assert!(tried.len() <= 30, "{tried:?}");
    let path = format!("/v1/pipelines/{}/predictions?shadow=true", world.pipeline);
    let stored = eventually("shadows are stored", PATIENCE, || {
        let (_, body) = http::get(services[3].address(), &path);
        body.contains("\"variant\":\"watch\"").then_some(body)
    });
    assert!(!stored.contains("\"variant\":\"stable\""), "{stored}");
    services[2].signal("TERM");
    assert_eq!(services[2].wait().code(), Some(0));
}

#[test]
fn without_a_model_a_replica_waits_for_a_deployment_and_says_so() {
    let world = World::new(2);
    let mut launch = world.launch(Service::Inference, "a");
    launch.env.remove("QUADRILLE_MODEL");
    let mut replica = launch.start();
    let why = eventually("it says why it is not ready", PATIENCE, || {
        let (status, body) = http::try_request(replica.address(), "GET", "/readyz", &[], b"")?;
        (status == 503 && body.contains("there is no deployment of it")).then_some(body)
    });
    assert!(why.contains(&world.pipeline), "{why}");
    let operator = Operator::new(&world);
    operator.push("7");
    operator.deploy(1, &[("stable", "7", LIVE)]);
    replica.ready();

    // From the command line, which waits for the replica's own word.
    let set = |version: &str| {
        let route = format!("stable={}:{version}", world.pipeline);
        let mut quadrille = Command::new(env!("CARGO_BIN_EXE_quadrille"));
        quadrille
            .args(["deploy", "set", &world.pipeline, "--live", &route, "--wait"])
            .env("KAFKA_BOOTSTRAP_SERVERS", &world.bootstrap)
            .env_remove("QUADRILLE_PIPELINE");
        let output = quadrille.output().expect("it starts");
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        (output.status.success(), told)
    };
    operator.push("8");
    let (done, told) = set("8");
    assert!(done && told.contains("ready on 1 replica"), "{told}");
    serves(&replica, &world.pipeline, 2);

    // One that loads and does not fit says so, and what served goes on.
    operator.push_with("9", &["pregnant", "glucose"]);
    let (done, told) = set("9");
    assert!(!done && told.contains("other inputs"), "{told}");
    assert!(replica.is_ready());
    serves(&replica, &world.pipeline, 2);
}
