//! A stage: described by one value, started by one call, and then its lanes' threads until they end.

use std::{sync::Arc, thread::JoinHandle};

use quadrille_telemetry::{StageMetrics, Tracing, metrics::LoopMetrics};

use crate::{
    Cause, CommitMode, Handler, StageConfig, StageTopics, admin, config, facts,
    lane::{Lane, LaneOptions},
    status::{Health, LaneStatus, Stop},
};

/// Why a stage ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("{service} of pipeline {pipeline} cannot continue: {cause}")]
    Fatal {
        service: &'static str,
        pipeline: String,
        cause: Cause,
    },
    #[error("{service} of pipeline {pipeline}: a lane panicked; this is a bug")]
    Panicked {
        service: &'static str,
        pipeline: String,
    },
    /// A topic changed while the stage ran.
    #[error(transparent)]
    Topics(#[from] admin::Error),
    #[error("could not start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error(
        "{service} of pipeline {pipeline}: the stage commits by {commit:?}, but its handler {}; this is a bug",
        if *has_store { "keeps offsets in a store, which would never be committed" } else { "has no store" }
    )]
    Store {
        service: &'static str,
        pipeline: String,
        commit: CommitMode,
        has_store: bool,
    },
}

/// A stage of one pipeline as it is to run; what it does with records is its handler's.
///
/// ```no_run
/// use quadrille_choreography::{Handler, Incoming, Item, Output, Stage, handler, stage::Error};
///
/// /// Passes on what it gets.
/// struct Copy;
///
/// impl Handler for Copy {
///     type Record = Vec<u8>;
///
///     fn decode(&mut self, incoming: &Incoming<'_>, record: &mut Vec<u8>) -> Result<(), handler::Error> {
///         record.clear();
///         record.extend_from_slice(incoming.payload.unwrap_or_default());
///         Ok(())
///     }
///
///     fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
///         for item in items {
///             output.emit(|payload| payload.extend_from_slice(item.record));
///         }
///     }
/// }
///
/// fn copy(stage: Stage) -> Result<(), Error> {
///     let running = stage.run(|_lane| Copy)?;
///     running.stop();
///     running.join()
/// }
/// ```
pub struct Stage {
    pub config: StageConfig,
    /// From [`crate::Admin::prepare`].
    pub topics: StageTopics,
    pub metrics: StageMetrics,
    pub tracing: Tracing,
}

/// A running stage of one pipeline.
pub struct RunningStage {
    service: &'static str,
    pipeline: String,
    stop: Arc<Stop>,
    health: Health,
    threads: Vec<JoinHandle<Result<(), Cause>>>,
    watch: Option<JoinHandle<Result<(), admin::Error>>>,
}

impl Stage {
    /// With its own metrics among the loop's.
    pub fn new(
        config: StageConfig,
        topics: StageTopics,
        metrics: &LoopMetrics,
        tracing: Tracing,
    ) -> Self {
        Stage {
            metrics: metrics.stage(&config.pipeline, &config.group, &config.input),
            config,
            topics,
            tracing,
        }
    }

    /// Starts the lanes; `make` makes the handler of each, by its number.
    ///
    /// # Errors
    /// A setting is out of range, the handler does not fit [`StageConfig::commit`], or the system refuses a thread.
    pub fn run<H: Handler>(self, mut make: impl FnMut(usize) -> H) -> Result<RunningStage, Error> {
        let Stage {
            mut config,
            topics,
            metrics,
            tracing,
        } = self;
        config.lanes = config.lanes.min(topics.partitions.max(1) as usize);
        config.validate()?;
        let config = Arc::new(config);
        let stop = Arc::new(Stop::default());
        let lanes: Arc<[Arc<LaneStatus>]> = (0..config.lanes)
            .map(|_| Arc::new(LaneStatus::new()))
            .collect();
        let handlers = (0..config.lanes).map(|index| check_handler(make(index), &config));
        let handlers = handlers.collect::<Result<Vec<H>, _>>()?;
        let mut threads = Vec::with_capacity(config.lanes);
        for (index, (status, handler)) in lanes.iter().zip(handlers).enumerate() {
            let lane = Lane::new(
                LaneOptions {
                    config: Arc::clone(&config),
                    index,
                    topics: topics.clone(),
                    metrics: metrics.clone(),
                    tracing: tracing.clone(),
                    status: Arc::clone(status),
                    stop: Arc::clone(&stop),
                },
                handler,
            );
            let status = Arc::clone(status);
            let name = format!("{}-{index}", config.service);
            let (service, pipeline) = (config.service, config.pipeline.clone());
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                // Every line of the lane's log says whose it is: several stages may run in one process.
                let _span = tracing::error_span!("lane", service, pipeline, index).entered();
                let result = lane.run();
                status.ended();
                result
            })?);
        }
        let watch = match topics.identity {
            Some(identity) => {
                let (config, stop) = (Arc::clone(&config), Arc::clone(&stop));
                let name = format!("{}-topics", config.service);
                let run = move || facts::watch(&config.cluster, &identity, &stop);
                Some(std::thread::Builder::new().name(name).spawn(run)?)
            }
            None => None,
        };
        Ok(RunningStage {
            service: config.service,
            pipeline: config.pipeline.clone(),
            stop,
            health: Health::new(&config.pipeline, lanes),
            threads,
            watch,
        })
    }
}

/// What a handler keeps beside its outputs must be committed with them: state needs transactions, and one whose store would never be asked to commit loses what it keeps there; one without would commit nothing.
fn check_handler<H: Handler>(mut handler: H, config: &StageConfig) -> Result<H, Error> {
    if handler.keeps_state() && config.commit == CommitMode::AtLeastOnce {
        return Err(config::Error::StateNeedsTransactions.into());
    }
    let has_store = handler.store().is_some();
    match has_store == (config.commit == CommitMode::Store) {
        true => Ok(handler),
        false => Err(Error::Store {
            service: config.service,
            pipeline: config.pipeline.clone(),
            commit: config.commit,
            has_store,
        }),
    }
}

impl RunningStage {
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Whether a lane has ended, which unasked means that it failed; or a topic is not what it was.
    pub fn has_ended(&self) -> bool {
        let watched = self.watch.iter().any(JoinHandle::is_finished);
        watched || self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Asks the lanes to finish the current batch and leave the group.
    pub fn stop(&self) {
        self.stop.request();
    }

    /// Waits for the lanes. Blocks.
    ///
    /// # Errors
    /// The first lane's that failed.
    pub fn join(self) -> Result<(), Error> {
        let mut first = Ok(());
        for thread in self.threads {
            let result = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(cause)) => Err(Error::Fatal {
                    service: self.service,
                    pipeline: self.pipeline.clone(),
                    cause,
                }),
                Err(_) => Err(Error::Panicked {
                    service: self.service,
                    pipeline: self.pipeline.clone(),
                }),
            };
            // One lane's end ends all: the others drain.
            self.stop.request();
            first = first.and(result);
        }
        match self.watch.map(JoinHandle::join) {
            // Why the lanes were asked to end.
            Some(Ok(Err(changed))) => Err(changed.into()),
            _ => first,
        }
    }
}
