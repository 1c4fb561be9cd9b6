//! A record being read: where each field goes, what was seen, what must still come.
//!
//! JSON, CSV and field lists all end here, so they mean the same.

use std::collections::HashMap;

use crate::example;
use crate::invalid::{Invalid, InvalidKind};
use crate::quote::{list, nearest, quote};
use crate::spec::{FieldKind, FieldSpec, Label, RecordSpec, UnknownFields, element_names};
use crate::time;
use crate::value::Value;

/// Bytes an id or a key may have at most: both are indexed in SQL and travel with every message.
pub const ID_LEN_MAX: usize = 512;

/// Bytes that the name of a field may have which the pipeline does not name: it is copied into each record that has it.
pub(crate) const UNKNOWN_NAME_LEN_MAX: usize = 256;

/// A record that was read and validated.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// At most [`ID_LEN_MAX`] bytes. None if the record has none, or the pipeline names no id field.
    pub id: Option<String>,
    /// The entity's key, at most [`ID_LEN_MAX`] bytes; empty only if it was optional and absent.
    pub key: String,
    /// Milliseconds since the Unix epoch, 0 or more.
    pub event_time_ms: Option<i64>,
    /// In the record schema's order and length. Missing is NaN, booleans are 0 and 1, categories their index from 0; numbers are in
    /// the field's own unit. Never infinite.
    pub values: Vec<f64>,
    /// Fields the pipeline does not name, as a JSON object any parser takes; empty without any.
    pub extra: Vec<u8>,
}

/// Whether a record must name its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedKey {
    Required,
    /// A question about a record needs no entity, and nothing that the pipeline does not name.
    Optional,
}

/// What a field of the outside record is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Id,
    Key,
    EventTime,
    /// A field of the spec, and the first of its positions.
    Field {
        field: usize,
        at: usize,
    },
    /// One value of a vector: `name[3]`, where a table has a column for each.
    Element {
        field: usize,
        at: usize,
    },
}

/// The names a record may have, in the order of the file: id, key, event time, fields.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    slots: Vec<(String, Role)>,
    by_name: HashMap<String, usize>,
    /// Where the names end and those of vectors' single values begin.
    elements: usize,
    /// The column of the truth. A record may have it, as training data do; nothing of it is read.
    label: Option<String>,
}

/// What a name of the outside record is.
pub(crate) enum Found {
    Slot(usize),
    /// Not for the model's eyes: its value is passed over.
    Label,
    /// A field that the pipeline does not name, and keeps.
    Unknown,
}

impl Slots {
    pub(crate) fn new(spec: &RecordSpec, label: Option<&Label>) -> Self {
        let mut slots = Vec::new();
        slots.extend(spec.id.clone().map(|name| (name, Role::Id)));
        slots.push((spec.key.clone(), Role::Key));
        slots.extend(spec.event_time.clone().map(|name| (name, Role::EventTime)));
        let mut at = 0;
        let mut vectors = Vec::new();
        for (field, it) in spec.fields.iter().enumerate() {
            slots.push((it.name.clone(), Role::Field { field, at }));
            if let FieldKind::Vector { length, .. } = &it.kind {
                let names = element_names(&it.name, *length).zip(at..);
                vectors.extend(names.map(|(name, at)| (name, Role::Element { field, at })));
            }
            at += it.width();
        }
        let elements = slots.len();
        slots.extend(vectors);
        let mut by_name = HashMap::new();
        for (slot, (name, _)) in slots.iter().enumerate() {
            by_name.entry(name.clone()).or_insert(slot);
        }
        // Brackets are no good in many tables: `name_3` will do, unless it is another field.
        for (slot, (name, _)) in slots.iter().enumerate().skip(elements) {
            let plain = name.replace('[', "_").replace(']', "");
            by_name.entry(plain).or_insert(slot);
        }
        Slots {
            slots,
            by_name,
            elements,
            label: label.map(|label| label.field.trim().to_owned()),
        }
    }

    pub(crate) fn is_label(&self, name: &str) -> bool {
        self.label.as_deref() == Some(name)
    }

    /// The slots of a vector's single values.
    fn elements_of(&self, field: usize) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate().skip(self.elements);
        let of = move |role: &Role| matches!(role, Role::Element { field: it, .. } if *it == field);
        slots
            .filter(move |(_, (_, role))| of(role))
            .map(|(slot, _)| slot)
    }

    /// Finds a name. Records mostly repeat the file's order: `next` is tried first.
    fn find(&self, name: &str, next: &mut usize) -> Option<usize> {
        let slot = match self.slots.get(*next) {
            Some((expected, _)) if expected == name => *next,
            _ => *self.by_name.get(name)?,
        };
        *next = slot + 1;
        Some(slot)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.slots[..self.elements]
            .iter()
            .map(|(name, _)| name.as_str())
    }

    pub(crate) fn get(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn name(&self, slot: usize) -> &str {
        &self.slots[slot].0
    }

    pub(crate) fn role(&self, slot: usize) -> Role {
        self.slots[slot].1
    }

    pub(crate) fn unknown(&self, name: &str) -> Invalid {
        let meant = match nearest(name, self.names()) {
            Some(meant) => format!("did you mean {}? ", quote(meant)),
            None => "remove it; ".to_owned(),
        };
        let fix = format!(
            "{meant}the fields are {} (or set record.unknown_fields = \"keep\" in the pipeline file)",
            list(self.names())
        );
        Invalid::new(
            InvalidKind::UnknownField,
            name,
            "the pipeline has no such field",
            fix,
        )
    }
}

/// Slots that came already. The first 64 need no memory of their own.
#[derive(Debug, Default)]
struct Seen {
    first: u64,
    more: Vec<u64>,
}

impl Seen {
    fn has(&self, slot: usize) -> bool {
        let word = match slot / 64 {
            0 => self.first,
            word => self.more.get(word - 1).copied().unwrap_or(0),
        };
        word >> (slot % 64) & 1 == 1
    }

    fn add(&mut self, slot: usize) {
        let word = match slot / 64 {
            0 => &mut self.first,
            word => {
                self.more.resize(self.more.len().max(word), 0);
                &mut self.more[word - 1]
            }
        };
        *word |= 1 << (slot % 64);
    }
}

/// One record being read into a [`Reading`].
pub(crate) struct Draft<'a> {
    spec: &'a RecordSpec,
    slots: &'a Slots,
    now_ms: i64,
    next: usize,
    seen: Seen,
    label_came: bool,
    pub reading: &'a mut Reading,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        spec: &'a RecordSpec,
        slots: &'a Slots,
        now_ms: i64,
        reading: &'a mut Reading,
    ) -> Self {
        reading.id = None;
        reading.key.clear();
        reading.event_time_ms = None;
        reading.values.clear();
        reading.values.resize(spec.width(), f64::NAN);
        reading.extra.clear();
        Draft {
            spec,
            slots,
            now_ms,
            next: 0,
            seen: Seen::default(),
            label_came: false,
            reading,
        }
    }

    /// What a name is that must not come twice.
    pub(crate) fn find(&mut self, name: &str) -> Result<Found, Invalid> {
        match self.slots.find(name, &mut self.next) {
            Some(slot) if self.came(slot) => Err(duplicate(name)),
            Some(slot) => {
                self.seen.add(slot);
                Ok(Found::Slot(slot))
            }
            None if self.slots.is_label(name) => {
                match std::mem::replace(&mut self.label_came, true) {
                    true => Err(duplicate(name)),
                    false => Ok(Found::Label),
                }
            }
            None if self.spec.unknown_fields == UnknownFields::Keep => Ok(Found::Unknown),
            None => Err(self.slots.unknown(name)),
        }
    }

    /// Whether a slot came already; a vector also comes by its single values, and the other way round.
    fn came(&self, slot: usize) -> bool {
        let other = match self.slots.role(slot) {
            Role::Field { field, .. } if self.is_vector(slot) => {
                self.slots.elements_of(field).any(|it| self.seen.has(it))
            }
            Role::Element { field, .. } => {
                let whole = self.slots.get(&self.spec.fields[field].name);
                whole.is_some_and(|it| self.seen.has(it))
            }
            _ => false,
        };
        other || self.seen.has(slot)
    }

    pub(crate) fn is_vector(&self, slot: usize) -> bool {
        match self.slots.role(slot) {
            Role::Field { field, .. } => {
                matches!(self.spec.fields[field].kind, FieldKind::Vector { .. })
            }
            _ => false,
        }
    }

    /// Takes the value at a place of a vector. What is beyond its end is for [`Draft::end_vector`].
    pub(crate) fn put_element(
        &mut self,
        slot: usize,
        place: usize,
        value: Value<'_>,
    ) -> Result<(), Invalid> {
        if let Role::Field { field, at } = self.slots.role(slot) {
            let spec = &self.spec.fields[field];
            if place < spec.width() {
                self.reading.values[at + place] = spec.read_element(place, value)?;
            }
        }
        Ok(())
    }

    /// Refuses a vector of another length.
    pub(crate) fn end_vector(&self, slot: usize, length: usize) -> Result<(), Invalid> {
        let Role::Field { field, .. } = self.slots.role(slot) else {
            return Ok(());
        };
        let spec = &self.spec.fields[field];
        if spec.width() == length {
            return Ok(());
        }
        let reason = format!("has {length} values");
        let fix = format!("send a list of {} numbers", spec.width());
        Err(Invalid::new(
            InvalidKind::WrongType,
            &spec.name,
            reason,
            fix,
        ))
    }

    pub(crate) fn name(&self, slot: usize) -> &str {
        self.slots.name(slot)
    }

    /// The field of a slot, if it is one.
    pub(crate) fn field(&self, slot: usize) -> Option<&'a FieldSpec> {
        match self.slots.role(slot) {
            Role::Field { field, .. } | Role::Element { field, .. } => self.spec.fields.get(field),
            _ => None,
        }
    }

    /// A record of this pipeline, for messages.
    pub(crate) fn example(&self) -> String {
        example::record(self.spec)
    }

    pub(crate) fn put(&mut self, slot: usize, value: Value<'_>) -> Result<(), Invalid> {
        let (name, role) = &self.slots.slots[slot];
        match role {
            Role::Field { field, at } => {
                let spec = &self.spec.fields[*field];
                // Of a vector only what stands for all of it comes here: a null, or something wrong.
                let read = spec.read(value)?;
                self.reading.values[*at..*at + spec.width()].fill(read);
            }
            Role::Element { field, at } => {
                self.reading.values[*at] = self.spec.fields[*field].read_element(0, value)?;
            }
            Role::Id | Role::Key if value == Value::Null => {}
            Role::Id => {
                let id = self.reading.id.insert(String::new());
                read_id(name, value, id)?;
            }
            Role::Key => read_id(name, value, &mut self.reading.key)?,
            Role::EventTime => {
                let time = self.time(name, value)?;
                self.reading.event_time_ms = time;
            }
        }
        Ok(())
    }

    pub(crate) fn put_cell(&mut self, slot: usize, cell: &str) -> Result<(), Invalid> {
        self.seen.add(slot);
        let value = match (self.slots.role(slot), cell.trim()) {
            (Role::Field { field, at } | Role::Element { field, at }, _) => {
                self.reading.values[at] = self.spec.fields[field].read_cell(cell)?;
                return Ok(());
            }
            (Role::Id | Role::EventTime, "") => Value::Null,
            (Role::EventTime, text) => text.parse().map_or(Value::Text(text), Value::Signed),
            (_, text) => Value::Text(text),
        };
        self.put(slot, value)
    }

    fn time(&self, name: &str, value: Value<'_>) -> Result<Option<i64>, Invalid> {
        let fix = "send RFC 3339, as in \"2026-01-31T12:00:00Z\", or milliseconds since 1970";
        let time_ms = match (value, value.whole()) {
            (Value::Null, _) => return Ok(None),
            (Value::Text(text), _) => time::parse_rfc3339(name, text)?,
            (_, Some(whole)) => i64::try_from(whole).unwrap_or(i64::MAX),
            (Value::Number(_), None) => {
                return Err(Invalid::new(InvalidKind::BadTime, name, value.show(), fix));
            }
            _ => return Err(value.wrong_type(name, fix)),
        };
        self.spec
            .time_bounds(self.now_ms)
            .check(name, time_ms)
            .map(Some)
    }

    /// Refuses a record that lacks what it must have.
    pub(crate) fn finish(self, need_key: NeedKey) -> Result<(), Invalid> {
        let lacks = |(slot, (_, role)): &(usize, &(String, Role))| {
            match role {
                Role::Id | Role::EventTime => false,
                // An empty key is refused where it is read: this one is absent or null.
                Role::Key => need_key == NeedKey::Required && self.reading.key.is_empty(),
                Role::Field { field, .. } => {
                    self.spec.fields[*field].required
                        && !self.seen.has(*slot)
                        && !(self.is_vector(*slot)
                            && self.slots.elements_of(*field).all(|it| self.seen.has(it)))
                }
                Role::Element { .. } => false,
            }
        };
        let lacking = self.slots.slots.iter().enumerate().filter(lacks);
        let mut names = lacking.map(|(_, (name, _))| name.as_str());
        match names.next() {
            None => Ok(()),
            Some(first) => Err(missing(first, names, self.spec)),
        }
    }
}

pub(crate) fn duplicate(name: &str) -> Invalid {
    Invalid::new(
        InvalidKind::DuplicateField,
        name,
        "is there twice",
        "send each field once",
    )
}

/// Refuses the name of an unknown field that is too long to be kept.
pub(crate) fn check_unknown_name(name: &str) -> Result<(), Invalid> {
    if name.len() <= UNKNOWN_NAME_LEN_MAX {
        return Ok(());
    }
    let reason = format!("the name has {} bytes", name.len());
    let fix = format!("give fields names of at most {UNKNOWN_NAME_LEN_MAX} bytes");
    Err(Invalid::new(InvalidKind::UnknownField, name, reason, fix))
}

/// The first of the fields that are not there, the others mentioned.
pub(crate) fn missing<'a>(
    first: &str,
    others: impl Iterator<Item = &'a str>,
    spec: &RecordSpec,
) -> Invalid {
    let others: Vec<&str> = others.collect();
    let field = spec.fields.iter().find(|field| field.name == first);
    let mut fix = match field {
        Some(field) if field.may_be_null() => "add it, or null if it was not measured".to_owned(),
        Some(field) => format!(
            "add it, {}, as in {}",
            field.kind.with_article(),
            example::value(field)
        ),
        None => format!(
            "add it, the entity the record is about, as in {:?}",
            example::key(spec)
        ),
    };
    let are = match others.len() {
        0 | 1 => "is",
        _ => "are",
    };
    if !others.is_empty() {
        fix = format!("{fix}; {} {are} missing too", list(others.into_iter()));
    }
    Invalid::new(InvalidKind::MissingField, first, "is missing", fix)
}

/// An id or a key: a text, or a whole number that becomes its digits.
fn read_id(name: &str, value: Value<'_>, into: &mut String) -> Result<(), Invalid> {
    use std::fmt::Write;
    into.clear();
    match (value, value.whole()) {
        (Value::Text(text), _) => {
            check_id(name, text)?;
            into.push_str(text);
        }
        (_, Some(whole)) => {
            let _ = write!(into, "{whole}"); // a String takes everything
        }
        _ => return Err(value.wrong_type(name, "send a string, or a whole number")),
    }
    Ok(())
}

/// Refuses a text that cannot be an id or a key.
pub(crate) fn check_id(name: &str, text: &str) -> Result<(), Invalid> {
    let bad = |reason, fix: &str| Err(Invalid::new(InvalidKind::BadId, name, reason, fix));
    if text.is_empty() {
        return bad("is empty".to_owned(), "send a text that is not empty");
    }
    if text.len() > ID_LEN_MAX {
        let reason = format!("{} has {} bytes", quote(text), text.len());
        return bad(reason, &format!("send at most {ID_LEN_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        let reason = format!("{} has a control character", quote(text));
        return bad(reason, "send printable text");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_remembers_any_slot() {
        let mut seen = Seen::default();
        for slot in [0, 63, 64, 200] {
            assert!(!seen.has(slot));
            seen.add(slot);
            assert!(seen.has(slot));
        }
        assert!(!seen.has(65) && !seen.has(1_000));
    }

    #[test]
    fn an_id_is_a_short_printable_text_or_a_whole_number() {
        let read = |value: Value<'_>| {
            let mut id = "before".to_owned();
            read_id("id", value, &mut id)
                .map(|()| id)
                .map_err(|error| error.class())
        };
        assert_eq!(read(Value::Text("a")), Ok("a".into()));
        assert_eq!(read(Value::Unsigned(u64::MAX)), Ok(u64::MAX.to_string()));
        assert_eq!(read(Value::Number(17.0)), Ok("17".into()));
        assert_eq!(read(Value::Number(1.5)), Err("wrong_type"));
        assert_eq!(read(Value::Number(1e300)), Err("wrong_type"));
        assert_eq!(read(Value::Bool(true)), Err("wrong_type"));
        assert_eq!(read(Value::Text("")), Err("bad_id"));
        assert_eq!(read(Value::Text("a\0")), Err("bad_id"));
        assert_eq!(read(Value::Text(&"é".repeat(256))), Ok("é".repeat(256)));
        assert_eq!(read(Value::Text(&"é".repeat(257))), Err("bad_id"));
    }
}
