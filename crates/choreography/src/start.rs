//! Whether a partition that is new to a lane began where it should: pure, decided by the first record that came.

/// How often a partition is sent back to a record that it had.
const TRIES_MAX: u32 = 3;

/// What the group has committed of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It is not known yet: its offset is still being committed.
    Unknown,
    Nothing,
    /// The offset to go on at.
    Next(i64),
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

#[cfg(test)]
mod tests {
    use super::*;

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
