//! Offsets of the partitions assigned: positions, what the group has committed, where the log begins and ends.

use std::{ffi::CString, time::Duration};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer, error::KafkaResult};

use super::{LaneConsumer, callbacks::lock};
use crate::{batch::Position, native};

/// Begins the metadata committed beside an offset: the pipeline's generation follows.
pub(super) const GENERATION: &str = "generation=";
/// How long the client may take to begin a seek; its main thread answers at once, unless it is gone.
pub(super) const SEEK_WAIT: Duration = Duration::from_millis(500);
/// How long other partitions wait while a new one's offset is asked for.
pub(crate) const COMMITTED_WAIT: Duration = Duration::from_millis(500);

/// A partition, where it goes on, and the leader epoch of the last record before that, as far as they are known.
pub(crate) type StartOffset = (i32, Option<i64>, Option<i32>);

impl LaneConsumer {
    /// A list to commit, from partitions and their next offsets.
    pub fn offset_list(&self, next: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        let generation = self.identity.as_ref().map_or(0, |it| it.generation());
        let mut list = TopicPartitionList::with_capacity(next.len());
        for (partition, next) in next {
            let mut element = list.add_partition(&self.topic, *partition);
            element.set_offset(Offset::Offset(*next))?;
            if generation > 0 {
                element.set_metadata(format!("{GENERATION}{generation}"));
            }
        }
        native::set_position_epochs(self.client.client(), &mut list);
        Ok(list)
    }

    /// A list to commit positions.
    pub fn position_list(&self, positions: &[Position]) -> KafkaResult<TopicPartitionList> {
        let next: Vec<(i32, i64)> = positions.iter().map(|it| (it.partition, it.next)).collect();
        let mut list = self.offset_list(&next)?;
        // Of the same moment.
        native::set_epochs_by(&mut list, |partition| {
            let mut at = positions.iter();
            at.find(|it| it.partition == partition)?.epoch
        });
        Ok(list)
    }

    /// Notes what this lane has committed.
    pub fn note_committed(&self, offsets: &TopicPartitionList) {
        let mut assigned = lock(&self.client.context().assigned);
        for element in offsets.elements() {
            if let (Offset::Offset(next), Some(held)) =
                (element.offset(), assigned.get_mut(&element.partition()))
            {
                held.committed = Some(next);
            }
        }
    }

    /// The offset that would be polled next of a partition, where something was polled since it was assigned or sought.
    pub fn position_of(&self, partition: i32) -> KafkaResult<Option<i64>> {
        let position = self.client.position()?;
        let element = position.find_partition(&self.topic, partition);
        Ok(match element.map(|element| element.offset()) {
            Some(Offset::Offset(next)) => Some(next),
            _ => None,
        })
    }

    /// The client's position in each partition of which something was polled and whose start is checked.
    pub fn positions(&self) -> KafkaResult<Vec<Position>> {
        let unchecked = lock(&self.client.context().unchecked);
        let mut positions = self.all_positions()?;
        positions
            .retain(|it| !unchecked.contains_key(&it.partition) && !self.is_closed(it.partition));
        Ok(positions)
    }

    pub(super) fn all_positions(&self) -> KafkaResult<Vec<Position>> {
        let list = self.client.position()?;
        let elements = list.elements().into_iter().zip(native::epochs(&list));
        let position = elements.filter_map(|(element, epoch)| match element.offset() {
            Offset::Offset(next) => Some(Position {
                partition: element.partition(),
                next,
                epoch,
            }),
            _ => None,
        });
        Ok(position.collect())
    }

    /// What the group has committed of a partition, if anything.
    pub fn committed_offset_of(&self, partition: i32) -> KafkaResult<Option<i64>> {
        let all = self.committed_offsets_of(&[partition])?;
        Ok(all.first().and_then(|(_, next, _)| *next))
    }

    /// The same of several partitions, each with the leader epoch of its last record; of what this lane committed itself no coordinator may know less.
    pub fn committed_offsets_of(&self, partitions: &[i32]) -> KafkaResult<Vec<StartOffset>> {
        self.committed_offsets_within(partitions, COMMITTED_WAIT)
    }

    /// As [`LaneConsumer::committed_offsets_of`], with patience of the caller's.
    pub fn committed_offsets_within(
        &self,
        partitions: &[i32],
        within: Duration,
    ) -> KafkaResult<Vec<StartOffset>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let committed = self.client.committed_offsets(list, within)?;
        let topic = CString::new(&*self.topic)?;
        let assigned = lock(&self.client.context().assigned);
        let own = |partition: i32| assigned.get(&partition)?.committed;
        let one = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            element.error()?;
            let next = match element.offset() {
                Offset::Offset(next) => Some(next),
                _ => None,
            };
            let partition = element.partition();
            let epoch = native::committed_with(&committed, &topic, partition).0;
            Ok((partition, next.max(own(partition)), epoch))
        };
        committed.elements().iter().map(one).collect()
    }

    /// Which of these partitions the group has committed up to their offsets, or beyond.
    pub fn already_committed(&self, offsets: &TopicPartitionList) -> KafkaResult<Vec<(i32, i64)>> {
        let mut list = TopicPartitionList::with_capacity(offsets.count());
        for element in offsets.elements() {
            list.add_partition(&self.topic, element.partition());
        }
        let committed = self.client.committed_offsets(list, COMMITTED_WAIT)?;
        let mut found = Vec::new();
        for element in offsets.elements() {
            let partition = element.partition();
            let there = committed.find_partition(&self.topic, partition);
            let there = there.filter(|it| it.error().is_ok()).map(|it| it.offset());
            if let (Offset::Offset(next), Some(Offset::Offset(there))) = (element.offset(), there)
                && there >= next
            {
                found.push((partition, next));
            }
        }
        Ok(found)
    }

    /// Where a partition's log begins and where it ends; None without an answer. The end is the last stable offset, not the
    /// high watermark: that is what a client with `read_committed` is told.
    pub fn watermarks(&self, partition: i32) -> Option<(i64, i64)> {
        let range = match &self.identity {
            Some(identity) => identity.client(&self.cluster).and_then(|metadata_client| {
                metadata_client.fetch_watermarks(&self.topic, partition, COMMITTED_WAIT)
            }),
            None => (self.client).fetch_watermarks(&self.topic, partition, COMMITTED_WAIT),
        };
        range.ok().filter(|(begin, end)| (0..=*end).contains(begin))
    }

    /// Sends a partition elsewhere and waits until that is so.
    ///
    /// # Errors
    /// A rebalance has overtaken it.
    pub fn seek_to(&self, partition: i32, next: i64) -> KafkaResult<()> {
        self.client
            .seek(&self.topic, partition, Offset::Offset(next), SEEK_WAIT)
    }

    /// Counts records that the log lost after they were handled.
    pub fn count_lost(&self, records: i64) {
        let metrics = &self.client.context().metrics;
        metrics.lost("truncated", records.unsigned_abs());
    }
}
