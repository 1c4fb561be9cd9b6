//! A JSON object streamed straight into a record's positions.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::invalid::{Invalid, InvalidKind};
use crate::record::{Draft, Found, NeedKey, check_unknown_name, duplicate};
use crate::spec::FieldSpec;
use crate::value::{Scalar, Value};

/// Reads one JSON object.
pub(crate) fn read(bytes: &[u8], mut draft: Draft<'_>) -> Result<(), Invalid> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let reason = format!("byte {} is not UTF-8", error.valid_up_to());
        Invalid::new(
            InvalidKind::NotUtf8,
            "",
            reason,
            "send JSON encoded as UTF-8",
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut state = State {
        draft: &mut draft,
        failure: None,
        at: At::Object,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    if let Err(error) = json.deserialize_any(Object(&mut state)) {
        return Err(match state.failure.take() {
            Some(invalid) => invalid,
            None => explain(text, &error, &state),
        });
    }
    json.end().map_err(|error| {
        let reason = format!("something follows the object (column {})", error.column());
        Invalid::new(
            InvalidKind::TrailingBytes,
            "",
            reason,
            "send one JSON object a message",
        )
    })?;
    draft.finish(NeedKey::Required)
}

/// A record being read, and why it stopped: serde's own errors cannot carry ours.
struct State<'s, 'd> {
    draft: &'s mut Draft<'d>,
    failure: Option<Invalid>,
    /// Whose value could not be read as JSON.
    at: At,
}

/// What is being read.
enum At {
    Object,
    Slot(usize),
    Unknown(String),
}

impl State<'_, '_> {
    fn name(&self) -> &str {
        match &self.at {
            At::Object => "",
            At::Slot(slot) => self.draft.name(*slot),
            At::Unknown(name) => name,
        }
    }

    fn field(&self) -> Option<&FieldSpec> {
        match self.at {
            At::Slot(slot) => self.draft.field(slot),
            At::Object | At::Unknown(_) => None,
        }
    }

    fn fail<E: serde::de::Error>(&mut self, invalid: Invalid) -> E {
        self.failure = Some(invalid);
        E::custom("refused")
    }
}

#[cold]
fn explain(text: &str, error: &serde_json::Error, state: &State<'_, '_>) -> Invalid {
    let message = crate::quote::cut(&error.to_string());
    let fix = format!("send one JSON object, as in {}", state.draft.example());
    if text.trim_ascii().is_empty() {
        return Invalid::new(InvalidKind::Empty, "", "the record is empty", fix);
    }
    let place = format!("line {}, column {}", error.line(), error.column());
    if message.starts_with("number out of range") {
        let reason = format!("a number is too large ({place})");
        let fix = "send a finite number";
        return Invalid::new(InvalidKind::OutOfRange, state.name(), reason, fix);
    }
    if let Some(word) = number_word(text, error.line(), error.column()) {
        let reason = format!("{word} is not JSON ({place})");
        let fix = match state.field() {
            Some(field) => field.instead_of_nan(),
            None => "send null".to_owned(),
        };
        return Invalid::new(InvalidKind::NotJson, state.name(), reason, fix);
    }
    match error.classify() {
        Category::Data => {
            Invalid::new(InvalidKind::NotObject, "", "is JSON but not an object", fix)
        }
        _ => Invalid::new(
            InvalidKind::NotJson,
            "",
            format!("is not JSON: {message}"),
            fix,
        ),
    }
}

/// What programs write for a number that is none (`NaN`, `-Infinity`), where that is what a JSON parser stumbled over at this place.
/// It counts lines and bytes from 1, and stands at the first or second byte of the word.
pub fn number_word(text: &str, line: usize, column: usize) -> Option<&str> {
    const WORDS: [&str; 4] = ["nan", "infinity", "inf", "undefined"];
    let line = text.split('\n').nth(line.checked_sub(1)?)?;
    let at = line.floor_char_boundary(column.saturating_sub(1));
    let of_word = |c: char| c.is_ascii_alphabetic() || c == '-' || c == '+';
    let start = line[..at].trim_end_matches(of_word).len();
    let rest = &line[start..];
    let rest = &rest[rest
        .find(of_word)
        .filter(|skipped| start + skipped <= at + 1)?..];
    let word = &rest[..rest.find(|c| !of_word(c)).unwrap_or(rest.len())];
    let bare = word.trim_start_matches(['-', '+']).to_ascii_lowercase();
    WORDS.contains(&bare.as_str()).then_some(word)
}

/// The object itself.
struct Object<'s, 'o, 'd>(&'o mut State<'s, 'd>);

impl<'de> Visitor<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.0;
        let mut unknown: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(key) = map.next_key_seed(KeyOf(state))? {
            match key {
                Key::Slot(slot) => {
                    let read = map.next_value_seed(Slot { state, slot });
                    if let Err(error) = read {
                        state.at = At::Slot(slot);
                        return Err(error);
                    }
                }
                Key::Label => {
                    map.next_value::<IgnoredAny>()?;
                }
                Key::Unknown(name) => {
                    if let Err(invalid) = check_unknown_name(&name) {
                        return Err(state.fail(invalid));
                    }
                    if unknown.contains(&name) {
                        return Err(state.fail(duplicate(&name)));
                    }
                    let value: &RawValue = match map.next_value() {
                        Ok(value) => value,
                        Err(error) => {
                            state.at = At::Unknown(name.into_owned());
                            return Err(error);
                        }
                    };
                    if let Err(invalid) = keep(&mut state.draft.reading.extra, &name, value.get()) {
                        return Err(state.fail(invalid));
                    }
                    unknown.insert(name);
                }
            }
        }
        close(&mut state.draft.reading.extra);
        Ok(())
    }
}

/// Appends a field to an object of kept fields, its value as it was written.
///
/// # Errors
/// The value is JSON that no parser can hold: a number too large, nested too deep, half a
/// surrogate pair. Whoever reads the kept fields would stumble over it.
fn keep(extra: &mut Vec<u8>, name: &str, json: &str) -> Result<(), Invalid> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let walked = Walk { levels: LEVELS_MAX }.deserialize(&mut parser);
    if let Err(error) = walked.and_then(|()| parser.end()) {
        let reason = format!("cannot be kept: {}", crate::quote::cut(&error.to_string()));
        let fix = "send plain JSON: finite numbers, whole characters, at most 100 levels";
        return Err(Invalid::new(InvalidKind::NotJson, name, reason, fix));
    }
    extra.push(if extra.is_empty() { b'{' } else { b',' });
    // Text always serialises, and a vector takes all that is written to it.
    let _ = serde_json::to_writer(&mut *extra, name);
    extra.push(b':');
    extra.extend_from_slice(json.as_bytes());
    Ok(())
}

/// Keeps a field from outside JSON.
pub(crate) fn keep_scalar(
    extra: &mut Vec<u8>,
    name: &str,
    value: Scalar<'_>,
) -> Result<(), Invalid> {
    check_scalar(name, value)?;
    let json = match value {
        Scalar::Null => Cow::Borrowed("null"),
        Scalar::Bool(truth) => Cow::Borrowed(if truth { "true" } else { "false" }),
        Scalar::Number(number) => Cow::Owned(serde_json::Value::from(number).to_string()),
        Scalar::Text(text) => Cow::Owned(serde_json::Value::from(text).to_string()),
        Scalar::Json(json) => Cow::Borrowed(json),
    };
    keep(extra, name, &json)
}

/// Refuses a number that JSON does not have.
pub(crate) fn check_scalar(name: &str, value: Scalar<'_>) -> Result<(), Invalid> {
    match value {
        Scalar::Number(number) if !number.is_finite() => {
            let reason = "is not a finite number, and JSON has no other";
            let fix = "send a finite number, or null";
            Err(Invalid::new(InvalidKind::OutOfRange, name, reason, fix))
        }
        _ => Ok(()),
    }
}

/// Ends an object of kept fields, if there are any.
pub(crate) fn close(extra: &mut Vec<u8>) {
    if !extra.is_empty() {
        extra.push(b'}');
    }
}

/// A key of the object.
enum Key<'de> {
    Slot(usize),
    Label,
    Unknown(Cow<'de, str>),
}

/// Reads a key.
struct KeyOf<'s, 'o, 'd>(&'o mut State<'s, 'd>);

impl KeyOf<'_, '_, '_> {
    fn find<'de, E: serde::de::Error>(self, name: Cow<'de, str>) -> Result<Key<'de>, E> {
        match self.0.draft.find(&name) {
            Ok(Found::Slot(slot)) => Ok(Key::Slot(slot)),
            Ok(Found::Label) => Ok(Key::Label),
            Ok(Found::Unknown) => Ok(Key::Unknown(name)),
            Err(invalid) => Err(self.0.fail(invalid)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for KeyOf<'_, '_, '_> {
    type Value = Key<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyOf<'_, '_, '_> {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<Key<'de>, E> {
        self.find(Cow::Borrowed(name))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key<'de>, E> {
        self.find(Cow::Owned(name.to_owned())) // it had an escape: rare
    }
}

/// The value of a field the pipeline names.
struct Slot<'s, 'o, 'd> {
    state: &'o mut State<'s, 'd>,
    slot: usize,
}

impl Slot<'_, '_, '_> {
    fn put<E: serde::de::Error>(self, value: Value<'_>) -> Result<(), E> {
        match self.state.draft.put(self.slot, value) {
            Ok(()) => Ok(()),
            Err(invalid) => Err(self.state.fail(invalid)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<(), E> {
        self.put(Value::Bool(truth))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.put(Value::Signed(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        self.put(Value::Unsigned(number))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        self.put(Value::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.put(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        if !self.state.draft.is_vector(self.slot) {
            return self.put(Value::List);
        }
        match vector(list, self.state.draft, self.slot)? {
            Ok(()) => Ok(()),
            Err(invalid) => Err(self.state.fail(invalid)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.put(Value::Object)
    }
}

/// Reads a list into a vector's positions; what is wrong with the record is inside, what is wrong with the JSON outside.
fn vector<'de, A: SeqAccess<'de>>(
    mut list: A,
    draft: &mut Draft<'_>,
    slot: usize,
) -> Result<Result<(), Invalid>, A::Error> {
    let mut place = 0;
    while let Some(value) = list.next_element_seed(Element)? {
        if let Err(invalid) = draft.put_element(slot, place, value) {
            return Ok(Err(invalid));
        }
        place += 1;
    }
    Ok(draft.end_vector(slot, place))
}

/// Reads a list from outside JSON into a vector's positions.
pub(crate) fn read_vector(json: &str, draft: &mut Draft<'_>, slot: usize) -> Result<(), Invalid> {
    struct List<'o, 'd>(&'o mut Draft<'d>, usize);
    impl<'de> Visitor<'de> for List<'_, '_> {
        type Value = Result<(), Invalid>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            vector(list, self.0, self.1)
        }
    }
    let mut parser = serde_json::Deserializer::from_str(json);
    match parser.deserialize_seq(List(draft, slot)) {
        Ok(read) => read,
        Err(_) => draft.put(slot, Value::Object),
    }
}

/// One value of a list: a number or null, or something else that a vector will refuse.
struct Element;

impl<'de> DeserializeSeed<'de> for Element {
    type Value = Value<'static>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element {
    type Value = Value<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Value::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Value::Text("…"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let inner = Walk { levels: LEVELS_MAX };
        while list.next_element_seed(inner)?.is_some() {}
        Ok(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let inner = Walk { levels: LEVELS_MAX };
        while map.next_entry_seed(inner, inner)?.is_some() {}
        Ok(Value::Object)
    }
}

/// Reads JSON to the last number and character, and forgets it.
#[derive(Clone, Copy)]
struct Walk {
    levels: usize,
}

/// Levels of lists and objects a kept field may have; serde_json itself stops at 128.
const LEVELS_MAX: usize = 100;

impl Walk {
    fn down<E: serde::de::Error>(self) -> Result<Walk, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Walk { levels }),
            None => Err(E::custom(format_args!("more than {LEVELS_MAX} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(()) // a number too large is an error before it gets here
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.down()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.down()?;
        while map.next_entry_seed(inner, inner)?.is_some() {}
        Ok(())
    }
}
