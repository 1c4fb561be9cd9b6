//! The inference service as it is run, with its spans and metrics; its model is a forest whose trees reach their depth.
//! Its lane has nothing to do, and asks the embedded broker, in the same process, for news a hundred times a second where
//! it asks a real one twice.

use std::sync::Arc;

use quadrille_choreography::{EmbeddedBroker, TopicSpec};
use quadrille_model::{
    package::{Digest, Identity, Labels, Overwrite},
    train::{Algorithm, Dataset, TrainOptions, train},
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{KeyedState, Service};
use quadrille_service::Config;

use crate::load::{Client, INPUTS, MODEL, Random};

pub const TREES: usize = 100;
pub const DEPTH: u16 = 8;
pub const NEGATIVE: &str = "negative";

/// Rows that the forest is grown on: so many that its trees are full.
const ROWS: usize = 16_384;
const PIPELINE: &str = "bench";

/// Serves until the process is ended.
pub fn serve() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let pipeline = Pipeline::parse("bench.toml", &pipeline())?;
    let mut options = TrainOptions::new(Algorithm::RandomForest);
    options.trees = TREES;
    options.depth_max = DEPTH;
    options.min_leaf = 1;
    options.folds = 2;
    let trained = train(&dataset(pipeline.inputs()), &options, &mut |_| {})?;
    let identity = Identity {
        name: MODEL.to_owned(),
        version: "1".to_owned(),
        labels: Labels {
            negative: NEGATIVE.to_owned(),
            positive: "positive".to_owned(),
        },
        data_sha256: Digest::of(b"made up"),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    let package = trained.into_package(identity)?;
    package.save(&folder.path().join(PIPELINE), Overwrite::Refuse)?;

    let broker = EmbeddedBroker::start()?;
    broker.create(&TopicSpec::of_pipeline(
        PIPELINE,
        KeyedState::None,
        1,
        1_048_588,
    ))?;
    let pipelines = vec![Arc::new(pipeline)];
    let service = Config::on_loopback(Service::Inference, broker.cluster()?, pipelines)?;
    let address = service.listen;
    let config = inference::Config {
        service,
        model: Some(folder.path().to_owned()),
        batching: inference::serving::Batching::default(),
        limits: Default::default(),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let service = runtime.spawn(inference::run(config, std::future::pending()));
    runtime.block_on(Client::connect(address))?;
    println!("{address}");
    runtime.block_on(service)??;
    drop(broker);
    Ok(())
}

fn pipeline() -> String {
    let names: Vec<String> = (0..INPUTS).map(|at| format!("x{at}")).collect();
    let fields = names
        .iter()
        .map(|name| format!("[[record.fields]]\nname = \"{name}\"\ntype = \"number\"\n"));
    let features = names.iter().map(|name| {
        format!("[[features]]\nname = \"{name}\"\nkind = \"pass\"\nfield = \"{name}\"\n")
    });
    format!(
        "name = \"{PIPELINE}\"\n[record]\nkey = \"key\"\n{}{}[model]\ninputs = {names:?}\n[decision]\nthreshold = 0.5\npositive = \"positive\"\nnegative = \"{NEGATIVE}\"\n",
        fields.collect::<String>(),
        features.collect::<String>()
    )
}

/// Labels that no few splits can tell.
fn dataset(inputs: &[String]) -> Dataset {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let rows: Vec<f64> = (0..ROWS * INPUTS).map(|_| random.share()).collect();
    let label = |row: &[f64]| {
        let waves: f64 = row.iter().map(|value| (value * 40.0).sin()).sum();
        f64::from(u8::from(waves > 0.0))
    };
    Dataset {
        inputs: inputs.to_vec(),
        labels: rows.chunks_exact(INPUTS).map(label).collect(),
        rows,
    }
}
