//! Examples for messages, of the pipeline at hand: its own fields, with values that they may have.

use serde_json::{Value, json};

use crate::spec::{FieldKind, FieldSpec, Range, RecordSpec};

/// Fields of a record that a message shows beside its key.
const FIELDS_SHOWN_MAX: usize = 3;
/// Values of a vector that an example shows.
const ELEMENTS_SHOWN_MAX: usize = 3;

/// A value the field may have, and not one that means "not measured".
pub(crate) fn value(field: &FieldSpec) -> Value {
    match &field.kind {
        FieldKind::Number(range) => number(between(range, false)),
        FieldKind::Integer(range) => number(between(range, true)),
        FieldKind::Boolean => json!(true),
        FieldKind::Category { categories, .. } => json!(categories.first()),
        FieldKind::Vector { length, range } => {
            let value = number(between(range, false));
            let shown = (*length).min(ELEMENTS_SHOWN_MAX);
            let mut list = vec![value; shown];
            if shown < *length {
                list.push(json!("…"));
            }
            json!(list)
        }
    }
}

/// As a cell of a table or a line of TOML has it.
pub(crate) fn text(field: &FieldSpec) -> String {
    match value(field) {
        Value::String(text) => text,
        Value::Array(list) => list.first().map(Value::to_string).unwrap_or_default(),
        value => value.to_string(),
    }
}

/// Two edges that divide the field's values.
pub(crate) fn edges(field: &FieldSpec) -> String {
    let (FieldKind::Number(range) | FieldKind::Integer(range)) = &field.kind else {
        return "…".to_owned();
    };
    let first = between(range, true);
    let second = match range.max {
        Some(max) if first + 1.0 > max => return number(first).to_string(),
        Some(max) => ((first + max) / 2.0).floor().max(first + 1.0),
        None => 2.0 * first.abs() + 1.0,
    };
    format!("{}, {}", number(first), number(second))
}

/// A record, cut after a few fields: one line of JSON.
pub(crate) fn record(spec: &RecordSpec) -> String {
    let required = spec.fields.iter().filter(|field| field.required);
    let more = required.clone().count() > FIELDS_SHOWN_MAX;
    let mut text = json(spec, required.take(FIELDS_SHOWN_MAX));
    if more {
        text.truncate(text.len() - 1);
        text += ", …}";
    }
    text
}

/// The key and some fields as an object.
pub(crate) fn json<'a>(spec: &RecordSpec, fields: impl Iterator<Item = &'a FieldSpec>) -> String {
    let key = (spec.key.as_str(), json!(key(spec)));
    let fields = fields.map(|field| (field.name.as_str(), value(field)));
    let pairs = std::iter::once(key).chain(fields);
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{}: {value}", Value::from(name)))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

/// An entity, called after the field that names it.
pub(crate) fn key(spec: &RecordSpec) -> String {
    let letter = spec.key.chars().next().unwrap_or('k');
    format!("{}-1", letter.to_lowercase())
}

/// A quarter of the way up, as things in nature are, with a digit after the point where that is to be seen.
fn between(range: &Range, whole: bool) -> f64 {
    let wanted = match (range.min, range.max) {
        (Some(min), Some(max)) => min + (max - min) / 4.0,
        (Some(min), None) => min + 1.5,
        (None, Some(max)) => max - 1.5,
        (None, None) => 1.5,
    };
    let rounded = match whole {
        true => wanted.round(),
        false => (wanted * 10.0).round() / 10.0,
    };
    let fits = |value: &f64| {
        range.min.is_none_or(|min| *value >= min)
            && range.max.is_none_or(|max| *value <= max)
            && !range.missing.contains(value)
    };
    let mut candidates = [rounded, wanted, rounded + 1.0, rounded - 1.0].into_iter();
    let whole_enough = |value: &f64| !whole || value.fract() == 0.0;
    candidates
        .find(|value| whole_enough(value) && fits(value))
        .or(range.max)
        .unwrap_or(rounded)
}

/// Without a point where it is whole.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: FieldKind) -> FieldSpec {
        FieldSpec {
            name: name.into(),
            kind,
            required: true,
        }
    }

    fn range(min: Option<f64>, max: Option<f64>, missing: &[f64]) -> Range {
        Range {
            min,
            max,
            missing: missing.to_vec(),
        }
    }

    #[test]
    fn an_example_is_a_value_that_the_field_takes() {
        let ranges = [
            range(None, None, &[]),
            range(Some(0.0), Some(600.0), &[0.0]),
            range(Some(20.0), Some(50.0), &[27.5]),
            range(Some(0.0), Some(1.0), &[]),
            range(Some(-5.0), None, &[-3.5]),
            range(None, Some(-1e6), &[]),
            range(Some(3.0), Some(3.0), &[]),
        ];
        for range in ranges {
            for kind in [FieldKind::Number(range.clone()), FieldKind::Integer(range)] {
                let field = field("x", kind);
                let shown = value(&field).as_f64().unwrap();
                let read = field.read(crate::value::Value::Number(shown)).unwrap();
                assert_eq!(read, shown, "{field:?}");
            }
        }
    }

    #[test]
    fn a_record_is_shown_with_its_own_names() {
        let spec = |fields| RecordSpec {
            id: None,
            key: "Card".into(),
            event_time: None,
            unknown_fields: crate::spec::UnknownFields::Keep,
            future_ms_max: 0,
            past_ms_max: 0,
            fields,
        };
        let amount = field("amount", FieldKind::Number(range(Some(0.0), None, &[])));
        let online = field("online", FieldKind::Boolean);
        let shown = record(&spec(vec![amount.clone(), online.clone()]));
        assert_eq!(shown, r#"{"Card": "c-1", "amount": 1.5, "online": true}"#);
        let four = vec![
            amount,
            online.clone(),
            field("b", FieldKind::Boolean),
            online,
        ];
        assert!(record(&spec(four)).ends_with(", …}"));
    }
}
