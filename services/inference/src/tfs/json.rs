//! Parts of a body: parsed, and flattened in the dialect. Pure.

use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::dialect::DIALECT;
use crate::tensor::{
    Error, Limits,
    json::{Flat, flatten_in},
    wrong,
};

pub(super) fn parse<'a, S: DeserializeSeed<'a>>(
    bytes: &'a [u8],
    wanted: &str,
    seed: S,
) -> Result<S::Value, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = seed.deserialize(&mut json);
    parsed
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| Error::Invalid(format!("the body is not {wanted}: {error}")))
}

pub(super) fn flatten(data: &RawValue, limits: Limits) -> Result<Flat, Error> {
    flatten_in(data, limits.values_max, &DIALECT)
}

/// An error of the value of this name.
pub(super) fn of(name: &str, error: Error) -> Error {
    match error {
        Error::Invalid(what) => wrong(name, what),
        error => error,
    }
}
