//! Whether a lane still is what it was: a process that was frozen wakes up with partitions that another replica has taken over, and
//! answers requests before its lane learns of it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quadrille_service::fields::now_ms;

/// A lane gives itself up by so much earlier than the coordinator does, or by a quarter of its session where that is less.
const EARLIER_BY: Duration = Duration::from_secs(1);

/// How long after such a silence the lane surely knows what it lost: the client finds the session expired by its own clock within
/// a second, and its next heartbeat is answered.
const KNOWS_AFTER: Duration = Duration::from_secs(2);

/// A moment by two clocks: of a machine that was suspended one of them stood still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub at: Instant,
    pub wall_ms: i64,
}

impl Moment {
    pub fn now() -> Self {
        Moment {
            at: Instant::now(),
            wall_ms: now_ms(),
        }
    }

    /// By the clock that says more.
    fn since(&self, earlier: &Moment) -> Duration {
        let wall = self.wall_ms.saturating_sub(earlier.wall_ms).max(0);
        let by_wall = Duration::from_millis(wall.unsigned_abs());
        self.at.saturating_duration_since(earlier.at).max(by_wall)
    }
}

/// One lane's signs of life.
pub(crate) struct Life {
    /// A member of the group that is silent for longer may have lost its partitions.
    silent_max: Duration,
    signs: Mutex<Signs>,
}

struct Signs {
    last: Moment,
    /// After a silence: when it ended.
    woke: Option<Moment>,
}

impl Life {
    /// Of a member whose session ends after this time of silence.
    pub fn new(session: Duration, now: Moment) -> Self {
        Life {
            silent_max: session.saturating_sub(EARLIER_BY.min(session / 4)),
            signs: Mutex::new(Signs {
                last: now,
                woke: None,
            }),
        }
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane works.
    pub fn beat(&self, now: Moment) {
        let mut signs = self.signs();
        if now.since(&signs.last) > self.silent_max {
            signs.woke = Some(now);
        }
        signs.last = now;
    }

    /// The group's coordinator has taken offsets from the lane, in a batch that began then: what it holds it holds still.
    pub fn proved(&self, begun: &Moment) {
        let mut signs = self.signs();
        if signs.woke.as_ref().is_some_and(|woke| begun.at >= woke.at) {
            signs.woke = None;
        }
    }

    /// Whether the lane has been at work long enough to know which partitions it holds.
    pub fn is_certain(&self, now: Moment) -> bool {
        let signs = self.signs();
        // By the clock that nobody sets: one that is set forward right after a machine woke up has waited for nothing.
        let knows = |woke: &Moment| now.at.saturating_duration_since(woke.at) > KNOWS_AFTER;
        now.since(&signs.last) <= self.silent_max && signs.woke.as_ref().is_none_or(knows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(6);

    /// Moments by both clocks, in ms after a common start.
    fn clocks() -> impl Fn(u64, i64) -> Moment {
        let start = Instant::now();
        move |ms, wall_ms| Moment {
            at: start + Duration::from_millis(ms),
            wall_ms,
        }
    }

    #[test]
    fn a_clock_that_is_set_forward_does_not_shorten_the_wait_after_a_silence() {
        let moment = clocks();
        let life = Life::new(SESSION, moment(0, 0));
        life.beat(moment(60_000, 60_000));
        assert!(!life.is_certain(moment(60_001, 63_000)));
        life.beat(moment(61_000, 64_000));
        life.beat(moment(62_000, 65_000));
        assert!(life.is_certain(moment(62_001, 65_001)));
    }

    #[test]
    fn a_lane_that_ticks_is_certain_and_one_that_is_silent_is_not() {
        let moment = clocks();
        let life = Life::new(SESSION, moment(0, 0));
        for ms in (0..60_000).step_by(100) {
            life.beat(moment(ms, ms as i64));
            assert!(life.is_certain(moment(ms + 50, ms as i64 + 50)));
        }
        assert!(life.is_certain(moment(64_900, 64_900)));
        assert!(!life.is_certain(moment(64_901, 64_901)));
    }

    #[test]
    fn it_is_silent_for_too_long_before_its_session_is_over_whatever_that_is_set_to() {
        let moment = clocks();
        for (session_ms, silent_ms) in [(1_000, 750), (3_000, 2_250), (45_000, 44_000)] {
            let life = Life::new(Duration::from_millis(session_ms), moment(0, 0));
            assert!(life.is_certain(moment(silent_ms, 0)), "{session_ms} ms");
            assert!(
                !life.is_certain(moment(silent_ms + 1, 0)),
                "{session_ms} ms"
            );
        }
    }

    #[test]
    fn one_that_wakes_up_is_certain_only_once_it_knows_what_it_lost() {
        let moment = clocks();
        let life = Life::new(SESSION, moment(0, 0));
        let frozen = moment(60_000, 60_000);
        assert!(!life.is_certain(frozen), "asked before it ticks");
        life.beat(frozen);
        assert!(!life.is_certain(frozen), "asked right after its first tick");
        life.beat(moment(62_000, 62_000));
        assert!(!life.is_certain(moment(62_000, 62_000)));
        assert!(life.is_certain(moment(62_001, 62_001)));
    }

    #[test]
    fn a_batch_that_began_after_it_woke_up_and_is_committed_proves_what_it_holds() {
        let moment = clocks();
        let life = Life::new(SESSION, moment(0, 0));
        let (before, woke) = (moment(100, 100), moment(60_000, 60_000));
        life.beat(woke);
        // The coordinator may have taken its offsets before the lane stood still.
        life.proved(&before);
        assert!(!life.is_certain(moment(60_100, 60_100)));
        life.proved(&woke);
        assert!(life.is_certain(moment(60_100, 60_100)));
        assert!(!life.is_certain(moment(70_000, 70_000)), "silent again");
    }

    #[test]
    fn a_suspended_machine_is_noticed_by_the_clock_that_went_on() {
        let moment = clocks();
        let life = Life::new(SESSION, moment(0, 0));
        assert!(!life.is_certain(moment(1, 60_000)));
        life.beat(moment(1, 60_000));
        assert!(!life.is_certain(moment(2, 60_001)));
        // A wall clock that is set back stops nothing.
        life.beat(moment(3_000, 1_000));
        assert!(life.is_certain(moment(3_001, 1_001)));
    }
}
