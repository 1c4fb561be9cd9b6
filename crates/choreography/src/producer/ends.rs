//! Where a lane's outputs end: of each output and partition the offset behind what was delivered last.

use std::sync::atomic::{AtomicI64, Ordering};

/// Offsets only grow, so each slot is a maximum. Empty where nobody asks.
#[derive(Default)]
pub(crate) struct Ends {
    partitions: usize,
    /// Output by output; 0 is nothing.
    next: Box<[AtomicI64]>,
}

impl Ends {
    pub fn of(outputs: usize, partitions: usize) -> Self {
        Ends {
            partitions,
            next: (0..outputs * partitions)
                .map(|_| AtomicI64::new(0))
                .collect(),
        }
    }

    /// A record was delivered. Where the broker has stored it before and no longer knows where, its offset is below 0,
    /// and the end stays behind.
    pub fn note(&self, output: usize, partition: i32, offset: i64) {
        let slot = usize::try_from(partition)
            .ok()
            .filter(|it| *it < self.partitions);
        let slot = slot.and_then(|partition| self.next.get(output * self.partitions + partition));
        if let Some(slot) = slot {
            // The count of what is outstanding, which is lowered after it, makes it seen.
            slot.fetch_max(offset.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub fn clear(&self) {
        self.next
            .iter()
            .for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    pub fn copy_to(&self, next: &mut [i64]) {
        for (to, slot) in next.iter_mut().zip(&self.next) {
            *to = slot.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_behind_the_last_record_of_its_output_and_partition() {
        let ends = Ends::of(2, 3);
        for (output, partition, offset) in [
            (0, 0, 5),
            (1, 2, 8),
            (1, 2, 9),
            (1, 2, 7),
            (1, 1, -1001),
            // None of ours.
            (0, 3, 99),
            (2, 0, 99),
            (0, -1, 99),
        ] {
            ends.note(output, partition, offset);
        }
        let mut next = [0; 6];
        ends.copy_to(&mut next);
        assert_eq!(next, [6, 0, 0, 0, 0, 10]);
        ends.clear();
        ends.copy_to(&mut next);
        assert_eq!(next, [0; 6]);
    }
}
