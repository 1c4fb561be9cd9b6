//! What a lane knows about single records of the current batch from its earlier attempts, by partition and offset.

use std::collections::{HashMap, HashSet};

use crate::{
    Cause,
    decisions::{ConfirmedLetters, KnownFailures},
};

#[derive(Default)]
pub(super) struct KnownRecords {
    /// Records the broker would not take.
    pub refused: HashMap<(i32, i64), Cause>,
    /// Records whose dead letters are confirmed already, although the batch is not committed.
    pub letters_confirmed: ConfirmedLetters,
    /// Records of which the broker would not take what is beside their outcome.
    pub extras_refused: HashSet<(i32, i64)>,
    /// Records whose dead letter the broker would not take, and why: theirs only name them.
    pub truncated: HashMap<(i32, i64), &'static str>,
}

impl KnownRecords {
    pub fn failures(&self) -> KnownFailures<'_> {
        KnownFailures {
            letters_confirmed: &self.letters_confirmed,
            refused: &self.refused,
        }
    }

    /// Forgets the records of partitions that the batch forgot: in these places other records may come.
    pub fn forget(&mut self, partitions: &[i32]) {
        let stays = |(partition, _): &(i32, i64)| !partitions.contains(partition);
        self.refused.retain(|place, _| stays(place));
        self.letters_confirmed.retain(|place, _| stays(place));
        self.extras_refused.retain(stays);
        self.truncated.retain(|place, _| stays(place));
    }

    pub fn clear(&mut self) {
        self.refused.clear();
        self.letters_confirmed.clear();
        self.extras_refused.clear();
        self.truncated.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::FailedAt;

    #[test]
    fn nothing_is_known_any_more_of_the_records_of_a_partition_that_was_forgotten() {
        let cause = || Cause {
            class: "c",
            message: "m".to_owned(),
        };
        let mut known = KnownRecords::default();
        for place in [(0, 7), (1, 7), (2, 7)] {
            known.refused.insert(place, cause());
            known
                .letters_confirmed
                .insert(place, (cause(), FailedAt::Decode));
            known.extras_refused.insert(place);
            known.truncated.insert(place, "refused");
        }
        known.forget(&[0, 2, 5]);
        let left = HashSet::from([(1, 7)]);
        assert_eq!(known.refused.keys().copied().collect::<HashSet<_>>(), left);
        assert_eq!(
            known
                .letters_confirmed
                .keys()
                .copied()
                .collect::<HashSet<_>>(),
            left
        );
        assert_eq!(known.extras_refused, left);
        let truncated = known.truncated.keys().copied();
        assert_eq!(truncated.collect::<HashSet<_>>(), left);
    }
}
