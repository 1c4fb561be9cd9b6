//! Where a committed batch's outputs ended.

/// Where the outputs of a batch ended in their topics: of each output and partition the offset behind the batch's last record.
/// For handlers that keep state, and empty for others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    outputs: Vec<&'static str>,
    partitions: usize,
    /// Output by output; 0 is nothing.
    next: Vec<i64>,
}

impl Delivered {
    pub(crate) fn none(outputs: Vec<&'static str>, partitions: usize) -> Self {
        Delivered {
            next: vec![0; outputs.len() * partitions],
            outputs,
            partitions,
        }
    }

    /// Of outputs, partitions and the offset behind the last record there. For tests of handlers.
    pub fn of(ends: &[(&'static str, i32, i64)]) -> Self {
        let mut outputs: Vec<&'static str> = ends.iter().map(|(output, ..)| *output).collect();
        outputs.dedup();
        let widest = ends.iter().map(|(_, partition, _)| *partition).max();
        let partitions = widest.and_then(|it| usize::try_from(it + 1).ok());
        let mut delivered = Delivered::none(outputs, partitions.unwrap_or_default());
        for (output, partition, next) in ends {
            if let Some(place) = delivered.place(output, *partition) {
                delivered.next[place] = *next;
            }
        }
        delivered
    }

    /// The offset behind the batch's last record in a partition of an output: of a changelog, what the state stands for now.
    /// None where the batch has no record there, or, which is rare, where the broker did not say at which offset it has it:
    /// then the state stands for more than the offset noted last says, and what is read again from there changes nothing.
    pub fn next(&self, output: &str, partition: i32) -> Option<i64> {
        let next = *self.next.get(self.place(output, partition)?)?;
        (next > 0).then_some(next)
    }

    fn place(&self, output: &str, partition: i32) -> Option<usize> {
        let output = self.outputs.iter().position(|it| *it == output)?;
        let partition = usize::try_from(partition).ok()?;
        (partition < self.partitions).then_some(output * self.partitions + partition)
    }

    pub(crate) fn slots(&mut self) -> &mut [i64] {
        &mut self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_found_by_output_and_partition() {
        let delivered = Delivered::of(&[("state", 0, 4), ("state", 2, 9), ("counts", 1, 7)]);
        assert_eq!(delivered.next("state", 0), Some(4));
        assert_eq!(delivered.next("state", 1), None);
        assert_eq!(delivered.next("state", 2), Some(9));
        assert_eq!(delivered.next("counts", 1), Some(7));
        assert_eq!(delivered.next("counts", 3), None);
        assert_eq!(delivered.next("other", 0), None);
        assert_eq!(Delivered::default().next("state", 0), None);
    }
}
