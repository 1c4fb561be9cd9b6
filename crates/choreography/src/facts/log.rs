//! The topic `quadrille.pipelines`: read to its end and written; of concurrent writers the first wins.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quadrille_proto::Topics;

use super::{Facts, FactsHistory, error::Error, fold::Fold, keys};
use crate::{Cluster, TableEvent, TableWrite, read_table, table::write, write_table};

/// How long the topic may take to be read.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);

/// How long what was written may take to be read: a writer that was killed leaves a transaction open before it, for up to 30 s.
const WRITTEN_WITHIN: Duration = Duration::from_secs(45);

/// Between two looks for what was written.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// All pipelines' facts. Every call blocks.
pub struct FactsLog {
    cluster: Cluster,
    fold: Fold,
}

impl FactsLog {
    /// Reads the topic to its end.
    ///
    /// # Errors
    /// There is no such topic, or it cannot be read.
    pub fn open(cluster: &Cluster) -> Result<Self, Error> {
        let mut log = FactsLog {
            cluster: cluster.clone(),
            fold: Fold::default(),
        };
        log.read(READ_WITHIN)?;
        Ok(log)
    }

    fn read(&mut self, within: Duration) -> Result<(), Error> {
        let mut fold = Fold::default();
        read_table(&self.cluster, Topics::PIPELINES, within, |event| {
            match event {
                TableEvent::Restarted => fold = Fold::default(),
                TableEvent::Record(record) => fold.apply(record.offset, record.key, record.value),
            }
            ControlFlow::Continue(())
        })?;
        self.fold = fold;
        Ok(())
    }

    pub fn history(&self, pipeline: &str) -> FactsHistory {
        self.fold.history(pipeline)
    }

    /// Whether a pipeline's file of this hash is kept.
    pub fn has_file(&self, pipeline: &str, sha256: &[u8; 32]) -> bool {
        self.fold.has_file(pipeline, sha256)
    }

    pub fn current(&self, pipeline: &str) -> Option<Facts> {
        self.history(pipeline).current().cloned()
    }

    /// Writes facts, and reads back which stand: another writer may have been first.
    ///
    /// Kafka answers a commit before its readers see it: the end of what is committed passes a transaction only once its
    /// marker is written, which a busy broker does later. So it is read until there are facts of this generation.
    ///
    /// # Errors
    /// The topic cannot be written or read, or what was written does not come.
    pub fn write(&mut self, facts: &Facts) -> Result<Facts, Error> {
        let unwritten = |reason: String| Error::Unwritten {
            pipeline: facts.pipeline.clone(),
            reason,
        };
        let value = facts.encode();
        let key = keys::of_facts(&facts.pipeline, facts.generation, &unique());
        let write = TableWrite {
            key,
            value: Some(&value),
        };
        let doubt = match write_table(&self.cluster, Topics::PIPELINES, &[write]) {
            Ok(()) => None,
            // Its transaction has ended, as far as is known: either it is there or it never will be.
            Err(write::Error::InDoubt { reason, .. }) => Some(reason),
            Err(error) => return Err(unwritten(error.to_string())),
        };
        let deadline = Instant::now() + WRITTEN_WITHIN;
        loop {
            self.read(READ_WITHIN)?;
            let current = self.current(&facts.pipeline);
            if let Some(current) = current.filter(|it| it.generation >= facts.generation) {
                return Ok(current);
            }
            if let Some(reason) = doubt {
                return Err(unwritten(reason));
            }
            if Instant::now() > deadline {
                let within = WRITTEN_WITHIN.as_secs();
                let reason =
                    format!("they were written, but could not be read back within {within} s");
                return Err(unwritten(reason));
            }
            std::thread::sleep(READ_AGAIN);
        }
    }
}

/// Unique to this writer.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{:x}-{:x}-{number}",
        now.unwrap_or_default().as_nanos(),
        std::process::id()
    )
}
