//! A forest for CPUs with AVX-512: 32 rows walk a tree at once, each in a lane of 16 bits.
//!
//! First a row's inputs become ranks: how many of the forest's thresholds lie below. `x <= t` holds exactly where no
//! more lie below `x` than below `t`, and NaN ranks above all. A tree is laid out as if it were complete, level by level,
//! so that a place in it says where the next one is; a split is one word, its threshold's rank and its input's slot. A
//! level is then a register or a few, in which a permutation looks up the splits of all lanes, with no load to wait for.
//! Where a leaf lies higher than others, all places below lead to it.
//!
//! That takes at most 14 bytes a place, 256 places a tree: for the most uneven tree six times what its nodes take anyway.

#![allow(
    unsafe_code,
    reason = "registers are loaded and stored by pointer; code for a CPU's features is called after a look at the CPU"
)]

use std::arch::x86_64::*;

use super::layout::{Layout, Node, Tree};
use super::leaves::Leaves;

/// Rows that walk a tree at once.
const LANES: usize = 32;
/// Groups of so many rows that go through all trees before the next ones do.
const GROUPS: usize = 4;
const BLOCK_ROWS: usize = LANES * GROUPS;
/// Trees that a block walks before their leaves are added: meanwhile a row's sum stays in a register.
const TREES: usize = 8;
/// Splits between a root and its deepest leaf: at most 128 in a level, four registers.
const DEPTH_MAX: u32 = 8;
/// The most leaves of a tree: a byte tells them apart.
const LEAVES: usize = 1 << DEPTH_MAX;
/// Levels whose splits' slots are known without a look at the lanes.
const UPPER: u32 = 3;
/// The most inputs that splits may ask for: a step selects among as many registers. With 64 the other kernel is faster.
const SLOTS_MAX: usize = 32;
/// Thresholds in a block of a search: a register of them.
const KEYS: usize = 8;
/// Searches that go at once.
const SEARCHES: usize = 8;
/// Steps of the other kernel that take as long as a search.
const STEPS_A_SEARCH: usize = 8;

/// Where each row of a block ends in a tree, counted from the tree's first leaf.
type Found = [u8; BLOCK_ROWS];

/// A register of words.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Words([u16; LANES]);

impl Words {
    const ZERO: Self = Self([0; LANES]);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(&self) -> __m512i {
        // SAFETY: these are 64 bytes, aligned to as many.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

/// A register of thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Keys([f64; KEYS]);

impl Keys {
    /// Infinity, which lies below nothing, where there is no key.
    fn new<'a>(key: impl Fn(usize) -> Option<&'a f64>) -> Self {
        Self(std::array::from_fn(|at| {
            key(at).copied().unwrap_or(f64::INFINITY)
        }))
    }

    /// How many lie below `value`; below NaN none.
    #[inline]
    #[target_feature(enable = "avx512f,popcnt")]
    fn below(&self, value: __m512d) -> usize {
        // SAFETY: these are 64 bytes, aligned to as many.
        let keys = unsafe { _mm512_load_pd(self.0.as_ptr()) };
        _mm512_cmp_pd_mask::<_CMP_LT_OQ>(keys, value).count_ones() as usize
    }
}

/// Which of a group's ranks, of how many: a power of two.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slot {
    at: usize,
    count: usize,
}

impl Slot {
    /// The greatest rank that a word has room for beside a slot.
    fn rank_max(self) -> usize {
        usize::from(u16::MAX) / self.count
    }

    /// A split's word.
    fn split(self, rank: usize) -> u16 {
        self.value(rank) + self.at as u16
    }

    /// A row's word: above a split's where its rank is above the split's.
    #[inline]
    fn value(self, rank: usize) -> u16 {
        (rank * self.count) as u16
    }
}

/// The distinct thresholds of an input as a search tree, a block's children nine, level by level; the last level has them
/// all, in order.
#[derive(Debug, Clone, PartialEq)]
struct Thresholds {
    input: usize,
    slot: Slot,
    blocks: Vec<Keys>,
    /// Where in `blocks` each level begins but the last one.
    upper: Vec<usize>,
    /// Where the last level begins.
    last: usize,
}

impl Thresholds {
    fn new(input: usize, slot: Slot, sorted: &[f64]) -> Self {
        // Thresholds in or below a block of each level, from the last one up.
        let mut spans = vec![KEYS];
        while let Some(span) = spans.last().filter(|span| **span < sorted.len()) {
            spans.push(span * (KEYS + 1));
        }
        let (mut blocks, mut upper) = (vec![], vec![]);
        for span in spans[1..].iter().rev() {
            upper.push(blocks.len());
            let child = span / (KEYS + 1);
            blocks.extend((0..sorted.len().div_ceil(*span)).map(|block| {
                // The greatest threshold of each child that another one follows.
                Keys::new(|key| {
                    let end = block * span + (key + 1) * child;
                    sorted.get(end).and(sorted.get(end - 1))
                })
            }));
        }
        let last = blocks.len();
        let keys = |block: &[f64]| Keys::new(|key| block.get(key));
        blocks.extend(sorted.chunks(KEYS).map(keys));
        Self {
            input,
            slot,
            blocks,
            upper,
            last,
        }
    }

    /// How many thresholds lie below each value; below NaN none. Each step of a search waits for the one before it, so
    /// several go at once.
    #[inline]
    #[target_feature(enable = "avx512f,popcnt")]
    fn below(&self, values: &[f64; SEARCHES]) -> [usize; SEARCHES] {
        let mut found = [0; SEARCHES];
        for start in &self.upper {
            let level = &self.blocks[*start..];
            for (block, value) in found.iter_mut().zip(values) {
                *block = *block * (KEYS + 1) + level[*block].below(_mm512_set1_pd(*value));
            }
        }
        let level = &self.blocks[self.last..];
        for (block, value) in found.iter_mut().zip(values) {
            *block = *block * KEYS + level[*block].below(_mm512_set1_pd(*value));
        }
        found
    }

    /// Writes the rows' ranks (`rows` has `inputs` values each) to this input's slot of each group.
    #[target_feature(enable = "avx512f,popcnt")]
    fn rank(&self, rows: &[f64], inputs: usize, ranks: &mut [Words]) {
        let groups = ranks.chunks_exact_mut(self.slot.count);
        for (rows, ranks) in rows.chunks(inputs * LANES).zip(groups) {
            let (ranks, _) = ranks[self.slot.at].0.as_chunks_mut::<SEARCHES>();
            for (rows, ranks) in rows.chunks(inputs * SEARCHES).zip(ranks) {
                let mut values = [0.0; SEARCHES];
                for (value, row) in values.iter_mut().zip(rows.chunks_exact(inputs)) {
                    *value = row[self.input];
                }
                let below = self.below(&values);
                for ((rank, value), below) in ranks.iter_mut().zip(values).zip(below) {
                    *rank = self.slot.value(match value.is_nan() {
                        true => self.slot.rank_max(),
                        false => below,
                    });
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct CompleteTree {
    depth: u32,
    /// The slots of the splits of its upper levels, in the order of their words.
    slots: [u8; 1 << UPPER],
    /// Its first register in `Complete::words`: the root is word 1, the children of word n are 2n and 2n+1.
    words: usize,
    /// The place of its first leaf.
    leaves: usize,
}

impl CompleteTree {
    /// What `table` has from its first leaf on, beyond its last one, so that every byte is a place: see `Complete::new`.
    #[inline]
    fn leaves<T>(self, table: &[T]) -> &[T; LEAVES] {
        let (leaves, _) = table[self.leaves..].as_chunks();
        &leaves[0]
    }
}

/// Trees that share ranks.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    thresholds: Vec<Thresholds>,
    trees: Vec<CompleteTree>,
}

/// A forest of complete trees; there is none where the CPU has not what it takes to walk it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Complete {
    /// Of a row.
    inputs: usize,
    /// The inputs that splits ask for, in the order of their slots.
    asked: Vec<u32>,
    parts: Vec<Part>,
    words: Vec<Words>,
    /// Of each place of a leaf its node.
    nodes: Vec<u32>,
    /// Of each place of a leaf its value.
    values: Vec<f64>,
}

impl Complete {
    /// None where the CPU has no such instructions, or the other kernel is as good: a tree too deep, too many inputs, or
    /// too few steps for the searches before them.
    pub fn new(layout: &Layout, trees: &[Tree]) -> Option<Self> {
        if !is_supported() || trees.iter().any(|tree| tree.depth > DEPTH_MAX) {
            return None;
        }
        let mut asked: Vec<u32> = splits(&layout.nodes).map(|node| node.input).collect();
        asked.sort_unstable();
        asked.dedup();
        if asked.len() > SLOTS_MAX {
            return None;
        }
        let mut complete = Self {
            inputs: layout.inputs,
            asked,
            parts: vec![],
            words: vec![],
            nodes: vec![],
            values: vec![],
        };
        let mut rest = trees;
        while !rest.is_empty() {
            let (trees, others) = rest.split_at(complete.fit(layout, rest));
            complete.add_part(layout, trees, others.first());
            rest = others;
        }
        complete.nodes.extend([0; LEAVES]);
        complete.values.extend([0.0; LEAVES]);
        let searches = complete.parts.iter().map(|part| part.thresholds.len());
        let searches: usize = searches.sum();
        let steps: usize = trees.iter().map(|tree| tree.depth as usize).sum();
        (steps > STEPS_A_SEARCH * searches).then_some(complete)
    }

    /// Of an input that splits ask for.
    fn slot(&self, input: u32) -> Slot {
        Slot {
            at: self.asked.partition_point(|asked| *asked < input),
            count: self.slots(),
        }
    }

    fn slots(&self) -> usize {
        self.asked.len().next_power_of_two().max(2)
    }

    /// The fewest rows that are faster in lanes than one by one.
    fn rows_min(&self) -> usize {
        (self.slots() * 3 / 4).max(6)
    }

    /// How many of the trees, at least one, have no more splits of an input than there are ranks.
    fn fit(&self, layout: &Layout, trees: &[Tree]) -> usize {
        let mut counts = vec![0; self.asked.len()];
        for (at, tree) in trees.iter().enumerate() {
            for node in splits(nodes(layout, tree, trees.get(at + 1))) {
                let slot = self.slot(node.input);
                counts[slot.at] += 1;
                if counts[slot.at] > slot.rank_max() {
                    return at;
                }
            }
        }
        trees.len()
    }

    /// Appends `trees`; `next` comes after them.
    fn add_part(&mut self, layout: &Layout, trees: &[Tree], next: Option<&Tree>) {
        let mut sorted = vec![vec![]; self.asked.len()];
        for node in splits(nodes(layout, &trees[0], next)) {
            sorted[self.slot(node.input).at].push(node.value);
        }
        for thresholds in &mut sorted {
            thresholds.sort_unstable_by(f64::total_cmp);
            // Zeros are equal, whatever their sign.
            thresholds.dedup();
        }
        let trees = trees.iter();
        let trees = trees.map(|tree| self.add_tree(layout, tree, &sorted));
        let trees = trees.collect();
        let asked = self.asked.iter().zip(&sorted);
        let asked = asked.filter(|(_, sorted)| !sorted.is_empty());
        let thresholds = asked
            .map(|(input, sorted)| Thresholds::new(*input as usize, self.slot(*input), sorted));
        self.parts.push(Part {
            thresholds: thresholds.collect(),
            trees,
        });
    }

    /// Appends a tree; `sorted` are the thresholds of each slot.
    fn add_tree(&mut self, layout: &Layout, tree: &Tree, sorted: &[Vec<f64>]) -> CompleteTree {
        let leaves = 1 << tree.depth;
        let mut places = vec![tree.root; 2 * leaves];
        let mut words = vec![Words::ZERO; leaves.div_ceil(LANES)];
        for at in 1..leaves {
            let place = places[at];
            let node = &layout.nodes[place as usize];
            let children = match node.child {
                0 => [place; 2],
                child => {
                    let slot = self.slot(node.input);
                    let rank = sorted[slot.at].partition_point(|it| *it < node.value);
                    words[at / LANES].0[at % LANES] = slot.split(rank);
                    [child, child + 1]
                }
            };
            places[2 * at..][..2].copy_from_slice(&children);
        }
        let complete = CompleteTree {
            depth: tree.depth,
            slots: std::array::from_fn(|at| (words[0].0[at] % self.slots() as u16) as u8),
            words: self.words.len(),
            leaves: self.nodes.len(),
        };
        self.words.extend(words);
        let leaves = &places[leaves..];
        self.nodes.extend(leaves);
        let values = leaves.iter().map(|node| layout.nodes[*node as usize].value);
        self.values.extend(values);
        complete
    }

    /// Adds to the rows' sums the values of the leaves they reach, tree after tree; returns how many rows it was worth for,
    /// from the first one on.
    pub fn add_values(&self, rows: &[f64], sums: &mut [f64]) -> usize {
        self.add_blocks(rows, sums, 1, &self.values, |value, sums| sums[0] += value)
    }

    /// Adds to the rows' sums (row-major) the leaves they reach, as [`Complete::add_values`] does.
    pub fn add(&self, rows: &[f64], sums: &mut [f64], leaves: &impl Leaves) -> usize {
        self.add_blocks(rows, sums, leaves.width(), &self.nodes, |node, sums| {
            leaves.add(node as usize, sums);
        })
    }

    /// `add` gets what `table` has at the place of a leaf, and a row's sums.
    #[inline(always)]
    fn add_blocks<T: Copy>(
        &self,
        rows: &[f64],
        sums: &mut [f64],
        width: usize,
        table: &[T],
        add: impl Fn(T, &mut [f64]),
    ) -> usize {
        let count = rows.len() / self.inputs;
        let worth = match count % LANES {
            rest if rest < self.rows_min() => count - rest,
            _ => count,
        };
        let rows = rows[..worth * self.inputs].chunks(BLOCK_ROWS * self.inputs);
        let sums = sums[..worth * width].chunks_mut(BLOCK_ROWS * width);
        let mut ranks = vec![Words::ZERO; self.slots() * worth.div_ceil(LANES).min(GROUPS)];
        for (rows, sums) in rows.zip(sums) {
            let groups = (rows.len() / self.inputs).div_ceil(LANES);
            let ranks = &mut ranks[..groups * self.slots()];
            for part in &self.parts {
                self.rank(part, rows, ranks);
                let mut found = [[0; BLOCK_ROWS]; TREES];
                let (whole, rest) = part.trees.as_chunks::<TREES>();
                for trees in whole {
                    self.walk(trees, ranks, &mut found);
                    let leaves = trees.each_ref().map(|tree| tree.leaves(table));
                    add_found(&leaves, &found, sums, width, &add);
                }
                self.walk(rest, ranks, &mut found);
                for (tree, found) in rest.iter().zip(&found) {
                    add_found(&[tree.leaves(table)], &[*found], sums, width, &add);
                }
            }
        }
        worth
    }

    fn rank(&self, part: &Part, rows: &[f64], ranks: &mut [Words]) {
        for thresholds in &part.thresholds {
            // SAFETY: the CPU has the features: see `Complete::new`.
            unsafe { thresholds.rank(rows, self.inputs, ranks) }
        }
    }

    /// Where the rows of these ranks end in up to as many trees.
    fn walk(&self, trees: &[CompleteTree], ranks: &[Words], found: &mut [Found; TREES]) {
        // SAFETY: the CPU has the features: see `Complete::new`.
        unsafe {
            match self.slots() {
                2 => walk_trees::<2>(&self.words, trees, ranks, found),
                4 => walk_trees::<4>(&self.words, trees, ranks, found),
                8 => walk_trees::<8>(&self.words, trees, ranks, found),
                16 => walk_trees::<16>(&self.words, trees, ranks, found),
                _ => walk_trees::<SLOTS_MAX>(&self.words, trees, ranks, found),
            }
        }
    }
}

fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("popcnt")
}

fn splits(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| node.child != 0)
}

/// From a tree to the one before `next`.
fn nodes<'a>(layout: &'a Layout, tree: &Tree, next: Option<&Tree>) -> &'a [Node] {
    let end = next.map_or(layout.nodes.len(), |next| next.root as usize);
    &layout.nodes[tree.root as usize..end]
}

/// Adds to each row's sums what it has found in each tree.
#[inline(always)]
fn add_found<T: Copy, const N: usize>(
    leaves: &[&[T; LEAVES]; N],
    found: &[Found; N],
    sums: &mut [f64],
    width: usize,
    add: impl Fn(T, &mut [f64]),
) {
    let rows = sums.chunks_exact_mut(width).take(BLOCK_ROWS);
    for (row, sums) in rows.enumerate() {
        for (leaves, found) in leaves.iter().zip(found) {
            add(leaves[usize::from(found[row])], sums);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn walk_trees<const SLOTS: usize>(
    words: &[Words],
    trees: &[CompleteTree],
    ranks: &[Words],
    found: &mut [Found; TREES],
) {
    let (groups, _) = ranks.as_chunks::<SLOTS>();
    for (tree, found) in trees.iter().zip(found) {
        let words = &words[tree.words..];
        let (found, _) = found.as_chunks_mut::<LANES>();
        // Each step of a walk waits for the one before it, so two groups go at once.
        for (ranks, found) in groups.chunks(2).zip(found.chunks_mut(2)) {
            match (ranks, found) {
                ([ranks, others], [found, more]) => {
                    walk_groups(tree, words, [ranks, others], [found, more]);
                }
                ([ranks], [found, ..]) => walk_groups(tree, words, [ranks], [found]),
                _ => {}
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn walk_groups<const SLOTS: usize, const N: usize>(
    tree: &CompleteTree,
    words: &[Words],
    ranks: [&[Words; SLOTS]; N],
    found: [&mut [u8; LANES]; N],
) {
    let mut at = [_mm512_set1_epi16(1); N];
    for (at, ranks) in at.iter_mut().zip(ranks) {
        *at = walk_upper(tree, *at, words[0].load(), ranks);
    }
    for level in UPPER..tree.depth {
        for (at, ranks) in at.iter_mut().zip(ranks) {
            let splits = splits_of(level, *at, words);
            (*at, _) = step(*at, splits, select(splits, ranks));
        }
    }
    for (found, at) in found.into_iter().zip(at) {
        let places = _mm512_xor_si512(at, _mm512_set1_epi16(1 << tree.depth));
        // SAFETY: there is a byte for each lane.
        unsafe { _mm256_storeu_si256(found.as_mut_ptr().cast(), _mm512_cvtepi16_epi8(places)) }
    }
}

/// From the root through the upper levels, by ranks that need no selection.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn walk_upper<const SLOTS: usize>(
    tree: &CompleteTree,
    root: __m512i,
    first: __m512i,
    ranks: &[Words; SLOTS],
) -> __m512i {
    let rank = |split: usize| ranks[usize::from(tree.slots[split]) % SLOTS].load();
    if tree.depth == 0 {
        return root;
    }
    let (at, right) = step(root, _mm512_permutexvar_epi16(root, first), rank(1));
    if tree.depth == 1 {
        return at;
    }
    let asked = _mm512_mask_blend_epi16(right, rank(2), rank(3));
    let (at, second) = step(at, _mm512_permutexvar_epi16(at, first), asked);
    if tree.depth == 2 {
        return at;
    }
    let left_asked = _mm512_mask_blend_epi16(second, rank(4), rank(5));
    let right_asked = _mm512_mask_blend_epi16(second, rank(6), rank(7));
    let asked = _mm512_mask_blend_epi16(right, left_asked, right_asked);
    step(at, _mm512_permutexvar_epi16(at, first), asked).0
}

/// The words of a level's splits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn splits_of(level: u32, at: __m512i, words: &[Words]) -> __m512i {
    match level {
        ..5 => _mm512_permutexvar_epi16(at, words[0].load()),
        5 => _mm512_permutexvar_epi16(at, words[1].load()),
        6 => look_up(at, &words[2], &words[3]),
        _ => {
            let low = look_up(at, &words[4], &words[5]);
            let high = look_up(at, &words[6], &words[7]);
            let is_high = _mm512_test_epi16_mask(at, _mm512_set1_epi16(64));
            _mm512_mask_blend_epi16(is_high, low, high)
        }
    }
}

/// The words of two registers at the low six bits of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(at: __m512i, low: &Words, high: &Words) -> __m512i {
    _mm512_permutex2var_epi16(low.load(), at, high.load())
}

/// Of each lane the rank in the slot that its split names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn select<const SLOTS: usize>(splits: __m512i, ranks: &[Words; SLOTS]) -> __m512i {
    let mut loaded = [_mm512_setzero_si512(); SLOTS];
    for (rank, words) in loaded.iter_mut().zip(ranks) {
        *rank = words.load();
    }
    let mut left = SLOTS;
    while left > 1 {
        let bit = _mm512_set1_epi16((SLOTS / left) as i16);
        let odd = _mm512_test_epi16_mask(splits, bit);
        left /= 2;
        for at in 0..left {
            loaded[at] = _mm512_mask_blend_epi16(odd, loaded[2 * at], loaded[2 * at + 1]);
        }
    }
    loaded[0]
}

/// From splits to their children; and which lanes went to the second one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn step(at: __m512i, splits: __m512i, rank: __m512i) -> (__m512i, __mmask32) {
    let above = _mm512_cmpgt_epu16_mask(rank, splits);
    let child = _mm512_add_epi16(at, at);
    (_mm512_sub_epi16(child, _mm512_movm_epi16(above)), above)
}

#[cfg(test)]
mod tests {
    use super::super::SourceNode;
    use super::super::kernel::Kernel;
    use super::*;

    /// The word of a row's value.
    fn value(thresholds: &Thresholds, value: f64) -> u16 {
        let mut ranks = vec![Words::ZERO; thresholds.slot.count];
        // SAFETY: who calls has looked at the CPU.
        unsafe { thresholds.rank(&[value], 1, &mut ranks) }
        ranks[thresholds.slot.at].0[0]
    }

    #[test]
    fn a_rank_is_above_those_thresholds_that_its_value_is_not_at_most() {
        if !is_supported() {
            return;
        }
        let slot = Slot { at: 5, count: 8 };
        for count in [1, 7, 8, 9, 72, 73, 80, 648, 649, 5_900, slot.rank_max()] {
            let mut sorted: Vec<f64> = (0..count).map(|it| it as f64 - 4.0).collect();
            sorted[0] = f64::NEG_INFINITY;
            if count > 8 {
                sorted[count - 1] = f64::INFINITY;
            }
            let thresholds = Thresholds::new(0, slot, &sorted);
            let edges = [0.0, -0.0, f64::MIN, f64::MAX, f64::from_bits(1), f64::NAN];
            let ends = sorted.iter().take(90).chain(sorted.iter().rev().take(90));
            let near = ends.flat_map(|it| [it.next_down(), *it, it.next_up()]);
            for value_of_row in near.chain(edges) {
                let found = value(&thresholds, value_of_row);
                for (rank, threshold) in sorted.iter().enumerate() {
                    let at_most = value_of_row <= *threshold;
                    assert_eq!(
                        found > slot.split(rank),
                        !at_most,
                        "{value_of_row} {threshold}"
                    );
                }
            }
        }
    }

    /// Full trees that ask for input 0 but for the last one, which asks for all.
    fn full(trees: usize, depth: u32, inputs: usize) -> Layout {
        let splits = (1 << depth) - 1;
        let tree = |tree: usize| {
            let split = |at: usize| SourceNode::Split {
                input: if tree + 1 < trees { 0 } else { at % inputs },
                threshold: ((at * 7919 + tree * 104_729) % 10_007) as f64,
                at_most: 2 * at + 1,
                above: 2 * at + 2,
            };
            let leaf = |at: usize| SourceNode::Leaf {
                value: 1.0 / (at + tree + 1) as f64,
            };
            let nodes = (0..splits).map(split);
            nodes.chain((0..=splits).map(leaf)).collect()
        };
        let trees: Vec<Vec<SourceNode>> = (0..trees).map(tree).collect();
        Layout::new(inputs, &trees).unwrap()
    }

    #[test]
    fn more_thresholds_than_ranks_make_parts() {
        if !is_supported() {
            return;
        }
        let layout = full(90, 8, 32);
        let kernel = Kernel::new(&layout);
        let complete = Complete::new(&layout, kernel.trees()).unwrap();
        assert_eq!(complete.parts.len(), 12);
        let rows: Vec<f64> = (0..200 * 32).map(|it| (it * 31 % 10_007) as f64).collect();
        let (mut found, mut expected) = (vec![0.0; 200], vec![0.0; 200]);
        assert_eq!(complete.add_values(&rows, &mut found), 192);
        kernel.without_vectors().add_values(&rows, &mut expected);
        assert_eq!(found[..192], expected[..192]);
    }

    #[test]
    fn what_is_no_faster_is_left_to_the_other_kernel() {
        let is_complete = |trees, depth, inputs| {
            let layout = full(trees, depth, inputs);
            Complete::new(&layout, Kernel::new(&layout).trees()).is_some()
        };
        assert_eq!(is_complete(100, 8, 8), is_supported());
        assert!(!is_complete(100, 9, 8), "too deep");
        assert!(!is_complete(100, 8, 33), "too many inputs");
        assert!(!is_complete(2, 3, 3), "too few trees");
    }
}
