//! A record from the command line: JSON, or field=value pairs, as gRPC carries it.

use prost_types::{ListValue, Struct, Value, value::Kind};
use quadrille_service::Error;

/// Levels of lists and objects a record may have; serde_json itself stops at 128.
const LEVELS_MAX: usize = 100;

/// A record from one JSON object.
///
/// # Errors
/// It is not JSON, or not an object.
pub fn from_json(text: &str) -> Result<Struct, Error> {
    let wrong = |reason: String| Error::Config(format!("the record {reason}"));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = serde_json::from_str(text)
        .map_err(|error| wrong(format!("is not one JSON object: {error}")))?;
    match value(json, LEVELS_MAX) {
        Some(Value {
            kind: Some(Kind::StructValue(record)),
        }) => Ok(record),
        Some(_) => Err(wrong(
            "is JSON but not an object; write {\"field\": value}".to_owned(),
        )),
        None => Err(wrong(format!(
            "is nested more than {LEVELS_MAX} levels deep"
        ))),
    }
}

/// A record from `field=value` pairs: a value that is a JSON number, true, false, null or a text in
/// double quotes is that, and so is `.5`; any other is a text.
///
/// # Errors
/// A pair without `=` or name, or a field that is there twice.
pub fn from_pairs(pairs: &[String]) -> Result<Struct, Error> {
    let mut record = Struct::default();
    for pair in pairs {
        let (name, text) = pair
            .split_once('=')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| {
                Error::Config(format!("{pair:?} is not field=value, as in amount=12.5"))
            })?;
        let name = name.trim();
        if record
            .fields
            .insert(name.to_owned(), scalar(text))
            .is_some()
        {
            return Err(Error::Config(format!(
                "field {name:?} is there twice; give it once"
            )));
        }
    }
    Ok(record)
}

fn scalar(text: &str) -> Value {
    let as_text = || Kind::StringValue(text.to_owned());
    let kind = match serde_json::from_str(text) {
        Ok(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => as_text(),
        Err(_) => fraction(text).map_or_else(as_text, Kind::NumberValue),
        Ok(json) => value(json, 0)
            .and_then(|value| value.kind)
            .unwrap_or_else(as_text),
    };
    Value { kind: Some(kind) }
}

/// `.5` and `-.5`, which people write and JSON does not have. `007`, `+49…` and `1.` stay texts: they may be codes.
fn fraction(text: &str) -> Option<f64> {
    let decimals = text.strip_prefix('-').unwrap_or(text).strip_prefix('.')?;
    match decimals.starts_with(|first: char| first.is_ascii_digit()) {
        true => text.parse().ok().filter(|number: &f64| number.is_finite()),
        false => None,
    }
}

/// None where it is nested deeper than `levels`.
fn value(json: serde_json::Value, levels: usize) -> Option<Value> {
    use serde_json::Value as Json;
    let inner = levels.checked_sub(1);
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => match number.as_f64() {
            Some(number) => Kind::NumberValue(number),
            None => Kind::StringValue(number.to_string()),
        },
        Json::String(text) => Kind::StringValue(text),
        Json::Array(list) => {
            let inner = inner?;
            let values: Option<Vec<Value>> = list.into_iter().map(|it| value(it, inner)).collect();
            Kind::ListValue(ListValue { values: values? })
        }
        Json::Object(map) => {
            let inner = inner?;
            let mut fields = Struct::default();
            for (name, it) in map {
                fields.fields.insert(name, value(it, inner)?);
            }
            Kind::StructValue(fields)
        }
    };
    Some(Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[&str]) -> Result<Struct, Error> {
        let pairs: Vec<String> = pairs.iter().map(|it| (*it).to_owned()).collect();
        from_pairs(&pairs)
    }

    fn kind(record: &Struct, field: &str) -> Kind {
        record.fields[field].kind.clone().unwrap()
    }

    #[test]
    fn a_value_is_a_number_where_it_is_one_and_else_a_text() {
        let record = pairs(&[
            "age=50",
            "mass=33.6",
            "risk=.5",
            "change=-.25e1",
            "file=.5a",
            "phone=+49",
            "sex=f",
            "code=007",
            "smoker=true",
            "note=a=b",
            "quoted=\"50\"",
            "unknown=null",
            "empty=",
        ])
        .unwrap();
        let text = |it: &str| Kind::StringValue(it.into());
        assert_eq!(kind(&record, "age"), Kind::NumberValue(50.0));
        assert_eq!(kind(&record, "mass"), Kind::NumberValue(33.6));
        assert_eq!(kind(&record, "risk"), Kind::NumberValue(0.5));
        assert_eq!(kind(&record, "change"), Kind::NumberValue(-2.5));
        assert_eq!(kind(&record, "file"), text(".5a"));
        assert_eq!(kind(&record, "phone"), text("+49"));
        assert_eq!(kind(&record, "sex"), text("f"));
        assert_eq!(kind(&record, "code"), text("007"));
        assert_eq!(kind(&record, "smoker"), Kind::BoolValue(true));
        assert_eq!(kind(&record, "note"), text("a=b"));
        assert_eq!(kind(&record, "quoted"), text("50"));
        assert_eq!(kind(&record, "unknown"), Kind::NullValue(0));
        assert_eq!(kind(&record, "empty"), text(""));
    }

    #[test]
    fn a_pair_without_a_sign_or_a_name_and_a_field_given_twice_are_wrong_usage() {
        for wrong in [&["age"][..], &["=1"], &["age=1", "age=2"]] {
            assert!(matches!(pairs(wrong), Err(Error::Config(_))), "{wrong:?}");
        }
    }

    #[test]
    fn json_is_carried_whole() {
        let record = from_json(r#"{"a": 1, "b": [true, null, "x"], "c": {"d": 2.5}}"#).unwrap();
        assert_eq!(kind(&record, "a"), Kind::NumberValue(1.0));
        assert!(matches!(kind(&record, "b"), Kind::ListValue(list) if list.values.len() == 3));
        assert!(matches!(kind(&record, "c"), Kind::StructValue(_)));
    }

    #[test]
    fn json_that_is_no_object_is_wrong_usage() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(110), "]".repeat(110));
        for wrong in ["", "[1]", "7", "{\"a\": }", "{} {}", &deep] {
            assert!(matches!(from_json(wrong), Err(Error::Config(_))), "{wrong}");
        }
    }
}
