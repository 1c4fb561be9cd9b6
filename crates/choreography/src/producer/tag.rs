//! What a record is sent with, and told by when its delivery is reported: one word of the client's.

const _: () = assert!(usize::BITS >= 64, "a tag has three parts");

const INDEX_BITS: u32 = 32;
const INDEX: usize = (1 << INDEX_BITS) - 1;
const EXTRA: usize = 1 << (usize::BITS - 1);

/// Which record of a batch, which output, and whether beside the record's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tag {
    /// At most `u32::MAX`: batches are far smaller.
    pub index: usize,
    /// The number of the stage's output; None is a dead letter.
    pub output: Option<usize>,
    pub is_extra: bool,
}

impl Tag {
    pub fn pack(self) -> usize {
        let output = self.output.map_or(0, |output| output + 1);
        let extra = if self.is_extra { EXTRA } else { 0 };
        (self.index & INDEX) | (output << INDEX_BITS) & !EXTRA | extra
    }

    pub fn unpack(packed: usize) -> Self {
        let output = (packed & !EXTRA) >> INDEX_BITS;
        Tag {
            index: packed & INDEX,
            output: output.checked_sub(1),
            is_extra: packed & EXTRA != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_unpacked_as_it_was_packed() {
        for index in [0, 7, u32::MAX as usize] {
            for output in [None, Some(0), Some(1), Some(63)] {
                for is_extra in [false, true] {
                    let tag = Tag {
                        index,
                        output,
                        is_extra,
                    };
                    assert_eq!(Tag::unpack(tag.pack()), tag);
                }
            }
        }
        assert_eq!(Tag::unpack(5).index, 5, "a number alone is an index");
    }
}
