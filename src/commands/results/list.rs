//! `quadrille results list`: predictions, newest first.

use jiff::Timestamp;
use quadrille_proto::v1::{ListPredictionsRequest, StoredPrediction};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::{SERVICE, Server, to_json};
use crate::{
    grpc,
    output::{self, Output, Table},
    preview::cell,
    time::{self, rfc3339},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,

    /// Only predictions for this key.
    #[arg(long)]
    key: Option<String>,

    /// Only from this event time on: RFC 3339, or a day (UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,

    /// Only before this event time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,

    /// Only predictions with this decision.
    #[arg(long)]
    decision: Option<String>,

    /// Only of this variant, live, canary or (with --shadow) shadow; together with --from where it is rare.
    #[arg(long)]
    variant: Option<String>,

    /// Show only what shadows predicted.
    #[arg(long)]
    shadow: bool,

    /// Predictions in one answer.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,

    /// Go on after an earlier answer; the filters must be the same.
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

/// # Errors
/// Nobody answers, or the service refuses.
pub async fn run(args: Args) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let request = ListPredictionsRequest {
        pipeline,
        key: args.key.unwrap_or_default(),
        from: args.from.map(time::to_proto),
        to: args.to.map(time::to_proto),
        decision: args.decision.unwrap_or_default(),
        limit: args.limit,
        page_token: args.page_token.unwrap_or_default(),
        shadow: args.shadow,
        variant: args.variant.unwrap_or_default(),
    };
    let variant = request.variant.clone();
    let answer = client.list_predictions(request).await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    // An older service leaves out of a request what it does not know.
    let is_filtered = |it: &StoredPrediction| variant.is_empty() || it.variant == variant;
    if !answer.predictions.iter().all(is_filtered) {
        return Err(Error::Failed(
            "the results service does not know --variant yet: it is older than this command; update it, or leave --variant out"
                .to_owned(),
        ));
    }
    let token = Some(answer.next_page_token).filter(|token| !token.is_empty());
    match args.server.output.get() {
        Output::Json => {
            let predictions: Vec<Value> = answer.predictions.iter().map(to_json).collect();
            let page = json!({"predictions": predictions, "next_page_token": token});
            let _ = output::print(page)?;
        }
        Output::Text => {
            let _ = output::print(table(&answer.predictions))?;
            if let Some(token) = token {
                output::note(format_args!("there are more: --page-token {token}"));
            }
        }
    }
    Ok(())
}

fn table(predictions: &[StoredPrediction]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "KEY",
        "DECISION",
        "PROBABILITY",
        "EVENT TIME",
        "MODEL",
        "VERSION",
        "VARIANT",
    ]);
    for it in predictions {
        table.row(vec![
            cell(&it.id),
            cell(&it.key),
            cell(&it.decision),
            format!("{:.4}", it.probability),
            rfc3339(it.event_time.as_ref()),
            cell(&it.model),
            cell(&it.version),
            cell(&it.variant),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_act_on_the_terminal() {
        let prediction = StoredPrediction {
            id: "a\x1b[2J".into(),
            ..StoredPrediction::default()
        };
        assert!(!table(&[prediction]).to_string().contains('\x1b'));
    }
}
