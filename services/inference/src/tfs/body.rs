//! The body of a question in TensorFlow Serving's REST form, as tensors. Pure.

use std::marker::PhantomData;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    dialect::{is_bytes, plain},
    json::{flatten, of, parse},
    rows::{Object, row_wise},
};
use crate::tensor::{Cells, Data, Datatype, Error, Limits, Tensor, json::Flat};

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
    examples: &'a RawValue,
    /// What all examples share.
    #[serde(borrow, default)]
    context: Object<'a>,
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
                let wanted = "{\"examples\": [{…}, …]}";
                let body: ExamplesJson<'_> = parse(bytes, wanted, PhantomData)?;
                let (list, context) = (body.examples, &body.context);
                Ok(Self::rows(row_wise(list, wanted, context, limits)?, limits))
            }
        }
    }

    fn predict(bytes: &[u8], limits: Limits) -> Result<Self, Error> {
        let body: PredictJson<'_> = parse(
            bytes,
            "{\"instances\": […]}, row by row, or {\"inputs\": …}, column by column",
            PhantomData,
        )?;
        match (body.instances, body.inputs) {
            (Some(instances), None) if holds_objects(instances) => {
                let none = Object::default();
                let rows = row_wise(instances, "instances of one kind", &none, limits)?;
                Ok(Self::rows(rows, limits))
            }
            (Some(instances), None) => Self::unnamed(instances, Columnar(false), limits),
            (None, Some(inputs)) if inputs.get().starts_with('{') => {
                let inputs: Object<'_> = parse(
                    inputs.get().as_bytes(),
                    "inputs by their names",
                    PhantomData,
                )?;
                let tensors = inputs.0.into_iter().map(|(name, value)| {
                    let flat = flatten(value, limits).map_err(|error| of(&name.0, error))?;
                    Ok((name.0.into_owned(), flat))
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

    fn rows(columns: Vec<(String, Flat)>, limits: Limits) -> Self {
        Body {
            columnar: false,
            unnamed: false,
            tensors: columns,
            limits,
        }
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

/// Whether a list holds rows by their names; bytes are objects too, but values.
fn holds_objects(list: &RawValue) -> bool {
    let inside = list
        .get()
        .trim_start_matches(|it: char| it == '[' || it.is_whitespace());
    let first = inside.find('}').map_or(inside, |end| &inside[..=end]);
    inside.starts_with('{') && !is_bytes(first)
}
