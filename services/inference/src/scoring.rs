//! The scoring core: who answers a question, its rows in, its scores out, and what is said of those who answer.
//!
//! It knows no protocol: an adapter reads its requests into [`Question`]s of tensors, and writes [`Answer`]s.

mod about;
mod answer;
mod error;
pub(crate) mod outputs;
mod question;
mod scorer;

pub(crate) use self::{
    about::{About, TensorSpec},
    answer::{Answer, Prepared, Through},
    error::Error,
    question::{Form, Question},
    scorer::{Scorer, Target},
};
