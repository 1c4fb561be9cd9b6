//! What the leaves of a forest add to the sums of the rows that reach them: who knows what a leaf holds says it, who walks the trees
//! asks.

/// What a row gets for the leaf it ends at.
pub(super) trait Leaves {
    /// Values in a row of sums.
    fn width(&self) -> usize;

    /// Adds a leaf to a row of sums.
    fn add(&self, leaf: usize, sums: &mut [f64]);

    /// Adds leaves to a row of sums, one after another.
    #[inline(always)]
    fn add_all(&self, leaves: &[u32], sums: &mut [f64]) {
        for leaf in leaves {
            self.add(*leaf as usize, sums);
        }
    }
}

/// One value a leaf.
pub(super) struct Values<'a>(pub &'a [f64]);

impl Leaves for Values<'_> {
    #[inline(always)]
    fn width(&self) -> usize {
        1
    }

    #[inline(always)]
    fn add(&self, leaf: usize, sums: &mut [f64]) {
        sums[0] += self.0[leaf];
    }

    /// The sum stays in a register.
    #[inline(always)]
    fn add_all(&self, leaves: &[u32], sums: &mut [f64]) {
        let values = leaves.iter().map(|leaf| self.0[*leaf as usize]);
        sums[0] = values.fold(sums[0], |sum, value| sum + value);
    }
}
