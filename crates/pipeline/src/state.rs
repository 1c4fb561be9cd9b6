//! State kept by key, ready for work: which values of a record are kept, which records emit, and what a record's turn brings.

use std::sync::Arc;

use quadrille_history::{
    Aggregate, Current, Definition, Event, Filter, Function, History, Pushed, Settings, Window,
    definition,
};
use sha2::{Digest, Sha256};

use crate::feature::{self, Feature, Of};
use crate::pipeline::Pipeline;
use crate::spec::{
    self, FeatureKind, FieldKind, FilterSpec, Late, LookBack, RecordSpec, Spec, StateSpec, Wanted,
};

/// What a pipeline keeps of the records of a key.
#[derive(Debug)]
pub struct State {
    definition: Definition,
    /// Where the values that are kept stand in a record.
    columns: Vec<usize>,
    emit: Option<Condition>,
    reset: Option<Condition>,
    late: Late,
    features: Arc<[Feature]>,
    fingerprint: [u8; 8],
}

/// A value of a record is one of these.
#[derive(Debug)]
struct Condition {
    at: usize,
    is: Vec<f64>,
}

/// A record whose turn has come in the order of its key.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Unique within the pipeline.
    pub id: &'a str,
    /// The entity's.
    pub key: &'a str,
    /// The time of the event, in milliseconds since 1970.
    pub time_ms: i64,
    /// In the order of the record schema.
    pub values: &'a [f64],
}

/// What became of a record in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It is kept, and has a feature vector.
    Vector,
    /// It is kept, and has none: `emit` is about other records.
    StateOnly,
    /// A record of this key with its id is kept already. Nothing changed.
    Duplicate,
    /// It comes this much later than lateness allows. Nothing changed.
    Late { by_ms: i64 },
    /// The key has as many records within reach as it may have. Nothing changed.
    TooMany,
}

/// Memory that is used again from record to record.
#[derive(Debug, Default)]
pub struct Scratch {
    kept: Vec<f64>,
    aggregates: Vec<f64>,
}

impl State {
    /// # Errors
    /// More is to be kept of a key than can be.
    pub(crate) fn new(
        spec: &Spec,
        features: Arc<[Feature]>,
    ) -> Result<Option<Self>, definition::Error> {
        let Some(state) = &spec.state else {
            return Ok(None);
        };
        let look_back = |it: &'_ spec::FeatureSpec| match &it.kind {
            FeatureKind::LookBack(look_back) => Some(look_back.clone()),
            _ => None,
        };
        let looking_back: Vec<LookBack> = spec.features.iter().filter_map(look_back).collect();
        let columns = Columns::of(&looking_back, &spec.record);
        let settings = Settings {
            columns: columns.names.len(),
            aggregates: looking_back
                .iter()
                .map(|it| columns.aggregate(it))
                .collect(),
            lateness_ms: state.lateness_ms,
            forget_after_ms: state.forget_after_ms,
            events_max: state.events_max as usize,
        };
        let condition = |it: &Option<FilterSpec>| {
            let it = it.as_ref()?;
            Some(Condition {
                at: spec.record.find(&it.field)?.1,
                is: values(it, &spec.record),
            })
        };
        let definition = Definition::new(settings)?;
        Ok(Some(State {
            fingerprint: fingerprint(spec, state, &columns, &definition),
            definition,
            columns: columns.positions(),
            emit: condition(&state.emit),
            reset: condition(&state.reset),
            late: state.late,
            features,
        }))
    }

    /// What a key's history keeps and computes.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Of all that decides what the state of a key means: histories that were kept under another fingerprint cannot be used.
    pub fn fingerprint(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// What becomes of records that come too late.
    pub fn late(&self) -> Late {
        self.late
    }

    /// Whether a record has a feature vector; else it is only looked back on.
    pub fn emits(&self, values: &[f64]) -> bool {
        self.emit.as_ref().is_none_or(|it| it.holds(values))
    }

    /// What a key's history keeps of a record; `buffer` is cleared.
    pub fn event<'b>(
        &self,
        id: &str,
        time_ms: i64,
        values: &[f64],
        buffer: &'b mut Vec<f64>,
    ) -> Event<'b> {
        buffer.clear();
        let value = |at: &usize| values.get(*at).copied().unwrap_or(f64::NAN);
        buffer.extend(self.columns.iter().map(value));
        Event {
            id: id_hash(id),
            time_ms,
            reset: self.reset.as_ref().is_some_and(|it| it.holds(values)),
            values: buffer,
        }
    }

    /// Takes a record into the history of its key; of [`Taken::Vector`] its features are in `features`, which is cleared. The stream
    /// and [`Replay`](crate::Replay) both run this.
    pub fn take(
        &self,
        history: &mut History,
        record: &Arrival<'_>,
        scratch: &mut Scratch,
        features: &mut Vec<f64>,
    ) -> Taken {
        let Scratch { kept, aggregates } = scratch;
        let event = self.event(record.id, record.time_ms, record.values, kept);
        let position = match history.push(&self.definition, &event) {
            Pushed::New(position) => position,
            Pushed::Duplicate => return Taken::Duplicate,
            Pushed::Late { by_ms } => return Taken::Late { by_ms },
            Pushed::Full => return Taken::TooMany,
        };
        if !self.emits(record.values) {
            return Taken::StateOnly;
        }
        aggregates.clear();
        history.look(&self.definition, position, aggregates);
        let values = record.values;
        feature::compute(&self.features, Of { values, aggregates }, features);
        Taken::Vector
    }
}

/// A pipeline's features look back, and the history of the record's key is not at hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pipeline {pipeline:?} has features that look back on the records of a key ({feature:?} is one), and they cannot be computed of a \
     record alone; ask feature's GetFeatures about the key, and send its features to Predict (quadrille predict --key does both)"
)]
pub struct NeedsHistory {
    pub pipeline: String,
    /// The first of them.
    pub feature: String,
}

impl NeedsHistory {
    #[cold]
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        let mut features = pipeline.feature_specs().iter();
        let first = features.find(|it| matches!(it.kind, FeatureKind::LookBack(_)));
        NeedsHistory {
            pipeline: pipeline.name().to_owned(),
            feature: first.map(|it| it.name.clone()).unwrap_or_default(),
        }
    }
}

impl Condition {
    fn holds(&self, values: &[f64]) -> bool {
        values.get(self.at).is_some_and(|it| self.is.contains(it))
    }
}

/// The definition knows columns and numbers; a column is another one, too, once its field, its type or what counts as missing in it
/// is. A category that is appended, a limit or a requirement changes no number that is kept.
fn fingerprint(
    spec: &Spec,
    state: &StateSpec,
    columns: &Columns<'_>,
    definition: &Definition,
) -> [u8; 8] {
    let reset = state.reset.as_ref().map(|it| it.field.as_str());
    let named = |name: &str| columns.names.contains(&name) || reset == Some(name);
    let fields = spec.record.fields.iter().filter(|it| named(&it.name));
    let record = &spec.record;
    let fields = fields.map(|it| (&it.name, it.kind.with_article(), it.kind.markers()));
    let meaning = (
        (&record.id, &record.key, &record.event_time),
        fields.collect::<Vec<_>>(),
        state
            .reset
            .as_ref()
            .map(|it| (&it.field, values(it, record))),
        definition.fingerprint(),
    );
    // Strings, finite numbers and lists: there is nothing JSON could not hold.
    let meaning = serde_json::to_vec(&meaning).unwrap_or_default();
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(meaning)[..8]);
    first
}

/// The first half of the id's SHA-256: of a billion records no two have the same.
fn id_hash(id: &str) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(id)[..16]);
    half
}

/// The fields that are kept: those that a feature is computed over or that its filter asks for.
struct Columns<'a> {
    record: &'a RecordSpec,
    /// In the order of the record.
    names: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(looking_back: &[LookBack], record: &'a RecordSpec) -> Self {
        let names = record.fields.iter().map(|it| it.name.as_str());
        let is_named = |name: &&str| {
            looking_back.iter().any(|it| {
                let filter = it.filter.as_ref().map(|it| it.field.as_str());
                it.field.as_deref() == Some(*name) || filter == Some(*name)
            })
        };
        Columns {
            record,
            names: names.filter(is_named).collect(),
        }
    }

    fn positions(&self) -> Vec<usize> {
        let at = |name: &&str| self.record.find(name).map(|(_, at)| at);
        self.names.iter().filter_map(at).collect()
    }

    /// The names were checked: each is there.
    fn column(&self, name: &str) -> usize {
        let found = self.names.iter().position(|it| *it == name);
        found.unwrap_or(usize::MAX)
    }

    fn aggregate(&self, it: &LookBack) -> Aggregate {
        Aggregate {
            function: function(it.function),
            column: it.field.as_ref().map(|name| self.column(name)),
            window: match it.window {
                spec::Window::All {} => Window::All,
                spec::Window::Newest { newest } => Window::Newest(newest),
                spec::Window::Time { from_ms, to_ms } => Window::Time { from_ms, to_ms },
            },
            filter: it.filter.as_ref().map(|filter| Filter {
                column: self.column(&filter.field),
                values: values(filter, self.record),
            }),
            current: match it.current {
                spec::Current::Seen => Current::Seen,
                spec::Current::Excluded => Current::Excluded,
            },
        }
    }
}

fn function(it: spec::Function) -> Function {
    match it {
        spec::Function::Count => Function::Count,
        spec::Function::Sum => Function::Sum,
        spec::Function::Mean => Function::Mean,
        spec::Function::Min => Function::Min,
        spec::Function::Max => Function::Max,
        spec::Function::Median => Function::Median,
        spec::Function::StdDev => Function::StdDev,
        spec::Function::Rate { per_ms } => Function::Rate { per_ms },
        spec::Function::Ewma { half_life_ms } => Function::Ewma { half_life_ms },
        spec::Function::Last => Function::Last,
        spec::Function::Lag { n } => Function::Lag(n),
        spec::Function::TimeSince => Function::TimeSince,
        spec::Function::Distinct => Function::Distinct,
    }
}

/// What the values that a filter asks for are in a record.
fn values(filter: &FilterSpec, record: &RecordSpec) -> Vec<f64> {
    let categories = match record.find(&filter.field).map(|(field, _)| &field.kind) {
        Some(FieldKind::Category { categories, .. }) => categories.as_slice(),
        _ => &[],
    };
    let value = |wanted: &Wanted| match wanted {
        Wanted::Truth(truth) => Some(f64::from(*truth)),
        Wanted::Category(name) => {
            let at = categories.iter().position(|it| it == name)?;
            Some(at as f64)
        }
    };
    filter.is.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use crate::Pipeline;

    const FILE: &str = r#"
        name = "cards"
        [record]
        key = "card"
        event_time = "time"
        [[record.fields]]
        name = "amount"
        type = "number"
        [[record.fields]]
        name = "tip"
        type = "number"
        [[record.fields]]
        name = "kind"
        type = "category"
        categories = ["payment", "close"]
        [state]
        lateness = "1h"
        reset = { field = "kind", is = ["close"] }
        [[features]]
        name = "spent"
        kind = "sum"
        field = "amount"
        to = "1d"
        [model]
        inputs = ["spent"]
    "#;

    fn fingerprint(from: &str, to: &str) -> [u8; 8] {
        assert!(FILE.contains(from), "{from}");
        let text = FILE.replacen(from, to, 1);
        let pipeline = Pipeline::parse("cards.toml", &text);
        let pipeline = pipeline.unwrap_or_else(|error| panic!("{error}"));
        pipeline.state().expect("it looks back").fingerprint()
    }

    #[test]
    fn whatever_changes_the_meaning_of_the_state_changes_its_fingerprint() {
        let same = fingerprint("", "");
        for (from, to) in [
            ("field = \"amount\"", "field = \"tip\""),
            (
                "name = \"amount\"\n        type = \"number\"",
                "name = \"amount\"\n        type = \"number\"\nmissing = [0]",
            ),
            ("is = [\"close\"]", "is = [\"payment\"]"),
            ("key = \"card\"", "key = \"account\""),
            ("event_time = \"time\"", "event_time = \"at\""),
            ("to = \"1d\"", "to = \"2d\""),
            ("kind = \"sum\"", "kind = \"mean\""),
            ("lateness = \"1h\"", "lateness = \"2h\""),
        ] {
            assert_ne!(fingerprint(from, to), same, "{to}");
        }
    }

    #[test]
    fn what_is_only_computed_from_the_state_does_not() {
        let same = fingerprint("", "");
        for (from, to) in [
            ("name = \"spent\"", "name = \"total\""),
            ("lateness = \"1h\"", "lateness = \"1h\"\nlate = \"absorb\""),
            ("name = \"tip\"", "name = \"bonus\""),
            ("\"close\"]", "\"close\", \"note\"]"),
            (
                "name = \"amount\"\n        type = \"number\"",
                "name = \"amount\"\n        type = \"number\"\nrequired = false\nmin = 0\nmax = 9",
            ),
            (
                "[model]",
                "[[features]]\nname = \"tip\"\nkind = \"pass\"\nfield = \"tip\"\n[model]",
            ),
        ] {
            let to = to.replace("inputs = [\"spent\"]", "inputs = [\"total\"]");
            let text = FILE.replacen(from, &to, 1);
            let text = match from.contains("spent") {
                true => text.replace("inputs = [\"spent\"]", "inputs = [\"total\"]"),
                false => text,
            };
            let pipeline = Pipeline::parse("cards.toml", &text).expect("a pipeline");
            assert_eq!(pipeline.state().expect("state").fingerprint(), same, "{to}");
        }
    }
}
