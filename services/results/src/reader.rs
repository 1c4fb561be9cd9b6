//! The queries that gRPC and REST have in common, checked and answered from a store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_pipeline::{Pipeline, quote::quote};
use tokio::sync::Semaphore;

use crate::{
    log_limit::LogLimit,
    page_token,
    prediction::Prediction,
    query::{self, Count, Filter, Limit},
    store::{self, AnyStore, ReadStore},
};

/// Queries without an index, at the same time. Each may hold one of the few connections for readers until it is stopped; others,
/// which an index serves, must find one.
const UNINDEXED_MAX: usize = 2;
/// How long such a query waits for its turn, as for a connection.
const UNINDEXED_WAIT: Duration = Duration::from_secs(3);

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    BadRequest(#[from] query::Error),
    #[error("unknown pipeline {}; known here: {known}", quote(name))]
    UnknownPipeline { name: String, known: String },
    #[error("pipeline {pipeline:?} has no prediction with id {}{}", quote(id), of_shadow(shadow.as_deref()))]
    UnknownPrediction {
        pipeline: String,
        id: String,
        shadow: Option<String>,
    },
    #[error(
        "the database cannot be reached at the moment, or is busy with other queries; try again"
    )]
    Unreachable(#[source] store::Error),
    #[error(
        "the query was stopped after {seconds} s; narrow it to one key or decision, or to a shorter time range (from, to)"
    )]
    TooSlow { seconds: u64 },
    #[error(
        "as many queries by variant as may run already do; name a key as well, or try again in a moment"
    )]
    Busy,
    #[error("the query failed in the database; the service's log has the reason")]
    Failed(#[source] store::Error),
}

fn of_shadow(shadow: Option<&str>) -> String {
    shadow.map_or(String::new(), |name| {
        format!(" by a shadow {}", quote(name))
    })
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        static SLOW: LogLimit = LogLimit::new();
        static UNREACHABLE: LogLimit = LogLimit::new();
        static FAILED: LogLimit = LogLimit::new();
        let now = Instant::now();
        if let store::Error::TooSlow { seconds } = error {
            if let Some(count) = SLOW.due(now) {
                tracing::warn!(seconds, count, "slow queries stopped");
            }
            Error::TooSlow { seconds }
        } else if error.is_retriable() {
            if let Some(count) = UNREACHABLE.due(now) {
                tracing::warn!(%error, count, "database unreachable");
            }
            Error::Unreachable(error)
        } else {
            if let Some(count) = FAILED.due(now) {
                tracing::error!(%error, count, "queries failed in the database");
            }
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

/// A pipeline whose predictions are read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub name: String,
    /// The names that its decisions may have; empty where any may come.
    pub decisions: Vec<String>,
}

impl From<&Pipeline> for Served {
    fn from(pipeline: &Pipeline) -> Self {
        Served {
            name: pipeline.name().to_owned(),
            decisions: pipeline.decision().names(),
        }
    }
}

impl From<&str> for Served {
    fn from(name: &str) -> Self {
        Served {
            name: name.to_owned(),
            decisions: Vec::new(),
        }
    }
}

/// Reads what a store holds of the pipelines served here. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    store: AnyStore,
    pipelines: Arc<[Served]>,
    unindexed: Arc<Semaphore>,
}

impl Reader {
    pub fn new(store: AnyStore, pipelines: Vec<Served>) -> Self {
        Reader {
            store,
            pipelines: pipelines.into(),
            unindexed: Arc::new(Semaphore::new(UNINDEXED_MAX)),
        }
    }

    /// The pipelines' names.
    pub fn pipelines(&self) -> Vec<&str> {
        self.pipelines.iter().map(|it| it.name.as_str()).collect()
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
            return Err(query::Error::Empty { field: "id" }.into());
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
        let served = self.check(pipeline)?;
        filter.check()?;
        if let Some(token) = page_token {
            filter.after = Some(page_token::decode(pipeline, &filter, token)?);
        }
        // The variant is in no index, which each prediction would pay for.
        let _turn = match filter.variant.is_some() && filter.key.is_none() {
            true => {
                let turn = tokio::time::timeout(UNINDEXED_WAIT, self.unindexed.acquire());
                Some(turn.await.map_err(|_| Error::Busy)?)
            }
            false => None,
        };
        let page = self.store.list(pipeline, &filter).await?;
        if page.predictions.is_empty()
            && let Some(unknown) = self.unknown_decision(served, &filter).await?
        {
            return Err(unknown.into());
        }
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

    /// Says that no prediction has the decision that is asked for: neither the pipeline has it, nor, from an earlier file, a
    /// stored prediction.
    async fn unknown_decision(
        &self,
        served: &Served,
        filter: &Filter,
    ) -> Result<Option<query::Error>, Error> {
        let Some(given) = &filter.decision else {
            return Ok(None);
        };
        if served.decisions.is_empty() || served.decisions.contains(given) {
            return Ok(None);
        }
        let any = Filter {
            decision: Some(given.clone()),
            kind: filter.kind,
            limit: Limit::ONE,
            ..Filter::default()
        };
        let page = self.store.list(&served.name, &any).await?;
        Ok(page
            .predictions
            .is_empty()
            .then(|| query::Error::UnknownDecision {
                pipeline: served.name.clone(),
                given: given.clone(),
                known: served.decisions.clone(),
            }))
    }

    fn check(&self, pipeline: &str) -> Result<&Served, Error> {
        if pipeline.is_empty() {
            return Err(query::Error::Empty { field: "pipeline" }.into());
        }
        if let Some(served) = self.pipelines.iter().find(|it| it.name == pipeline) {
            return Ok(served);
        }
        let known = self.pipelines().join(", ");
        Err(Error::UnknownPipeline {
            name: pipeline.into(),
            known,
        })
    }
}

#[cfg(test)]
mod tests {
    use quadrille_telemetry::logs::count_lines;

    use super::*;

    #[test]
    fn queries_that_fail_are_not_logged_one_by_one() {
        let lines = count_lines(|| {
            for _ in 0..1_000 {
                let _ = Error::from(store::Error::TooSlow { seconds: 1 });
            }
        });
        // One, or two where a second ends meanwhile.
        assert!((1..=2).contains(&lines), "{lines}");
    }

    #[tokio::test]
    async fn as_many_queries_by_variant_as_may_run_leave_the_others_their_turn() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("results.db").display());
        let store = AnyStore::open(&url).await.unwrap();
        let reader = Reader::new(store, vec![Served::from("p")]);
        let by_variant = Filter {
            variant: Some("blue".to_owned()),
            ..Filter::default()
        };
        let by_key_too = Filter {
            key: Some("k".to_owned()),
            ..by_variant.clone()
        };
        let list = |filter: &Filter| reader.list("p", filter.clone(), None);
        let running = reader.unindexed.acquire_many(UNINDEXED_MAX as u32).await;
        let (third, keyed, any) = tokio::join!(
            list(&by_variant),
            list(&by_key_too),
            list(&Filter::default())
        );
        assert!(matches!(third, Err(Error::Busy)), "{third:?}");
        assert!(keyed.is_ok() && any.is_ok(), "{keyed:?} {any:?}");
        drop(running);
        assert!(list(&by_variant).await.is_ok());
        assert_eq!(reader.unindexed.available_permits(), UNINDEXED_MAX);
    }

    #[test]
    fn an_error_is_short_whatever_it_names() {
        let name = "\u{1}".repeat(1 << 20);
        let error = Error::UnknownPrediction {
            pipeline: "p".to_owned(),
            id: name.clone(),
            shadow: Some(name),
        };
        assert!(error.to_string().len() < 2_000);
    }
}
