//! `quadrille explain`: a stored prediction computed again from what was recorded of it, and what each input had to do with it.

mod config;
mod show;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use prost::Message as _;
use quadrille_choreography::{Cluster, Lookup, Schemas, fetch_record, table::fetch};
use quadrille_model::{Contributions, Package};
use quadrille_pipeline::{Pipeline, Projection};
use quadrille_proto::{
    SchemaId, Service, open,
    v1::{
        FeatureVector, GetPredictionRequest, StoredPrediction,
        results_service_client::ResultsServiceClient,
    },
};
use quadrille_registry::{self as log, ModelId};
use quadrille_service::Error;
use tonic::Code;

use self::config::{FileOfThen, Kept};
use crate::{
    grpc::{self, AddressArg},
    kafka::{self, Kafka, blocking},
    output::{self, Output, OutputArg},
    pipelines::PipelineArg,
    preview::cell,
    registry,
};

const SERVICE: &str = "results";

const EXAMPLES: &str = "\
Examples:
  quadrille explain pima-1
  quadrille explain pima-1 --output json
  quadrille explain pima-1 --shadow candidate
  quadrille explain pima-1 --pipeline pipelines/diabetes.toml --model models/diabetes

Results tells which model answered, and where the feature vector lies that it scored. Vector and model package are fetched, \
pipeline file and package are checked to be those of then, and the vector is scored again. If the pipeline file was edited since, \
the one of then is taken from the log, which keeps each file that was predicted by.

Exit codes: 0 equal bit for bit, 1 not equal (or something failed), 64 wrong usage or configuration, such as another \
model package than the one of then.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The record's id.
    id: String,

    /// What the shadow of this name predicted, not what was answered.
    #[arg(long, value_name = "VARIANT")]
    shadow: Option<String>,

    #[command(flatten)]
    pipeline: PipelineArg,

    /// Take the model package from this folder, not from the log.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    #[command(flatten)]
    address: AddressArg,

    #[command(flatten)]
    output: OutputArg,

    #[command(flatten)]
    kafka: Kafka,
}

/// A prediction, and the same computed again.
#[derive(Debug)]
struct Explanation {
    pipeline: String,
    /// Of the pipeline file that predicted.
    file_sha256: [u8; 32],
    /// How the log has that file; None: it is the one that was given.
    kept: Option<Kept>,
    stored: StoredPrediction,
    inputs: Vec<String>,
    /// The model's inputs as it got them.
    row: Vec<f64>,
    outputs: Vec<Compared>,
    /// What follows from the outputs now.
    decision: String,
    contributions: Option<Contributions>,
}

/// An output as it is stored, and as it was computed now.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    name: String,
    recorded: f64,
    again: f64,
}

impl Compared {
    /// Bit for bit: the same model and the same inputs have no reason to differ.
    fn is_equal(&self) -> bool {
        self.recorded.to_bits() == self.again.to_bits()
    }
}

impl Explanation {
    fn is_equal(&self) -> bool {
        self.outputs.iter().all(Compared::is_equal) && self.decision == self.stored.decision
    }
}

/// # Errors
/// Nothing is known of the prediction (any more), what is given is not what predicted it, or the answers differ.
pub async fn run(args: Args) -> Result<(), Error> {
    let pipeline = args.pipeline.one()?;
    let cluster = args.kafka.cluster()?;
    let request = GetPredictionRequest {
        pipeline: pipeline.name().to_owned(),
        id: args.id,
        shadow_variant: args.shadow.unwrap_or_default(),
    };
    let stored = ask(&args.address, request).await?;
    let model = args.model;
    let explanation =
        blocking(move || explain(&cluster, pipeline, stored, model.as_deref())).await?;
    let _ = match args.output.get() {
        Output::Text => output::print(show::page(&explanation))?,
        Output::Json => output::print(show::json(&explanation))?,
    };
    match explanation.is_equal() {
        true => Ok(()),
        false => Err(Error::Failed(
            "the answer is not the recorded one; another release or another machine may round otherwise".to_owned(),
        )),
    }
}

async fn ask(
    address: &AddressArg,
    request: GetPredictionRequest,
) -> Result<StoredPrediction, Error> {
    let channel = address.connect(Service::Results).await?;
    let answer = ResultsServiceClient::new(channel)
        .get_prediction(request)
        .await;
    let answer = answer.map_err(|status| {
        let refused = grpc::refused(SERVICE, &status);
        match status.code() {
            Code::NotFound => Error::Config(format!(
                "{refused}; `quadrille results list` shows what is stored"
            )),
            _ => refused,
        }
    })?;
    Ok(answer.into_inner())
}

fn explain(
    cluster: &Cluster,
    pipeline: Pipeline,
    stored: StoredPrediction,
    model: Option<&Path>,
) -> Result<Explanation, Error> {
    kafka::reach(cluster)?;
    let payload = payload(cluster, &stored)?;
    let (schema, message) = open(&payload).map_err(|error| spoilt(&stored, error))?;
    let package = match model {
        Some(dir) => config::Used::of_folder(dir, &stored)?,
        None => config::Used::of_log(cluster, &stored)?,
    };
    let file = package.file_of_then(cluster, pipeline, schema, &stored)?;
    let vector = vector(
        &Schemas::new(cluster),
        &file.pipeline,
        schema,
        message,
        &stored,
    )?;
    let mut row = Vec::new();
    file.pipeline.model_inputs(&vector.values, &mut row);
    again(&file, &package.package, stored, row)
}

/// Scores the row once more.
fn again(
    file: &FileOfThen,
    package: &Package,
    stored: StoredPrediction,
    row: Vec<f64>,
) -> Result<Explanation, Error> {
    let pipeline = &file.pipeline;
    package
        .check_inputs(pipeline.inputs())
        .map_err(|error| Error::Config(error.to_string()))?;
    let model = package.model();
    let mut outputs = Vec::new();
    model.score(&row, &mut outputs);
    let recorded = &stored.outputs;
    if recorded.len() != outputs.len() {
        return Err(Error::Failed(format!(
            "{package} gives {}, results has {} of it",
            output::counted(outputs.len(), "output"),
            recorded.len()
        )));
    }
    let names = model.outputs().names().iter();
    let compared = names
        .zip(recorded)
        .zip(&outputs)
        .map(|((name, &recorded), &again)| Compared {
            name: name.clone(),
            recorded,
            again,
        });
    let compared = compared.collect();
    Ok(Explanation {
        pipeline: pipeline.name().to_owned(),
        file_sha256: pipeline.hash(),
        kept: file.kept.clone(),
        inputs: pipeline.inputs().to_vec(),
        outputs: compared,
        decision: pipeline.decide(&outputs).to_owned(),
        contributions: model.contributions(&row),
        row,
        stored,
    })
}

/// Where the scored vector lies, for people.
fn place(stored: &StoredPrediction) -> String {
    let (partition, offset) = (stored.input_partition, stored.input_offset);
    let topic = cell(&stored.input_topic);
    format!("{topic}, partition {partition}, offset {offset}")
}

fn payload(cluster: &Cluster, stored: &StoredPrediction) -> Result<Vec<u8>, Error> {
    let (topic, place) = (&stored.input_topic, place(stored));
    let fetched = fetch_record(cluster, topic, stored.input_partition, stored.input_offset);
    match fetched {
        Ok(Some(payload)) => Ok(payload),
        Ok(None) => Err(spoilt(stored, "the record has no value")),
        Err(fetch::Error::Gone { .. }) => Err(Error::Failed(format!(
            "the feature vector is not in Kafka any more ({place}): it has expired, or the topic was made anew; predictions \
             can be explained for as long as that topic keeps its records (retention.ms)"
        ))),
        Err(error) => Err(Error::Failed(format!(
            "the feature vector cannot be fetched: {error}; check KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES"
        ))),
    }
}

/// The record is not the one that was scored.
fn spoilt(stored: &StoredPrediction, why: impl std::fmt::Display) -> Error {
    Error::Failed(format!(
        "what lies there is not the feature vector that was scored ({}): {why}; check that KAFKA_BOOTSTRAP_SERVERS is the \
         cluster of this results service, and whether the topic was made anew",
        place(stored)
    ))
}

/// The vector, its values in the pipeline's order.
fn vector(
    schemas: &Schemas,
    pipeline: &Pipeline,
    id: SchemaId,
    message: &[u8],
    stored: &StoredPrediction,
) -> Result<FeatureVector, Error> {
    let mut vector =
        FeatureVector::decode(message).map_err(|error| spoilt(stored, error.to_string()))?;
    if vector.id != stored.id {
        let id = cell(&vector.id);
        return Err(spoilt(stored, format!("it is the record {id:?}")));
    }
    if id != pipeline.feature_schema_id() {
        let schema = match schemas.lookup(id, Instant::now()) {
            Lookup::Known(schema) => schema,
            Lookup::Unknown => {
                return Err(spoilt(
                    stored,
                    format!("schema id {id} was never published"),
                ));
            }
            Lookup::Unreadable(why) => {
                return Err(Error::Failed(format!("schemas cannot be read: {why}")));
            }
        };
        let projection = Projection::new(&schema, pipeline.feature_schema())
            .map_err(|error| spoilt(stored, error))?;
        let mut values = Vec::new();
        projection.apply(&vector.values, &mut values);
        vector.values = values;
    }
    let width = pipeline.feature_schema().fields.len();
    match vector.values.len() == width {
        true => Ok(vector),
        false => {
            let found = vector.values.len();
            Err(spoilt(
                stored,
                format!("it has {found} values, its schema {width}"),
            ))
        }
    }
}

fn model_id(stored: &StoredPrediction) -> ModelId {
    ModelId {
        name: stored.model.clone(),
        version: stored.version.clone(),
    }
}

/// What the log says where a version is not on it.
fn not_on_the_log(error: log::Error) -> Error {
    match error {
        log::Error::Unknown { .. } => Error::Config(format!(
            "{error}; it was deleted, or the service has it from a folder (QUADRILLE_MODEL): give that package by --model DIR"
        )),
        error => registry::refused(error),
    }
}

#[cfg(test)]
mod tests;
