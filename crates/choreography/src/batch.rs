//! A lane's batch: what was polled and is not yet committed, and the offsets it spans.

use std::{collections::BTreeMap, time::Instant};

use rdkafka::{Message, message::BorrowedMessage};

/// The offsets of one partition that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub partition: i32,
    /// Of the first record.
    pub first: i64,
    /// To commit: one past the last record.
    pub next: i64,
}

/// Folds (partition, offset) pairs, in order within each partition, into spans sorted by partition.
pub(crate) fn spans(offsets: impl Iterator<Item = (i32, i64)>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (partition, offset) in offsets {
        // Few partitions a lane, and runs of the same one: a scan from the end beats a map.
        match spans
            .iter_mut()
            .rev()
            .find(|span| span.partition == partition)
        {
            Some(span) => span.next = span.next.max(offset + 1),
            None => spans.push(Span {
                partition,
                first: offset,
                next: offset + 1,
            }),
        }
    }
    spans.sort_by_key(|span| span.partition);
    spans
}

/// Of each partition the offset after the last record polled; 0 where none was since it was taken.
#[derive(Default)]
struct LastPolled(Vec<i64>);

impl LastPolled {
    /// Notes a record; false for the one that was noted last.
    fn moves_to(&mut self, partition: i32, offset: i64) -> bool {
        let at = partition.max(0) as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        // Only that one: whoever makes a topic anew begins at 0 again.
        let moves = self.0[at] != offset + 1;
        self.0[at] = offset + 1;
        moves
    }

    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(next) = self.0.get_mut((*partition).max(0) as usize) {
                *next = 0;
            }
        }
    }
}

/// Messages polled together. They borrow from the consumer.
pub(crate) struct Batch<'c> {
    pub messages: Vec<BorrowedMessage<'c>>,
    pub bytes: usize,
    /// When its first message came.
    pub first_at: Instant,
    pub polled_at: Instant,
    last: LastPolled,
    /// Partitions whose records were forgotten, until it is taken note of.
    pub forgotten: Vec<i32>,
}

impl<'c> Batch<'c> {
    pub fn new() -> Self {
        Batch {
            messages: Vec::new(),
            bytes: 0,
            first_at: Instant::now(),
            polled_at: Instant::now(),
            last: LastPolled::default(),
            forgotten: Vec::new(),
        }
    }

    /// Takes a record, unless it is the last one polled: at a rebalance the client reads again from where it
    /// believes the lane to be, which may be one record behind.
    pub fn push(&mut self, message: BorrowedMessage<'c>) {
        let (partition, offset) = (message.partition(), message.offset());
        if !self.last.moves_to(partition, offset) {
            tracing::warn!(partition, offset, "polled again; dropped");
            return;
        }
        if self.messages.is_empty() {
            self.first_at = Instant::now();
        }
        self.bytes += message.payload_len() + message.key_len();
        self.messages.push(message);
    }

    pub fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Forgets the records of partitions that are no longer held, whose next holder has them, or will be
    /// read from elsewhere.
    pub fn forget(&mut self, revoked: &[i32]) {
        self.last.forget(revoked);
        self.forgotten.extend_from_slice(revoked);
        self.messages
            .retain(|message| !revoked.contains(&message.partition()));
        self.bytes = self
            .messages
            .iter()
            .map(|m| m.payload_len() + m.key_len())
            .sum();
    }

    /// Notes each partition's last timestamp, in ms.
    pub fn last_timestamps(&self, partitions: usize, last: &mut BTreeMap<i32, i64>) {
        let mut seen = Vec::with_capacity(partitions);
        for message in self.messages.iter().rev() {
            if seen.contains(&message.partition()) {
                continue;
            }
            seen.push(message.partition());
            if let Some(ms) = message.timestamp().to_millis() {
                last.insert(message.partition(), ms);
            }
            if seen.len() == partitions {
                break;
            }
        }
    }

    /// Of each record, in order.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.messages.iter().map(|message| message.partition())
    }

    pub fn spans(&self) -> Vec<Span> {
        spans(
            self.messages
                .iter()
                .map(|message| (message.partition(), message.offset())),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_record_polled_last_is_not_taken_twice_unless_its_partition_was_given_up() {
        let mut last = LastPolled::default();
        assert!(last.moves_to(2, 7) && last.moves_to(0, 7));
        assert!(!last.moves_to(2, 7));
        assert!(last.moves_to(2, 9));
        // Read from elsewhere.
        assert!(last.moves_to(2, 0));
        last.forget(&[2, 5]);
        assert!(last.moves_to(2, 0));
        assert!(!last.moves_to(0, 7));
    }

    proptest! {
        #[test]
        fn spans_commit_one_past_the_last_offset_of_each_partition(
            steps in prop::collection::vec((0..6_i32, 1..4_i64), 0..200)
        ) {
            // The model: a log a partition, with gaps where transaction markers lie.
            let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
            let mut model: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
            let mut offsets = Vec::new();
            for (partition, gap) in steps {
                let end = ends.entry(partition).or_insert(0);
                let offset = *end + gap - 1;
                *end = offset + 1;
                offsets.push((partition, offset));
                model.entry(partition).and_modify(|span| span.1 = offset + 1).or_insert((offset, offset + 1));
            }
            let found: BTreeMap<i32, (i64, i64)> = spans(offsets.into_iter())
                .into_iter()
                .map(|span| (span.partition, (span.first, span.next)))
                .collect();
            prop_assert_eq!(found, model);
        }
    }
}
