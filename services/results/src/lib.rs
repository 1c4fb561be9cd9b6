//! Predictions into SQL, and the ways to read them: gRPC, REST and a page.
//!
//! Everything but the stage itself is free of Kafka: [`store`] knows rows and offsets but not who
//! consumed them, [`reader`] knows queries but no protocol, and [`grpc`] and [`rest`] know their
//! protocol but no SQL. Prost types do not pass [`wire`] and [`grpc`].

mod args;
mod dashboard;
pub mod grpc;
mod log_limit;
pub mod page_token;
pub mod prediction;
pub mod query;
pub mod reader;
pub mod rest;
mod stage;
pub mod store;
pub mod wire;

use std::time::Duration;

use quadrille_choreography::{Backoff, CommitMode};
use quadrille_service::{
    Assembly, Boxed, Calls, Context, Drain, Error, MessageMax, Requests, Task,
};

use crate::{
    reader::Served,
    stage::{ResultsHandler, TopicStore},
    store::{AnyStore, Store, TopicIdentity, WriteStore},
};

pub use crate::args::{Cli, DatabaseArgs};

/// How long the database's connections may take to close: one that does not answer must not hold the exit up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What readiness says that the service waits for.
const DATABASE: &str = "the database (DATABASE_URL)";

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    /// `sqlite:` or `postgres:`.
    pub database_url: String,
}

/// Runs the service until `shutdown`, then drains it.
///
/// # Errors
/// A setting turned out wrong, the database belongs to another Kafka, or the service cannot go on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    boxed(config, Box::pin(shutdown)).await
}

fn boxed<'a>(config: Config, shutdown: Boxed<'a, ()>) -> Boxed<'a, Result<(), Error>> {
    Box::pin(serve(config, shutdown))
}

async fn serve(config: Config, shutdown: Boxed<'_, ()>) -> Result<(), Error> {
    let url = config.database_url;
    quadrille_service::run(config.service, shutdown, |context| async move {
        context.waiting_for(DATABASE);
        let store = open(&url).await?;
        let database = store.clone();
        let task = Task::new("database", Drain::AfterRequests, CLOSE_TIMEOUT);
        context.spawn(task, |mut stop| async move {
            stop.requested().await;
            database.close().await;
            Ok(())
        });
        assemble(context, store).await
    })
    .await
}

/// Opens the database; waits while it is unreachable.
async fn open(url: &str) -> Result<AnyStore, Error> {
    until_reachable(|| AnyStore::open(url)).await
}

/// Tries again while the database is unreachable; any other error is a wrong setting.
async fn until_reachable<T, Fut>(mut attempt: impl FnMut() -> Fut) -> Result<T, Error>
where
    Fut: Future<Output = Result<T, store::Error>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "database unreachable; trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(Error::Config(format!("DATABASE_URL: {error}"))),
        }
    }
}

/// Refuses offsets that are stored for another topic of this name, before the topic's lanes begin.
async fn check_offsets(
    store: &impl WriteStore,
    topic: &TopicIdentity,
    partitions: i32,
) -> Result<(), Error> {
    let partitions: Vec<i32> = (0..partitions).collect();
    until_reachable(|| store.claim(topic, &partitions))
        .await
        .map(drop)
}

async fn assemble(context: Context, store: AnyStore) -> Result<Assembly, Error> {
    for pipeline in &context.config.pipelines {
        context.waiting_for("Kafka");
        let mut stage = context.stage(pipeline).await?;
        // The database's transaction is what makes it exactly once.
        stage.config.commit = CommitMode::Store;
        let identity: TopicIdentity = context.topic_identity(&stage.config.input).await?.into();
        context.waiting_for(DATABASE);
        check_offsets(&store, &identity, stage.topics.partitions).await?;
        let topic_store = TopicStore::new(store.clone(), identity);
        context.run(stage, |_| {
            ResultsHandler::new(pipeline, context.schemas.clone(), topic_store.clone())
        })?;
    }
    let pipelines = context.config.pipelines.iter();
    let served: Vec<Served> = pipelines
        .map(|pipeline| Served::from(&**pipeline))
        .collect();
    Ok(Assembly {
        http: rest::router(store.clone(), served.clone()),
        grpc: Calls::default().with(grpc::grpc(store, served)),
        message_max: MessageMax::default(),
        requests: Requests::OutliveKafka,
    })
}

impl From<quadrille_choreography::TopicIdentity> for TopicIdentity {
    fn from(identity: quadrille_choreography::TopicIdentity) -> Self {
        TopicIdentity {
            cluster_id: identity.cluster_id,
            topic: identity.topic,
            topic_id: identity.topic_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::store::{Position, Positions, UnitOfWork, Written};

    /// Answers claims with what it was made of, in order.
    struct Scripted(Mutex<VecDeque<Result<Positions, store::Error>>>);

    impl WriteStore for Scripted {
        async fn claim(&self, _: &TopicIdentity, _: &[i32]) -> Result<Positions, store::Error> {
            let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            answers.pop_front().expect("asked too often")
        }

        async fn truncated(
            &self,
            _: &TopicIdentity,
            _: i32,
            _: Position,
            _: i64,
        ) -> Result<Position, store::Error> {
            unreachable!()
        }

        async fn write(&self, _: &UnitOfWork) -> Result<Written, store::Error> {
            unreachable!()
        }
    }

    async fn checked(answers: impl IntoIterator<Item = Result<Positions, store::Error>>) -> String {
        let scripted = Scripted(Mutex::new(answers.into_iter().collect()));
        let topic = TopicIdentity {
            cluster_id: "c".to_owned(),
            topic: "t".to_owned(),
            topic_id: None,
        };
        let result = check_offsets(&scripted, &topic, 1).await;
        let left = scripted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        assert_eq!(left, 0, "it is tried until it answers");
        result.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[tokio::test]
    async fn a_database_that_fails_between_connecting_and_the_first_claim_is_waited_for() {
        let late = || Err(store::Error::Timeout { seconds: 1 });
        let lost = || Err(store::Error::Database(sqlx::Error::PoolTimedOut));
        let answers = [late(), lost(), Ok(vec![(0, None)])];
        assert_eq!(checked(answers).await, "ok");
    }

    #[tokio::test]
    async fn a_database_of_another_kafka_is_refused_at_once() {
        let other = store::Error::OtherTopic {
            topic: "t".to_owned(),
            stored: "a".to_owned(),
            found: "b".to_owned(),
        };
        let message = checked([Err(other)]).await;
        assert!(
            message.starts_with("DATABASE_URL: topic \"t\""),
            "{message}"
        );
    }
}
