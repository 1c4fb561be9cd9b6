//! `quadrille results get`: one prediction by its record's id.

use quadrille_proto::v1::{GetPredictionRequest, StoredPrediction};
use quadrille_service::Error;

use super::{SERVICE, Server, to_json};
use crate::{
    grpc,
    output::{self, Output, Table, hex},
    preview::{self, cell},
    time::rfc3339,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record's id.
    id: String,

    /// What the shadow of this name predicted, not what was answered.
    #[arg(long, value_name = "VARIANT")]
    shadow: Option<String>,

    #[command(flatten)]
    server: Server,
}

/// # Errors
/// Nobody answers, or the service refuses.
pub async fn run(args: Args) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let request = GetPredictionRequest {
        pipeline,
        id: args.id,
        shadow_variant: args.shadow.unwrap_or_default(),
    };
    let answer = client.get_prediction(request).await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    let _ = match args.server.output.get() {
        Output::Json => output::print(to_json(&answer))?,
        Output::Text => output::print(page(&answer))?,
    };
    Ok(())
}

fn page(it: &StoredPrediction) -> Table {
    let mut table = Table::new(&["id", &cell(&it.id)]);
    let place = format!(
        "{}-{}-{}",
        it.input_topic, it.input_partition, it.input_offset
    );
    for (name, value) in [
        ("key", cell(&it.key)),
        ("decision", cell(&it.decision)),
        ("probability", format!("{:.4}", it.probability)),
        ("model", cell(&format!("{} {}", it.model, it.version))),
        ("variant", cell(&it.variant)),
        ("event time", rfc3339(it.event_time.as_ref())),
        ("predicted at", rfc3339(it.predicted_at.as_ref())),
        ("config", hex(&it.config_hash)),
        (
            "scored from",
            preview::text(&place, preview::MESSAGE_CHARS_MAX),
        ),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    table
}
