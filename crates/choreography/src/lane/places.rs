//! What a lane knows of single records of the batch in hand, by their partition and offset.

use std::collections::{HashMap, HashSet};

use crate::{
    Cause,
    judge::{Buried, Known},
};

#[derive(Default)]
pub(super) struct Places {
    /// Records the broker would not take.
    pub refused: HashMap<(i32, i64), Cause>,
    /// Records whose dead letters are confirmed already, although the batch is not committed.
    pub buried: Buried,
    /// Records of which the broker would not take what is beside their outcome.
    pub extras_refused: HashSet<(i32, i64)>,
    /// Records whose dead letter the broker would not take, and why: theirs only name them.
    pub truncated: HashMap<(i32, i64), &'static str>,
}

impl Places {
    pub fn known(&self) -> Known<'_> {
        Known {
            buried: &self.buried,
            refused: &self.refused,
        }
    }

    /// Forgets the records of partitions that the batch forgot: in these places other records may come.
    pub fn forget(&mut self, partitions: &[i32]) {
        let stays = |(partition, _): &(i32, i64)| !partitions.contains(partition);
        self.refused.retain(|place, _| stays(place));
        self.buried.retain(|place, _| stays(place));
        self.extras_refused.retain(stays);
        self.truncated.retain(|place, _| stays(place));
    }

    pub fn clear(&mut self) {
        self.refused.clear();
        self.buried.clear();
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
        let mut places = Places::default();
        for place in [(0, 7), (1, 7), (2, 7)] {
            places.refused.insert(place, cause());
            places.buried.insert(place, (cause(), FailedAt::Decode));
            places.extras_refused.insert(place);
            places.truncated.insert(place, "refused");
        }
        places.forget(&[0, 2, 5]);
        let left = HashSet::from([(1, 7)]);
        assert_eq!(places.refused.keys().copied().collect::<HashSet<_>>(), left);
        assert_eq!(places.buried.keys().copied().collect::<HashSet<_>>(), left);
        assert_eq!(places.extras_refused, left);
        let truncated = places.truncated.keys().copied();
        assert_eq!(truncated.collect::<HashSet<_>>(), left);
    }
}
