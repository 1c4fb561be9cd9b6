//! Whether a partition that is new to a lane began where it should: pure, decided by the first record that came.

use std::time::Duration;

/// How often a partition is sent back to a record that it had.
pub(crate) const TRIES_MAX: u32 = 3;
/// How long a log has to look shorter than what is committed before that is believed of it alone. A former leader that is
/// cut off from the others answers as if the log ended where its own does, until the controller has missed its heartbeats
/// (`broker.session.timeout.ms`, 9 s) and the client has heard of its successor.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(30);

/// What the group has committed of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It is not known yet: its offset is still being committed.
    Unknown,
    Nothing,
    /// The offset to go on at.
    Next(i64),
}

impl Committed {
    /// Whether it lies before what its asker committed itself and alone: a coordinator that has lost its group to another
    /// broker, and has not heard of it yet, answers as of before (so it can be while brokers are restarted). Going by it would
    /// handle again what is committed.
    pub fn is_outdated(self, own: Option<i64>) -> bool {
        match (self, own) {
            (Committed::Unknown, _) | (_, None) => false,
            (Committed::Nothing, Some(_)) => true,
            (Committed::Next(next), Some(own)) => next < own,
        }
    }
}

/// A record that was there and was given back, to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought {
    pub offset: i64,
    pub tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Right,
    /// To be asked again from here, once its offset is known.
    Wait(Sought),
    /// The client began before what is committed.
    Early {
        next: i64,
        sought: Option<Sought>,
    },
    /// The client left out what it was sent back to: it drops a seek that a rebalance overtakes.
    Missed(Sought),
}

/// `first`: the offset that came first; `sought`: what had to come.
pub(crate) fn judge(first: i64, committed: Committed, sought: Option<Sought>) -> Start {
    let next = match committed {
        Committed::Unknown => {
            let sought = sought.filter(|it| it.offset <= first);
            let (offset, tries) = (first, 0);
            return Start::Wait(sought.unwrap_or(Sought { offset, tries }));
        }
        Committed::Nothing => None,
        Committed::Next(next) => Some(next),
    };
    // What was committed meanwhile need not come again.
    let sought = sought.filter(|it| next.is_none_or(|next| it.offset >= next));
    match (next, sought) {
        (Some(next), _) if next > first => Start::Early { next, sought },
        // What does not come in three times is gone: a topic's retention may take it.
        (_, Some(Sought { offset, tries })) if offset < first && tries < TRIES_MAX => {
            let tries = tries + 1;
            Start::Missed(Sought { offset, tries })
        }
        _ => Start::Right,
    }
}

/// A record before the offset that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    pub offset: i64,
    /// The leader epoch it was written in, and the one committed beside the offset, where they are known.
    pub epoch: Option<i32>,
    pub committed_epoch: Option<i32>,
    pub committed: i64,
    /// Of the log; None where Kafka did not say.
    pub end: Option<i64>,
    /// How often the client was sent to where the log begins to differ.
    pub tries: u32,
    /// Since when it has been looked for.
    pub differs_for: Duration,
}

/// Why it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The client's fault: it is sent to what is committed.
    Client,
    /// The log lost what is committed, and the client can find where it begins to differ.
    Differs,
    /// The log lost these offsets at least, and this record is the first one not handled, as far as can be known.
    Lost(i64),
}

pub(crate) fn why(before: &Before) -> Why {
    let Before {
        offset,
        epoch,
        committed_epoch,
        committed,
        end,
        tries,
        differs_for,
    } = *before;
    // Epochs ascend in a log: nothing before what is committed can be of a later one.
    if let (Some(epoch), Some(then)) = (epoch, committed_epoch)
        && epoch > then
    {
        return Why::Lost(committed - offset);
    }
    match end {
        Some(end) if committed > end => match committed_epoch {
            Some(_) if tries < TRIES_MAX || differs_for < LOST_AFTER => Why::Differs,
            _ => Why::Lost(committed - end),
        },
        // Not said, and it did differ: it is not known to have what is committed.
        None if tries > 0 && committed_epoch.is_some() => Why::Differs,
        _ => Why::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Before = Before {
        offset: 3,
        epoch: Some(1),
        committed_epoch: Some(1),
        committed: 10,
        end: Some(20),
        tries: 0,
        differs_for: Duration::ZERO,
    };

    #[test]
    fn a_log_that_has_what_is_committed_was_read_from_too_early_by_the_client() {
        assert_eq!(why(&BEFORE), Why::Client);
        let unknown = Before {
            end: None,
            ..BEFORE
        };
        assert_eq!(why(&unknown), Why::Client);
        let differed = Before {
            tries: 1,
            differs_for: LOST_AFTER,
            ..unknown
        };
        assert_eq!(why(&differed), Why::Differs);
    }

    #[test]
    fn a_log_that_ends_before_what_is_committed_has_lost_it() {
        let shorter = Before {
            end: Some(7),
            ..BEFORE
        };
        assert_eq!(why(&shorter), Why::Differs);
        // It is looked for some times, and not for ever.
        let tired = Before {
            tries: TRIES_MAX,
            differs_for: LOST_AFTER,
            ..shorter
        };
        assert_eq!(why(&tired), Why::Lost(3));
        // Committed by a version that did not keep epochs: all that is there is handled again, ids tell what is new.
        let unknown = Before {
            committed_epoch: None,
            ..shorter
        };
        assert_eq!(why(&unknown), Why::Lost(3));
    }

    /// A former leader that is cut off answers at once, and as often as it is asked.
    #[test]
    fn a_log_is_not_taken_for_cut_because_it_was_asked_often() {
        let asked = Before {
            end: Some(7),
            tries: 100,
            differs_for: LOST_AFTER - Duration::from_millis(1),
            ..BEFORE
        };
        assert_eq!(why(&asked), Why::Differs);
        // A record that can only be new says so at once.
        let newer = Before {
            epoch: Some(2),
            ..asked
        };
        assert_eq!(why(&newer), Why::Lost(7));
    }

    #[test]
    fn a_record_of_a_later_epoch_before_what_is_committed_is_new_however_long_the_log_is() {
        let newer = Before {
            epoch: Some(2),
            ..BEFORE
        };
        assert_eq!(why(&newer), Why::Lost(7));
        let found = Before {
            end: Some(5),
            tries: 1,
            ..newer
        };
        assert_eq!(why(&found), Why::Lost(7));
    }

    #[test]
    fn a_coordinator_that_knows_less_than_the_lane_committed_is_not_believed() {
        for (committed, own, outdated) in [
            (Committed::Next(5), None, false),
            (Committed::Next(5), Some(5), false),
            // By a successor, before the lane hears that it lost the partition.
            (Committed::Next(7), Some(5), false),
            (Committed::Next(4), Some(5), true),
            (Committed::Nothing, Some(5), true),
            (Committed::Unknown, Some(5), false),
        ] {
            assert_eq!(
                committed.is_outdated(own),
                outdated,
                "{committed:?} {own:?}"
            );
        }
    }

    fn sought(offset: i64, tries: u32) -> Option<Sought> {
        Some(Sought { offset, tries })
    }

    #[test]
    fn a_start_is_judged_by_what_is_committed() {
        assert_eq!(judge(5, Committed::Next(5), None), Start::Right);
        // Markers of transactions lie between.
        assert_eq!(judge(7, Committed::Next(5), None), Start::Right);
        assert_eq!(judge(0, Committed::Nothing, None), Start::Right);
        let early = Start::Early {
            next: 5,
            sought: None,
        };
        assert_eq!(judge(0, Committed::Next(5), None), early);
    }

    #[test]
    fn what_was_given_back_while_nothing_is_known_must_come_again() {
        let Start::Wait(given_back) = judge(5, Committed::Unknown, None) else {
            panic!("it waits")
        };
        assert_eq!(Some(given_back), sought(5, 0));
        let again = judge(5, Committed::Unknown, Some(given_back));
        assert_eq!(again, Start::Wait(given_back));
        assert_eq!(judge(5, Committed::Next(5), sought(5, 0)), Start::Right);
        // Nothing was committed of it after all, and its batch was skipped.
        for committed in [Committed::Nothing, Committed::Next(3), Committed::Next(5)] {
            let missed = judge(9, committed, sought(5, 0));
            assert_eq!(
                missed,
                Start::Missed(Sought {
                    offset: 5,
                    tries: 1
                })
            );
        }
        // Even before anything is known, it is the earlier one that has to come.
        let waits = judge(9, Committed::Unknown, sought(5, 1));
        assert_eq!(
            waits,
            Start::Wait(Sought {
                offset: 5,
                tries: 1
            })
        );
    }

    #[test]
    fn what_another_has_committed_meanwhile_need_not_come() {
        assert_eq!(judge(9, Committed::Next(9), sought(5, 0)), Start::Right);
        let early = Start::Early {
            next: 9,
            sought: None,
        };
        assert_eq!(judge(5, Committed::Next(9), sought(5, 0)), early);
    }

    #[test]
    fn what_does_not_come_in_three_times_is_gone() {
        let mut it = sought(5, 0);
        let mut times = 0;
        while let Start::Missed(again) = judge(9, Committed::Nothing, it) {
            (it, times) = (Some(again), times + 1);
        }
        assert_eq!(times, TRIES_MAX);
    }
}
