//! Predictions explained: computed again from the log to the last bit, and what is missing or differs named.

use quadrille_choreography::{Cluster, TableWrite, pipeline_files, write_table};
use quadrille_proto::{Service, Topics};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    PATIENCE,
    cli::{Cli, written},
    client::{Client, Raw, record},
    eventually_or_show, oracle,
    process::Process,
    world::World,
};

/// Services that serve what is deployed: version 1 for all, version 2 as a canary for whom asks for it, and as a shadow.
struct Ward {
    world: World,
    cli: Cli,
    model: String,
    packages: TempDir,
    services: Vec<Process>,
}

impl Ward {
    fn new() -> Self {
        let world = World::new(2);
        let cli = Cli(world.bootstrap.clone());
        let packages = TempDir::new().expect("a folder");
        let model = format!("{}-m", world.pipeline);
        for version in ["1", "2"] {
            let package = written(packages.path(), &model, version, "test");
            cli.good(&["model", "push", &package.display().to_string()]);
        }
        let (live, canary) = (format!("{model}:1"), format!("{model}:2@1%"));
        let shadow = format!("quiet={model}:2");
        let routes = ["--live", &live, "--canary", &canary, "--shadow", &shadow];
        cli.good(&[&["deploy", "set", &world.pipeline], &routes[..]].concat());
        let mut services: Vec<Process> = Service::ALL
            .iter()
            .map(|stage| {
                let mut launch = world.launch(*stage, "a");
                launch.env.remove("QUADRILLE_MODEL");
                launch.start()
            })
            .collect();
        services.iter_mut().for_each(|service| {
            service.ready();
        });
        Ward {
            world,
            cli,
            model,
            packages,
            services,
        }
    }

    /// Sends one record for each id and variant, and waits until all are stored.
    fn predict(&self, records: &[(&str, &str)]) {
        let client = Client::new(&self.world);
        for (id, variant) in records {
            let mut raw = Raw::json("p1", record(id, "p1", 148));
            raw.headers = vec![("quadrille-variant".to_owned(), variant.as_bytes().to_vec())];
            client.send(&self.world.topics().inbox, &raw);
        }
        client.flush();
        oracle::stored(&self.world, self.results(), records.len());
    }

    /// The pipeline's file as somebody edited it since: another threshold, another feature, and how it is operated.
    fn edited_file(&self) -> String {
        let other = self.world.folder.path().join("changed.toml");
        let text = std::fs::read_to_string(self.world.pipeline_file()).expect("read");
        let changed = text.replacen("threshold = 0.5", "threshold = 0.4", 1);
        assert_ne!(changed, text);
        let feature = "[[features]]\nname = \"old\"\nkind = \"bucket\"\nfield = \"age\"\nedges = [65]\n\n[model]";
        let changed = changed.replacen("[model]", feature, 1);
        std::fs::write(&other, changed).expect("written");
        other.display().to_string()
    }

    fn results(&self) -> std::net::SocketAddr {
        self.services[3].address()
    }

    /// The command line that explains; the pipeline file is the world's unless `more` has another.
    fn line(&self, id: &str, more: &[&str]) -> Vec<String> {
        let mut line = vec!["explain".to_owned(), id.to_owned()];
        line.extend(["--address".to_owned(), self.results().to_string()]);
        if !more.contains(&"--pipeline") {
            let file = self.world.pipeline_file().display().to_string();
            line.extend(["--pipeline".to_owned(), file]);
        }
        line.extend(more.iter().map(|it| (*it).to_owned()));
        line
    }

    #[track_caller]
    fn explain(&self, id: &str, more: &[&str]) -> String {
        let line = self.line(id, more);
        self.cli
            .good(&line.iter().map(|it| &**it).collect::<Vec<_>>())
    }

    #[track_caller]
    fn refuse(&self, code: i32, id: &str, more: &[&str]) -> String {
        let line = self.line(id, more);
        self.cli
            .bad(code, &line.iter().map(|it| &**it).collect::<Vec<_>>())
    }
}

#[test]
fn a_stored_prediction_is_computed_again_bit_for_bit_by_the_version_that_answered() {
    let ward = Ward::new();
    ward.predict(&[("r-1", "live"), ("r-2", "canary")]);

    let page = ward.explain("r-1", &[]);
    assert!(page.starts_with("r-1: equal, bit for bit\n"), "{page}");
    let lines = ["glucose ", "(without any input)", "(sum)"];
    for begins in lines {
        assert!(page.lines().any(|line| line.starts_with(begins)), "{page}");
    }
    assert!(
        page.contains(&format!("{} 1", ward.model)) && page.contains("Shapley"),
        "{page}"
    );

    let json: Value = ward
        .explain("r-2", &["--output", "json"])
        .parse()
        .expect("JSON");
    assert_eq!(json["equal"], true, "{json}");
    assert_eq!(json["version"], "2");
    assert_eq!(json["variant"], "canary");
    assert_eq!(json["input_topic"], ward.world.topics().features);
    let glucose = json["inputs"].as_array().expect("a list");
    let glucose = glucose.iter().find(|it| it["name"] == "glucose");
    assert_eq!(glucose.expect("the input")["value"], 148.0);
    let output = &json["contributions"]["outputs"][0];
    let (sum, answer) = (&output["sum"], &json["outputs"][0]["recorded"]);
    let difference = sum.as_f64().expect("a sum") - answer.as_f64().expect("an answer");
    assert!(difference.abs() < 1e-9, "{json}");

    // The package from a folder does as well, if it is the same one.
    let folder = ward.packages.path().join(&ward.model);
    let same = folder.join("1").display().to_string();
    let page = ward.explain("r-1", &["--model", &same]);
    assert!(page.starts_with("r-1: equal"), "{page}");
    let refused = ward.refuse(64, "r-2", &["--model", &same]);
    assert!(refused.contains("2 predicted r-2"), "{refused}");
}

#[test]
fn what_a_shadow_predicted_is_explained_by_its_name() {
    let ward = Ward::new();
    ward.predict(&[("r-1", "live")]);
    let line = ward.line("r-1", &["--shadow", "quiet"]);
    let line: Vec<&str> = line.iter().map(|it| &**it).collect();
    // A shadow's row comes after the answer's.
    let page = eventually_or_show("it is stored", PATIENCE, || {
        let output = ward.cli.run(&line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(page).ok_or(error)
    });
    assert!(page.starts_with("r-1: equal, bit for bit\n"), "{page}");
    assert!(
        page.contains(&format!("{} 2", ward.model)) && page.contains("quiet"),
        "{page}"
    );
    let refused = ward.refuse(64, "r-1", &["--shadow", "nobody"]);
    assert!(refused.contains("nobody"), "{refused}");
}

#[test]
fn after_an_edit_of_the_pipeline_file_the_one_of_then_is_taken_from_the_log() {
    let ward = Ward::new();
    ward.predict(&[("r-1", "live"), ("r-2", "canary")]);
    let page = ward.explain("r-1", &[]);
    assert!(page.contains(", the one given"), "{page}");

    let other = ward.edited_file();
    for (id, version) in [("r-1", "1"), ("r-2", "2")] {
        let page = ward.explain(id, &["--pipeline", &other]);
        assert!(
            page.starts_with(&format!("{id}: equal, bit for bit")),
            "{page}"
        );
        assert!(
            page.contains(&format!("{} {version}", ward.model)),
            "{page}"
        );
        assert!(page.contains("as the log keeps it since"), "{page}");
    }
    let json = ward.explain("r-1", &["--pipeline", &other, "--output", "json"]);
    let json: Value = json.parse().expect("JSON");
    assert_eq!(json["equal"], true, "{json}");
    assert_eq!(json["pipeline_file"]["from"], "log");
    let (then, now) = (&ward.world.pipeline_file(), std::path::Path::new(&other));
    let hash = |file| hex(&quadrille_pipeline::Pipeline::load(file).expect("a file")[0].hash());
    assert_eq!(json["pipeline_file"]["sha256"], hash(then));
    assert_ne!(json["pipeline_file"]["sha256"], hash(now));
    assert!(!json["pipeline_file"]["kept_at"].is_null(), "{json}");
}

#[test]
fn what_differs_or_is_gone_is_named_with_what_to_do() {
    let ward = Ward::new();
    ward.predict(&[("r-1", "live")]);

    // As of a release that kept no files.
    let other = ward.edited_file();
    forget_files(&ward.world);
    let refused = ward.refuse(64, "r-1", &["--pipeline", &other]);
    assert!(
        refused.contains("the pipeline file differs")
            && refused.contains("the package is the same")
            && refused.contains("the log does not keep the file of then"),
        "{refused}"
    );

    let forged = TempDir::new().expect("a folder");
    let forged = written(forged.path(), &ward.model, "1", "somebody else");
    let refused = ward.refuse(64, "r-1", &["--model", &forged.display().to_string()]);
    assert!(
        refused.contains("differs") && refused.contains("the pipeline file is not at fault"),
        "{refused}"
    );

    let refused = ward.refuse(64, "nobody", &[]);
    assert!(refused.contains("quadrille results list"), "{refused}");

    let two = format!("{}:2", ward.model);
    let pipeline = &ward.world.pipeline;
    ward.cli
        .good(&["deploy", "set", pipeline, "--live", &two, "--wait"]);
    ward.cli.good(&["model", "delete", &ward.model, "1"]);
    let refused = ward.refuse(64, "r-1", &[]);
    assert!(refused.contains("--model DIR"), "{refused}");

    expire(&ward.world);
    let refused = ward.refuse(1, "r-1", &[]);
    assert!(refused.contains("it has expired"), "{refused}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Deletes the pipeline's files from the log.
fn forget_files(world: &World) {
    let cluster = Cluster::new(&world.bootstrap, "").expect("a cluster");
    let files = pipeline_files(&cluster, &world.pipeline).expect("files");
    assert!(!files.is_empty(), "the file is kept");
    let tombstones = files.iter().map(|file| TableWrite {
        key: format!("{}/file/{}", world.pipeline, hex(&file.sha256)),
        value: None,
    });
    let tombstones: Vec<TableWrite<'_>> = tombstones.collect();
    write_table(&cluster, Topics::PIPELINES, &tombstones).expect("written");
}

/// Deletes all feature vectors, as retention does.
fn expire(world: &World) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..world.partitions {
        list.add_partition_offset(&world.topics().features, partition, Offset::End)
            .expect("an offset");
    }
    let deleted = admin.delete_records(&list, &AdminOptions::new());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(deleted).expect("deleted");
}
