//! `quadrille model list`: every version, in a table.

use quadrille_registry::{ModelEntry, Replica, View, Void};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::versions::{Known, in_order, know, or_none, serves, states, to_json};
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputOrJson, Table},
    preview, time,
};

const EXAMPLES: &str = "\
Examples:
  quadrille model list
  quadrille model list cards --output json

PLACE is `log`, or where a large artefact lies; SERVES the pipelines that route to the version, and how; REPLICAS what each inference \
replica has made of it. Packages that are given to inference by --model or QUADRILLE_MODEL are not on the log and not listed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only versions of this model.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Show also records of the log that are void, with the reason.
    #[arg(long)]
    void: bool,

    #[command(flatten)]
    output: OutputOrJson,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let Known { registry, replicas } = know(&args.kafka.cluster()?)?;
    let view = registry.view();
    let entries = in_order(&view, args.name.as_deref());
    if args.output.get() == Output::Json {
        let models = entries.iter().map(|entry| to_json(&view, entry, &replicas));
        let models: Vec<Value> = models.collect();
        let void: Vec<Value> = view.void.iter().map(void_json).collect();
        let _ = output::print(json!({ "models": models, "void": void }))?;
        return Ok(());
    }
    if entries.is_empty() {
        output::note("no models; push one with `quadrille model push DIR`");
    } else {
        let header = [
            "NAME", "VERSION", "SHA-256", "BYTES", "PLACE", "PUSHED", "BY", "SERVES", "REPLICAS",
        ];
        let mut table = Table::new(&header);
        for entry in entries {
            table.row(row(&view, entry, &replicas));
        }
        let _ = output::print(table)?;
    }
    show_void(&view.void, args.void)
}

fn show_void(void: &[Void], all: bool) -> Result<(), Error> {
    if void.is_empty() {
        return Ok(());
    }
    if !all {
        let count = void.len();
        output::note(format_args!(
            "{count} on the log count for nothing; --void shows them with the reason"
        ));
        return Ok(());
    }
    let mut table = Table::new(&["TOPIC", "OFFSET", "VOID", "WHY"]);
    for void in void {
        table.row(vec![
            void.topic.to_owned(),
            void.offset.to_string(),
            preview::text(&void.key, preview::PAYLOAD_CHARS_MAX),
            preview::text(&void.reason, preview::MESSAGE_CHARS_MAX),
        ]);
    }
    let _ = output::print(table)?;
    Ok(())
}

fn row(view: &View, entry: &ModelEntry, replicas: &[Replica]) -> Vec<String> {
    vec![
        entry.id.name.clone(),
        preview::cell(&entry.id.version),
        entry.sha256.short(),
        entry.bytes.to_string(),
        entry.artefact_uri().map_or("log".to_owned(), |uri| {
            preview::text(uri, preview::PAYLOAD_CHARS_MAX)
        }),
        time::seconds(entry.pushed_at_ms),
        preview::cell(&entry.pushed_by),
        or_none(&serves(view, &entry.id)),
        or_none(&states(&entry.id, replicas)),
    ]
}

fn void_json(void: &Void) -> Value {
    json!({ "topic": void.topic, "offset": void.offset, "key": void.key, "reason": void.reason })
}
