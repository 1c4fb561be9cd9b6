//! Where a partition that did not begin where it should is sent, and why the log says.

use std::{ffi::CString, time::Duration};

use rdkafka::consumer::{CommitMode, Consumer};

use super::{
    pending::PendingCheck,
    rules::{CommittedOffset, EarlyCause, EarlyRecord, StartCheck, check_start, early_cause},
};
use crate::{batch::Batch, consumer::LaneConsumer, native};

/// The first record that came of a partition, and what is committed of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstRecord {
    pub partition: i32,
    pub offset: i64,
    pub epoch: Option<i32>,
    pub committed: CommittedOffset,
    pub committed_epoch: Option<i32>,
}

/// Where a partition is sent, with which leader epoch, and what is known of it then.
pub(super) type SeekTarget = (i64, Option<i32>, PendingCheck);

impl LaneConsumer {
    /// Where a partition is sent that began behind what is committed, as behind a marker, but with a newer leader epoch: if
    /// the log was cut while its records waited for the lane, the client goes on at the cut, and leaves out what lies
    /// before it and was not polled. Sent back once, it comes again if it lies behind a marker.
    pub(super) fn seek_target_behind_gap(
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
            "partition begins behind a gap and in a newer leader epoch; seeking to the committed offset"
        );
        Some((next, first.committed_epoch, check))
    }

    /// Where a new partition is sent, and what has to come there; None where it has begun right.
    pub(super) fn seek_target(
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
                tracing::debug!(
                    topic,
                    partition,
                    "the committed offset is still pending in a transaction"
                );
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
                    "the client skipped records that it was sent back to; seeking to them again"
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
                    "the client started before the committed offset; seeking to it"
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
                    "the log ends before the committed offset; looking for where it diverges"
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
                    "the log lost records that were handled; continuing at the first that was not"
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
            "the log has deleted records that were not read yet; continuing at its beginning"
        );
        let lost = (begin - committed).unsigned_abs();
        self.client.context().metrics.lost("expired", lost);
    }
}
