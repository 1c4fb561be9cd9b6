//! What a pipeline's file means, for people: fields and what their absence means, features and what they are made of.

use crate::example;
use crate::pipeline::Pipeline;
use crate::spec::{
    Current, FeatureKind, FeatureSpec, FieldKind, FieldSpec, FilterSpec, Function, Late, LookBack,
    Range, UnknownFields, Wanted, Window,
};
use crate::time::duration_text;

/// A field of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMeaning {
    pub name: String,
    /// As the file has it: `number`, `integer`, ….
    pub kind: &'static str,
    /// The values it may have; empty where the type says it all.
    pub values: String,
    /// Values that mean "not measured".
    pub markers: Vec<String>,
    /// Whether a record must have it.
    pub required: bool,
    /// Whether null, or an empty cell, means "not measured"; where it does not, it is refused.
    pub null_is_missing: bool,
}

/// What is kept of a key's records, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateMeaning {
    /// How long an older record is waited for, as the file writes it.
    pub lateness: String,
    pub late: Late,
    /// Without newer records for so long, a key is forgotten.
    pub forget_after: Option<String>,
    /// Records kept of a key at most.
    pub events_max: u32,
    /// The records that have a vector; all where it is None.
    pub emit: Option<String>,
    /// The records that begin a key anew.
    pub reset: Option<String>,
}

/// A feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMeaning {
    pub name: String,
    /// As the file has it: `pass`, `missing`, ….
    pub kind: &'static str,
    /// The field it is computed from, and with what.
    pub of: String,
    /// The names that a model reads it by: several for categories and vectors.
    pub outputs: Vec<String>,
}

impl Pipeline {
    /// The record's fields, in the file's order.
    pub fn field_meanings(&self) -> Vec<FieldMeaning> {
        let fields = self.record_spec().fields.iter();
        fields.map(field).collect()
    }

    /// The features, in the file's order.
    pub fn feature_meanings(&self) -> Vec<FeatureMeaning> {
        let features = self.feature_specs().iter();
        features.map(|it| feature(it, self)).collect()
    }

    /// What is kept of a key's records; None where no feature looks back.
    pub fn state_meaning(&self) -> Option<StateMeaning> {
        let state = self.state_spec()?;
        Some(StateMeaning {
            lateness: duration_text(state.lateness_ms),
            late: state.late,
            forget_after: state.forget_after_ms.map(duration_text),
            events_max: state.events_max,
            emit: state.emit.as_ref().map(filter),
            reset: state.reset.as_ref().map(filter),
        })
    }

    /// Whether fields travel along that the file does not name; else such a record is refused.
    pub fn keeps_unknown_fields(&self) -> bool {
        self.record_spec().unknown_fields == UnknownFields::Keep
    }

    /// How far ahead of the clock an event time may be, and how old, as the file writes it.
    pub fn event_time_limits(&self) -> (String, String) {
        let spec = self.record_spec();
        (
            duration_text(spec.future_ms_max),
            duration_text(spec.past_ms_max),
        )
    }

    /// A record with every field, as JSON, its values made up; vectors of more than a few values are cut.
    pub fn example_record(&self) -> String {
        let fields = &self.record_spec().fields;
        example::json(self.record_spec(), fields.iter())
    }
}

fn field(spec: &FieldSpec) -> FieldMeaning {
    let (kind, values, markers) = match &spec.kind {
        FieldKind::Number(range) => ("number", limits(range), numbers(&range.missing)),
        FieldKind::Integer(range) => ("integer", limits(range), numbers(&range.missing)),
        FieldKind::Boolean => ("boolean", "true, false, 1 or 0".to_owned(), Vec::new()),
        FieldKind::Category {
            categories,
            missing,
        } => ("category", categories.join(", "), missing.clone()),
        FieldKind::Vector { length, range } => {
            let values = format!("{length} numbers {}", limits(range));
            (
                "vector",
                values.trim_end().to_owned(),
                numbers(&range.missing),
            )
        }
    };
    FieldMeaning {
        name: spec.name.clone(),
        kind,
        values,
        markers,
        required: spec.required,
        null_is_missing: spec.may_be_null(),
    }
}

fn limits(range: &Range) -> String {
    match (range.min, range.max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("from {min}"),
        (None, Some(max)) => format!("to {max}"),
        (None, None) => String::new(),
    }
}

fn numbers(values: &[f64]) -> Vec<String> {
    values.iter().map(f64::to_string).collect()
}

fn feature(spec: &FeatureSpec, pipeline: &Pipeline) -> FeatureMeaning {
    let (kind, of) = match &spec.kind {
        FeatureKind::Pass { field } => ("pass", field.clone()),
        FeatureKind::Missing { field } => ("missing", field.clone()),
        FeatureKind::OneHot { field } => ("one_hot", field.clone()),
        FeatureKind::Bucket { field, edges } => (
            "bucket",
            format!("{field}, edges {}", numbers(edges).join(", ")),
        ),
        FeatureKind::Clip { field, min, max } => {
            let range = Range {
                min: *min,
                max: *max,
                missing: Vec::new(),
            };
            ("clip", format!("{field}, {}", limits(&range)))
        }
        FeatureKind::Log { field } => ("log", field.clone()),
        FeatureKind::Difference { field, minus } => ("difference", format!("{field} - {minus}")),
        FeatureKind::Ratio { field, over } => ("ratio", format!("{field} / {over}")),
        FeatureKind::LookBack(it) => (it.function.name(), look_back(it)),
    };
    FeatureMeaning {
        name: spec.name.clone(),
        kind,
        of,
        outputs: crate::feature::output_names(spec, pipeline.record_spec()),
    }
}

/// `amount, of the records up to 7d old, where kind is purchase`.
fn look_back(it: &LookBack) -> String {
    let mut parts: Vec<String> = it.field.clone().into_iter().collect();
    parts.extend(match it.function {
        Function::Rate { per_ms } => Some(format!("per {}", duration_text(per_ms))),
        Function::Ewma { half_life_ms } => {
            Some(format!("half-life {}", duration_text(half_life_ms)))
        }
        Function::Lag { n } => Some(format!("{n} before the newest")),
        _ => None,
    });
    parts.push(match it.window {
        Window::Newest { newest: 1 } => "newest record".to_owned(),
        Window::Newest { newest } => format!("newest {newest} records"),
        Window::Time { from_ms: 0, to_ms } => format!("last {}", duration_text(to_ms)),
        Window::Time { from_ms, to_ms } => {
            format!("{} to {} ago", duration_text(from_ms), duration_text(to_ms))
        }
        Window::All {} => "all history".to_owned(),
    });
    if it.current == Current::Excluded {
        parts.push("without the record itself".to_owned());
    }
    parts.extend(it.filter.as_ref().map(|it| format!("where {}", filter(it))));
    parts.join(", ")
}

/// `kind is purchase or refund`.
fn filter(it: &FilterSpec) -> String {
    let value = |wanted: &Wanted| match wanted {
        Wanted::Truth(truth) => truth.to_string(),
        Wanted::Category(category) => category.clone(),
    };
    let values: Vec<String> = it.is.iter().map(value).collect();
    format!("{} is {}", it.field, values.join(" or "))
}
