//! `quadrille pipeline show`: what pipeline files mean.

use quadrille_pipeline::{Decision, FieldMeaning, Late, Pipeline, StateMeaning, Truth};
use quadrille_proto::{PipelineTopic, STAGES, dlq_of};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::Files;
use crate::{
    output::{self, Output, Table, hex},
    preview::cell,
};

/// Names that a cell lists before it only counts.
const NAMES_SHOWN_MAX: usize = 6;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
}

/// # Errors
/// A file is refused.
pub fn run(args: &Args) -> Result<(), Error> {
    let loaded = args.files.load()?.into_iter().map(|(_, pipeline)| pipeline);
    let pipelines: Result<Vec<Pipeline>, _> = loaded.collect();
    let pipelines = pipelines.map_err(|error| Error::Config(error.to_string()))?;
    let _ = match args.files.output.get() {
        Output::Text => {
            let pages: Vec<String> = pipelines.iter().map(page).collect();
            output::print(pages.join("\n\n"))?
        }
        Output::Json => {
            let all: Vec<Value> = pipelines.iter().map(to_json).collect();
            output::print(json!({ "pipelines": all }))?
        }
    };
    Ok(())
}

pub fn page(pipeline: &Pipeline) -> String {
    let example = pipeline.example_record();
    [
        about(pipeline).to_string(),
        fields(pipeline).to_string(),
        features(pipeline).to_string(),
        format!("A record, with values made up:\n{example}"),
    ]
    .join("\n\n")
}

fn topics(pipeline: &Pipeline) -> Vec<String> {
    let topics =
        PipelineTopic::of(&STAGES, pipeline.name(), pipeline.keeps_state().into()).into_iter();
    topics.map(|topic| topic.name).collect()
}

fn about(pipeline: &Pipeline) -> Table {
    let topics = topics(pipeline);
    let time = pipeline.event_time_field().map(|field| {
        let (future, past) = pipeline.event_time_limits();
        format!(
            "{}, at most {future} ahead of the clock and {past} old",
            cell(field)
        )
    });
    let objective = pipeline.latency_objective_ms().map(|ms| format!("{ms} ms"));
    let unknown = match pipeline.keeps_unknown_fields() {
        true => "travel along unread",
        false => "are refused",
    };
    let id = pipeline.id_field().map(cell);
    let groups = STAGES.each_ref().map(|stage| stage.group(pipeline.name()));
    let mut table = Table::new(&["pipeline", pipeline.name()]);
    for (name, value) in [
        (
            "hash",
            format!("{}, of what defines a prediction", hex(&pipeline.hash())),
        ),
        (
            "id",
            id.unwrap_or_else(|| "named after the record's place".to_owned()),
        ),
        ("key", cell(pipeline.key_field())),
        (
            "event time",
            time.unwrap_or_else(|| "the time of arrival".to_owned()),
        ),
        ("unknown fields", unknown.to_owned()),
        ("model inputs", named(pipeline.inputs())),
        ("outputs", named(&pipeline.decision().outputs())),
        ("decision", decision(pipeline.decision())),
        ("label", label(pipeline)),
        (
            "latency objective",
            objective.unwrap_or_else(|| "none".to_owned()),
        ),
        (
            "topics",
            format!(
                "{}; dead letters in {}",
                topics.join(", "),
                dlq_of("<topic>")
            ),
        ),
        ("groups", groups.join(", ")),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    if let Some(state) = pipeline.state_meaning() {
        table.row(vec!["state".to_owned(), kept(&state)]);
    }
    table
}

/// What is kept of a key's records, and what becomes of those that come too late.
fn kept(state: &StateMeaning) -> String {
    let mut parts = vec![format!(
        "records of a key may come {} late, later ones {}",
        state.lateness,
        match state.late {
            Late::DeadLetter => "are dead letters",
            Late::Absorb => "are passed over",
        }
    )];
    parts.push(format!("at most {} are kept", state.events_max));
    parts.extend((state.forget_after.as_ref()).map(|it| format!("a key is forgotten after {it}")));
    parts.extend(
        (state.emit.as_ref()).map(|it| format!("only where {} there is a vector", cell(it))),
    );
    parts.extend((state.reset.as_ref()).map(|it| format!("a key begins anew where {}", cell(it))));
    parts.join("; ")
}

fn named(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(|name| cell(name))
        .collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown}, … and {more} more"),
    }
}

fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Threshold(it) => format!(
            "{} from a probability of {} on, else {}",
            cell(&it.positive),
            it.threshold,
            cell(&it.negative)
        ),
        Decision::Argmax(_) => "the most probable class".to_owned(),
        Decision::Value(it) if it.names.is_empty() => "none, the value is the answer".to_owned(),
        Decision::Value(it) => {
            let edges: Vec<String> = it.edges.iter().map(f64::to_string).collect();
            format!("{} by the edges {}", named(&it.names), edges.join(", "))
        }
    }
}

fn label(pipeline: &Pipeline) -> String {
    let Some(label) = pipeline.label() else {
        return "none: `quadrille train` needs one".to_owned();
    };
    let field = cell(&label.field);
    let truth = match &label.truth {
        Truth::Two { positive, negative } => {
            format!("{} or {}", cell(positive), cell(negative))
        }
        Truth::Several { classes } => named(classes),
        Truth::Number {} => "a number".to_owned(),
    };
    format!("{field} ({truth}); passed over in records")
}

fn fields(pipeline: &Pipeline) -> Table {
    let mut table = Table::new(&[
        "FIELD",
        "TYPE",
        "VALUES",
        "MARKERS",
        "IF ABSENT",
        "IF NULL OR EMPTY",
    ]);
    for field in pipeline.field_meanings() {
        table.row(vec![
            cell(&field.name),
            field.kind.to_owned(),
            cell(&field.values),
            cell(&field.markers.join(", ")),
            if_absent(&field).to_owned(),
            if_null(&field).to_owned(),
        ]);
    }
    table
}

fn if_absent(field: &FieldMeaning) -> &'static str {
    match field.required {
        true => "refused",
        false => "not measured",
    }
}

fn if_null(field: &FieldMeaning) -> &'static str {
    match field.null_is_missing {
        true => "not measured",
        false => "refused",
    }
}

fn features(pipeline: &Pipeline) -> Table {
    let mut table = Table::new(&["FEATURE", "KIND", "OF", "MODEL INPUT"]);
    for feature in pipeline.feature_meanings() {
        let read = |output: &&String| pipeline.inputs().contains(output);
        let inputs: Vec<String> = feature.outputs.iter().filter(read).cloned().collect();
        let input = match (inputs.len(), feature.outputs.len()) {
            (0, _) => "no".to_owned(),
            (some, all) if some == all => "yes".to_owned(),
            _ => named(&inputs),
        };
        table.row(vec![
            cell(&feature.name),
            feature.kind.to_owned(),
            cell(&feature.of),
            input,
        ]);
    }
    table
}

pub fn to_json(pipeline: &Pipeline) -> Value {
    let topics = topics(pipeline);
    let definition: Value = pipeline.canonical().parse().unwrap_or_default();
    let fields = pipeline.field_meanings().into_iter().map(|field| {
        json!({
            "name": field.name,
            "type": field.kind,
            "markers": field.markers,
            "absent": if_absent(&field),
            "null": if_null(&field),
        })
    });
    let features = pipeline.feature_meanings().into_iter().map(
        |feature| json!({ "name": feature.name, "kind": feature.kind, "outputs": feature.outputs }),
    );
    let groups = STAGES.each_ref().map(|stage| stage.group(pipeline.name()));
    let example: Value = pipeline.example_record().parse().unwrap_or_default();
    json!({
        "name": pipeline.name(),
        "hash": hex(&pipeline.hash()),
        "definition": definition,
        "operate": { "latency_objective_ms": pipeline.latency_objective_ms() },
        "fields": fields.collect::<Vec<Value>>(),
        "features": features.collect::<Vec<Value>>(),
        "inputs": pipeline.inputs(),
        "outputs": pipeline.decision().outputs(),
        "topics": topics,
        "groups": groups,
        "example": example,
    })
}
