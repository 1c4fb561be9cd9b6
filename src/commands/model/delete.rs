//! `quadrille model delete`: a version taken off the log.

use quadrille_registry::ModelId;
use quadrille_service::Error;
use serde_json::json;

use crate::{
    kafka::Kafka,
    output::{self, Output, OutputArg},
    registry,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model's name, or NAME:VERSION.
    #[arg(value_name = "NAME")]
    name: String,

    #[arg(value_name = "VERSION")]
    version: Option<String>,

    #[command(flatten)]
    output: OutputArg,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no such version, a pipeline routes to it, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let (name, version) = registry::name_and_version(&args.name, args.version.as_deref())?;
    let version = version
        .ok_or_else(|| Error::Config(format!("which version of {name}? Give NAME:VERSION")))?;
    let id = ModelId { name, version };
    let registry = registry::open(&args.kafka.cluster()?)?;
    let deleted = registry.delete(&id).map_err(registry::refused)?;
    if !deleted.routed_meanwhile.is_empty() {
        output::note(format_args!(
            "while {id} was deleted, it was deployed to {}; push it again, or deploy another version",
            deleted.routed_meanwhile.join(", ")
        ));
    }
    let _ = match args.output.get() {
        Output::Text => {
            let records = output::counted(deleted.records, "record");
            output::print(format_args!("deleted {id} ({records})"))?
        }
        Output::Json => output::print(json!({
            "name": id.name,
            "version": id.version,
            "records": deleted.records,
            "deployed_meanwhile": deleted.routed_meanwhile,
        }))?,
    };
    Ok(())
}
