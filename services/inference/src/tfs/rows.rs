//! Rows by the names of their values, one JSON object each, as columns. A row is read when the one before it is in its
//! columns: what a body's rows hold is there once. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use quadrille_pipeline::quote::quote;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::json::{flatten, of, parse};
use crate::tensor::{Cells, Error, INPUTS_MAX, Limits, json::Flat};

/// Values by their names, each there once: which of two values is meant cannot be known.
#[derive(Default)]
pub(super) struct Object<'a>(pub BTreeMap<Name<'a>, &'a RawValue>);

/// A name as it came, unless it has an escape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Name<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = BTreeMap<Name<'de>, &'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &RawValue>()? {
                    if values.len() == INPUTS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {INPUTS_MAX} names; send the values as one list"
                        )));
                    }
                    match values.entry(name) {
                        Entry::Vacant(place) => place.insert(value),
                        Entry::Occupied(twice) => {
                            let name = quote(&twice.key().0);
                            return Err(A::Error::custom(format_args!(
                                "{name} is there twice; send it once"
                            )));
                        }
                    };
                }
                Ok(values)
            }
        }

        deserializer.deserialize_map(Once).map(Object)
    }
}

/// Objects with the same names, each a row; `context` is what all of them share.
///
/// # Errors
/// They are too many, or differ.
pub(super) fn row_wise(
    list: &RawValue,
    wanted: &str,
    context: &Object<'_>,
    limits: Limits,
) -> Result<Vec<(String, Flat)>, Error> {
    let shared = context.0.iter();
    let shared = shared.map(|(name, value)| name.0.len() + value.get().len());
    let reading = Reading {
        columns: Vec::new(),
        rows: 0,
        values: 0,
        copied: 0,
        shared: shared.sum(),
        context,
        limits,
    };
    let mut failure = None;
    let columns = Rows(reading, &mut failure);
    let parsed = parse(list.get().as_bytes(), wanted, columns);
    match failure {
        Some(error) => Err(error),
        None => parsed,
    }
}

/// The columns so far.
struct Reading<'c, 'a> {
    columns: Vec<(String, Flat)>,
    rows: usize,
    values: usize,
    /// Bytes that the context has become so far, and what it adds to each row.
    copied: usize,
    shared: usize,
    context: &'c Object<'a>,
    limits: Limits,
}

impl Reading<'_, '_> {
    fn row(&mut self, row: &Object<'_>) -> Result<(), Error> {
        let at = self.rows;
        let most = self.limits.rows_max;
        if at == most {
            return Err(Error::TooLarge(format!(
                "there are more than {most} rows; send fewer at once"
            )));
        }
        self.copied += self.shared;
        if self.copied > self.limits.bytes_max {
            return Err(Error::TooLarge(format!(
                "the context is {} bytes for each row, more than {} for all of them; send fewer rows at once",
                self.shared, self.limits.bytes_max
            )));
        }
        self.rows += 1;
        let context = self.context.0.iter();
        let mut context = context
            .filter(|(name, _)| !row.0.contains_key(name))
            .peekable();
        let mut own = row.0.iter().peekable();
        let mut place = 0;
        loop {
            // Both are in order of their names, and no name is in both.
            let is_own = match (own.peek(), context.peek()) {
                (Some((own, _)), Some((shared, _))) => own < shared,
                (own, _) => own.is_some(),
            };
            let next = match is_own {
                true => own.next(),
                false => context.next(),
            };
            let Some((name, value)) = next else { break };
            self.value(place, &name.0, value)?;
            place += 1;
        }
        match place == self.columns.len() {
            true => Ok(()),
            false => Err(differs(at)),
        }
    }

    fn value(&mut self, place: usize, name: &str, value: &RawValue) -> Result<(), Error> {
        let (at, limits) = (self.rows - 1, self.limits);
        let flat = flatten(value, limits).map_err(|error| of(name, error))?;
        self.values += flat.cells.len();
        if self.values > limits.values_max {
            return Err(Error::TooLarge(format!(
                "the rows have more than {} values; send fewer at once",
                limits.values_max
            )));
        }
        match self.columns.get_mut(place) {
            None if at == 0 => self.columns.push((name.to_owned(), first(flat))),
            Some((known, column)) if known == name => {
                append(column, flat).map_err(|error| of(name, error))?;
            }
            _ => return Err(differs(at)),
        }
        Ok(())
    }
}

/// The list, and why it stopped: serde's own errors cannot carry ours.
struct Rows<'c, 'a, 'f>(Reading<'c, 'a>, &'f mut Option<Error>);

impl<'de> serde::de::DeserializeSeed<'de> for Rows<'_, '_, '_> {
    type Value = Vec<(String, Flat)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_, '_> {
    type Value = Vec<(String, Flat)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        while let Some(row) = list.next_element::<Object<'de>>()? {
            if let Err(error) = self.0.row(&row) {
                *self.1 = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(self.0.columns)
    }
}

fn differs(row: usize) -> Error {
    Error::Invalid(format!(
        "row {row} does not have the names of row 0; send the same in every row (null is a missing number)"
    ))
}

/// A row's value as a column's beginning. A list of one is as good as its element.
fn first(mut flat: Flat) -> Flat {
    if flat.shape == [1] {
        flat.shape.clear();
    }
    flat.shape.insert(0, 1);
    flat
}

fn append(column: &mut Flat, flat: Flat) -> Result<(), Error> {
    let differs = |what: &str| Error::Invalid(format!("its {what} differ from row to row"));
    let row = first(flat);
    if row.shape.get(1..) != column.shape.get(1..) {
        return Err(differs("shapes"));
    }
    match (&mut column.cells, row.cells) {
        (Cells::Numbers(all), Cells::Numbers(more)) => all.extend(more),
        (Cells::Bools(all), Cells::Bools(more)) => all.extend(more),
        (Cells::Texts(all), Cells::Texts(more)) => all.extend(more),
        _ => return Err(differs("kinds")),
    }
    if let Some(rows) = column.shape.first_mut() {
        *rows += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::{
        tensor::{Error, Limits},
        tfs::body::{Body, Verb},
    };

    fn read(verb: Verb, body: &str) -> Result<Body, Error> {
        Body::read(body.as_bytes(), verb, Limits::default())
    }

    #[test]
    fn a_context_is_not_copied_into_more_than_a_body_may_hold() {
        let began = Instant::now();
        let name = "a".repeat(100_000);
        let empty = vec!["{}"; 60_000].join(",");
        let bodies = [
            format!(r#"{{"context": {{"{name}": 0}}, "examples": [{empty}]}}"#),
            format!(r#"{{"context": {{"a": "{name}"}}, "examples": [{empty}]}}"#),
        ];
        for body in bodies {
            let refused = read(Verb::Classify, &body).unwrap_err();
            assert!(
                matches!(&refused, Error::TooLarge(why) if why.contains("context")),
                "{refused}"
            );
        }
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn rows_are_counted_before_they_are_kept() {
        let many = vec!["{}"; 65_537].join(",");
        for (verb, list) in [(Verb::Regress, "examples"), (Verb::Predict, "instances")] {
            // What follows is not even looked at.
            let refused = read(verb, &format!(r#"{{"{list}": [{many}, 7]}}"#));
            let refused = refused.unwrap_err();
            assert!(
                matches!(&refused, Error::TooLarge(why) if why.contains("65536 rows")),
                "{refused}"
            );
        }
    }

    #[test]
    fn names_of_one_row_are_bounded() {
        let names: Vec<String> = (0..9_000).map(|at| format!("\"{at}\":0")).collect();
        let names = names.join(",");
        let refused = read(Verb::Regress, &format!(r#"{{"examples": [{{{names}}}]}}"#));
        assert!(refused.unwrap_err().to_string().contains("8192 names"));
        let refused = read(Verb::Predict, &format!(r#"{{"inputs": {{{names}}}}}"#));
        assert!(refused.unwrap_err().to_string().contains("8192 names"));
    }

    #[test]
    fn an_example_wins_over_the_context_and_their_names_are_one_row() {
        let body = r#"{"context": {"b": 7, "a": 1}, "examples": [{"a": 2, "c": 3}, {"c": 4}]}"#;
        let body = read(Verb::Classify, body).unwrap();
        let tensors = body.tensors().unwrap();
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let column = |at: usize| format!("{:?}", tensors[at].column().unwrap());
        assert_eq!(column(0), "Numbers([2.0, 1.0])");
        assert_eq!(column(1), "Numbers([7.0, 7.0])");
        assert_eq!(column(2), "Numbers([3.0, 4.0])");
        let differ = r#"{"context": {"b": 7}, "examples": [{"a": 2}, {"c": 4}]}"#;
        let refused = read(Verb::Classify, differ).unwrap_err().to_string();
        assert!(refused.contains("row 1"), "{refused}");
    }
}
