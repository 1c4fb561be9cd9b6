//! From a file's tables to its two halves: every setting checked, every fault placed.

mod features;
mod fields;
mod look_back;
mod operate;
mod sources;
mod state;

use std::collections::HashSet;

use quadrille_history::definition;
use toml::de::DeValue;

use self::features::Notes;
use crate::error::Error;
use crate::feature::output_names;
use crate::keys::{self, DECISIONS, FORMAT_MAX, PIPELINE_NAME_LEN_MAX};
use crate::quote::{quote, suggest};
use crate::spec::{
    Argmax, Bands, Decision, FeatureSpec, Label, ModelSpec, Operate, PAST_MAX_DEFAULT, RecordSpec,
    Spec, Threshold, Truth, UnknownFields,
};
use crate::table::{At, Source, Spot, Table};
use crate::time::duration_ms;

const FUTURE_MAX_DEFAULT: &str = "5m";

/// A file's two halves, and what is allowed in it but hardly meant.
pub(crate) struct Checked<'a> {
    pub spec: Spec,
    pub operate: Operate,
    pub warnings: Vec<Error>,
    pub places: Places<'a>,
}

/// Where that stands of which only the whole shows whether it can be kept.
#[derive(Default)]
pub(crate) struct Places<'a> {
    state: Option<Spot<'a>>,
    looking_back: Vec<Spot<'a>>,
}

impl Places<'_> {
    /// A fault of what is to be kept, at the feature that it is of, or at `[state]`.
    pub fn error(&self, fault: &definition::Error) -> Option<Error> {
        let mut reason = fault.to_string();
        let number = fault.aggregate();
        if let Some(number) = number
            && let Some(rest) = reason.strip_prefix(&format!("aggregate {number}: "))
        {
            reason = rest.to_owned();
        }
        let spot = number.and_then(|it| self.looking_back.get(it));
        let spot = spot.or(self.state.as_ref())?;
        Some(spot.error(reason, "see [state] and the features that look back"))
    }
}

/// Reads and checks a whole file.
pub(crate) fn file(source: Source<'_>) -> Result<Checked<'_>, Error> {
    let root = source.root()?;
    // First: what a newer format has beside it is not a mistake of its author's.
    root.peek("format").map(format).transpose()?;
    let mut root = root.table(&keys::ROOT)?;
    root.take("format");
    let example = format!("name = {:?}", suggested_name(root.spot.file_stem()));
    let name = pipeline_name(&root.need("name", &example)?.text()?)?;
    let mut notes = Notes::default();
    let record = record(root.need("record", "[record]")?)?;
    let state = root
        .take("state")
        .map(|table| state::read(table, &record))
        .transpose()?;
    let features = root.need("features", "[[features]]")?;
    let features = features::read(features, &record, state.as_ref(), &mut notes)?;
    let model = model(root.need("model", "[model]")?, &features)?;
    let decision = root
        .take("decision")
        .map_or_else(|| Ok(Decision::Threshold(Threshold::default())), decision)?;
    let label = root
        .take("label")
        .map(|table| label(table, &record, &decision))
        .transpose()?;
    let operate = operate::read(&mut root)?;
    let features = features.into_iter().map(|feature| feature.spec).collect();
    let (state, state_spot) = match state {
        Some(state) => (Some(state.spec), Some(state.spot)),
        None => (None, None),
    };
    Ok(Checked {
        spec: Spec {
            name,
            record,
            state,
            features,
            model,
            decision,
            label,
        },
        operate,
        warnings: notes.warnings,
        places: Places {
            state: state_spot,
            looking_back: notes.looking_back,
        },
    })
}

fn format<'a>(value: At<'a, DeValue<'a>>) -> Result<(), Error> {
    let format = value.number()?;
    if format.value == FORMAT_MAX as f64 {
        return Ok(());
    }
    let reason = format!("{} is no format that this release reads", format.value);
    let fix = format!(
        "the newest it reads is {FORMAT_MAX}: use a newer release, or write the file in that format"
    );
    Err(format.spot.error(reason, fix))
}

/// What a file without a name could be called.
fn suggested_name(stem: &str) -> &str {
    match name_fault(stem) {
        None => stem,
        Some(_) => "…",
    }
}

fn pipeline_name(name: &At<'_, String>) -> Result<String, Error> {
    match name_fault(&name.value) {
        None => Ok(name.value.clone()),
        Some((reason, fix)) => {
            let reason = format!("{} {reason}", quote(&name.value));
            Err(name.spot.error(reason, fix))
        }
    }
}

/// Why a text cannot name a pipeline, and what to do.
fn name_fault(text: &str) -> Option<(&'static str, &'static str)> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if text.len() > PIPELINE_NAME_LEN_MAX {
        return Some((
            "is too long",
            "use at most 100 characters: topics are named after it",
        ));
    }
    if !text.chars().all(allowed) || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Some((
            "cannot name Kafka topics",
            "use a-z, 0-9, `.`, `_` and `-`, and begin with a letter or digit",
        ));
    }
    if text == "quadrille" || text.starts_with("quadrille.") {
        return Some(("is taken by Quadrille's own topics", "choose another name"));
    }
    None
}

fn record<'a>(table: At<'a, DeValue<'a>>) -> Result<RecordSpec, Error> {
    let mut table = table.table(&keys::RECORD)?;
    let id = table.take("id").map(At::text).transpose()?;
    let key = table.need("key", "key = \"…\"")?.text()?;
    let event_time = table.take("event_time").map(At::text).transpose()?;

    let mut names = Names::new("is already the name of another field of the record");
    for name in [id.as_ref(), Some(&key), event_time.as_ref()]
        .into_iter()
        .flatten()
    {
        crate::table::check_name(name)?;
        names.add(name, &name.value)?;
    }
    let unknown_fields = table
        .take("unknown_fields")
        .map(unknown_fields)
        .transpose()?;
    let future_ms_max = table.take("future_max").map(duration).transpose()?;
    let past_ms_max = table.take("past_max").map(duration).transpose()?;
    let fields = fields::read(table.need("fields", "[[record.fields]]")?, &mut names)?;
    Ok(RecordSpec {
        id: id.map(|id| id.value),
        key: key.value,
        event_time: event_time.map(|name| name.value),
        unknown_fields: unknown_fields.unwrap_or(UnknownFields::Refuse),
        future_ms_max: future_ms_max
            .or_else(|| duration_ms(FUTURE_MAX_DEFAULT))
            .unwrap_or_default(),
        past_ms_max: past_ms_max
            .or_else(|| duration_ms(PAST_MAX_DEFAULT))
            .unwrap_or_default(),
        fields,
    })
}

fn unknown_fields<'a>(value: At<'a, DeValue<'a>>) -> Result<UnknownFields, Error> {
    let text = value.text()?;
    match text.value.as_str() {
        "keep" => Ok(UnknownFields::Keep),
        "refuse" => Ok(UnknownFields::Refuse),
        other => {
            let reason = format!("{} is no way to treat unknown fields", quote(other));
            Err(text.spot.error(reason, "write \"keep\" or \"refuse\""))
        }
    }
}

fn duration<'a>(value: At<'a, DeValue<'a>>) -> Result<i64, Error> {
    let text = value.text()?;
    duration_ms(&text.value).ok_or_else(|| {
        let reason = format!("{} is not a duration", quote(&text.value));
        text.spot.error(
            reason,
            "write a whole number and ms, s, m, h or d, as in \"5m\"",
        )
    })
}

/// Names of outputs, a one-hot feature's name standing for all of its outputs.
fn model<'a>(table: At<'a, DeValue<'a>>, features: &[Named]) -> Result<ModelSpec, Error> {
    let mut table = table.table(&keys::MODEL)?;
    let inputs = table.need("inputs", "inputs = [\"…\"]")?;
    let spot = inputs.spot.clone();
    let mut seen = Names::new("is already an input");
    let mut names = Vec::new();
    for input in inputs.texts()? {
        let mut found: Vec<&str> = Vec::new();
        for feature in features {
            let whole = feature.spec.name == input.value;
            let outputs = feature.outputs.iter().map(String::as_str);
            found.extend(outputs.filter(|output| whole || *output == input.value));
        }
        if found.is_empty() {
            let known = features
                .iter()
                .flat_map(|feature| &feature.outputs)
                .map(String::as_str);
            let reason = format!("{} is no feature", quote(&input.value));
            return Err(input
                .spot
                .error(reason, suggest(&input.value, "the features are", known)));
        }
        for output in found {
            seen.add(&input, output)?;
            names.push(output.to_owned());
        }
    }
    if names.is_empty() {
        return Err(spot.error(
            "is empty",
            "name the features the model reads, in its order",
        ));
    }
    Ok(ModelSpec { inputs: names })
}

impl Default for Threshold {
    fn default() -> Self {
        Threshold {
            threshold: 0.5,
            positive: "positive".into(),
            negative: "negative".into(),
        }
    }
}

fn decision<'a>(table: At<'a, DeValue<'a>>) -> Result<Decision, Error> {
    let mut table = table.table(&keys::DECISION)?;
    let kind = table.take("kind").map(At::text).transpose()?;
    let name = kind
        .as_ref()
        .map_or("threshold", |kind| kind.value.as_str());
    if !DECISIONS.contains(&name) {
        let fix = suggest(name, "the kinds are", DECISIONS.iter().copied());
        let reason = format!("{} is no kind of decision", quote(name));
        let spot = kind.as_ref().map_or(&table.spot, |kind| &kind.spot);
        return Err(spot.error(reason, fix));
    }
    table.refuse_others(&keys::DECISION, name)?;
    Ok(match name {
        "argmax" => Decision::Argmax(Argmax {
            classes: classes(table.need("classes", "classes = [\"…\", \"…\"]")?, 2)?,
        }),
        "value" => Decision::Value(bands(&mut table)?),
        _ => Decision::Threshold(threshold(&mut table)?),
    })
}

fn threshold(table: &mut Table<'_>) -> Result<Threshold, Error> {
    let mut decision = Threshold::default();
    if let Some(threshold) = table.take("threshold").map(At::number).transpose()? {
        if !(0.0..=1.0).contains(&threshold.value) {
            let reason = format!("{} is no probability", threshold.value);
            return Err(threshold
                .spot
                .error(reason, "choose a threshold from 0 to 1"));
        }
        decision.threshold = threshold.value;
    }
    if let Some((positive, negative)) = pair(table, &decision)? {
        (decision.positive, decision.negative) = (positive, negative);
    }
    Ok(decision)
}

/// Names of classes or values: at least so many, each once.
fn classes<'a>(list: At<'a, DeValue<'a>>, least: usize) -> Result<Vec<String>, Error> {
    let spot = list.spot.clone();
    let mut seen = Names::new("is listed twice");
    let mut names = Vec::new();
    for name in list.texts()? {
        crate::table::check_name(&name)?;
        seen.add(&name, &name.value)?;
        names.push(name.value);
    }
    if names.len() < least {
        let reason = format!("has {} names", names.len());
        return Err(spot.error(reason, format!("list at least {least}")));
    }
    Ok(names)
}

fn bands(table: &mut Table<'_>) -> Result<Bands, Error> {
    let values = match table.take("values") {
        Some(values) => classes(values, 1)?,
        None => vec!["value".to_owned()],
    };
    let (edges, names) = match (table.take("edges"), table.take("names")) {
        (None, None) => (Vec::new(), Vec::new()),
        (Some(edges), Some(names)) => {
            let spot = names.spot.clone();
            let edges = features::ascending(edges)?;
            let names = classes(names, 2)?;
            if names.len() != edges.len() + 1 {
                let reason = format!("has {} names for {} edges", names.len(), edges.len());
                return Err(spot.error(reason, "name one band more than there are edges"));
            }
            (edges, names)
        }
        _ => {
            let fix = "write both, as in `edges = [100]` and `names = [\"low\", \"high\"]`";
            return Err(table.spot.error("has one of edges and names", fix));
        }
    };
    Ok(Bands {
        values,
        edges,
        names,
    })
}

/// The two names of a decision or label: given together, printable and different.
fn pair(table: &mut Table<'_>, example: &Threshold) -> Result<Option<(String, String)>, Error> {
    let positive = table.take("positive").map(At::text).transpose()?;
    let negative = table.take("negative").map(At::text).transpose()?;
    let (positive, negative) = match (positive, negative) {
        (None, None) => return Ok(None),
        (Some(positive), Some(negative)) => (positive, negative),
        _ => {
            let fix = format!(
                "write both, as in `positive = {:?}` and `negative = {:?}`",
                example.positive, example.negative
            );
            return Err(table.spot.error("has one of positive and negative", fix));
        }
    };
    crate::table::check_name(&positive)?;
    crate::table::check_name(&negative)?;
    if positive.value.trim() == negative.value.trim() {
        return Err(negative
            .spot
            .error("is the same as positive", "use two different names"));
    }
    Ok(Some((positive.value, negative.value)))
}

fn label<'a>(
    table: At<'a, DeValue<'a>>,
    record: &RecordSpec,
    decision: &Decision,
) -> Result<Label, Error> {
    let mut table = table.table(&keys::LABEL)?;
    let field = table.need("field", "field = \"…\"")?.text()?;
    crate::table::check_name(&field)?;
    let named = [
        Some(&record.key),
        record.id.as_ref(),
        record.event_time.as_ref(),
    ];
    let mut names = named
        .into_iter()
        .flatten()
        .chain(record.fields.iter().map(|it| &it.name));
    if names.any(|name| *name == field.value) {
        let reason = format!("{} is also a field of the record", quote(&field.value));
        return Err(field
            .spot
            .error(reason, "a model must not see the truth: remove it there"));
    }
    Ok(Label {
        field: field.value,
        truth: truth(&mut table, decision)?,
    })
}

fn truth(table: &mut Table<'_>, decision: &Decision) -> Result<Truth, Error> {
    let listed = table.take("classes");
    let two = pair(table, &Threshold::default())?;
    let clash = |spot: &crate::table::Spot<'_>| {
        let fix = "write `positive` and `negative` for two classes, `classes` for several, neither for a number";
        spot.error("does not fit the kind of the decision", fix)
    };
    match (decision, listed, two) {
        (Decision::Threshold(_), None, Some((positive, negative))) => {
            Ok(Truth::Two { positive, negative })
        }
        (Decision::Threshold(_), None, None) => {
            let fix =
                "add `positive = \"…\"` and `negative = \"…\"`, as the training data has them";
            Err(table
                .spot
                .error("has no values for positive and negative", fix))
        }
        (Decision::Argmax(it), Some(listed), None) => {
            let spot = listed.spot.clone();
            let classes = classes(listed, 2)?;
            if classes.len() != it.classes.len() {
                let reason = format!(
                    "has {} classes where the decision has {}",
                    classes.len(),
                    it.classes.len()
                );
                return Err(spot.error(reason, "list them in the decision's order"));
            }
            Ok(Truth::Several { classes })
        }
        // As the decision calls them.
        (Decision::Argmax(it), None, None) => Ok(Truth::Several {
            classes: it.classes.clone(),
        }),
        (Decision::Value(_), None, None) => Ok(Truth::Number {}),
        _ => Err(clash(&table.spot)),
    }
}

/// A feature and what it is called where it is used.
pub(crate) struct Named {
    pub spec: FeatureSpec,
    pub outputs: Vec<String>,
}

impl Named {
    fn new(spec: FeatureSpec, record: &RecordSpec) -> Self {
        Named {
            outputs: output_names(&spec, record),
            spec,
        }
    }
}

/// Names in use, each only once.
pub(crate) struct Names {
    taken: &'static str,
    names: HashSet<String>,
}

impl Names {
    fn new(taken: &'static str) -> Self {
        Names {
            taken,
            names: HashSet::new(),
        }
    }

    fn add<T>(&mut self, at: &At<'_, T>, name: &str) -> Result<(), Error> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        let reason = format!("{} {}", quote(name), self.taken);
        Err(at.spot.error(reason, "use each name once"))
    }
}
