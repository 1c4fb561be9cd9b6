//! Whether a partition that is new to a lane began where it should: pure, decided by the first record that came.

use std::time::Duration;

/// How often a partition is sent back to a record that it had.
pub(crate) const TRIES_MAX: u32 = 3;
/// How long a log has to look shorter than what is committed before that is believed of it alone. A former leader that is
/// cut off from the others answers as if the log ended where its own does, until the controller has missed its heartbeats
/// (`broker.session.timeout.ms`, 9 s) and the client has heard of its successor.
pub(crate) const TRUNCATED_AFTER: Duration = Duration::from_secs(30);

/// What the group has committed of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommittedOffset {
    /// It is not known yet: its offset is still being committed.
    Unknown,
    Nothing,
    /// The offset to go on at.
    Next(i64),
}

impl CommittedOffset {
    /// Whether it lies before what its asker committed itself and alone: a coordinator that has lost its group to another
    /// broker, and has not heard of it yet, answers as of before (so it can be while brokers are restarted). Going by it would
    /// handle again what is committed.
    pub fn is_outdated(self, own: Option<i64>) -> bool {
        match (self, own) {
            (CommittedOffset::Unknown, _) | (_, None) => false,
            (CommittedOffset::Nothing, Some(_)) => true,
            (CommittedOffset::Next(next), Some(own)) => next < own,
        }
    }
}

/// A record that was there and was given back, to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectedRecord {
    pub offset: i64,
    pub tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartCheck {
    Valid,
    /// To be asked again from here, once its offset is known.
    OffsetPending(ExpectedRecord),
    /// The client began before what is committed.
    BeforeCommitted {
        next: i64,
        expected: Option<ExpectedRecord>,
    },
    /// The client left out what it was sent back to: it drops a seek that a rebalance overtakes.
    Skipped(ExpectedRecord),
}

/// `first`: the offset that came first; `expected`: the record that had to come.
pub(crate) fn check_start(
    first: i64,
    committed: CommittedOffset,
    expected: Option<ExpectedRecord>,
) -> StartCheck {
    let next = match committed {
        CommittedOffset::Unknown => {
            let expected = expected.filter(|it| it.offset <= first);
            let (offset, tries) = (first, 0);
            return StartCheck::OffsetPending(expected.unwrap_or(ExpectedRecord { offset, tries }));
        }
        CommittedOffset::Nothing => None,
        CommittedOffset::Next(next) => Some(next),
    };
    // What was committed meanwhile need not come again.
    let expected = expected.filter(|it| next.is_none_or(|next| it.offset >= next));
    match (next, expected) {
        (Some(next), _) if next > first => StartCheck::BeforeCommitted { next, expected },
        // What does not come in three times is gone: a topic's retention may take it.
        (_, Some(ExpectedRecord { offset, tries })) if offset < first && tries < TRIES_MAX => {
            let tries = tries + 1;
            StartCheck::Skipped(ExpectedRecord { offset, tries })
        }
        _ => StartCheck::Valid,
    }
}

/// A record before the offset that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EarlyRecord {
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
    pub diverged_for: Duration,
}

/// Why a record before the committed offset came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EarlyCause {
    /// The client's fault: it is sent to what is committed.
    Client,
    /// The log lost what is committed, and the client can find where it begins to differ: it is sent to the committed offset
    /// with that offset's leader epoch, and asks first where the epoch ended (OffsetForLeaderEpoch). Without an epoch a
    /// client beyond the log's end goes to its beginning (2.12.1, `auto.offset.reset`), and when it is sent back does so
    /// again and again, until the log has grown past the offset and what was written meanwhile is skipped.
    Diverged,
    /// The log lost these offsets at least, and this record is the first one not handled, as far as can be known.
    Truncated(i64),
}

pub(crate) fn early_cause(before: &EarlyRecord) -> EarlyCause {
    let EarlyRecord {
        offset,
        epoch,
        committed_epoch,
        committed,
        end,
        tries,
        diverged_for,
    } = *before;
    // Epochs ascend in a log: nothing before what is committed can be of a later one.
    if let (Some(epoch), Some(then)) = (epoch, committed_epoch)
        && epoch > then
    {
        return EarlyCause::Truncated(committed - offset);
    }
    match end {
        Some(end) if committed > end => match committed_epoch {
            Some(_) if tries < TRIES_MAX || diverged_for < TRUNCATED_AFTER => EarlyCause::Diverged,
            _ => EarlyCause::Truncated(committed - end),
        },
        // Not said, and it did differ: it is not known to have what is committed.
        None if tries > 0 && committed_epoch.is_some() => EarlyCause::Diverged,
        _ => EarlyCause::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: EarlyRecord = EarlyRecord {
        offset: 3,
        epoch: Some(1),
        committed_epoch: Some(1),
        committed: 10,
        end: Some(20),
        tries: 0,
        diverged_for: Duration::ZERO,
    };

    #[test]
    fn a_log_that_has_what_is_committed_was_read_from_too_early_by_the_client() {
        assert_eq!(early_cause(&BEFORE), EarlyCause::Client);
        let unknown = EarlyRecord {
            end: None,
            ..BEFORE
        };
        assert_eq!(early_cause(&unknown), EarlyCause::Client);
        let differed = EarlyRecord {
            tries: 1,
            diverged_for: TRUNCATED_AFTER,
            ..unknown
        };
        assert_eq!(early_cause(&differed), EarlyCause::Diverged);
    }

    #[test]
    fn a_log_that_ends_before_what_is_committed_has_lost_it() {
        let shorter = EarlyRecord {
            end: Some(7),
            ..BEFORE
        };
        assert_eq!(early_cause(&shorter), EarlyCause::Diverged);
        // It is looked for some times, and not forever.
        let tired = EarlyRecord {
            tries: TRIES_MAX,
            diverged_for: TRUNCATED_AFTER,
            ..shorter
        };
        assert_eq!(early_cause(&tired), EarlyCause::Truncated(3));
        // Committed by a version that did not keep epochs: all that is there is handled again, ids tell what is new.
        let unknown = EarlyRecord {
            committed_epoch: None,
            ..shorter
        };
        assert_eq!(early_cause(&unknown), EarlyCause::Truncated(3));
    }

    /// A former leader that is cut off answers at once, and as often as it is asked.
    #[test]
    fn a_log_is_not_taken_for_cut_because_it_was_asked_often() {
        let asked = EarlyRecord {
            end: Some(7),
            tries: 100,
            diverged_for: TRUNCATED_AFTER - Duration::from_millis(1),
            ..BEFORE
        };
        assert_eq!(early_cause(&asked), EarlyCause::Diverged);
        // A record that can only be new says so at once.
        let newer = EarlyRecord {
            epoch: Some(2),
            ..asked
        };
        assert_eq!(early_cause(&newer), EarlyCause::Truncated(7));
    }

    #[test]
    fn a_record_of_a_later_epoch_before_what_is_committed_is_new_however_long_the_log_is() {
        let newer = EarlyRecord {
            epoch: Some(2),
            ..BEFORE
        };
        assert_eq!(early_cause(&newer), EarlyCause::Truncated(7));
        let found = EarlyRecord {
            end: Some(5),
            tries: 1,
            ..newer
        };
        assert_eq!(early_cause(&found), EarlyCause::Truncated(7));
    }

    #[test]
    fn a_coordinator_that_knows_less_than_the_lane_committed_is_not_believed() {
        for (committed, own, outdated) in [
            (CommittedOffset::Next(5), None, false),
            (CommittedOffset::Next(5), Some(5), false),
            // By a successor, before the lane hears that it lost the partition.
            (CommittedOffset::Next(7), Some(5), false),
            (CommittedOffset::Next(4), Some(5), true),
            (CommittedOffset::Nothing, Some(5), true),
            (CommittedOffset::Unknown, Some(5), false),
        ] {
            assert_eq!(
                committed.is_outdated(own),
                outdated,
                "{committed:?} {own:?}"
            );
        }
    }

    fn expected(offset: i64, tries: u32) -> Option<ExpectedRecord> {
        Some(ExpectedRecord { offset, tries })
    }

    #[test]
    fn a_start_is_judged_by_what_is_committed() {
        assert_eq!(
            check_start(5, CommittedOffset::Next(5), None),
            StartCheck::Valid
        );
        // Markers of transactions lie between.
        assert_eq!(
            check_start(7, CommittedOffset::Next(5), None),
            StartCheck::Valid
        );
        assert_eq!(
            check_start(0, CommittedOffset::Nothing, None),
            StartCheck::Valid
        );
        let early = StartCheck::BeforeCommitted {
            next: 5,
            expected: None,
        };
        assert_eq!(check_start(0, CommittedOffset::Next(5), None), early);
    }

    #[test]
    fn what_was_given_back_while_nothing_is_known_must_come_again() {
        let StartCheck::OffsetPending(given_back) = check_start(5, CommittedOffset::Unknown, None)
        else {
            panic!("it waits")
        };
        assert_eq!(Some(given_back), expected(5, 0));
        let again = check_start(5, CommittedOffset::Unknown, Some(given_back));
        assert_eq!(again, StartCheck::OffsetPending(given_back));
        assert_eq!(
            check_start(5, CommittedOffset::Next(5), expected(5, 0)),
            StartCheck::Valid
        );
        // Nothing was committed of it after all, and its batch was skipped.
        for committed in [
            CommittedOffset::Nothing,
            CommittedOffset::Next(3),
            CommittedOffset::Next(5),
        ] {
            let missed = check_start(9, committed, expected(5, 0));
            assert_eq!(
                missed,
                StartCheck::Skipped(ExpectedRecord {
                    offset: 5,
                    tries: 1
                })
            );
        }
        // Even before anything is known, it is the earlier one that has to come.
        let waits = check_start(9, CommittedOffset::Unknown, expected(5, 1));
        assert_eq!(
            waits,
            StartCheck::OffsetPending(ExpectedRecord {
                offset: 5,
                tries: 1
            })
        );
    }

    #[test]
    fn what_another_has_committed_meanwhile_need_not_come() {
        assert_eq!(
            check_start(9, CommittedOffset::Next(9), expected(5, 0)),
            StartCheck::Valid
        );
        let early = StartCheck::BeforeCommitted {
            next: 9,
            expected: None,
        };
        assert_eq!(
            check_start(5, CommittedOffset::Next(9), expected(5, 0)),
            early
        );
    }

    #[test]
    fn what_does_not_come_in_three_times_is_gone() {
        let mut it = expected(5, 0);
        let mut times = 0;
        while let StartCheck::Skipped(again) = check_start(9, CommittedOffset::Nothing, it) {
            (it, times) = (Some(again), times + 1);
        }
        assert_eq!(times, TRIES_MAX);
    }
}
