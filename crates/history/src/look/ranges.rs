//! Long runs of events by the summaries of their buckets.

use std::ops::ControlFlow;

use crate::{
    buckets::Block,
    look::Look,
    summary::{Needs, Summary},
};

/// Runs up to this are looked through: merging summaries would take as long.
const SCANNED_EVENTS: usize = 24;
/// Keys up to this are looked through always: many are read from a store, looked at once and dropped with their summaries.
const SCANNED_BUCKETS: usize = 4;

/// Where the n-th newest event that counts is.
pub(super) enum Nth {
    At(usize),
    /// There are fewer.
    Only(usize),
}

/// A part of a run of events.
enum Piece {
    /// From one event to another.
    Events(usize, usize),
    Bucket(usize),
    Block(Block),
}

impl Look<'_> {
    /// Adds what counts from `start` to `end` to the summary.
    pub(super) fn summarise(
        &self,
        matcher: usize,
        start: usize,
        end: usize,
        needs: Needs,
        summary: &mut Summary,
    ) {
        let counts = &self.plan.matchers[matcher];
        if counts.takes_every_event() {
            summary.count += end.saturating_sub(start) as u64;
            return;
        }
        let _ = self.pieces(start, end, |piece| {
            match piece {
                Piece::Events(start, end) => {
                    for i in start..end {
                        if let Some(value) = counts.value(self.history.events.row(i)) {
                            summary.add(value, needs);
                        }
                    }
                }
                Piece::Bucket(b) => summary.merge(&self.bucket(b)[matcher], needs),
                Piece::Block(block) => summary.merge(&self.block(block)[matcher], needs),
            }
            ControlFlow::<()>::Continue(())
        });
    }

    /// The n-th newest event that counts, from `end` back to `start`; 1 is the newest.
    pub(super) fn nth_before(&self, matcher: usize, start: usize, end: usize, n: usize) -> Nth {
        if self.plan.matchers[matcher].takes_every_event() {
            let seen = end.saturating_sub(start);
            return end
                .checked_sub(n)
                .filter(|at| *at >= start)
                .map_or(Nth::Only(seen), Nth::At);
        }
        let mut found = 0;
        let place = self.pieces(start, end, |piece| {
            let count = match piece {
                Piece::Events(..) => 0,
                Piece::Bucket(b) => self.bucket(b)[matcher].count,
                Piece::Block(block) => self.block(block)[matcher].count,
            } as usize;
            if count > 0 && found + count < n {
                found += count;
                return ControlFlow::Continue(());
            }
            match piece {
                Piece::Events(start, end) => self.count_down(matcher, start, end, n, &mut found),
                Piece::Bucket(_) | Piece::Block(_) if count == 0 => ControlFlow::Continue(()),
                Piece::Bucket(b) => self.count_down_bucket(matcher, b, n, &mut found),
                Piece::Block(block) => self.count_down_block(matcher, block, n, &mut found),
            }
        });
        match place {
            ControlFlow::Break(place) => Nth::At(place),
            ControlFlow::Continue(()) => Nth::Only(found),
        }
    }

    /// Of a block that holds the n-th.
    fn count_down_block(
        &self,
        matcher: usize,
        block: Block,
        n: usize,
        found: &mut usize,
    ) -> ControlFlow<usize> {
        for b in block.buckets().rev() {
            let count = self.bucket(b)[matcher].count as usize;
            if *found + count < n {
                *found += count;
            } else {
                self.count_down_bucket(matcher, b, n, found)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn count_down_bucket(
        &self,
        matcher: usize,
        b: usize,
        n: usize,
        found: &mut usize,
    ) -> ControlFlow<usize> {
        let buckets = &self.history.buckets;
        self.count_down(matcher, buckets.start(b), buckets.end(b), n, found)
    }

    fn count_down(
        &self,
        matcher: usize,
        start: usize,
        end: usize,
        n: usize,
        found: &mut usize,
    ) -> ControlFlow<usize> {
        for i in (start..end).rev() {
            if self.plan.matchers[matcher]
                .value(self.history.events.row(i))
                .is_some()
            {
                *found += 1;
                if *found == n {
                    return ControlFlow::Break(i);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Calls with the parts of a run, the newest first.
    fn pieces<T>(
        &self,
        start: usize,
        end: usize,
        mut each: impl FnMut(Piece) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        let buckets = &self.history.buckets;
        if end.saturating_sub(start) <= SCANNED_EVENTS || buckets.len() <= SCANNED_BUCKETS {
            return each(Piece::Events(start, end));
        }
        let last = buckets.holding(end - 1);
        let first = buckets.holding(start);
        // The newest bucket changes with the next push, and a bucket seen in part has no summary.
        each(Piece::Events(buckets.start(last).max(start), end))?;
        let whole = if buckets.start(first) == start {
            first
        } else {
            first + 1
        };
        let mut b = last;
        while b > whole {
            if let Some(block) = buckets.block_before(whole, b) {
                each(Piece::Block(block))?;
                b = block.first;
            } else {
                b -= 1;
                each(Piece::Bucket(b))?;
            }
        }
        if whole > first && first < last {
            each(Piece::Events(start, buckets.end(first)))?;
        }
        ControlFlow::Continue(())
    }

    fn bucket(&self, b: usize) -> &[Summary] {
        let buckets = &self.history.buckets;
        buckets.get(b).summary.get_or_init(|| {
            let mut summaries = self.no_summaries();
            for i in buckets.start(b)..buckets.end(b) {
                let row = self.history.events.row(i);
                for (matcher, summary) in self.plan.matchers.iter().zip(&mut summaries) {
                    if let Some(value) = matcher.value(row) {
                        summary.add(value, matcher.needs);
                    }
                }
            }
            made_canonical(summaries)
        })
    }

    fn block(&self, block: Block) -> &[Summary] {
        self.history.buckets.block(block).get_or_init(|| {
            let mut summaries = self.no_summaries();
            let mut merge = |parts: &[Summary]| {
                let parts = self.plan.matchers.iter().zip(parts);
                for ((matcher, part), summary) in parts.zip(&mut summaries) {
                    summary.merge(part, matcher.needs);
                }
            };
            match block.parts() {
                Some(blocks) => blocks
                    .into_iter()
                    .for_each(|block| merge(self.block(block))),
                None => block.buckets().for_each(|b| merge(self.bucket(b))),
            }
            made_canonical(summaries)
        })
    }

    fn no_summaries(&self) -> Box<[Summary]> {
        vec![Summary::default(); self.plan.matchers.len()].into()
    }
}

/// Sums in as few parts as hold them: what is made once is read many times.
fn made_canonical(mut summaries: Box<[Summary]>) -> Box<[Summary]> {
    for summary in &mut summaries {
        summary.sum.make_canonical();
        summary.squares.make_canonical();
    }
    summaries
}
