//! `quadrille deploy history`: every event of a pipeline.

use quadrille_registry::Event;
use quadrille_service::Error;
use serde_json::{Value, json};

use super::show::{none, to_json};
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputOrJson, Table},
    pipelines, preview, registry, time,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// Events to show, the newest.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    output: OutputOrJson,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// The pipeline has no deployment, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    let view = registry::open(&args.kafka.cluster()?)?.view();
    let Some(history) = view.deployments.get(&pipeline) else {
        return Err(none(&pipeline, &view));
    };
    let hidden = history.events.len().saturating_sub(args.limit as usize);
    let events = &history.events[hidden..];
    if args.output.get() == Output::Json {
        let all = events.iter().map(|event| {
            let mut value = to_json(&event.deployment);
            value["offset"] = json!(event.offset);
            value["void"] = json!(event.void);
            value
        });
        let _ = output::print(Value::Array(all.collect()))?;
        return Ok(());
    }
    let mut table = Table::new(&["REVISION", "AT", "BY", "ACTION", "ROUTES", "WHY"]);
    for event in events {
        table.row(row(event));
    }
    let _ = output::print(table)?;
    if hidden > 0 {
        output::note(format_args!("{hidden} older ones; --limit shows more"));
    }
    Ok(())
}

fn row(event: &Event) -> Vec<String> {
    let deployment = &event.deployment;
    let why = match &event.void {
        None => preview::text(&deployment.reason, preview::MESSAGE_CHARS_MAX),
        Some(reason) => format!(
            "VOID: {}",
            preview::text(reason, preview::MESSAGE_CHARS_MAX)
        ),
    };
    vec![
        deployment.revision.to_string(),
        time::seconds(deployment.at_ms),
        preview::cell(&deployment.by),
        deployment.action.name().to_owned(),
        preview::text(&registry::routes(deployment), preview::MESSAGE_CHARS_MAX),
        why,
    ]
}
