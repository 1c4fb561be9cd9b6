//! What is wrong with the tensors of a request, by the name of the input.

use std::fmt::Display;

use quadrille_pipeline::quote::quote;

/// So much of a value that is refused is shown.
pub(crate) const SHOWN_MAX: usize = 40;

/// What is wrong with the tensors of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    TooLarge(String),
}

/// An error of one input, by its name.
pub(crate) fn wrong(input: &str, what: impl Display) -> Error {
    Error::Invalid(format!("input {}: {what}", quote(input)))
}

/// A shape, as far as it is worth showing.
pub(crate) fn shown(shape: &[i64]) -> String {
    const SIDES_MAX: usize = 8;
    match shape.get(..SIDES_MAX) {
        Some(first) if shape.len() > SIDES_MAX => {
            let first: Vec<String> = first.iter().map(i64::to_string).collect();
            format!("[{}, … {} sides]", first.join(", "), shape.len())
        }
        _ => format!("{shape:?}"),
    }
}
