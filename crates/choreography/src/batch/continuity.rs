//! Whether a record goes on from the one of its partition polled before it. Pure.

/// Where a record lies, seen from the one polled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    Contiguous,
    /// It is the same one.
    Duplicate,
    /// Behind a gap at which a newer leader epoch begins: a marker lay there, or the log was cut within what the client
    /// had fetched and the lane had not polled. The client goes on at the cut then, and leaves out what lies before it
    /// (2.12.1, `rd_kafka_toppar_handle_OffsetForLeaderEpoch`); only the next record's leader epoch shows it.
    Gap,
    /// Not behind it: the log is another one, or the client lost its place.
    Backwards,
}

/// The record of a partition that was polled last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastRecord {
    /// The offset after it; 0 where none was polled since the partition was taken.
    next: i64,
    /// The leader epoch it was written in; None where its format has none.
    epoch: Option<i32>,
    /// The newest leader epoch that came behind a gap. What lies before such a gap is read a second time, up to the same
    /// gap, which is no news then.
    gap: Option<i32>,
}

impl LastRecord {
    /// Whether a record lies behind a gap after `next`, at which a leader epoch begins that is newer than the one before it;
    /// once for each epoch. Unknown epochs say nothing.
    pub fn is_behind_gap(
        &mut self,
        (next, before): (i64, Option<i32>),
        (offset, epoch): (i64, Option<i32>),
    ) -> bool {
        let is_newer = before.zip(epoch).is_some_and(|(before, now)| now > before);
        if offset <= next || !is_newer || self.gap >= epoch {
            return false;
        }
        self.gap = epoch;
        true
    }
}

/// Of each partition the record polled last.
#[derive(Default)]
pub(super) struct LastPolled(Vec<LastRecord>);

impl LastPolled {
    /// Notes a record unless it is the last one, and says where it is.
    pub fn classify(&mut self, partition: i32, offset: i64, epoch: Option<i32>) -> Continuity {
        let last = self.of(partition);
        let (next, before) = (last.next, last.epoch);
        // A log that lost its last record can have another one there, of a newer epoch.
        if next == offset + 1 && before == epoch {
            return Continuity::Duplicate;
        }
        (last.next, last.epoch) = (offset + 1, epoch);
        if next > offset {
            return Continuity::Backwards;
        }
        if next == 0 || next == offset {
            return Continuity::Contiguous;
        }
        match last.is_behind_gap((next, before), (offset, epoch)) {
            true => Continuity::Gap,
            false => Continuity::Contiguous,
        }
    }

    pub fn of(&mut self, partition: i32) -> &mut LastRecord {
        let at = partition.max(0) as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, LastRecord::default());
        }
        &mut self.0[at]
    }

    pub fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(last) = self.0.get_mut((*partition).max(0) as usize) {
                (last.next, last.epoch) = (0, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Option<i32> = Some(4);
    const NEWER: Option<i32> = Some(5);

    #[test]
    fn the_record_polled_last_is_not_taken_twice_unless_its_partition_was_given_up() {
        let mut last = LastPolled::default();
        for epoch in [EPOCH, None] {
            last.forget(&[0, 2]);
            assert_eq!(last.classify(2, 7, epoch), Continuity::Contiguous);
            assert_eq!(last.classify(0, 7, epoch), Continuity::Contiguous);
            assert_eq!(last.classify(2, 7, epoch), Continuity::Duplicate);
            assert_eq!(last.classify(2, 9, epoch), Continuity::Contiguous);
            last.forget(&[2, 5]);
            assert_eq!(last.classify(2, 0, epoch), Continuity::Contiguous);
            assert_eq!(last.classify(0, 7, epoch), Continuity::Duplicate);
        }
    }

    #[test]
    fn another_record_in_the_place_of_the_last_one_is_not_dropped() {
        let mut last = LastPolled::default();
        assert_eq!(last.classify(0, 7, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(0, 7, NEWER), Continuity::Backwards);
        assert_eq!(last.classify(0, 7, NEWER), Continuity::Duplicate);
        assert_eq!(last.classify(0, 8, NEWER), Continuity::Contiguous);
    }

    #[test]
    fn a_record_from_before_the_last_one_is_seen_unless_its_partition_was_given_up() {
        let mut last = LastPolled::default();
        assert_eq!(last.classify(2, 7, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(2, 3, EPOCH), Continuity::Backwards);
        assert_eq!(last.classify(2, 4, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(2, 2, EPOCH), Continuity::Backwards);
        last.forget(&[2]);
        assert_eq!(last.classify(2, 3, EPOCH), Continuity::Contiguous);
    }

    #[test]
    fn a_gap_at_which_a_newer_epoch_begins_is_seen_once() {
        let mut last = LastPolled::default();
        assert_eq!(last.classify(1, 100, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(1, 120, NEWER), Continuity::Gap);
        assert_eq!(last.classify(1, 122, NEWER), Continuity::Contiguous);
        // Read again up to the same gap: a marker lies there.
        last.forget(&[1]);
        assert_eq!(last.classify(1, 100, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(1, 120, NEWER), Continuity::Contiguous);
        // The next leader's is another one.
        assert_eq!(last.classify(1, 130, Some(6)), Continuity::Gap);
    }

    #[test]
    fn a_gap_within_an_epoch_or_between_unknown_ones_is_a_marker() {
        for (before, after) in [(EPOCH, EPOCH), (None, EPOCH), (EPOCH, None), (None, None)] {
            let mut last = LastPolled::default();
            assert_eq!(last.classify(0, 5, before), Continuity::Contiguous);
            assert_eq!(last.classify(0, 7, after), Continuity::Contiguous);
        }
        // Nor is a newer epoch without a gap, nor the first record polled.
        let mut last = LastPolled::default();
        assert_eq!(last.classify(0, 5, EPOCH), Continuity::Contiguous);
        assert_eq!(last.classify(0, 6, NEWER), Continuity::Contiguous);
    }
}
