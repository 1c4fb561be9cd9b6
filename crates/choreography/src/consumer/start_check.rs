//! Whether a partition that is new to a lane begins where the group's offset says, and what to do where the log no longer
//! has that: it was truncated, or retention was faster than the lane.

pub(super) mod pending;
mod rules;
mod target;

use std::{collections::BTreeMap, ffi::CString, time::Instant};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};

use self::{pending::PendingCheck, rules::CommittedOffset, target::FirstRecord};
use super::{
    LaneConsumer,
    callbacks::lock,
    offsets::{COMMITTED_WAIT, GENERATION, SEEK_WAIT},
};
use crate::{OffsetRange, batch::Batch, client, native};

impl LaneConsumer {
    /// Takes from the batch what a partition new to this lane should not have begun with, and sends the
    /// partition where the group's offset says; or, where the log has lost that, to where it begins to differ.
    ///
    /// # Errors
    /// The client refuses a seek; or the topic is another one, of which nothing may be handled.
    pub fn check_starts(&self, batch: &mut Batch<'_>) -> Result<(), String> {
        if !self.client.context().checks_starts() {
            batch.take_rechecks();
            return Ok(());
        }
        let mut unchecked = lock(&self.client.context().unchecked);
        self.end_cooldowns(&mut unchecked, batch)?;
        let rechecks = batch.take_rechecks();
        let is_new = |partition: i32| unchecked.contains_key(&partition);
        if rechecks.is_empty() && (unchecked.is_empty() || !batch.partitions().any(is_new)) {
            return Ok(());
        }
        let mut begun = batch.offset_ranges();
        begun.retain(|range| {
            unchecked.contains_key(&range.partition) && !rechecks.contains(&range.partition)
        });
        let known = self.is_same_topic()?;
        let mut list = TopicPartitionList::with_capacity(begun.len() + rechecks.len());
        for partition in begun
            .iter()
            .map(|range| range.partition)
            .chain(rechecks.iter().copied())
        {
            list.add_partition(&self.topic, partition);
        }
        let asked = known
            .then(|| self.client.committed_offsets(list, COMMITTED_WAIT).ok())
            .flatten();
        for partition in rechecks {
            batch.forget(&[partition]);
            unchecked.insert(partition, PendingCheck::default());
            self.seek_to_committed(asked.as_ref(), partition)?;
        }
        for OffsetRange {
            partition, first, ..
        } in begun
        {
            let (committed, committed_epoch) = self.committed(asked.as_ref(), partition)?;
            let check = unchecked.get(&partition).copied().unwrap_or_default();
            let first = FirstRecord {
                partition,
                offset: first,
                epoch: batch.first_epoch(partition),
                committed,
                committed_epoch,
            };
            let target = match self.seek_target_behind_gap(batch, &first, check) {
                Some(back) => Some(back),
                None => self.seek_target(first, check)?,
            };
            let Some((offset, epoch, check)) = target else {
                unchecked.remove(&partition);
                continue;
            };
            batch.forget(&[partition]);
            // Checked again by the first record that comes from there.
            unchecked.insert(partition, check);
            match check.cooldown {
                Some(_) => self.close(partition),
                None => self.seek(partition, Offset::Offset(offset), epoch)?,
            }
        }
        Ok(())
    }

    /// Sends a partition that did not go on from the record polled last to what is committed of it.
    fn seek_to_committed(
        &self,
        asked: Option<&TopicPartitionList>,
        partition: i32,
    ) -> Result<(), String> {
        let (committed, epoch) = self.committed(asked, partition)?;
        let offset = match committed {
            CommittedOffset::Next(next) => Offset::Offset(next),
            CommittedOffset::Nothing => Offset::Beginning,
            CommittedOffset::Unknown => {
                return Err("a partition does not continue from the record polled last, and its committed offset is not known".to_owned());
            }
        };
        tracing::warn!(
            topic = self.topic,
            partition,
            "the partition does not continue from the record polled last; its start is checked again"
        );
        self.seek(partition, offset, epoch)
    }

    /// Takes from the batch what was on its way when a partition's gate was closed, to leave it alone for a while; and
    /// where that is over, sends the partition to where it is looked at again, and opens its gate.
    fn end_cooldowns(
        &self,
        unchecked: &mut BTreeMap<i32, PendingCheck>,
        batch: &mut Batch<'_>,
    ) -> Result<(), String> {
        for (&partition, check) in unchecked {
            let Some(cooldown) = check.cooldown else {
                continue;
            };
            if batch.partitions().any(|it| it == partition) {
                batch.forget(&[partition]);
            }
            if Instant::now() < cooldown.until {
                continue;
            }
            check.cooldown = None;
            let mut closed = self.closed().into_iter();
            let Some(gate) = closed.find(|gate| gate.partition == partition) else {
                continue;
            };
            let seek = || self.seek(partition, Offset::Offset(cooldown.next), None);
            self.with_gates(|gates| gates.open(self.client.client(), gate, seek))
                .transpose()?;
        }
        Ok(())
    }

    /// The same for a new partition without new records, whose position passes what is no record (the markers of
    /// transactions): it is committed once it is known not to take the group's offset back. Otherwise the lag of a
    /// partition that moved before its last marker was committed would show 1 until the next record.
    /// One that was sent back just now has no position until something comes from there.
    pub fn check_idle_starts(&self, batch: &mut Batch<'_>) -> Result<(), String> {
        let mut unchecked = lock(&self.client.context().unchecked);
        if unchecked.is_empty() {
            return Ok(());
        }
        let mut reached = self.all_positions().map_err(|error| error.to_string())?;
        reached.retain(|it| {
            let check = unchecked.get(&it.partition);
            check.is_some_and(|it| (it.expected, it.searches, it.cooldown) == (None, 0, None))
        });
        if reached.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(reached.len());
        for at in &reached {
            list.add_partition(&self.topic, at.partition);
        }
        let asked = self.client.committed_offsets(list, COMMITTED_WAIT).ok();
        for at in reached {
            let partition = at.partition;
            let (committed, then) = self.committed(asked.as_ref(), partition)?;
            let is_right = match committed {
                // It is asked for again later.
                CommittedOffset::Unknown => false,
                CommittedOffset::Nothing => true,
                CommittedOffset::Next(next) => {
                    let polled = (at.next - 1, at.epoch);
                    let is_behind_gap = batch.begins_behind_gap(partition, (next, then), polled);
                    if is_behind_gap {
                        batch.recheck(partition);
                    }
                    !is_behind_gap && at.next >= next
                }
            };
            if is_right {
                unchecked.remove(&partition);
            }
        }
        Ok(())
    }

    /// Whether a record lies before what is committed and was written after it: its leader epoch is a newer one, and epochs
    /// ascend in a log. So the log was cut, and has grown again. None where Kafka does not say.
    ///
    /// # Errors
    /// The topic is another one.
    pub fn is_rewritten(
        &self,
        partition: i32,
        offset: i64,
        epoch: Option<i32>,
    ) -> Result<Option<bool>, String> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, partition);
        let asked = self.client.committed_offsets(list, COMMITTED_WAIT).ok();
        let (committed, then) = self.committed(asked.as_ref(), partition)?;
        let is_newer = epoch.zip(then).is_some_and(|(epoch, then)| epoch > then);
        Ok(match committed {
            CommittedOffset::Unknown => None,
            CommittedOffset::Nothing => Some(false),
            CommittedOffset::Next(next) => Some(is_newer && next > offset),
        })
    }

    /// Before anything of a new partition is handled: who was away for long does not know of a topic recreated. False
    /// where Kafka does not say.
    fn is_same_topic(&self) -> Result<bool, String> {
        let Some(identity) = &self.identity else {
            return Ok(true);
        };
        let names = [self.topic.as_str()];
        let described = identity.client(&self.cluster).and_then(|metadata_client| {
            client::describe(
                &self.cluster,
                metadata_client.client(),
                &names,
                COMMITTED_WAIT,
            )
        });
        match described {
            Ok(now) => identity
                .compare(&now)
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the topic could not be described");
                Ok(false)
            }
        }
    }

    /// Waited for: a seek that a rebalance overtakes is dropped, and what lies between would be left out. Nothing the
    /// client does for it calls back here, so the lock may be held.
    fn seek(&self, partition: i32, offset: Offset, epoch: Option<i32>) -> Result<(), String> {
        let sent = native::seek(
            self.client.client(),
            &self.topic,
            (partition, offset),
            epoch,
            SEEK_WAIT,
        );
        sent.map_err(|error| format!("{}-{partition} seek failed: {error}", self.topic))
    }

    /// What is committed of a partition, and in which leader epoch it was read.
    fn committed(
        &self,
        asked: Option<&TopicPartitionList>,
        partition: i32,
    ) -> Result<(CommittedOffset, Option<i32>), String> {
        let Some(list) = asked else {
            return Ok((CommittedOffset::Unknown, None));
        };
        let found = list.find_partition(&self.topic, partition);
        let found = found.filter(|element| element.error().is_ok());
        let topic = CString::new(&*self.topic).map_err(|error| error.to_string())?;
        let (epoch, metadata) = native::committed_with(list, &topic, partition);
        let generation = metadata
            .as_deref()
            .and_then(|it| it.strip_prefix(GENERATION));
        if let (Some(identity), Some(Ok(generation))) = (&self.identity, generation.map(str::parse))
        {
            let caught_up = identity.catch_up(&self.cluster, generation);
            caught_up.map_err(|error| error.to_string())?;
        }
        let committed = match found.map(|element| element.offset()) {
            None => return Ok((CommittedOffset::Unknown, None)),
            Some(Offset::Offset(next)) => CommittedOffset::Next(next),
            Some(_) => CommittedOffset::Nothing,
        };
        let assigned = lock(&self.client.context().assigned);
        let own = assigned.get(&partition).and_then(|held| held.committed);
        if committed.is_outdated(own) {
            return Err(format!(
                "the group's coordinator returns {committed:?} for {}-{partition}, but this lane has committed {own:?}: the coordinator has moved to another broker, or offsets were lost",
                self.topic
            ));
        }
        let epoch = epoch.filter(|_| committed != CommittedOffset::Nothing);
        Ok((committed, epoch))
    }
}
