//! When a batch is closed. Pure: the time is given to it.
//!
//! A batch that nobody will join is closed at once, so that a request which is alone never waits. One is held open only
//! while another batch is being scored (the cores have work) and requests come so quickly that some more will be there
//! before the delay is over.

use std::time::{Duration, Instant};

/// At least this many more are expected before a batch is held open for them.
const WORTH_WAITING_FOR: u32 = 2;
/// Arrivals over which their distance is smoothed.
const SMOOTHING: u32 = 8;

/// Why a batch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Size,
    Deadline,
    Dry,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Size => "size",
            Reason::Deadline => "deadline",
            Reason::Dry => "dry",
        }
    }
}

/// What to do with what has gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    Now(Reason),
    /// Look again then, or when more has come.
    At(Instant),
}

/// How quickly requests come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    gap: Option<Duration>,
}

impl Pace {
    pub fn arrived(&mut self, now: Instant) {
        if let Some(last) = self.last {
            let gap = now.saturating_duration_since(last);
            let before = self.gap.unwrap_or(gap);
            self.gap = Some((before * (SMOOTHING - 1) + gap) / SMOOTHING);
        }
        self.last = Some(now);
    }

    /// Until when to wait, if enough more can be expected before `until`.
    fn wait(&self, now: Instant, until: Instant) -> Option<Instant> {
        let (last, gap) = (self.last?, self.gap?);
        let left = until.saturating_duration_since(now);
        if gap * WORTH_WAITING_FOR > left {
            return None;
        }
        // Who should have come by now, twice over, does not come.
        let dry = last + gap * 2;
        (dry > now).then(|| dry.min(until))
    }
}

/// What has gathered, and what goes on beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    pub rows: usize,
    /// When the first of it came.
    pub oldest: Instant,
    /// Batches being scored now.
    pub busy: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub rows_max: usize,
    pub delay_max: Duration,
}

impl Policy {
    pub fn close(&self, gathered: Gathered, pace: &Pace, now: Instant) -> Close {
        let until = gathered.oldest + self.delay_max;
        if gathered.rows >= self.rows_max {
            return Close::Now(Reason::Size);
        }
        if now >= until {
            return Close::Now(Reason::Deadline);
        }
        match pace.wait(now, until) {
            Some(at) if gathered.busy > 0 => Close::At(at),
            _ => Close::Now(Reason::Dry),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        rows_max: 8,
        delay_max: Duration::from_millis(2),
    };

    fn pace(start: Instant, gaps_us: &[u64]) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), start);
        pace.arrived(now);
        for gap in gaps_us {
            now += Duration::from_micros(*gap);
            pace.arrived(now);
        }
        (pace, now)
    }

    fn gathered(rows: usize, oldest: Instant, busy: usize) -> Gathered {
        Gathered { rows, oldest, busy }
    }

    #[test]
    fn a_request_that_is_alone_is_scored_at_once_however_quickly_it_comes_again() {
        // One client that asks again as soon as it is answered: there is never another batch.
        let (pace, now) = pace(Instant::now(), &[50; 100]);
        let close = POLICY.close(gathered(1, now, 0), &pace, now);
        assert_eq!(close, Close::Now(Reason::Dry));
    }

    #[test]
    fn few_requests_do_not_wait_for_each_other() {
        let (pace, now) = pace(Instant::now(), &[1_500; 20]);
        let close = POLICY.close(gathered(1, now, 1), &pace, now);
        assert_eq!(close, Close::Now(Reason::Dry));
    }

    #[test]
    fn beside_a_busy_worker_a_batch_waits_for_the_many_that_come_and_no_longer() {
        let (mut pace, now) = pace(Instant::now(), &[100; 50]);
        let at = now + Duration::from_micros(200);
        assert_eq!(POLICY.close(gathered(1, now, 1), &pace, now), Close::At(at));
        assert_eq!(
            POLICY.close(gathered(1, now, 1), &pace, at),
            Close::Now(Reason::Dry)
        );
        pace.arrived(at);
        let close = POLICY.close(gathered(2, now, 1), &pace, at);
        assert!(matches!(close, Close::At(_)), "{close:?}");
        assert_eq!(
            POLICY.close(gathered(8, now, 1), &pace, at),
            Close::Now(Reason::Size)
        );
        let late = now + POLICY.delay_max;
        assert_eq!(
            POLICY.close(gathered(2, now, 1), &pace, late),
            Close::Now(Reason::Deadline)
        );
    }

    /// One worker's queue in a made-up time: requests at moments, each batch takes a while.
    fn simulate(gaps_us: &[u64], score_us: u64, busy: usize) -> Vec<(Duration, usize, Reason)> {
        let start = Instant::now();
        let mut arrivals: Vec<Instant> = Vec::new();
        let mut at = start;
        for gap in gaps_us {
            at += Duration::from_micros(*gap);
            arrivals.push(at);
        }
        let (mut pace, mut waiting, mut batches) = (Pace::default(), Vec::new(), Vec::new());
        let mut coming = arrivals.into_iter().peekable();
        let mut now = start;
        loop {
            while let Some(at) = coming.next_if(|at| *at <= now) {
                pace.arrived(at);
                waiting.push(at);
            }
            let Some(oldest) = waiting.first().copied() else {
                match coming.peek() {
                    Some(next) => now = *next,
                    None => return batches,
                }
                continue;
            };
            match POLICY.close(gathered(waiting.len(), oldest, busy), &pace, now) {
                Close::At(at) => {
                    assert!(at > now && at <= oldest + POLICY.delay_max);
                    now = coming.peek().map_or(at, |next| at.min(*next));
                }
                Close::Now(reason) => {
                    let rows = waiting.len().min(POLICY.rows_max);
                    waiting.drain(..rows);
                    batches.push((now - oldest, rows, reason));
                    now += Duration::from_micros(score_us);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_request_is_scored_once_and_none_is_held_for_longer_than_the_delay(
            gaps in prop::collection::vec(0_u64..3_000, 1..60),
            score_us in 0_u64..5_000,
            busy in 0_usize..3,
        ) {
            let batches = simulate(&gaps, score_us, busy);
            let rows: usize = batches.iter().map(|(_, rows, _)| rows).sum();
            prop_assert_eq!(rows, gaps.len());
            for (waited, rows, reason) in batches {
                prop_assert!(rows <= POLICY.rows_max);
                prop_assert_eq!(reason == Reason::Size, rows == POLICY.rows_max);
                // What waited longer waited for the worker, and is closed without another look.
                if reason == Reason::Dry {
                    prop_assert!(waited < POLICY.delay_max);
                }
            }
        }

        #[test]
        fn without_another_batch_nothing_is_ever_held(
            gaps in prop::collection::vec(0_u64..3_000, 1..60),
        ) {
            for (waited, ..) in simulate(&gaps, 0, 0) {
                prop_assert_eq!(waited, Duration::ZERO);
            }
        }
    }
}
