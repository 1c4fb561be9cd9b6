//! A stage: its lanes' threads, their start and their end.

use std::{sync::Arc, thread::JoinHandle};

use quadrille_telemetry::{StageMetrics, Tracing};

use crate::{
    AdminError, Cause, ConfigError, Handler, StageConfig,
    admin::StageTopics,
    facts,
    lane::{Lane, LaneOptions},
    status::{Health, LaneStatus, Stop},
};

/// Why a stage ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{service} of pipeline {pipeline} cannot go on: {cause}")]
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
    Topics(#[from] AdminError),
    #[error("could not start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a stage is made of, besides its handler.
pub struct StageOptions {
    pub config: StageConfig,
    /// From [`crate::Admin::prepare`].
    pub topics: StageTopics,
    pub metrics: StageMetrics,
    pub tracing: Tracing,
}

/// A running stage of one pipeline.
pub struct Stage {
    service: &'static str,
    pipeline: String,
    stop: Arc<Stop>,
    health: Health,
    threads: Vec<JoinHandle<Result<(), Cause>>>,
    watch: Option<JoinHandle<Result<(), AdminError>>>,
}

impl Stage {
    /// Starts the lanes; `make` makes the handler of each.
    ///
    /// # Errors
    /// A setting is out of range, or the system refuses a thread.
    pub fn start<H: Handler>(
        options: StageOptions,
        mut make: impl FnMut(usize) -> H,
    ) -> Result<Stage, StageError> {
        let StageOptions {
            mut config,
            topics,
            metrics,
            tracing,
        } = options;
        config.lanes = config.lanes.min(topics.partitions.max(1) as usize);
        config.validate()?;
        let config = Arc::new(config);
        let stop = Arc::new(Stop::default());
        let lanes: Arc<[Arc<LaneStatus>]> = (0..config.lanes)
            .map(|_| Arc::new(LaneStatus::new()))
            .collect();
        let mut threads = Vec::with_capacity(config.lanes);
        for (index, status) in lanes.iter().enumerate() {
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
                make(index),
            );
            let status = Arc::clone(status);
            let name = format!("{}-{index}", config.service);
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
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
        Ok(Stage {
            service: config.service,
            pipeline: config.pipeline.clone(),
            stop,
            health: Health::new(&config.pipeline, lanes),
            threads,
            watch,
        })
    }

    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Whether a lane has ended, which unasked means that it failed; or a topic is not what it was.
    pub fn has_ended(&self) -> bool {
        let watched = self.watch.iter().any(JoinHandle::is_finished);
        watched || self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Asks the lanes to finish the batch in hand and leave the group.
    pub fn stop(&self) {
        self.stop.request();
    }

    /// Waits for the lanes. Blocks.
    ///
    /// # Errors
    /// The first lane's that failed.
    pub fn join(self) -> Result<(), StageError> {
        let mut first = Ok(());
        for thread in self.threads {
            let result = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(cause)) => Err(StageError::Fatal {
                    service: self.service,
                    pipeline: self.pipeline.clone(),
                    cause,
                }),
                Err(_) => Err(StageError::Panicked {
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
