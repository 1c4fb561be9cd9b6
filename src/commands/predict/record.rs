//! A record from the command line: JSON, or field=value pairs, as gRPC carries it.

use prost_types::{ListValue, Struct, Value, value::Kind};
use quadrille_pipeline::{
    number_word,
    quote::{list, nearest, quote},
};
use quadrille_service::Error;

/// Beyond it not every whole number is a double.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;
/// Levels of lists and objects a record may have; serde_json itself stops at 128.
const LEVELS_MAX: usize = 100;

/// A record, and what of it may not be what was meant: said only if the service refuses the field.
#[derive(Debug, Default)]
pub struct Given {
    pub record: Struct,
    doubts: Vec<Doubt>,
}

/// A field whose value was sent in another way than a person may think.
#[derive(Debug, PartialEq)]
struct Doubt {
    field: String,
    hint: String,
}

impl From<Struct> for Given {
    fn from(record: Struct) -> Self {
        Given {
            record,
            doubts: Vec::new(),
        }
    }
}

impl Given {
    /// What to write otherwise, if it is a doubtful field that was refused.
    pub fn hint(&self, refusal: &str) -> Option<&str> {
        let named = |doubt: &&Doubt| refusal.starts_with(&format!("field {:?}: ", doubt.field));
        let doubt = self.doubts.iter().find(named);
        doubt.map(|doubt| doubt.hint.as_str())
    }

    /// What is said of names that are nearly those of fields which are not there. They may be right: id, key and time are not among
    /// these fields, and a vector's name stands for many.
    pub fn misspelt(&self, fields: &[String]) -> Vec<String> {
        let given = &self.record.fields;
        let absent = fields.iter().filter(|field| !given.contains_key(*field));
        let absent = absent.map(String::as_str);
        let of_vector = |name: &str| {
            let (vector, element) = match name.rsplit_once('_') {
                Some((vector, at)) => (vector, format!("{vector}[{at}]")),
                None => (name, String::new()),
            };
            let begins = |field: &String| {
                field
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('['))
                    || *field == element && !vector.is_empty()
            };
            fields.iter().any(begins)
        };
        let strangers = given
            .keys()
            .filter(|name| !fields.contains(name) && !of_vector(name));
        let notes = strangers.filter_map(|name| {
            let meant = nearest(name, absent.clone())?;
            Some(format!(
                "is {} misspelt? The record has no {}; the fields are {}",
                quote(name),
                quote(meant),
                list(fields.iter().map(String::as_str))
            ))
        });
        notes.collect()
    }
}

/// A record from one JSON object.
///
/// # Errors
/// It is not JSON, or not an object.
pub fn from_json(text: &str) -> Result<Struct, Error> {
    let wrong = |reason: String| Error::Config(format!("the record {reason}"));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = serde_json::from_str(text).map_err(|error| {
        match number_word(text, error.line(), error.column()) {
            // As the services say it of a record that they are sent as JSON.
            Some(word) => Error::Config(format!(
                "{}{word} is not JSON (line {}, column {}); send null if it was not measured, or leave the field out",
                field_of(text, word, &error),
                error.line(),
                error.column()
            )),
            None => wrong(format!("is not one JSON object: {error}")),
        }
    })?;
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

/// `field "x": ` of the name that the word stands behind, if it is a field's value.
fn field_of(text: &str, word: &str, error: &serde_json::Error) -> String {
    let lines = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    let place = lines.map(str::len).sum::<usize>() + error.column() + word.len();
    let before = &text[..text.floor_char_boundary(place)];
    let before = before.rfind(word).map_or("", |at| before[..at].trim_end());
    let name = before.strip_suffix(':').map(str::trim_end);
    let name = name.and_then(|name| name.strip_suffix('"')?.rsplit_once('"'));
    name.map_or(String::new(), |(_, name)| format!("field {name:?}: "))
}

/// A record from `field=value` pairs. A value that is a JSON number, true, false, null or a text in double quotes is that, and so is
/// `.5`; nothing at all is null, as an empty cell of a CSV file is; any other is a text.
///
/// # Errors
/// A pair without `=` or name, or a field that is there twice.
pub fn from_pairs(pairs: &[String]) -> Result<Given, Error> {
    let mut given = Given::default();
    for pair in pairs {
        let (name, text) = pair
            .split_once('=')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| {
                Error::Config(format!("{pair:?} is not field=value, as in amount=12.5"))
            })?;
        let name = name.trim();
        let kind = scalar(text);
        if let Some(hint) = doubt(name, text.trim(), &kind) {
            given.doubts.push(Doubt {
                field: name.to_owned(),
                hint,
            });
        }
        let value = Value { kind: Some(kind) };
        if given.record.fields.insert(name.to_owned(), value).is_some() {
            return Err(Error::Config(format!(
                "field {name:?} is there twice; give it once"
            )));
        }
    }
    Ok(given)
}

fn scalar(text: &str) -> Kind {
    let as_text = || Kind::StringValue(text.to_owned());
    match serde_json::from_str(text) {
        _ if text.trim().is_empty() => Kind::NullValue(0),
        Ok(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => as_text(),
        Err(_) => fraction(text).map_or_else(as_text, Kind::NumberValue),
        Ok(json) => value(json, 0)
            .and_then(|value| value.kind)
            .unwrap_or_else(as_text),
    }
}

/// `.5` and `-.5`, which people write and JSON does not have. `007`, `+49…` and `1.` stay texts: they may be codes.
fn fraction(text: &str) -> Option<f64> {
    let decimals = text.strip_prefix('-').unwrap_or(text).strip_prefix('.')?;
    match decimals.starts_with(|first: char| first.is_ascii_digit()) {
        true => text.parse().ok().filter(|number: &f64| number.is_finite()),
        false => None,
    }
}

/// What a person may have meant by a value that a field does not take: the command does not know what type the field has.
fn doubt(name: &str, text: &str, kind: &Kind) -> Option<String> {
    let write = |value: &str| format!("{text:?} was sent as a text; write '{name}={value}'");
    match kind {
        Kind::StringValue(_) if text.starts_with('"') => None,
        Kind::StringValue(_) if text.eq_ignore_ascii_case("true") => Some(write("true")),
        Kind::StringValue(_) if text.eq_ignore_ascii_case("false") => Some(write("false")),
        Kind::StringValue(_) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(write(&number.to_string())),
            _ => None,
        },
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() > WHOLE_MAX => {
            Some(format!(
                "{text} was sent as a number, and is too large to be exact; as a text it is '{name}=\"{text}\"'"
            ))
        }
        _ => None,
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

    fn given(pairs: &[&str]) -> Result<Given, Error> {
        let pairs: Vec<String> = pairs.iter().map(|it| (*it).to_owned()).collect();
        from_pairs(&pairs)
    }

    fn pairs(given_as: &[&str]) -> Result<Struct, Error> {
        given(given_as).map(|given| given.record)
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
            "blank=\"\"",
            "infinite=inf",
            "3DS?=1",
            "größe in cm =1e3",
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
        assert_eq!(kind(&record, "infinite"), text("inf"));
        assert_eq!(kind(&record, "3DS?"), Kind::NumberValue(1.0));
        assert_eq!(kind(&record, "größe in cm"), Kind::NumberValue(1000.0));
        // As an empty cell of a CSV file; an empty text is in quotes.
        assert_eq!(kind(&record, "empty"), Kind::NullValue(0));
        assert_eq!(kind(&record, "blank"), text(""));
    }

    #[test]
    fn a_refused_value_that_was_sent_as_a_text_is_told_as_what_it_may_be_meant() {
        let given = given(&[
            "code=007",
            "online=True",
            "quoted=\"50\"",
            "sex=f",
            "age=50",
            "card=9007199254740993",
        ])
        .unwrap();
        let hint = |field: &str| given.hint(&format!("field {field:?}: is what it is"));
        assert_eq!(
            hint("code"),
            Some(r#""007" was sent as a text; write 'code=7'"#)
        );
        assert_eq!(
            hint("online"),
            Some(r#""True" was sent as a text; write 'online=true'"#)
        );
        assert_eq!(
            hint("card"),
            Some(
                r#"9007199254740993 was sent as a number, and is too large to be exact; as a text it is 'card="9007199254740993"'"#
            )
        );
        for plain in ["quoted", "sex", "age", "cod"] {
            assert_eq!(hint(plain), None, "{plain}");
        }
    }

    #[test]
    fn a_vector_and_its_elements_are_not_taken_for_misspelt_names() {
        let fields = ["pixels[0]", "pixels[1]", "label"].map(str::to_owned);
        for text in ["pixels_0=1", "pixels=1", "pixels[1]=2"] {
            let given = from_pairs(&[text.to_owned()]).unwrap();
            assert_eq!(given.misspelt(&fields), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_field_that_is_nearly_one_that_is_absent_is_named_with_it() {
        let fields = ["glucose", "age", "3DS?"].map(str::to_owned);
        let notes = |pairs: &[&str]| given(pairs).unwrap().misspelt(&fields);
        assert_eq!(
            notes(&["glucse=148", "age=50"]),
            [
                r#"is "glucse" misspelt? The record has no "glucose"; the fields are "glucose", "age", "3DS?""#
            ]
        );
        assert_eq!(notes(&["3ds=true"]).len(), 1);
        // What is there twice, or is like none, may be kept on purpose.
        for fine in [
            &["glucse=1", "glucose=2"][..],
            &["patient_id=p"],
            &["age=5"],
        ] {
            assert!(notes(fine).is_empty(), "{fine:?}");
        }
    }

    #[test]
    fn a_number_that_json_does_not_have_is_named_with_its_field() {
        for (json, said) in [
            ("{\"x\": NaN}", "field \"x\": NaN is not JSON (line 1, "),
            (
                "{\"NaN\": 1,\n \"größe in cm\" :\n -Infinity, \"y\": 1}",
                "field \"größe in cm\": -Infinity is not JSON (line 3, ",
            ),
            ("{\"x\": [1, nan]}", "nan is not JSON (line 1, "),
        ] {
            let error = from_json(json).unwrap_err().to_string();
            assert!(
                error.starts_with(said) && error.contains("send null"),
                "{json}: {error}"
            );
        }
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
