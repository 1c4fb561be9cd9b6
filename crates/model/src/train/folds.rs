//! Cutting rows into folds, at random, by the seed alone.

use std::collections::BTreeMap;

/// Gives each row its fold, 0 to `folds` - 1: shuffled, and each class spread evenly over the folds.
pub(super) fn stratified(labels: &[f64], folds: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(mix(seed, u64::MAX));
    let mut fold_of_row = vec![0; labels.len()];
    // The count goes on from class to class, so that folds differ by at most one row in size, too.
    let mut dealt = 0;
    for positive in [true, false] {
        let mut rows: Vec<usize> = (0..labels.len())
            .filter(|&row| (labels[row] > 0.5) == positive)
            .collect();
        random.shuffle(&mut rows);
        for row in rows {
            fold_of_row[row] = dealt % folds;
            dealt += 1;
        }
    }
    fold_of_row
}

/// Gives each row the fold of its entity, so that no model is evaluated on an entity that it saw. Entities come in random order,
/// large ones first, each to the fold that has the least of what it brings of each class.
pub(super) fn grouped(labels: &[f64], entities: &[usize], folds: usize, seed: u64) -> Vec<usize> {
    let mut counts: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
    for (entity, label) in entities.iter().zip(labels) {
        counts.entry(*entity).or_default()[usize::from(*label > 0.5)] += 1.0;
    }
    let totals = [0, 1].map(|class| {
        let all = counts.values().map(|it| it[class]);
        all.sum::<f64>().max(1.0)
    });
    let mut order: Vec<usize> = counts.keys().copied().collect();
    SplitMix64(mix(seed, u64::MAX)).shuffle(&mut order);
    let size = |entity: &usize| counts[entity].iter().sum::<f64>();
    order.sort_by(|one, other| size(other).total_cmp(&size(one)));
    let mut filled = vec![[0.0; 2]; folds];
    let mut fold_of = BTreeMap::new();
    for entity in order {
        let brings = counts[&entity];
        // What the entity adds to the sum of the squares of the classes' shares, but for a constant.
        let cost = |has: &[f64; 2]| {
            let share = |class: usize| brings[class] * has[class] / totals[class].powi(2);
            (share(0) + share(1), has[0] + has[1])
        };
        let costs = filled.iter().map(cost).enumerate();
        let least = costs.min_by(|(_, one), (_, other)| {
            one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1))
        });
        let fold = least.map_or(0, |(fold, _)| fold);
        for class in [0, 1] {
            filled[fold][class] += brings[class];
        }
        fold_of.insert(entity, fold);
    }
    entities.iter().map(|entity| fold_of[entity]).collect()
}

/// Cuts rows into `folds` + 1 blocks of about equal size, one after the other in time; rows of one time are not parted.
/// None where there are too few times for that.
pub(super) fn by_time(times: &[i64], folds: usize) -> Option<Vec<usize>> {
    let blocks = folds + 1;
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|row| times[*row]);
    let mut block_of_row = vec![0; times.len()];
    let mut block = 0;
    for (place, row) in order.iter().enumerate() {
        let due = place * blocks / times.len();
        let parted = place > 0 && times[order[place - 1]] != times[*row];
        if due > block && parted {
            block += 1;
        }
        block_of_row[*row] = block;
    }
    (block + 1 == blocks).then_some(block_of_row)
}

/// A seed of its own for each `stream` of one `seed`. smartcore gives tree i the seed s + i, so neighbours will not do.
pub(super) fn mix(seed: u64, stream: u64) -> u64 {
    let mut random = SplitMix64(seed);
    let first = random.next();
    SplitMix64(first ^ stream).next()
}

/// Random numbers of a `stream` of one `seed`.
pub(super) fn random(seed: u64, stream: u64) -> SplitMix64 {
    SplitMix64(mix(seed, stream))
}

/// Steele, Lea and Flood's SplitMix64: small, and good enough to deal cards.
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    /// From 0 to below 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fisher and Yates. The product's high half favours none by more than n / 2⁶⁴.
    pub(super) fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let chosen = (u128::from(self.next()) * (last as u128 + 1)) >> 64;
            items.swap(last, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn seeds_make_folds_and_equal_seeds_equal_folds() {
        let labels: Vec<f64> = (0..50).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        assert_eq!(stratified(&labels, 5, 1), stratified(&labels, 5, 1));
        assert_ne!(stratified(&labels, 5, 1), stratified(&labels, 5, 2));
    }

    proptest! {
        #[test]
        fn an_entity_is_in_one_fold_and_every_fold_has_some(
            rows in prop::collection::vec((0..40_usize, any::<bool>()), 1..200),
            folds in 2..10usize,
            seed: u64,
        ) {
            let entities: Vec<usize> = rows.iter().map(|(entity, _)| *entity).collect();
            let labels: Vec<f64> = rows.iter().map(|(_, it)| f64::from(u8::from(*it))).collect();
            let fold_of_row = grouped(&labels, &entities, folds, seed);
            prop_assert_eq!(&fold_of_row, &grouped(&labels, &entities, folds, seed));
            let mut fold_of = BTreeMap::new();
            for (entity, fold) in entities.iter().zip(&fold_of_row) {
                prop_assert_eq!(*fold_of.entry(*entity).or_insert(*fold), *fold);
            }
            let used: BTreeSet<usize> = fold_of_row.iter().copied().collect();
            prop_assert_eq!(used.len(), folds.min(fold_of.len()));
        }

        #[test]
        fn blocks_of_time_follow_each_other_and_part_no_moment(
            times in prop::collection::vec(0..60_i64, 1..200),
            folds in 2..6usize,
        ) {
            if let Some(blocks) = by_time(&times, folds) {
                let used: BTreeSet<usize> = blocks.iter().copied().collect();
                prop_assert_eq!(used, (0..=folds).collect::<BTreeSet<_>>());
                for (one, other) in blocks.iter().zip(&times).flat_map(|one| {
                    blocks.iter().zip(&times).map(move |other| (one, other))
                }) {
                    prop_assert!(one.1 > other.1 || one.0 <= other.0);
                    prop_assert!(one.1 != other.1 || one.0 == other.0);
                }
            } else {
                let distinct: BTreeSet<i64> = times.iter().copied().collect();
                prop_assert!(distinct.len() < times.len() || times.len() <= folds);
            }
        }

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
