//! How far a lane is behind, from what its client knows already, and partitions that are assigned and not read.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{Offset, consumer::Consumer};

use super::{LaneConsumer, callbacks::lock};
use crate::{batch::Batch, native};

/// After that a partition held and not read counts as behind. An open transaction of a predecessor that was killed holds
/// its offset back for 20 s, with the broker's defaults.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// Between two lines of the log about partitions that are not read.
const UNREAD_LOG_EVERY: Duration = Duration::from_secs(60);

impl LaneConsumer {
    /// Writes down what is left to read, from what the client knows already: its statistics say the
    /// same for 40 ms of all cores each time. What is in the batch is not done yet; where that is empty, nothing waits in
    /// the client's queue either. `handled`: of each partition the Kafka timestamp, in ms, of the last record handled, or
    /// since when it has been held without any.
    pub fn report_lag(&self, batch: &Batch<'_>, handled: &mut BTreeMap<i32, i64>) {
        let events = self.client.context();
        let (Ok(position), Ok(topic)) = (self.client.position(), CString::new(&*self.topic)) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        let in_hand = batch.offset_ranges();
        for element in position.elements() {
            let partition = element.partition();
            if self.is_closed(partition) {
                continue;
            }
            let in_hand = in_hand.iter().find(|range| range.partition == partition);
            let next = match in_hand {
                Some(range) => Offset::Offset(range.first),
                None => element.offset(),
            };
            let end = native::cached_end(self.client.client(), &topic, partition);
            let lag = match (end, next) {
                (Some(end), Offset::Offset(next)) => (end - next).max(0),
                // Fetched, and nothing came.
                (Some(_), _) if batch.is_empty() => 0,
                _ => continue,
            };
            let since = *handled.entry(partition).or_insert(now);
            let behind = match lag {
                0 => 0,
                _ => now.saturating_sub(since).max(0),
            };
            let behind = Duration::from_millis(behind.unsigned_abs());
            events.metrics.lag(partition, lag, behind);
        }
        self.report_unread(&topic);
    }

    /// Counts what is held for long and was never fetched as behind, for it has no lag: the client waits without limit,
    /// and without a word, for an offset that a transaction is committing.
    fn report_unread(&self, topic: &CStr) {
        let events = self.client.context();
        let mut unread = Vec::new();
        for (partition, held) in &mut *lock(&events.assigned) {
            if native::cached_end(self.client.client(), topic, *partition).is_some() {
                held.unread_since = Instant::now();
                continue;
            }
            let waits = held.unread_since.elapsed();
            if waits > UNREAD_MAX {
                events.metrics.behind(*partition, waits);
                unread.push(*partition);
            }
        }
        if unread.is_empty() {
            return self.unread_logged_at.set(None);
        }
        let logged_at = self.unread_logged_at.get();
        if logged_at.is_none_or(|at| at.elapsed() >= UNREAD_LOG_EVERY) {
            self.unread_logged_at.set(Some(Instant::now()));
            tracing::warn!(
                topic = self.topic,
                partitions = ?unread,
                "partitions held, but not read: Kafka does not answer for them, or a transaction that never ended holds back where they go on; see docs/runbooks/QuadrilleConsumerStuck.md"
            );
        }
    }

    /// Records fetched that were not polled yet.
    pub fn queued(&self) -> usize {
        native::queue_length(self.client.client())
    }
}
