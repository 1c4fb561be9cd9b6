//! Whether a partition that is new to a lane begins where the group's offset says, and what to do where the log no longer
//! has that: it was truncated, or retention was faster than the lane.

use std::{
    collections::BTreeMap,
    ffi::CString,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
};

pub(super) mod rules;

use self::rules::{
    CommittedOffset, EarlyCause, EarlyRecord, StartCheck, TRIES_MAX, check_start, early_cause,
};
use super::{COMMITTED_WAIT, Cooldown, GENERATION, LaneConsumer, PendingCheck, SEEK_WAIT, lock};
use crate::{OffsetRange, batch::Batch, client, native};

/// How long a partition is left alone whose log still looks shorter than what is committed, or which begins too early
/// again and again: other partitions go on meanwhile, and Kafka is not asked without a pause.
const COOLDOWN: Duration = Duration::from_secs(1);

/// The first record that came of a partition, and what is committed of it.
#[derive(Debug, Clone, Copy)]
struct FirstRecord {
    partition: i32,
    offset: i64,
    epoch: Option<i32>,
    committed: CommittedOffset,
    committed_epoch: Option<i32>,
}

/// Where a partition is sent, with which leader epoch, and what is known of it then.
type SeekTarget = (i64, Option<i32>, PendingCheck);

impl PendingCheck {
    /// It began before what is committed, which the log (of this end, where Kafka said it) has. Sent there often enough,
    /// it is left alone first.
    fn began_early(self, committed: i64, end: Option<i64>) -> Self {
        let early = self.early.saturating_add(1);
        // Whatever it looked like before: if it looks shorter again, that is news.
        let (searches, diverged_since) = match end {
            Some(_) => (0, None),
            None => (self.searches, self.diverged_since),
        };
        PendingCheck {
            early,
            searches,
            diverged_since,
            cooldown: Cooldown::after(early, committed),
            ..self
        }
    }

    /// Its log looks shorter than what is committed; `first` is the record that came. Looked for often enough, it comes
    /// again where it lies, after a while: further on records would be passed over.
    fn looks_shorter(self, first: i64) -> Self {
        let searches = self.searches.saturating_add(1);
        PendingCheck {
            searches,
            diverged_since: self.diverged_since.or_else(|| Some(Instant::now())),
            cooldown: Cooldown::after(searches, first),
            ..self
        }
    }
}

impl Cooldown {
    fn after(times: u32, next: i64) -> Option<Self> {
        (times > TRIES_MAX).then(|| Cooldown {
            until: Instant::now() + COOLDOWN,
            next,
        })
    }
}

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
            let (committed, epoch) = self.committed(asked.as_ref(), partition)?;
            let offset = match committed {
                CommittedOffset::Next(next) => Offset::Offset(next),
                CommittedOffset::Nothing => Offset::Beginning,
                CommittedOffset::Unknown => {
                    return Err("a partition does not go on from its last record".to_owned());
                }
            };
            tracing::warn!(
                topic = self.topic,
                partition,
                "partition does not go on from its last record; its start is checked again"
            );
            self.seek(partition, offset, epoch)?;
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

    /// Before anything of a new partition is handled: who was away for long does not know of a topic made anew. False
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
                tracing::debug!(topic = self.topic, %error, "which topic it is was not said");
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
        sent.map_err(|error| format!("{}-{partition} could not be sent back: {error}", self.topic))
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
                "the group's coordinator has {committed:?} of {}-{partition}, where this lane has committed {own:?}: it is another broker now, or has lost offsets",
                self.topic
            ));
        }
        let epoch = epoch.filter(|_| committed != CommittedOffset::Nothing);
        Ok((committed, epoch))
    }

    /// Where a partition is sent that began behind what is committed, as behind a marker, but with a newer leader epoch: if
    /// the log was cut while its records waited for the lane, the client goes on at the cut, and leaves out what lies
    /// before it and was not polled. Sent back once, it comes again if it lies behind a marker.
    fn seek_target_behind_gap(
        &self,
        batch: &mut Batch<'_>,
        first: &FirstRecord,
        check: PendingCheck,
    ) -> Option<SeekTarget> {
        let CommittedOffset::Next(next) = first.committed else {
            return None;
        };
        let committed = (next, first.committed_epoch);
        let came = (first.offset, first.epoch);
        if !batch.begins_behind_gap(first.partition, committed, came) {
            return None;
        }
        tracing::info!(
            topic = self.topic,
            partition = first.partition,
            offset = first.offset,
            committed = next,
            "partition begins behind a gap and in a newer leader epoch; it is sent to what is committed"
        );
        Some((next, first.committed_epoch, check))
    }

    /// Where a new partition is sent, and what has to come there; None where it has begun right.
    fn seek_target(
        &self,
        first: FirstRecord,
        check: PendingCheck,
    ) -> Result<Option<SeekTarget>, String> {
        let (topic, partition, offset) = (self.topic.as_str(), first.partition, first.offset);
        Ok(match check_start(offset, first.committed, check.expected) {
            StartCheck::Valid => {
                self.report_expired(&first);
                None
            }
            StartCheck::OffsetPending(expected) => {
                tracing::debug!(topic, partition, "its offset is still being committed");
                let expected = Some(expected);
                Some((
                    expected.map_or(offset, |it| it.offset),
                    None,
                    PendingCheck { expected, ..check },
                ))
            }
            StartCheck::BeforeCommitted { next, expected } => {
                self.seek_target_if_early(first, next, PendingCheck { expected, ..check })?
            }
            StartCheck::Skipped(expected) => {
                tracing::warn!(
                    topic,
                    partition,
                    offset,
                    missed = expected.offset,
                    "the client left out what it was sent back to; it is sent there again"
                );
                let check = PendingCheck {
                    expected: Some(expected),
                    ..check
                };
                Some((expected.offset, None, check))
            }
        })
    }

    /// The client began before what is committed, by a fault of its own or because the log is shorter now.
    fn seek_target_if_early(
        &self,
        first: FirstRecord,
        committed: i64,
        check: PendingCheck,
    ) -> Result<Option<SeekTarget>, String> {
        let (topic, partition, offset) = (self.topic.as_str(), first.partition, first.offset);
        let end = self.watermarks(partition).map(|(_, end)| end);
        let before = EarlyRecord {
            offset,
            epoch: first.epoch,
            committed_epoch: first.committed_epoch,
            committed,
            end,
            tries: check.searches,
            diverged_for: check
                .diverged_since
                .map_or(Duration::ZERO, |since| since.elapsed()),
        };
        let there = (committed, first.committed_epoch);
        Ok(match early_cause(&before) {
            EarlyCause::Client => {
                tracing::warn!(
                    topic,
                    partition,
                    offset,
                    committed,
                    "the client began before what is committed; it is sent there"
                );
                let check = check.began_early(committed, end);
                Some((there.0, there.1, check))
            }
            EarlyCause::Diverged => {
                tracing::warn!(
                    topic,
                    partition,
                    committed,
                    end,
                    "the log ends before what is committed; looking for where it differs"
                );
                let check = check.looks_shorter(offset);
                Some((there.0, there.1, check))
            }
            EarlyCause::Truncated(lost) => {
                tracing::error!(
                    topic,
                    partition,
                    committed,
                    end,
                    lost,
                    offset,
                    "the log lost records that were handled; going on at the first that was not"
                );
                if let Some(identity) = &self.identity {
                    let reason =
                        format!("{topic}-{partition} lost {lost} offsets before {committed}");
                    let raised = identity.begin_generation(&self.cluster, &reason);
                    raised.map_err(|error| error.to_string())?;
                }
                // From here the group's offset only goes on again, by which a commit in doubt is judged.
                let back = self.offset_list(&[(partition, offset)]);
                let back = back.and_then(|back| {
                    self.client.commit(&back, CommitMode::Sync)?;
                    self.note_committed(&back);
                    Ok(())
                });
                back.map_err(|error| error.to_string())?;
                self.count_lost(lost);
                None
            }
        })
    }

    /// Counts what the log has deleted before it was read.
    fn report_expired(&self, first: &FirstRecord) {
        let CommittedOffset::Next(committed) = first.committed else {
            return;
        };
        let Ok(topic) = CString::new(&*self.topic) else {
            return;
        };
        let bounds = native::cached_watermarks(self.client.client(), &topic, first.partition);
        let begin = bounds.map_or(committed, |(begin, _)| begin);
        if first.offset <= committed || begin <= committed {
            return;
        }
        tracing::error!(
            topic = self.topic,
            partition = first.partition,
            committed,
            begin,
            "the log has deleted records that were not read yet; going on at its beginning"
        );
        let lost = (begin - committed).unsigned_abs();
        self.client.context().metrics.lost("expired", lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_begins_too_early_again_and_again_is_sent_on_after_a_rest() {
        let mut check = PendingCheck::default();
        for _ in 0..TRIES_MAX {
            check = check.began_early(10, Some(20));
            assert_eq!(check.cooldown, None);
        }
        for end in [Some(20), None] {
            check = PendingCheck {
                cooldown: None,
                ..check
            }
            .began_early(10, end);
            assert_eq!(check.cooldown.map(|cooldown| cooldown.next), Some(10));
        }
    }

    #[test]
    fn a_log_that_has_what_is_committed_after_all_is_looked_at_anew_if_it_looks_shorter_again() {
        let shorter = PendingCheck::default().looks_shorter(7).looks_shorter(7);
        assert_eq!(shorter.searches, 2);
        let unknown = shorter.began_early(10, None);
        let looked = |check: PendingCheck| (check.searches, check.diverged_since);
        assert_eq!(looked(unknown), looked(shorter));
        assert_eq!(looked(shorter.began_early(10, Some(10))), (0, None));
    }

    #[test]
    fn a_log_that_still_looks_shorter_comes_again_from_the_same_record_after_a_rest() {
        let mut check = PendingCheck::default();
        for _ in 0..TRIES_MAX {
            check = check.looks_shorter(7);
            assert_eq!(check.cooldown, None);
        }
        let since = check.diverged_since;
        check = check.looks_shorter(7);
        assert_eq!(check.cooldown.map(|cooldown| cooldown.next), Some(7));
        assert!(since.is_some() && check.diverged_since == since);
    }
}
