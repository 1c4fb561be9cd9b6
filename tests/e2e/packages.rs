//! Packages that lie outside the log: pushed by URI, fetched by replicas, refused when they have changed.

use std::{fs, path::Path};

use quadrille_proto::{
    Service,
    v1::{PredictRequest, predict_service_client::PredictServiceClient},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    harness::{
        bucket::{Bucket, SECRET},
        cli::{Cli, written},
        client::{record, structure},
        process::Process,
        world::World,
    },
    surface::url,
};

/// The version that answers.
fn predicts(replica: &Process, pipeline: &str) -> String {
    Runtime::new().expect("a runtime").block_on(async {
        let client = PredictServiceClient::connect(url(replica)).await;
        let request = PredictRequest {
            pipeline: pipeline.to_owned(),
            record: Some(structure(&record("r", "p", 100))),
            ..PredictRequest::default()
        };
        let answer = client.expect("connected").predict(request).await;
        answer.expect("an answer").into_inner().version
    })
}

/// Both files of a package, as they would be uploaded.
fn upload(bucket: &Bucket, prefix: &str, package: &Path) {
    for entry in fs::read_dir(package).expect("listed") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let key = format!("{prefix}{}", name.expect("a name"));
        bucket.put(&key, fs::read(&path).expect("read"));
    }
}

fn artefact(package: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(package).expect("listed");
    let mut paths = files.map(|entry| entry.expect("an entry").path());
    let artefact = paths.find(|path| !path.ends_with("manifest.json"));
    artefact.expect("an artefact")
}

/// The command line as one has it who knows the store; what it prints, and what it complains of.
fn push(cli: &Cli, bucket: &Bucket, code: i32, args: &[&str]) -> String {
    let mut command = cli.command(&["model", "push", "--uri"]);
    let output = command.args(args).envs(bucket.env()).output();
    let output = output.expect("the CLI starts");
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(
        !told.contains(SECRET) && !told.contains("Signature"),
        "{told}"
    );
    told
}

#[test]
fn a_package_elsewhere_is_served_and_one_that_has_changed_is_refused_while_the_old_one_serves() {
    let world = World::new(1);
    let (pipeline, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let (folder, bucket) = (TempDir::new().expect("a folder"), Bucket::start());
    let name = format!("{pipeline}-m");
    let [one, two, three] =
        ["1", "2", "3"].map(|version| written(folder.path(), &name, version, "test"));
    let (second, third) = (format!("{name}/2/"), format!("{name}/3/"));
    upload(&bucket, &second, &two);
    upload(&bucket, &third, &three);
    let (second, third) = (
        format!("s3://models/{second}"),
        format!("s3://models/{third}"),
    );

    let first = format!("file://{}", one.display());
    let told = push(&cli, &bucket, 0, &[&first]);
    assert!(told.contains(&format!("bytes at {first}/")), "{told}");
    let mut words = told.split(|c: char| !c.is_ascii_hexdigit());
    let sha256 = words
        .find(|word| word.len() == 64)
        .expect("a hash")
        .to_owned();
    let told = push(&cli, &bucket, 64, &[&second, "--sha256", &sha256]);
    assert!(told.contains(&sha256) && told.contains("wanted"), "{told}");
    let told = push(&cli, &bucket, 64, &["s3://models/nowhere/"]);
    assert!(told.contains("404 (NoSuchKey)"), "{told}");
    push(&cli, &bucket, 0, &[&second]);
    push(&cli, &bucket, 0, &[&third]);

    let mut launch = world.launch(Service::Inference, "a");
    launch.env.remove("QUADRILLE_MODEL");
    for (variable, value) in bucket.env() {
        launch = launch.env(variable, &value);
    }
    let mut replica = launch.start();
    let deploy = |version: &str| format!("{name}:{version}");
    let [one_live, two_live, three_live] = ["1", "2", "3"].map(deploy);
    let set = |live| ["deploy", "set", pipeline, "--live", live, "--wait"];
    cli.good(&["deploy", "set", pipeline, "--live", &one_live]);
    replica.ready();
    assert_eq!(predicts(&replica, pipeline), "1");
    cli.good(&set(&two_live));
    assert_eq!(predicts(&replica, pipeline), "2");

    let path = artefact(&three);
    let key = format!("{name}/3/{}", path.file_name().expect("a name").display());
    let whole = fs::read(&path).expect("read");
    let mut changed = whole.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    bucket.put(&key, changed);
    let told = cli.bad(1, &set(&three_live));
    let json = cli.good(&["model", "list", &name, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let model = &json["models"][2];
    let (sha256, uri) = (&model["sha256"], format!("s3://models/{key}"));
    let sha256 = sha256.as_str().expect("a hash");
    assert_eq!(model["artefact_uri"], uri, "{model}");
    let table = cli.good(&["model", "list", &name]);
    for told in [&told, &table] {
        for part in ["verify", "SHA-256", &uri, sha256] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    assert_eq!(predicts(&replica, pipeline), "2", "the old one serves");

    // As the message says.
    bucket.put(&key, whole);
    cli.good(&set(&three_live));
    assert_eq!(predicts(&replica, pipeline), "3");
    let shown = cli.good(&["model", "show", &name, "3"]);
    assert!(shown.contains(&format!("bytes at {uri}")), "{shown}");
    let told = cli.good(&["model", "delete", &name, "1"]);
    assert!(told.contains("(1 record)"), "{told}");
    let log = replica.log();
    assert!(!log.contains(SECRET) && !log.contains("Signature"), "{log}");
}
