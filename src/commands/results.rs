//! `quadrille results`: what was predicted, as stored.

mod count;
mod get;
mod list;

use quadrille_proto::{
    Service,
    v1::{StoredPrediction, results_service_client::ResultsServiceClient},
};
use quadrille_service::Error;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    grpc::AddressArg,
    output::{OutputArg, hex},
    pipelines,
    time::rfc3339,
};

const SERVICE: &str = "results";

const EXAMPLES: &str = "\
Examples:
  quadrille results list --limit 10
  quadrille results list --key p-17 --from 2026-01-01 --decision diabetic --output json
  quadrille results get pima-1
  quadrille results count";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List predictions, newest first.
    List(list::Args),
    /// Show one prediction by its record's id.
    Get(get::Args),
    /// Count predictions.
    Count(count::Args),
}

#[derive(Debug, clap::Args)]
struct Server {
    /// The pipeline's name [default: the one of QUADRILLE_PIPELINE, or in ./pipelines].
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,

    #[command(flatten)]
    address: AddressArg,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// Nobody answers, or the service refuses.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Count(args) => count::run(args).await,
    }
}

impl Server {
    async fn connect(&self) -> Result<(String, ResultsServiceClient<Channel>), Error> {
        let pipeline = pipelines::name(self.pipeline.as_deref())?;
        let channel = self.address.connect(Service::Results).await?;
        Ok((pipeline, ResultsServiceClient::new(channel)))
    }
}

fn to_json(it: &StoredPrediction) -> Value {
    json!({
        "id": it.id,
        "key": it.key,
        "probability": it.probability,
        "outputs": it.outputs,
        "decision": it.decision,
        "model": it.model,
        "version": it.version,
        "variant": it.variant,
        "event_time": rfc3339(it.event_time.as_ref()),
        "predicted_at": rfc3339(it.predicted_at.as_ref()),
        "config_hash": hex(&it.config_hash),
        "input_topic": it.input_topic,
        "input_partition": it.input_partition,
        "input_offset": it.input_offset,
    })
}
