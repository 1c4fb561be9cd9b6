//! Why rows have no predictions.

use super::verdict;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error(
        "more rows wait for this model than its queue holds; try again, or ask another replica"
    )]
    Overloaded,
    #[error("the call's deadline has passed; its rows were not scored")]
    Expired,
    #[error(
        "the answer would have too many numbers; send at most {rows} rows in a request to this model"
    )]
    TooLarge { rows: usize },
    #[error("the model failed on these rows; this is a bug of the model or of its package")]
    Failed,
    #[error(transparent)]
    NoPrediction(#[from] verdict::Error),
}
