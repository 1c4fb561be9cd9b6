//! `quadrille model delete`: a version taken off the log.

use quadrille_registry::ModelId;
use quadrille_service::Error;

use crate::{kafka::Kafka, output, registry};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "NAME")]
    name: String,

    #[arg(value_name = "VERSION")]
    version: String,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no such version, a pipeline routes to it, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let id = ModelId {
        name: args.name.clone(),
        version: args.version.clone(),
    };
    let registry = registry::open(&args.kafka.cluster()?)?;
    let deleted = registry.delete(&id).map_err(registry::refused)?;
    if !deleted.routed_meanwhile.is_empty() {
        output::note(format_args!(
            "while {id} was deleted, it was deployed to {}; push it again, or deploy another version",
            deleted.routed_meanwhile.join(", ")
        ));
    }
    let records = output::counted(deleted.records, "record");
    let _ = output::print(format_args!("deleted {id} ({records})"))?;
    Ok(())
}
