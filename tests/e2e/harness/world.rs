//! One test's own pipeline: a name nobody else has, its topics, its database, a model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use quadrille_choreography::{Admin, Cluster, TopicSpec};
use quadrille_model::{
    package::{Digest, Identity, Labels, Overwrite},
    train::{Algorithm, Dataset, TrainOptions, train},
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Service, Topics};
use tempfile::TempDir;

use super::{
    PATIENCE, broker, eventually_or_show,
    process::{Launch, Process},
};

const DIABETES: &str = include_str!("../../../pipelines/diabetes.toml");
const PIMA: &[u8] = include_bytes!("../../../data/pima.csv");
/// So that a value of 2 MB is the service's to refuse, not the broker's.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A model of the diabetes pipeline, trained once a run.
pub fn model() -> &'static PathBuf {
    static MODEL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("model");
        let pipeline = Pipeline::parse("diabetes.toml", DIABETES).expect("the shipped pipeline");
        let training = pipeline.read_training(PIMA).expect("the shipped data");
        let data = Dataset {
            inputs: training.inputs,
            rows: training.rows,
            labels: training.labels,
        };
        let mut options = TrainOptions::new(Algorithm::RandomForest);
        options.trees = 20;
        save_model(&path, "diabetes-forest", &data, &options);
        (folder, path)
    });
    path
}

fn save_model(path: &Path, name: &str, data: &Dataset, options: &TrainOptions) {
    let trained = train(data, options, &mut |_| {}).expect("training");
    let identity = Identity {
        name: name.to_owned(),
        version: "1".to_owned(),
        labels: Labels {
            negative: "neg".to_owned(),
            positive: "pos".to_owned(),
        },
        data_sha256: Digest::of(PIMA),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    let package = trained.into_package(identity).expect("a package");
    package.save(path, Overwrite::Refuse).expect("saved");
}

/// Of a failed test, what each of its services logged last.
const LOG_LINES_SHOWN: usize = 80;

pub struct World {
    pub pipeline: String,
    pub bootstrap: String,
    pub partitions: i32,
    pub database_url: String,
    pub folder: TempDir,
    pub model: PathBuf,
}

impl World {
    pub fn new(partitions: i32) -> Self {
        Self::on(broker::bootstrap(), partitions)
    }

    /// On a broker of the test's own.
    pub fn on(bootstrap: String, partitions: i32) -> Self {
        Self::of("diabetes", DIABETES, model().clone(), bootstrap, partitions)
    }

    /// With topics that take messages of this size.
    pub fn limited(partitions: i32, message_bytes_max: usize) -> Self {
        let (bootstrap, model) = (broker::bootstrap(), model().clone());
        let world = Self::untouched("diabetes", DIABETES, model, bootstrap, partitions);
        world.create(message_bytes_max);
        world
    }

    /// A shipped example, with its own model.
    pub fn example(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(name);
        let text = std::fs::read_to_string(folder.join("pipeline.toml")).expect("its pipeline");
        Self::of(name, &text, folder.join("package"), broker::bootstrap(), 2)
    }

    /// A pipeline of the test's own, of this name in its text. Its model is another's: only ingest and feature run.
    pub fn pipeline(name: &str, text: &str, partitions: i32) -> Self {
        Self::of(name, text, model().clone(), broker::bootstrap(), partitions)
    }

    /// The same on a broker of the test's own.
    pub fn pipeline_on(bootstrap: String, name: &str, text: &str, partitions: i32) -> Self {
        Self::of(name, text, model().clone(), bootstrap, partitions)
    }

    /// Its pipeline file, read.
    pub fn parsed(&self) -> Pipeline {
        let text = std::fs::read_to_string(self.pipeline_file()).expect("the pipeline file");
        Pipeline::parse("pipeline.toml", &text).expect("a pipeline")
    }

    fn of(name: &str, text: &str, model: PathBuf, bootstrap: String, partitions: i32) -> Self {
        let world = Self::untouched(name, text, model, bootstrap, partitions);
        world.create(MESSAGE_BYTES_MAX);
        world
    }

    fn create(&self, message_bytes_max: usize) {
        let admin = Admin::connect(&self.cluster()).expect("a client");
        let specs = self.specs(message_bytes_max);
        // A broker whose disk is busy takes longer than a person would wait.
        eventually_or_show("topics", PATIENCE, || {
            admin.create(&specs).map_err(|error| format!("{error:?}"))
        });
    }

    /// With a model of its own, which has learned next to nothing.
    pub fn with_model(mut self) -> Self {
        const ROWS: usize = 40;
        let inputs = self.parsed().inputs().to_vec();
        let values = |row: usize| (0..inputs.len()).map(move |at| ((row * 7 + at) % 11) as f64);
        let data = Dataset {
            rows: (0..ROWS).flat_map(values).collect(),
            labels: (0..ROWS).map(|row| (row % 2) as f64).collect(),
            inputs,
        };
        let options = TrainOptions::new(Algorithm::LogisticRegression);
        self.model = self.folder.path().join("model");
        save_model(&self.model, "cards-line", &data, &options);
        self
    }

    /// Its topics, as they are created.
    pub fn specs(&self, message_bytes_max: usize) -> Vec<TopicSpec> {
        TopicSpec::of_pipeline(
            &self.pipeline,
            self.parsed().keeps_state().into(),
            self.partitions,
            message_bytes_max,
        )
    }

    /// Without topics.
    fn untouched(
        name: &str,
        text: &str,
        model: PathBuf,
        bootstrap: String,
        partitions: i32,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pipeline = format!("t{}-{number}", std::process::id());
        let folder = TempDir::new().expect("a folder");
        let text = text.replacen(
            &format!("name = \"{name}\""),
            &format!("name = \"{pipeline}\""),
            1,
        );
        assert!(text.contains(&pipeline), "the pipeline is named {name}");
        // What is slow on a busy machine would be traced unasked.
        let text = text.replacen("latency_objective = \"1s\"\n", "", 1);
        std::fs::write(folder.path().join("pipeline.toml"), text).expect("written");
        let database_url = format!("sqlite:{}", folder.path().join("results.db").display());
        World {
            pipeline,
            bootstrap,
            partitions,
            database_url,
            folder,
            model,
        }
    }

    /// Keeps results in PostgreSQL, so that results can have replicas.
    pub fn with_postgres(mut self) -> Self {
        self.database_url = broker::postgres_url();
        self
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap, "").expect("a cluster")
    }

    pub fn topics(&self) -> Topics {
        Topics::of(&self.pipeline)
    }

    pub fn pipeline_file(&self) -> PathBuf {
        self.folder.path().join("pipeline.toml")
    }

    /// A service's settings for this world; `instance` is its stable name in it.
    pub fn launch(&self, stage: Service, instance: &str) -> Launch {
        let mut env = BTreeMap::new();
        for (key, value) in [
            ("KAFKA_BOOTSTRAP_SERVERS", self.bootstrap.clone()),
            (
                "QUADRILLE_PIPELINE",
                self.pipeline_file().display().to_string(),
            ),
            ("QUADRILLE_LISTEN", "127.0.0.1:0".to_owned()),
            // Replicas report under their names on one topic for all worlds.
            (
                "QUADRILLE_INSTANCE",
                format!("{}-{instance}", self.pipeline),
            ),
            ("QUADRILLE_LANES", "2".to_owned()),
            ("QUADRILLE_MODEL", self.model.display().to_string()),
            ("DATABASE_URL", self.database_url.clone()),
            ("RUST_LOG", "info".to_owned()),
        ] {
            env.insert(key.to_owned(), value);
        }
        let log = self
            .folder
            .path()
            .join(format!("{}-{instance}.log", stage.name()));
        Launch {
            binary: stage.name().to_owned(),
            args: Vec::new(),
            env,
            log,
        }
    }

    pub fn start(&self, stage: Service, instance: &str) -> Process {
        self.launch(stage, instance).start()
    }

    /// One instance of each service, ready, in the order of the figure.
    pub fn start_all(&self) -> Vec<Process> {
        let mut all: Vec<Process> = Service::ALL
            .iter()
            .map(|stage| self.start(*stage, "a"))
            .collect();
        for process in &mut all {
            process.ready();
        }
        all
    }
}

impl Drop for World {
    /// A failed test shows what its services logged, with QUADRILLE_TEST_LOGS set any test; their folder goes with it.
    fn drop(&mut self) {
        if !std::thread::panicking() && std::env::var_os("QUADRILLE_TEST_LOGS").is_none() {
            return;
        }
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten();
        let logs = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in logs.filter(|path| path.extension().is_some_and(|end| end == "log")) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let shown = last.join("\n");
            println!(
                "---- {}, {} of {} lines\n{shown}",
                path.display(),
                last.len(),
                lines.len()
            );
        }
    }
}
