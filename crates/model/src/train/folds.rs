//! Cutting rows into folds, with chances that depend on the seed alone.

/// Gives each row its fold, 0 to `folds` - 1: shuffled, and each class spread evenly over the folds.
pub(super) fn stratified(labels: &[f64], folds: usize, seed: u64) -> Vec<usize> {
    let mut chances = SplitMix64(mix(seed, u64::MAX));
    let mut fold_of_row = vec![0; labels.len()];
    // The count goes on from class to class, so that folds differ by at most one row in size, too.
    let mut dealt = 0;
    for positive in [true, false] {
        let mut rows: Vec<usize> = (0..labels.len())
            .filter(|&row| (labels[row] > 0.5) == positive)
            .collect();
        chances.shuffle(&mut rows);
        for row in rows {
            fold_of_row[row] = dealt % folds;
            dealt += 1;
        }
    }
    fold_of_row
}

/// A seed of its own for each `stream` of one `seed`. smartcore gives tree i the seed s + i, so neighbours will not do.
pub(super) fn mix(seed: u64, stream: u64) -> u64 {
    let mut chances = SplitMix64(seed);
    let first = chances.next();
    SplitMix64(first ^ stream).next()
}

/// Steele, Lea and Flood's SplitMix64: small, and good enough to deal cards.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fisher and Yates. The product's high half favours none by more than n / 2⁶⁴.
    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let chosen = (u128::from(self.next()) * (last as u128 + 1)) >> 64;
            items.swap(last, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut chances = SplitMix64(1_234_567);
        assert_eq!(chances.next(), 6_457_827_717_110_365_317);
        assert_eq!(chances.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn seeds_make_folds_and_equal_seeds_equal_folds() {
        let labels: Vec<f64> = (0..50).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        assert_eq!(stratified(&labels, 5, 1), stratified(&labels, 5, 1));
        assert_ne!(stratified(&labels, 5, 1), stratified(&labels, 5, 2));
    }

    proptest! {
        #[test]
        fn every_fold_gets_its_share_of_each_class(
            labels in prop::collection::vec(any::<bool>().prop_map(|b| f64::from(u8::from(b))), 1..200),
            folds in 2..10usize,
            seed: u64,
        ) {
            let fold_of_row = stratified(&labels, folds, seed);
            for class in [None, Some(0.0), Some(1.0)] {
                let mut counts = vec![0usize; folds];
                for (fold, label) in fold_of_row.iter().zip(&labels) {
                    counts[*fold] += usize::from(class.is_none_or(|class| class == *label));
                }
                let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
                prop_assert!(spread <= 1, "{counts:?}");
            }
        }
    }
}
