//! A lane's batch: what was polled and is not yet committed, and the ranges of offsets it covers.

mod continuity;

use std::{collections::BTreeMap, time::Instant};

use rdkafka::{Message, message::BorrowedMessage};

use self::continuity::{Continuity, LastPolled, LastRecord};
use crate::native;

/// The offsets of one partition that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    pub partition: i32,
    /// Of the first record.
    pub first: i64,
    /// To commit: one past the last record.
    pub next: i64,
}

/// Where the client stands in a partition: behind what was polled last, a record or the marker of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub partition: i32,
    pub next: i64,
    /// The leader epoch of what was polled last, where it is known.
    pub epoch: Option<i32>,
}

/// What a batch has of each partition, kept as records come: a look at each of thousands of messages takes longer.
#[derive(Default)]
struct Covered(Vec<Part>);

struct Part {
    range: OffsetRange,
    /// The last record's timestamp, in ms, if it has one.
    last_ms: Option<i64>,
}

impl Covered {
    /// Records come in order within each partition.
    fn push(&mut self, partition: i32, offset: i64, timestamp_ms: Option<i64>) {
        // Few partitions a lane, and runs of the same one: a scan from the end beats a map.
        let mut parts = self.0.iter_mut().rev();
        match parts.find(|part| part.range.partition == partition) {
            Some(part) => {
                part.range.next = part.range.next.max(offset + 1);
                part.last_ms = timestamp_ms;
            }
            None => self.0.push(Part {
                range: OffsetRange {
                    partition,
                    first: offset,
                    next: offset + 1,
                },
                last_ms: timestamp_ms,
            }),
        }
    }

    /// Sorted by partition.
    fn ranges(&self) -> Vec<OffsetRange> {
        let mut ranges: Vec<OffsetRange> = self.0.iter().map(|part| part.range).collect();
        ranges.sort_by_key(|range| range.partition);
        ranges
    }
}

/// Messages polled together. They borrow from the consumer.
pub(crate) struct Batch<'c> {
    pub messages: Vec<BorrowedMessage<'c>>,
    pub bytes: usize,
    covered: Covered,
    /// When its first message came.
    pub first_at: Instant,
    pub polled_at: Instant,
    last: LastPolled,
    /// Partitions whose records were forgotten, until it is taken note of.
    pub forgotten: Vec<i32>,
    /// Partitions that did not go on from the record polled last.
    rechecks: Vec<i32>,
}

impl<'c> Batch<'c> {
    pub fn new() -> Self {
        Batch {
            messages: Vec::new(),
            bytes: 0,
            covered: Covered::default(),
            first_at: Instant::now(),
            polled_at: Instant::now(),
            last: LastPolled::default(),
            forgotten: Vec::new(),
            rechecks: Vec::new(),
        }
    }

    /// Takes a record, unless it is the last one polled: at a rebalance the client reads again from where it
    /// believes the lane to be, which may be one record behind. One that does not go on from the last has its
    /// partition's start checked anew.
    pub fn push(&mut self, message: BorrowedMessage<'c>) {
        let (partition, offset) = (message.partition(), message.offset());
        match self
            .last
            .classify(partition, offset, native::epoch(&message))
        {
            Continuity::Contiguous => {}
            Continuity::Duplicate => {
                tracing::warn!(
                    partition,
                    offset,
                    "the client returned a record twice; the second is dropped"
                );
                return;
            }
            Continuity::Gap | Continuity::Backwards => self.recheck(partition),
        }
        if self.messages.is_empty() {
            self.first_at = Instant::now();
        }
        self.bytes += message.payload_len() + message.key_len();
        let timestamp_ms = message.timestamp().to_millis();
        self.covered.push(partition, offset, timestamp_ms);
        self.messages.push(message);
    }

    pub fn clear(&mut self) {
        self.messages.clear();
        self.covered.0.clear();
        self.bytes = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Has a partition's start checked anew.
    pub fn recheck(&mut self, partition: i32) {
        if !self.rechecks.contains(&partition) {
            self.rechecks.push(partition);
        }
    }

    /// Notes a position, which passes markers of transactions as well. False where they do not go on from what was polled
    /// last, no more than a record in their place would: the partition's start is checked anew.
    pub fn continues_to(&mut self, position: &Position) -> bool {
        let Position {
            partition,
            next,
            epoch,
        } = *position;
        match self.last.classify(partition, next - 1, epoch) {
            Continuity::Contiguous | Continuity::Duplicate => true,
            Continuity::Gap | Continuity::Backwards => {
                self.recheck(partition);
                false
            }
        }
    }

    /// The partitions that did not go on since the last call; what came then is in the batch.
    pub fn take_rechecks(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.rechecks)
    }

    /// Whether a partition began (at this offset, of this leader epoch) behind what is committed of it, and behind a gap at
    /// which a newer epoch begins: a marker lay there, or the log was cut within what the client had fetched and the lane
    /// had not polled. True once for each epoch.
    pub fn begins_behind_gap(
        &mut self,
        partition: i32,
        committed: (i64, Option<i32>),
        first: (i64, Option<i32>),
    ) -> bool {
        self.last.of(partition).is_behind_gap(committed, first)
    }

    /// Of each record's leader epoch the first of a partition.
    pub fn first_epoch(&self, partition: i32) -> Option<i32> {
        let mut of = self
            .messages
            .iter()
            .filter(|it| it.partition() == partition);
        of.next().and_then(native::epoch)
    }

    /// The leader epoch that a partition's last record was written in.
    pub fn last_epoch(&self, partition: i32) -> Option<i32> {
        let mut of = self.messages.iter().rev();
        of.find(|it| it.partition() == partition)
            .and_then(native::epoch)
    }

    /// Forgets all of partitions that are no longer held; their next holder has their records.
    pub fn revoke(&mut self, revoked: &[i32]) {
        self.forget(revoked);
        for partition in revoked {
            *self.last.of(*partition) = LastRecord::default();
        }
    }

    /// Forgets the records of partitions that are no longer held, or will be read from elsewhere.
    pub fn forget(&mut self, revoked: &[i32]) {
        self.last.forget(revoked);
        self.forgotten.extend_from_slice(revoked);
        self.rechecks
            .retain(|partition| !revoked.contains(partition));
        self.messages
            .retain(|message| !revoked.contains(&message.partition()));
        self.covered
            .0
            .retain(|part| !revoked.contains(&part.range.partition));
        self.bytes = self
            .messages
            .iter()
            .map(|m| m.payload_len() + m.key_len())
            .sum();
    }

    /// Notes each partition's last timestamp, in ms.
    pub fn last_timestamps(&self, last: &mut BTreeMap<i32, i64>) {
        let parts = self.covered.0.iter();
        last.extend(parts.filter_map(|part| Some((part.range.partition, part.last_ms?))));
    }

    /// Of each record, in order.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.messages.iter().map(|message| message.partition())
    }

    pub fn offset_ranges(&self) -> Vec<OffsetRange> {
        self.covered.ranges()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const EPOCH: Option<i32> = Some(4);
    const NEWER: Option<i32> = Some(5);

    #[test]
    fn a_start_behind_a_gap_at_which_a_newer_epoch_begins_is_seen_once() {
        let mut batch = Batch::new();
        let committed = (100, EPOCH);
        // It goes on from what is committed, or within its epoch, or nothing is known.
        assert!(!batch.begins_behind_gap(1, committed, (100, NEWER)));
        assert!(!batch.begins_behind_gap(1, committed, (105, EPOCH)));
        assert!(!batch.begins_behind_gap(1, committed, (105, None)));
        assert!(!batch.begins_behind_gap(1, (100, None), (105, NEWER)));
        assert!(batch.begins_behind_gap(1, committed, (105, NEWER)));
        // Sent back, it comes to the same gap: a marker lies there.
        batch.forget(&[1]);
        assert!(!batch.begins_behind_gap(1, committed, (105, NEWER)));
        // The next leader's is another one, and so is the gap of a partition that was given up and came back.
        assert!(batch.begins_behind_gap(1, committed, (105, Some(6))));
        batch.revoke(&[1]);
        assert!(batch.begins_behind_gap(1, committed, (105, NEWER)));
    }

    #[test]
    fn a_position_behind_markers_is_judged_as_a_record_in_the_place_of_the_last_one() {
        let mut batch = Batch::new();
        let at = |next, epoch| Position {
            partition: 1,
            next,
            epoch,
        };
        assert_eq!(batch.last.classify(1, 99, EPOCH), Continuity::Contiguous);
        assert!(batch.continues_to(&at(100, EPOCH)), "of the record itself");
        // One marker, also of the next leader.
        assert!(batch.continues_to(&at(101, NEWER)));
        assert!(batch.continues_to(&at(103, NEWER)), "within an epoch");
        assert!(batch.take_rechecks().is_empty());
        // Records can have been left out before the marker.
        assert!(!batch.continues_to(&at(106, Some(6))));
        assert_eq!(batch.take_rechecks(), [1]);
        batch.forget(&[1]);
        assert!(batch.continues_to(&at(106, Some(6))));
        // The log was cut before what was polled.
        assert!(!batch.continues_to(&at(90, Some(7))));
        assert_eq!(batch.take_rechecks(), [1]);
        assert_eq!(batch.last.classify(1, 90, Some(7)), Continuity::Contiguous);
    }

    proptest! {
        #[test]
        fn ranges_commit_one_past_the_last_offset_of_each_partition(
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
                model.entry(partition).and_modify(|range| range.1 = offset + 1).or_insert((offset, offset + 1));
            }
            let mut covered = Covered::default();
            offsets.iter().for_each(|(partition, offset)| covered.push(*partition, *offset, None));
            let ranges = covered.ranges();
            prop_assert!(ranges.is_sorted_by_key(|it| it.partition));
            let found: BTreeMap<i32, (i64, i64)> = ranges
                .into_iter()
                .map(|range| (range.partition, (range.first, range.next)))
                .collect();
            prop_assert_eq!(found, model);
        }
    }
}
