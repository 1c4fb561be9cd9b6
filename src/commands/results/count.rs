//! `quadrille results count`: how many predictions are stored.

use quadrille_proto::v1::CountPredictionsRequest;
use quadrille_service::Error;
use serde_json::json;

use super::{SERVICE, Server};
use crate::{
    grpc,
    output::{self, Output},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
}

/// # Errors
/// Nobody answers, or the service refuses.
pub async fn run(args: Args) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let answer = client
        .count_predictions(CountPredictionsRequest { pipeline })
        .await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    let (count, duplicates) = (answer.count, answer.duplicates);
    let _ = match args.server.output.get() {
        Output::Json => output::print(json!({"count": count, "duplicates": duplicates}))?,
        Output::Text if duplicates == 0 => output::print(count)?,
        Output::Text => output::print(format_args!(
            "{count} ({duplicates} later ones of the same id ignored)"
        ))?,
    };
    Ok(())
}
