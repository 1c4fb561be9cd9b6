//! Values written under another version of a schema, in the order this version reads.
//!
//! Schemas evolve by adding fields, and categories at the end, only: so one of two versions has
//! all that the other has. A field that was renamed looks like one removed and one added, and is
//! refused: its values would silently be missing.

use quadrille_proto::{FieldType, Kind, Schema};

use crate::quote::{list, quote};

/// Why a writer's values cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the schema describes {from:?}, not {to:?}; another service writes this topic")]
    Kind { from: Kind, to: Kind },
    #[error(
        "the schema is of pipeline {}, not {}; check which topic is read",
        quote(from),
        quote(to)
    )]
    Pipeline { from: String, to: String },
    #[error(
        "field {} is {from} for the writer and {to} here; give the changed field a new name",
        quote(field)
    )]
    Type {
        field: String,
        from: String,
        to: String,
    },
    #[error(
        "the categories of {} differ: {from} for the writer and {to} here; add categories only at the end",
        quote(field)
    )]
    Categories {
        field: String,
        from: String,
        to: String,
    },
    #[error(
        "the writer alone has {removed}, and only here there is {added}; add fields, never rename them"
    )]
    Diverged { removed: String, added: String },
}

/// How a writer's positions become the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// For each of the reader's positions, the writer's, and how many categories the reader knows.
    positions: Vec<Option<(usize, Option<usize>)>>,
    writer_width: usize,
    identity: bool,
}

impl Projection {
    /// Compares a writer's schema with the reader's.
    ///
    /// # Errors
    /// The one did not evolve from the other.
    pub fn new(from: &Schema, to: &Schema) -> Result<Self, Error> {
        if from.kind != to.kind {
            return Err(Error::Kind {
                from: from.kind,
                to: to.kind,
            });
        }
        if from.pipeline != to.pipeline {
            return Err(Error::Pipeline {
                from: from.pipeline.clone(),
                to: to.pipeline.clone(),
            });
        }
        let mut positions = Vec::with_capacity(to.fields.len());
        for (field, at) in to.fields.iter().zip(from.positions(to)) {
            positions.push(match at {
                None => None,
                Some(at) => {
                    let writer = &from.fields[at].field_type;
                    Some((at, compare(&field.name, writer, &field.field_type)?))
                }
            });
        }
        let added = to
            .fields
            .iter()
            .zip(&positions)
            .filter(|(_, at)| at.is_none());
        let added = list(added.map(|(field, _)| field.name.as_str()));
        let known = |name: &str| to.fields.iter().any(|field| field.name == name);
        let removed = from.fields.iter().map(|field| field.name.as_str());
        let removed = list(removed.filter(|name| !known(name)));
        if !added.is_empty() && !removed.is_empty() {
            return Err(Error::Diverged { removed, added });
        }
        let identity = from == to;
        Ok(Projection {
            positions,
            writer_width: from.fields.len(),
            identity,
        })
    }

    /// How many values the writer's schema has.
    pub fn writer_width(&self) -> usize {
        self.writer_width
    }

    /// Whether writer and reader agree, so that [`Projection::apply`] need not be called.
    pub fn is_identity(&self) -> bool {
        self.identity
    }

    /// The writer's values in the reader's order, into `out`, which is cleared. What the writer
    /// does not have, and a category the reader does not know, is NaN.
    pub fn apply(&self, values: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.positions.iter().map(|position| match position {
            None => f64::NAN,
            Some((at, categories)) => match (values.get(*at), categories) {
                (Some(value), Some(known)) if *value >= *known as f64 => f64::NAN,
                (Some(value), _) => *value,
                (None, _) => f64::NAN,
            },
        }));
    }
}

/// How many categories the reader knows, if it is a category.
fn compare(field: &str, from: &FieldType, to: &FieldType) -> Result<Option<usize>, Error> {
    match (from, to) {
        (FieldType::Category(writer), FieldType::Category(reader)) => {
            if writer
                .iter()
                .zip(reader)
                .all(|(writer, reader)| writer == reader)
            {
                return Ok(Some(reader.len()));
            }
            let show = |categories: &[String]| list(categories.iter().map(String::as_str));
            let (field, from, to) = (field.to_owned(), show(writer), show(reader));
            Err(Error::Categories { field, from, to })
        }
        (from, to) if from == to => Ok(None),
        (from, to) => {
            let (from, to) = (type_name(from).to_owned(), type_name(to).to_owned());
            Err(Error::Type {
                field: field.to_owned(),
                from,
                to,
            })
        }
    }
}

fn type_name(field_type: &FieldType) -> &'static str {
    match field_type {
        FieldType::Number => "a number",
        FieldType::Integer => "an integer",
        FieldType::Boolean => "a boolean",
        FieldType::Category(_) => "a category",
    }
}

#[cfg(test)]
mod tests {
    use quadrille_proto::Field;

    use super::*;

    fn schema(fields: &[(&str, FieldType)]) -> Schema {
        let field = |(name, field_type): &(&str, FieldType)| Field {
            name: (*name).into(),
            field_type: field_type.clone(),
        };
        Schema {
            kind: Kind::Record,
            pipeline: "p".into(),
            fields: fields.iter().map(field).collect(),
        }
    }

    fn category(names: &[&str]) -> FieldType {
        FieldType::Category(names.iter().map(|name| (*name).into()).collect())
    }

    use FieldType::{Integer, Number};

    #[test]
    fn an_older_writers_values_are_missing_where_a_field_is_new() {
        let from = schema(&[("a", Number), ("b", Integer)]);
        let to = schema(&[("b", Integer), ("c", Number), ("a", Number)]);
        let (projection, mut out) = (Projection::new(&from, &to).unwrap(), vec![9.0]);
        projection.apply(&[1.0, 2.0], &mut out);
        assert_eq!((out[0], out[2], out.len()), (2.0, 1.0, 3));
        assert!(out[1].is_nan() && !projection.is_identity());
        projection.apply(&[], &mut out);
        assert!(out.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_newer_writers_other_fields_are_left_out() {
        let to = schema(&[("a", Number)]);
        let projection = Projection::new(&schema(&[("z", Number), ("a", Number)]), &to).unwrap();
        let mut out = Vec::new();
        projection.apply(&[1.0, 2.0], &mut out);
        assert_eq!(out, [2.0]);
        assert!(Projection::new(&to, &to).unwrap().is_identity());
    }

    #[test]
    fn a_category_the_reader_does_not_know_is_missing() {
        let (short, long) = (category(&["f", "m"]), category(&["f", "m", "x"]));
        let (short, long) = (schema(&[("s", short)]), schema(&[("s", long)]));
        let mut out = Vec::new();
        let newer = Projection::new(&long, &short).unwrap();
        newer.apply(&[2.0], &mut out);
        assert!(out[0].is_nan());
        newer.apply(&[1.0], &mut out);
        assert_eq!(out, [1.0]);
        Projection::new(&short, &long)
            .unwrap()
            .apply(&[1.0], &mut out);
        assert_eq!(out, [1.0]);
    }

    #[test]
    fn what_did_not_evolve_by_adding_is_refused_with_its_reason() {
        let to = schema(&[("a", Number), ("s", category(&["f", "m"]))]);
        let refused = |from: &Schema| Projection::new(from, &to).unwrap_err().to_string();
        let mut from = to.clone();
        from.kind = Kind::Features;
        assert!(refused(&from).contains("describes Features, not Record"));
        from = to.clone();
        from.pipeline = "q".into();
        assert!(refused(&from).contains("pipeline \"q\", not \"p\""));
        from = schema(&[("a", Integer), ("s", category(&["f", "m"]))]);
        assert!(refused(&from).contains("\"a\" is an integer for the writer and a number here"));
        from = schema(&[("a", Number), ("s", category(&["m", "f"]))]);
        assert!(refused(&from).contains("add categories only at the end"));
        from = schema(&[("b", Number), ("s", category(&["f", "m"]))]);
        assert!(refused(&from).contains("writer alone has \"b\""));
    }
}
