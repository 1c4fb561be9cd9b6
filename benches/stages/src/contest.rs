//! A stage's handler on a preloaded topic, measured from the first record to the last commit.

use std::{sync::Arc, time::Duration};

use quadrille_choreography::{
    Admin, Delivered, Handler, Incoming, Item, OffsetStore, Output, Restore, RunningStage,
    StageConfig, handler,
};
use quadrille_telemetry::{Registry, StageMetrics, Tracing, metrics::LoopMetrics};

use crate::{
    broker::{Broker, wait_until},
    report::{Measured, Meter},
};

const ROUND_WITHIN: Duration = Duration::from_secs(600);

/// What is run.
pub struct Contest<'a> {
    pub broker: &'a Broker,
    pub config: StageConfig,
    pub records: u64,
    pub registry: &'a Registry,
    pub tracing: &'a Tracing,
}

impl Contest<'_> {
    /// Runs until all records are done.
    pub fn run<H: Handler>(self, make: impl Fn() -> H) -> anyhow::Result<Measured> {
        let meter = Arc::new(Meter::start(self.broker)?);
        let (broker, records) = (self.broker, self.records);
        let running = self.start(make, &meter)?;
        let done = running.wait(|metrics| metrics.consumed_total() >= records);
        let measured = meter.finish(broker, records);
        running.end()?;
        done.and(measured)
    }

    /// Starts, and hands the stage over.
    pub fn start<H: Handler, W: Watch>(
        self,
        make: impl Fn() -> H,
        watch: &Arc<W>,
    ) -> anyhow::Result<Running> {
        let topics = Admin::connect(&self.config.cluster)?.prepare(&self.config)?;
        let config = &self.config;
        let loop_metrics = LoopMetrics::register(self.registry);
        let metrics = loop_metrics.stage(&config.pipeline, &config.group, &config.input);
        let stage = quadrille_choreography::Stage {
            config: self.config,
            topics,
            metrics: metrics.clone(),
            tracing: self.tracing.clone(),
        };
        let stage = stage.run(|_| Watched {
            handler: make(),
            watch: Arc::clone(watch),
        })?;
        Ok(Running { stage, metrics })
    }
}

/// A stage at work.
pub struct Running {
    stage: RunningStage,
    metrics: StageMetrics,
}

impl Running {
    /// Until it is done, or has ended by itself.
    pub fn wait(&self, is_done: impl Fn(&StageMetrics) -> bool) -> anyhow::Result<()> {
        wait_until("the stage", ROUND_WITHIN, Duration::from_millis(1), || {
            Ok(self.stage.has_ended() || is_done(&self.metrics))
        })
    }

    pub fn end(self) -> anyhow::Result<()> {
        self.stage.stop();
        Ok(self.stage.join()?)
    }
}

/// Who wants to know what a handler is asked for.
pub trait Watch: Send + Sync + 'static {
    fn begins(&self) {}
    /// A partition's state is to be restored, or restored further.
    fn restoring(&self) {}
    /// A partition's state was restored so far.
    fn restores(&self, partition: i32, restore: Restore) {
        let _ = (partition, restore);
    }
}

impl Watch for Meter {
    fn begins(&self) {
        self.first_record();
    }
}

/// A handler that is watched.
pub struct Watched<H, W> {
    pub handler: H,
    pub watch: Arc<W>,
}

impl<H: Handler, W: Watch> Handler for Watched<H, W> {
    type Record = H::Record;

    fn is_ready(&self) -> bool {
        self.handler.is_ready()
    }

    fn begin(&mut self) {
        self.watch.begins();
        self.handler.begin();
    }

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut H::Record,
    ) -> Result<(), handler::Error> {
        self.handler.decode(incoming, record)
    }

    fn handle(&mut self, items: &[Item<'_, H::Record>], output: &mut Output) {
        self.handler.handle(items, output);
    }

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        self.handler.store()
    }

    fn keeps_state(&self) -> bool {
        self.handler.keeps_state()
    }

    fn assigned(&mut self, partitions: &[i32]) {
        self.handler.assigned(partitions);
    }

    fn restore(&mut self, partition: i32, next: Option<i64>) -> Result<Restore, handler::Error> {
        self.watch.restoring();
        let restore = self.handler.restore(partition, next)?;
        self.watch.restores(partition, restore);
        Ok(restore)
    }

    fn revoked(&mut self, partitions: &[i32]) {
        self.handler.revoked(partitions);
    }

    fn committed(&mut self, delivered: &Delivered) {
        self.handler.committed(delivered);
    }

    fn aborted(&mut self) {
        self.handler.aborted();
    }

    fn panicked(&mut self) {
        self.handler.panicked();
    }

    fn tick(&mut self) {
        self.handler.tick();
    }
}
