//! Runs of up to 16 events: each is a row where it is stored, and remembers what its events amount to.

use std::{collections::VecDeque, sync::OnceLock};

use crate::{
    events::Events,
    summary::{Ewma, Summary},
};

/// A row of 16 events with a few columns is below a kilobyte, and is what one more event costs to write.
pub(crate) const BUCKET_EVENTS: usize = 16;
/// Where a full bucket is split so that both have room.
const HALF: usize = BUCKET_EVENTS / 2;
/// Buckets are summarised together by 8, by 64 and by 512: a window over 10,000 events reads some 25 summaries.
const FANOUT: u64 = 8;
const LEVELS: usize = 3;

/// Whether the store has what the memory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Unwritten,
    Changed,
    Written,
}

#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub id: u32,
    /// Among buckets whose first events have the same time.
    pub order: i64,
    /// Of the first event, counted over all events that were ever kept.
    start: u64,
    pub len: usize,
    pub row: Row,
    /// One per matcher, once a look needed it.
    pub summary: OnceLock<Box<[Summary]>>,
    /// The state of all EWMAs before the first event, once a look needed it.
    pub before: OnceLock<Box<[Ewma]>>,
}

/// A run of whole buckets that have a summary together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    level: usize,
    pub first: usize,
}

impl Block {
    /// What it is made of: None of the lowest level, which is made of buckets.
    pub(crate) fn parts(self) -> Option<[Block; FANOUT as usize]> {
        let level = self.level.checked_sub(1)?;
        let part = |i: usize| Block {
            level,
            first: self.first + i * buckets_of(level) as usize,
        };
        Some(std::array::from_fn(part))
    }

    /// The buckets in it.
    pub(crate) fn buckets(self) -> std::ops::Range<usize> {
        self.first..self.first + buckets_of(self.level) as usize
    }
}

fn buckets_of(level: usize) -> u64 {
    FANOUT.pow(level as u32 + 1)
}

impl Bucket {
    fn new(id: u32, start: u64, len: usize) -> Self {
        Bucket {
            id,
            order: 0,
            start,
            len,
            row: Row::Unwritten,
            summary: OnceLock::new(),
            before: OnceLock::new(),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Buckets {
    list: VecDeque<Bucket>,
    /// Buckets before the first one, over all that there ever were.
    passed: u64,
    /// Events before the first one, likewise.
    events_passed: u64,
    /// Summaries of 8, 64 and 512 buckets, counted over all, as far as all of these exist or are gone.
    blocks: [VecDeque<OnceLock<Box<[Summary]>>>; LEVELS],
    /// No bucket before this one, counted over all, has changes to be written.
    changed_from: u64,
    /// Rows of buckets that are gone.
    removed: Vec<u32>,
}

impl Buckets {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, b: usize) -> &Bucket {
        &self.list[b]
    }

    pub(crate) fn start(&self, b: usize) -> usize {
        (self.list[b].start - self.events_passed) as usize
    }

    pub(crate) fn end(&self, b: usize) -> usize {
        self.start(b) + self.list[b].len
    }

    /// The bucket that holds event `i`.
    pub(crate) fn holding(&self, i: usize) -> usize {
        let absolute = self.events_passed + i as u64;
        self.list.partition_point(|bucket| bucket.start <= absolute) - 1
    }

    /// The largest block that ends before bucket `end` and begins at `start` or later.
    pub(crate) fn block_before(&self, start: usize, end: usize) -> Option<Block> {
        let absolute = self.passed + end as u64;
        let fits = |level: &usize| {
            let buckets = buckets_of(*level);
            absolute.is_multiple_of(buckets) && end >= start + buckets as usize
        };
        let level = (0..LEVELS).take_while(fits).last()?;
        Some(Block {
            level,
            first: end - buckets_of(level) as usize,
        })
    }

    /// The cached summary of a block.
    pub(crate) fn block(&self, block: Block) -> &OnceLock<Box<[Summary]>> {
        &self.blocks[block.level][self.number(block.level, block.first)]
    }

    /// Among the blocks of a level, the one that bucket `b` is in.
    fn number(&self, level: usize, b: usize) -> usize {
        let buckets = buckets_of(level);
        ((self.passed + b as u64) / buckets - self.passed / buckets) as usize
    }

    /// Appends a bucket that was read.
    pub(crate) fn append_written(&mut self, id: u32, order: i64, len: usize) {
        let start = self.list.back().map_or(0, |b| b.start + b.len as u64);
        let bucket = Bucket {
            order,
            row: Row::Written,
            ..Bucket::new(id, start, len)
        };
        self.put(self.list.len(), bucket);
        self.changed_from = u64::MAX;
    }

    /// Makes room for an event at `at`, which is not in `events` yet.
    pub(crate) fn insert(&mut self, events: &Events, at: usize) -> usize {
        let b = self.place(events, at);
        let bucket = &mut self.list[b];
        bucket.len += 1;
        for later in self.list.range_mut(b + 1..) {
            later.start += 1;
            later.before.take();
        }
        self.touch(b);
        b
    }

    /// A bucket with room for an event at `at`.
    fn place(&mut self, events: &Events, at: usize) -> usize {
        if self.list.is_empty() {
            return self.put_new(0, at, 0);
        }
        if at == events.len() {
            let last = self.list.len() - 1;
            return if self.list[last].len < BUCKET_EVENTS {
                last
            } else {
                self.put_new(last + 1, at, 0)
            };
        }
        let b = self.holding(at);
        if at > self.start(b) {
            return if self.list[b].len < BUCKET_EVENTS {
                b
            } else {
                self.split(b, at)
            };
        }
        if b > 0 && self.list[b - 1].len < BUCKET_EVENTS {
            b - 1
        } else if self.list[b].len < BUCKET_EVENTS {
            b
        } else {
            self.put_new(b, at, 0)
        }
    }

    /// Splits a full bucket; the one of the two to which `at` belongs.
    fn split(&mut self, b: usize, at: usize) -> usize {
        let within = at - self.start(b);
        // Events that are a little late come to the last bucket, whose first part stays as it is from then on.
        let left = if b + 1 == self.list.len() {
            within.max(HALF)
        } else {
            HALF
        };
        let right = self.list[b].len - left;
        self.list[b].len = left;
        self.put_new(b + 1, self.start(b) + left, right);
        self.touch(b);
        if within <= left { b } else { b + 1 }
    }

    fn put_new(&mut self, b: usize, start: usize, len: usize) -> usize {
        let bucket = Bucket::new(self.fresh_id(), self.events_passed + start as u64, len);
        self.put(b, bucket);
        self.touch(b);
        b
    }

    fn put(&mut self, b: usize, bucket: Bucket) {
        if self.list.is_empty() {
            // Most keys have one bucket.
            self.list.reserve_exact(1);
        }
        self.list.insert(b, bucket);
        for level in 0..LEVELS {
            let whole = self.number(level, self.list.len());
            let shifted = self.number(level, b).min(whole);
            let blocks = &mut self.blocks[level];
            blocks.resize_with(whole, OnceLock::new);
            blocks
                .range_mut(shifted..)
                .for_each(|block| drop(block.take()));
        }
    }

    /// One above the largest, so that it depends on nothing but the rows.
    fn fresh_id(&self) -> u32 {
        let largest = self.list.iter().map(|bucket| bucket.id).max().unwrap_or(0);
        largest.checked_add(1).unwrap_or_else(|| {
            let mut ids: Vec<u32> = self.list.iter().map(|bucket| bucket.id).collect();
            ids.sort_unstable();
            // Ids are different and above 0, so the first that is not its own index + 1 leaves a gap before it.
            let gap = ids.iter().zip(1..).find(|(id, expected)| *id != expected);
            gap.map_or(u32::MAX, |(_, free)| free)
        })
    }

    /// Forgets what was known of a bucket whose events change.
    fn touch(&mut self, b: usize) {
        let bucket = &mut self.list[b];
        bucket.summary.take();
        if bucket.row == Row::Written {
            bucket.row = Row::Changed;
        }
        self.changed_from = self.changed_from.min(self.passed + b as u64);
        for level in 0..LEVELS {
            let block = self.number(level, b);
            if let Some(block) = self.blocks[level].get_mut(block) {
                block.take();
            }
        }
    }

    /// Brings the order of the buckets that `insert` changed up to date, once the event is in its place.
    pub(crate) fn inserted(&mut self, events: &Events, b: usize) {
        self.mend_order(events, b);
        // The other half of a bucket that was split.
        if self
            .list
            .get(b + 1)
            .is_some_and(|later| later.row == Row::Unwritten)
        {
            self.mend_order(events, b + 1);
        }
    }

    /// Says where a bucket stands among those that begin at the same time.
    pub(crate) fn mend_order(&mut self, events: &Events, b: usize) {
        let first_ms = |b: usize| events.times_ms().get(self.start(b)).copied();
        let own = first_ms(b);
        let order = if b > 0 && first_ms(b - 1) == own {
            self.list[b - 1].order + 1
        } else if b + 1 < self.list.len() && first_ms(b + 1) == own {
            self.list[b + 1].order - 1
        } else {
            0
        };
        self.list[b].order = order;
    }

    /// Drops events at the front; true if a bucket has lost only some of its own.
    pub(crate) fn drop_front(&mut self, events: usize) -> bool {
        let mut left = events;
        self.events_passed += events as u64;
        while let Some(bucket) = self.list.front_mut() {
            if bucket.len > left {
                break;
            }
            left -= bucket.len;
            if bucket.row != Row::Unwritten {
                self.removed.push(bucket.id);
            }
            self.list.pop_front();
            self.passed += 1;
            for (level, blocks) in self.blocks.iter_mut().enumerate() {
                if self.passed.is_multiple_of(buckets_of(level)) {
                    blocks.pop_front();
                }
            }
        }
        if left == 0 {
            return false;
        }
        if let Some(bucket) = self.list.front_mut() {
            bucket.len -= left;
            bucket.start += left as u64;
            self.touch(0);
        }
        true
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        let written = self.list.iter().filter(|b| b.row != Row::Unwritten);
        let mut removed = std::mem::take(&mut self.removed);
        removed.extend(written.map(|bucket| bucket.id));
        *self = Buckets {
            removed,
            ..Buckets::default()
        };
    }

    /// Rows to delete since the last call.
    pub(crate) fn take_removed(&mut self) -> Vec<u32> {
        let mut removed = std::mem::take(&mut self.removed);
        if !removed.is_empty() {
            removed.retain(|id| self.list.iter().all(|bucket| bucket.id != *id));
        }
        removed
    }

    /// Calls with each bucket that changed since the last time, which is written then.
    pub(crate) fn write_changed(&mut self, mut each: impl FnMut(&Bucket, usize)) {
        let from = self.changed_from.max(self.passed) - self.passed;
        for bucket in self
            .list
            .iter_mut()
            .skip(usize::try_from(from).unwrap_or(usize::MAX))
        {
            if bucket.row != Row::Written {
                each(bucket, (bucket.start - self.events_passed) as usize);
                bucket.row = Row::Written;
            }
        }
        self.changed_from = u64::MAX;
    }

    /// As if all had the summaries that one in the middle or one of the newest has: counting would take longer than a push.
    pub(crate) fn bytes(&self) -> usize {
        let length = self.list.len();
        // A short window makes summaries of the newest alone.
        let looked_at = [length / 2, length.saturating_sub(2)];
        let buckets = looked_at.iter().filter_map(|at| self.list.get(*at));
        let summaries = buckets.clone().filter_map(|it| it.summary.get());
        let summaries = summaries.map(|it| size_of_val(&**it)).max().unwrap_or(0);
        let before = buckets.filter_map(|it| it.before.get());
        let before = before.map(|it| size_of_val(&**it)).max().unwrap_or(0);
        let blocks: usize = self.blocks.iter().map(VecDeque::len).sum();
        self.list.capacity() * size_of::<Bucket>()
            + length * (summaries + before)
            + blocks * summaries
    }
}
