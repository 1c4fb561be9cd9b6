//! The body of a question in TensorFlow Serving's REST form, as tensors. Pure.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::dialect::{is_bytes, plain, text_of_bytes};
use crate::oip::{
    json::{Flat, flatten_with},
    tensor::{Cells, Data, Datatype, Error, Limits, Tensor, wrong},
};

/// What a body's one tensor without a name is called.
const UNNAMED: &str = "inputs";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Predict,
    Classify,
    Regress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PredictJson<'a> {
    /// A model has one signature here, whatever its clients call it.
    #[serde(rename = "signature_name")]
    _signature_name: Option<String>,
    #[serde(borrow)]
    instances: Option<&'a RawValue>,
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExamplesJson<'a> {
    #[serde(rename = "signature_name")]
    _signature_name: Option<String>,
    #[serde(borrow)]
    examples: Vec<Object<'a>>,
    /// What all examples share.
    #[serde(borrow, default)]
    context: Object<'a>,
}

/// Values by their names, each there once: which of two values is meant cannot be known.
#[derive(Default)]
struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = BTreeMap<String, &'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    match values.entry(name) {
                        Entry::Vacant(place) => place.insert(value),
                        Entry::Occupied(twice) => {
                            let name = twice.key();
                            return Err(A::Error::custom(format!(
                                "{name:?} is there twice; send it once"
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

/// A question's tensors: their names, shapes and elements.
#[derive(Debug)]
pub(crate) struct Body {
    columnar: bool,
    /// Whether the one tensor came without a name.
    unnamed: bool,
    tensors: Vec<(String, Flat)>,
    limits: Limits,
}

impl Body {
    /// # Errors
    /// It is none of the forms, or its rows differ.
    pub(crate) fn read(bytes: &[u8], verb: Verb, limits: Limits) -> Result<Self, Error> {
        let bytes = &*plain(bytes);
        match verb {
            Verb::Predict => Self::predict(bytes, limits),
            Verb::Classify | Verb::Regress => {
                let body: ExamplesJson<'_> = parse(bytes, "{\"examples\": [{…}, …]}")?;
                let examples = body.examples.into_iter().map(|mut example| {
                    for (name, value) in &body.context.0 {
                        example.0.entry(name.clone()).or_insert(value);
                    }
                    example
                });
                Self::row_wise(examples.collect(), limits)
            }
        }
    }

    fn predict(bytes: &[u8], limits: Limits) -> Result<Self, Error> {
        let body: PredictJson<'_> = parse(
            bytes,
            "{\"instances\": […]}, row by row, or {\"inputs\": …}, column by column",
        )?;
        match (body.instances, body.inputs) {
            (Some(instances), None) if holds_objects(instances) => {
                let rows = parse(instances.get().as_bytes(), "instances of one kind")?;
                Self::row_wise(rows, limits)
            }
            (Some(instances), None) => Self::unnamed(instances, Columnar(false), limits),
            (None, Some(inputs)) if inputs.get().starts_with('{') => {
                let inputs: Object<'_> = parse(inputs.get().as_bytes(), "inputs by their names")?;
                let tensors = inputs.0.into_iter().map(|(name, value)| {
                    let flat = flatten(value, limits).map_err(|error| of(&name, error))?;
                    Ok((name, flat))
                });
                Ok(Body {
                    columnar: true,
                    unnamed: false,
                    tensors: tensors.collect::<Result<_, Error>>()?,
                    limits,
                })
            }
            (None, Some(inputs)) => Self::unnamed(inputs, Columnar(true), limits),
            _ => Err(Error::Invalid(
                "send either instances, row by row, or inputs, column by column".to_owned(),
            )),
        }
    }

    fn unnamed(
        data: &RawValue,
        Columnar(columnar): Columnar,
        limits: Limits,
    ) -> Result<Self, Error> {
        let flat = flatten(data, limits).map_err(|error| of(UNNAMED, error))?;
        Ok(Body {
            columnar,
            unnamed: true,
            tensors: vec![(UNNAMED.to_owned(), flat)],
            limits,
        })
    }

    /// Objects with the same names, each a row.
    fn row_wise(rows: Vec<Object<'_>>, limits: Limits) -> Result<Self, Error> {
        let mut columns: Vec<(String, Flat)> = Vec::new();
        for (at, row) in rows.into_iter().enumerate() {
            if at > 0 && row.0.len() != columns.len() {
                return Err(differs(at));
            }
            for (place, (name, value)) in row.0.into_iter().enumerate() {
                let flat = flatten(value, limits).map_err(|error| of(&name, error))?;
                match columns.get_mut(place) {
                    None if at == 0 => columns.push((name, first(flat))),
                    Some((known, column)) if *known == name => {
                        append(column, flat, limits.values_max)
                            .map_err(|error| of(&name, error))?;
                    }
                    _ => return Err(differs(at)),
                }
            }
        }
        Ok(Body {
            columnar: false,
            unnamed: false,
            tensors: columns,
            limits,
        })
    }

    /// Names the one tensor, if it came without a name.
    pub(crate) fn name(&mut self, name: &str) {
        if self.unnamed
            && let [(unnamed, _)] = &mut self.tensors[..]
        {
            name.clone_into(unnamed);
        }
    }

    pub(crate) fn is_columnar(&self) -> bool {
        self.columnar
    }

    pub(crate) fn tensors(&self) -> Result<Vec<Tensor<'_>>, Error> {
        let tensors = self.tensors.iter().map(|(name, flat)| Tensor {
            name,
            datatype: match flat.cells {
                Cells::Numbers(_) => Datatype::Fp64,
                Cells::Bools(_) => Datatype::Bool,
                Cells::Texts(_) => Datatype::Bytes,
            },
            shape: &flat.shape,
            data: Data::Json(flat.cells.clone()),
            limits: self.limits,
        });
        match self.tensors.is_empty() {
            true => Err(Error::Invalid(
                "there are no rows; send at least one".to_owned(),
            )),
            false => Ok(tensors.collect()),
        }
    }
}

/// Whether answers are asked for column by column.
struct Columnar(bool);

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], wanted: &str) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Invalid(format!("the body is not {wanted}: {error}")))
}

/// Whether a list holds rows by their names; bytes are objects too, but values.
fn holds_objects(list: &RawValue) -> bool {
    let inside = list
        .get()
        .trim_start_matches(|it: char| it == '[' || it.is_whitespace());
    let first = inside.find('}').map_or(inside, |end| &inside[..=end]);
    inside.starts_with('{') && !is_bytes(first)
}

fn flatten(data: &RawValue, limits: Limits) -> Result<Flat, Error> {
    flatten_with(data, limits.values_max, text_of_bytes)
}

fn of(name: &str, error: Error) -> Error {
    match error {
        Error::Invalid(what) => wrong(name, what),
        error => error,
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

fn append(column: &mut Flat, flat: Flat, values_max: usize) -> Result<(), Error> {
    let differs = |what: &str| Error::Invalid(format!("its {what} differ from row to row"));
    let row = first(flat);
    if row.shape.get(1..) != column.shape.get(1..) {
        return Err(differs("shapes"));
    }
    if column.cells.len() + row.cells.len() > values_max {
        return Err(Error::TooLarge(format!(
            "the rows have more than {values_max} values; send fewer at once"
        )));
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
