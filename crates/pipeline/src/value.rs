//! One value from outside, and what a field makes of it.

use crate::example;
use crate::invalid::{Invalid, InvalidKind};
use crate::quote::{list, quote};
use crate::spec::{FieldKind, FieldSpec, Range};
use crate::table::WHOLE_MAX;

/// A field's value in a list of fields, as gRPC's `Struct` brings it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'a str),
    /// A list or an object, as JSON text: only a field the pipeline does not name may have one.
    Json(&'a str),
}

/// Any JSON value, lists and objects without what they hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Signed(i64),
    Unsigned(u64),
    Text(&'a str),
    List,
    Object,
}

impl<'a> From<Scalar<'a>> for Value<'a> {
    fn from(scalar: Scalar<'a>) -> Self {
        match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(truth) => Value::Bool(truth),
            Scalar::Number(number) => Value::Number(number),
            Scalar::Text(text) => Value::Text(text),
            Scalar::Json(json) if json.trim_start().starts_with('[') => Value::List,
            Scalar::Json(_) => Value::Object,
        }
    }
}

impl Value<'_> {
    fn number(self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(number),
            Value::Signed(number) => Some(number as f64),
            Value::Unsigned(number) => Some(number as f64),
            _ => None,
        }
    }

    /// A whole number that is surely the one that was sent.
    pub(crate) fn whole(self) -> Option<i128> {
        match self {
            Value::Signed(number) => Some(number.into()),
            Value::Unsigned(number) => Some(number.into()),
            Value::Number(number) if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => {
                Some(number as i128)
            }
            _ => None,
        }
    }

    /// For messages: `is "148", a string`.
    pub(crate) fn show(self) -> String {
        match self {
            Value::Null => "is null".into(),
            Value::Bool(truth) => format!("is {truth}"),
            Value::Number(number) => format!("is {number:?}"),
            Value::Signed(number) => format!("is {number}"),
            Value::Unsigned(number) => format!("is {number}"),
            Value::Text(text) => format!("is {}, a string", quote(text)),
            Value::List => "is a list".into(),
            Value::Object => "is an object".into(),
        }
    }

    pub(crate) fn wrong_type(self, field: &str, fix: impl Into<String>) -> Invalid {
        Invalid::new(InvalidKind::WrongType, field, self.show(), fix)
    }
}

impl FieldSpec {
    /// The value as the record holds it: NaN where it is missing.
    pub(crate) fn read(&self, value: Value<'_>) -> Result<f64, Invalid> {
        if value == Value::Null {
            return if self.may_be_null() {
                Ok(f64::NAN)
            } else {
                Err(self.null())
            };
        }
        match &self.kind {
            FieldKind::Vector { length, .. } => {
                let fix = format!("send a list of {length} numbers{}", self.or_missing());
                Err(value.wrong_type(&self.name, fix))
            }
            FieldKind::Number(range) => match value.number() {
                Some(number) => self.in_range(range, number),
                None => Err(self.no_number(value, "a number")),
            },
            FieldKind::Integer(range) => match value.number() {
                Some(number) => self
                    .whole(number)
                    .and_then(|whole| self.in_range(range, whole)),
                None => Err(self.no_number(value, "a whole number")),
            },
            FieldKind::Boolean => match (value, value.number()) {
                (Value::Bool(truth), _) => Ok(f64::from(truth)),
                // As data frames write them.
                (_, Some(number)) if number == 0.0 || number == 1.0 => Ok(number + 0.0),
                _ => {
                    let fix = format!(
                        "send true or false (or 1 or 0), without quotes{}",
                        self.or_missing()
                    );
                    Err(value.wrong_type(&self.name, fix))
                }
            },
            FieldKind::Category {
                categories,
                missing,
            } => match value {
                Value::Text(text) => self.category(categories, missing, text),
                _ => {
                    let allowed = list(categories.iter().map(String::as_str));
                    Err(value.wrong_type(&self.name, format!("send one of {allowed}")))
                }
            },
        }
    }

    /// A value of a vector, at a place that is for messages.
    pub(crate) fn read_element(&self, place: usize, value: Value<'_>) -> Result<f64, Invalid> {
        let FieldKind::Vector { range, .. } = &self.kind else {
            return self.read(value);
        };
        match (value, value.number()) {
            (Value::Null, _) if self.may_be_null() => Ok(f64::NAN),
            (_, Some(number)) => self.in_range(range, number),
            (_, None) => {
                let reason = format!("value {place} (counting from 0) {}", value.show());
                Err(self.wrong(reason, format!("send numbers only{}", self.or_missing())))
            }
        }
    }

    /// The value of a CSV cell: an empty one is a null.
    pub(crate) fn read_cell(&self, cell: &str) -> Result<f64, Invalid> {
        let text = cell.trim();
        if text.is_empty() {
            return self.read(Value::Null);
        }
        match &self.kind {
            FieldKind::Category { .. } => self.read(Value::Text(text)),
            FieldKind::Boolean if text.eq_ignore_ascii_case("true") => Ok(1.0),
            FieldKind::Boolean if text.eq_ignore_ascii_case("false") => Ok(0.0),
            kind => match text.parse::<f64>() {
                Ok(number) if !number.is_finite() => Err(self.no_finite_cell(text)),
                Ok(number) => match kind {
                    FieldKind::Vector { .. } => self.read_element(0, Value::Number(number)),
                    FieldKind::Boolean if number != 0.0 && number != 1.0 => Err(self.no_cell(text)),
                    _ => self.read(Value::Number(number)),
                },
                Err(_) => Err(self.no_cell(text)),
            },
        }
    }

    /// A cell that is no value of the field.
    fn no_cell(&self, text: &str) -> Invalid {
        let example = example::text(self);
        let (wanted, fix) = match &self.kind {
            FieldKind::Boolean => (
                "neither true nor false",
                "write true, false, 1 or 0".to_owned(),
            ),
            FieldKind::Vector { .. } => {
                let name = &self.name;
                let fix = format!(
                    "give each of its values a column, `{name}[0]` or `{name}_0` the first, with a number as in {example}"
                );
                ("not a number", fix)
            }
            FieldKind::Integer(_) => (
                "not a number",
                format!("write a whole number, as in {example}"),
            ),
            _ => (
                "not a number",
                format!("write digits with a point, as in {example}"),
            ),
        };
        self.wrong(
            format!("{} is {wanted}", quote(text)),
            fix + self.or_empty(),
        )
    }

    /// `NaN` or an infinity in a cell, or a number that is too large.
    fn no_finite_cell(&self, text: &str) -> Invalid {
        let reason = format!("{} is not a finite number", quote(text));
        let fix = match self.may_be_null() {
            true => "leave the cell empty if it was not measured".to_owned(),
            false => format!(
                "write a number, as in {}: the field is required",
                example::text(self)
            ),
        };
        Invalid::new(InvalidKind::OutOfRange, &self.name, reason, fix)
    }

    fn whole(&self, number: f64) -> Result<f64, Invalid> {
        if !number.is_finite() {
            return Ok(number); // refused with the range
        }
        if number.fract() != 0.0 {
            let reason = format!("{number:?} is not a whole number");
            return Err(self.wrong(
                reason,
                format!("send a whole number, as in {}", example::text(self)),
            ));
        }
        if number.abs() > WHOLE_MAX {
            let reason = format!("{number:?} is too large to be held exactly");
            let fix = "send a whole number between -2^53 and 2^53";
            return Err(Invalid::new(
                InvalidKind::OutOfRange,
                &self.name,
                reason,
                fix,
            ));
        }
        Ok(number)
    }

    fn in_range(&self, range: &Range, number: f64) -> Result<f64, Invalid> {
        let invalid = |reason, fix| {
            Err(Invalid::new(
                InvalidKind::OutOfRange,
                &self.name,
                reason,
                fix,
            ))
        };
        if !number.is_finite() {
            let reason = format!("{} is not a finite number", named(number));
            return invalid(
                reason,
                "send a finite number".to_owned() + self.or_missing(),
            );
        }
        if range.missing.contains(&number) {
            return Ok(f64::NAN);
        }
        let below = range.min.is_some_and(|min| number < min);
        if below || range.max.is_some_and(|max| number > max) {
            let limits = match (range.min, range.max) {
                (Some(min), Some(max)) => format!("send a value from {min} to {max}"),
                (Some(min), None) => format!("send a value of at least {min}"),
                (None, Some(max)) => format!("send a value of at most {max}"),
                (None, None) => String::new(),
            };
            let side = if below {
                "below the least"
            } else {
                "above the largest"
            };
            let reason = format!("{number:?} is {side} allowed value");
            return invalid(reason, limits + self.or_missing());
        }
        Ok(number + 0.0) // -0 is 0
    }

    fn category(
        &self,
        categories: &[String],
        missing: &[String],
        text: &str,
    ) -> Result<f64, Invalid> {
        if let Some(index) = categories.iter().position(|category| category == text) {
            return Ok(index as f64);
        }
        if missing.iter().any(|marker| marker == text) {
            return Ok(f64::NAN);
        }
        let allowed = list(categories.iter().map(String::as_str));
        let fix = format!("send one of {allowed}{}", self.or_missing());
        Err(match text.is_empty() {
            true => Invalid::new(InvalidKind::Empty, &self.name, "is an empty text", fix),
            false => {
                let reason = format!("{} is not one of its categories", quote(text));
                Invalid::new(InvalidKind::UnknownCategory, &self.name, reason, fix)
            }
        })
    }

    fn wrong(&self, reason: String, fix: String) -> Invalid {
        Invalid::new(InvalidKind::WrongType, &self.name, reason, fix)
    }

    fn no_number(&self, value: Value<'_>, wanted: &str) -> Invalid {
        let number = match value {
            Value::Text(text) => text.trim().parse::<f64>().ok(),
            _ => None,
        };
        let fix = match (number, value) {
            (Some(number), _) if number.is_finite() => {
                "send it as a number, without quotes".to_owned()
            }
            // As of a CSV file's cell.
            (Some(_), Value::Text(text)) => {
                let reason = format!("{} is not a finite number", quote(text));
                return self.wrong(reason, self.instead_of_nan());
            }
            _ => format!("send {wanted}{}", self.or_missing()),
        };
        value.wrong_type(&self.name, fix)
    }

    /// What to send where a sender has `NaN` or an infinity.
    pub(crate) fn instead_of_nan(&self) -> String {
        match self.may_be_null() {
            true => "send null (in CSV: leave the cell empty) if it was not measured".to_owned(),
            false => format!(
                "send a number, as in {}: the field is required and may not be null",
                example::text(self)
            ),
        }
    }

    fn null(&self) -> Invalid {
        let fix = format!(
            "send {}, as in {}: the field is required and has no markers for \"not measured\"",
            self.kind.with_article(),
            example::value(self)
        );
        Invalid::new(
            InvalidKind::MissingField,
            &self.name,
            "is null or empty",
            fix,
        )
    }

    fn or_empty(&self) -> &'static str {
        match self.may_be_null() {
            true => "; leave the cell empty if not measured",
            false => "",
        }
    }

    fn or_missing(&self) -> &'static str {
        if self.may_be_null() {
            ", or null if it was not measured"
        } else {
            ""
        }
    }
}

/// A number that is none, as JavaScript and Python write it.
fn named(number: f64) -> &'static str {
    match (number.is_nan(), number > 0.0) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: FieldKind, required: bool) -> FieldSpec {
        FieldSpec {
            name: "f".into(),
            kind,
            required,
        }
    }

    fn range(min: f64, max: f64, missing: &[f64]) -> Range {
        Range {
            min: Some(min),
            max: Some(max),
            missing: missing.to_vec(),
        }
    }

    fn class(result: Result<f64, Invalid>) -> &'static str {
        result.unwrap_err().class()
    }

    #[test]
    fn a_number_is_taken_within_its_limits() {
        let field = field(FieldKind::Number(range(0.0, 10.0, &[])), true);
        assert_eq!(field.read(Value::Number(0.0)), Ok(0.0));
        assert_eq!(field.read(Value::Unsigned(10)), Ok(10.0));
        let error = field.read(Value::Number(10.5)).unwrap_err();
        assert_eq!(error.class(), "out_of_range");
        assert_eq!(
            error.to_string(),
            "field \"f\": 10.5 is above the largest allowed value; send a value from 0 to 10"
        );
        assert_eq!(class(field.read(Value::Signed(-1))), "out_of_range");
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(class(field.read(Value::Number(number))), "out_of_range");
        }
    }

    #[test]
    fn a_marker_is_missing_even_outside_the_limits() {
        let field = field(FieldKind::Number(range(1.0, 10.0, &[-1.0, 0.0])), true);
        for value in [
            Value::Signed(-1),
            Value::Number(-0.0),
            Value::Unsigned(0),
            Value::Null,
        ] {
            assert!(field.read(value).unwrap().is_nan(), "{value:?}");
        }
        assert_eq!(class(field.read(Value::Signed(-2))), "out_of_range");
    }

    #[test]
    fn null_is_missing_only_where_the_file_allows_it() {
        assert_eq!(
            class(field(FieldKind::Boolean, true).read(Value::Null)),
            "missing_field"
        );
        assert!(
            field(FieldKind::Boolean, false)
                .read(Value::Null)
                .unwrap()
                .is_nan()
        );
    }

    #[test]
    fn a_number_in_quotes_is_told_to_lose_them() {
        let field = field(FieldKind::Number(Range::default()), true);
        let error = field.read(Value::Text("148")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field \"f\": is \"148\", a string; send it as a number, without quotes"
        );
        assert_eq!(
            field.read(Value::Text("tall")).unwrap_err().fix,
            "send a number"
        );
        for value in [Value::Bool(true), Value::List, Value::Object] {
            assert_eq!(class(field.read(value)), "wrong_type");
        }
    }

    #[test]
    fn an_integer_has_no_fraction_and_is_held_exactly() {
        let field = field(FieldKind::Integer(Range::default()), true);
        assert_eq!(field.read(Value::Number(6.0)), Ok(6.0));
        assert_eq!(class(field.read(Value::Number(6.5))), "wrong_type");
        assert_eq!(class(field.read(Value::Unsigned(u64::MAX))), "out_of_range");
        assert_eq!(
            class(field.read(Value::Number(f64::INFINITY))),
            "out_of_range"
        );
    }

    #[test]
    fn a_category_is_its_index_and_an_unknown_one_lists_those_there_are() {
        let kind = FieldKind::Category {
            categories: vec!["f".into(), "m".into()],
            missing: vec!["unknown".into()],
        };
        let field = field(kind, true);
        assert_eq!(field.read(Value::Text("m")), Ok(1.0));
        assert!(field.read(Value::Text("unknown")).unwrap().is_nan());
        let error = field.read(Value::Text("x")).unwrap_err();
        assert_eq!(error.class(), "unknown_category");
        assert!(error.fix.contains(r#"one of "f", "m""#), "{error}");
        assert_eq!(class(field.read(Value::Text(""))), "empty");
        assert_eq!(class(field.read(Value::Unsigned(1))), "wrong_type");
    }

    #[test]
    fn a_cell_is_text_of_the_fields_type() {
        let number = field(FieldKind::Number(Range::default()), false);
        assert_eq!(number.read_cell(" 33.6 "), Ok(33.6));
        assert!(number.read_cell("  ").unwrap().is_nan());
        assert_eq!(class(number.read_cell("33,6")), "wrong_type");
        for cell in ["nan", "inf", "1e999"] {
            assert_eq!(class(number.read_cell(cell)), "out_of_range", "{cell}");
        }
        let boolean = field(FieldKind::Boolean, true);
        assert_eq!(boolean.read_cell("TRUE"), Ok(1.0));
        assert_eq!(boolean.read_cell("0"), Ok(0.0));
        assert_eq!(class(boolean.read_cell("yes")), "wrong_type");
        assert_eq!(class(boolean.read_cell("")), "missing_field");
    }
}
