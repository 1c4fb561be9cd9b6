//! What is wrong with a record, and how to put it right.

use std::fmt;

use crate::quote::{nearest, quote};

/// The classes of faults a record can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvalidKind {
    /// No bytes, or an empty text where there must be one.
    Empty,
    NotUtf8,
    NotJson,
    /// JSON, but not an object.
    NotObject,
    /// A JSON object with something after it.
    TrailingBytes,
    DuplicateField,
    UnknownField,
    /// Absent, or null where there must be a value.
    MissingField,
    WrongType,
    UnknownCategory,
    /// Outside the field's limits, or not a finite number.
    OutOfRange,
    BadTime,
    /// An id or a key that cannot be one: empty, too long, or with control characters.
    BadId,
    /// A record of its key with its id came before.
    Duplicate,
    /// Older than its key's newest record by more than lateness allows.
    Late,
    /// Its key has as many records as may be kept.
    TooManyEvents,
    /// A CSV row with more or fewer cells than the header.
    RowLength,
}

impl InvalidKind {
    /// A constant name, for metrics and dead-letter headers.
    pub const fn class(self) -> &'static str {
        match self {
            InvalidKind::Empty => "empty",
            InvalidKind::NotUtf8 => "not_utf8",
            InvalidKind::NotJson => "not_json",
            InvalidKind::NotObject => "not_object",
            InvalidKind::TrailingBytes => "trailing_bytes",
            InvalidKind::DuplicateField => "duplicate_field",
            InvalidKind::UnknownField => "unknown_field",
            InvalidKind::MissingField => "missing_field",
            InvalidKind::WrongType => "wrong_type",
            InvalidKind::UnknownCategory => "unknown_category",
            InvalidKind::OutOfRange => "out_of_range",
            InvalidKind::BadTime => "bad_time",
            InvalidKind::BadId => "bad_id",
            InvalidKind::Duplicate => "duplicate",
            InvalidKind::Late => "late",
            InvalidKind::TooManyEvents => "too_many_events",
            InvalidKind::RowLength => "row_length",
        }
    }
}

/// Why a record is refused. Its text is bounded, whatever the record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub kind: InvalidKind,
    /// The field at fault; empty where it is none.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
}

impl Invalid {
    pub(crate) fn new(
        kind: InvalidKind,
        field: &str,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Invalid {
            kind,
            field: crate::quote::cut(field),
            reason: reason.into(),
            fix: fix.into(),
        }
    }

    /// Of a field that is missing, says which of the unknown ones may be the one that was meant.
    pub(crate) fn or_misspelt(mut self, unknown: &[&str]) -> Self {
        let is_near = |name: &&&str| nearest(name, std::iter::once(&*self.field)).is_some();
        if let (InvalidKind::MissingField, Some(name)) = (self.kind, unknown.iter().find(is_near)) {
            self.fix = format!(
                "is {} meant, which is no field of the pipeline? Else {}",
                quote(name),
                self.fix
            );
        }
        self
    }

    /// The class of the fault: `wrong_type`, `missing_field`, ….
    pub const fn class(&self) -> &'static str {
        self.kind.class()
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "field {}: ", quote(&self.field))?;
        }
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

impl std::error::Error for Invalid {}
