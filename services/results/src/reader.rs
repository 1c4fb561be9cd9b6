//! The questions gRPC and REST have in common, checked and answered from a store.

use std::sync::Arc;

use crate::domain::{BadRequest, Count, Filter, Prediction};
use crate::page_token;
use crate::store::{self, AnyStore, Store};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error("unknown pipeline {name:?}; known here: {known}")]
    UnknownPipeline { name: String, known: String },
    #[error("pipeline {pipeline:?} has no prediction of id {id:?}{}", of_shadow(shadow.as_deref()))]
    UnknownPrediction {
        pipeline: String,
        id: String,
        shadow: Option<String>,
    },
    #[error(
        "the database cannot be reached, or is busy with other questions, at the moment; try again"
    )]
    Away(#[source] store::Error),
    #[error(
        "no answer was found within {seconds} s; ask for less: of one key or decision, or of a shorter time (from, to)"
    )]
    TooSlow { seconds: u64 },
    #[error("the database failed to answer; the service's log says why")]
    Failed(#[source] store::Error),
}

fn of_shadow(shadow: Option<&str>) -> String {
    shadow.map_or(String::new(), |name| format!(" by a shadow {name:?}"))
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        if let store::Error::TooSlow { seconds } = error {
            tracing::warn!(seconds, "a question was too slow");
            Error::TooSlow { seconds }
        } else if error.is_retriable() {
            tracing::warn!(%error, "database away");
            Error::Away(error)
        } else {
            tracing::error!(%error, "database failed");
            Error::Failed(error)
        }
    }
}

/// One page of a listing, as the outside sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    pub predictions: Vec<Prediction>,
    /// For the next request with the same filters; `None` on the last page.
    pub next_page_token: Option<String>,
}

/// Reads what a store holds of the pipelines served here. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    store: AnyStore,
    pipelines: Arc<[String]>,
}

impl Reader {
    pub fn new(store: AnyStore, pipelines: Vec<String>) -> Self {
        Reader {
            store,
            pipelines: pipelines.into(),
        }
    }

    pub fn pipelines(&self) -> &[String] {
        &self.pipelines
    }

    /// What was answered, or what the shadow of this name predicted.
    pub async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Prediction, Error> {
        self.check(pipeline)?;
        if id.is_empty() {
            return Err(BadRequest::Empty { field: "id" }.into());
        }
        let unknown = || Error::UnknownPrediction {
            pipeline: pipeline.into(),
            id: id.into(),
            shadow: shadow.map(str::to_owned),
        };
        if id.contains('\0') || shadow.is_some_and(|name| name.contains('\0')) {
            return Err(unknown());
        }
        let found = self.store.get(pipeline, id, shadow).await?;
        found.ok_or_else(unknown)
    }

    /// Lists by `filter`, whose `after` is taken from `page_token` if there is one.
    pub async fn list(
        &self,
        pipeline: &str,
        mut filter: Filter,
        page_token: Option<&str>,
    ) -> Result<Listing, Error> {
        self.check(pipeline)?;
        filter.check()?;
        if let Some(token) = page_token {
            filter.after = Some(page_token::decode(pipeline, &filter, token)?);
        }
        let page = self.store.list(pipeline, &filter).await?;
        let next = page
            .next
            .map(|position| page_token::encode(pipeline, &filter, &position));
        Ok(Listing {
            predictions: page.predictions,
            next_page_token: next,
        })
    }

    pub async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        self.check(pipeline)?;
        Ok(self.store.count(pipeline).await?)
    }

    fn check(&self, pipeline: &str) -> Result<(), Error> {
        if pipeline.is_empty() {
            return Err(BadRequest::Empty { field: "pipeline" }.into());
        }
        if self.pipelines.iter().any(|known| known == pipeline) {
            return Ok(());
        }
        let known = self.pipelines.join(", ");
        Err(Error::UnknownPipeline {
            name: pipeline.into(),
            known,
        })
    }
}
