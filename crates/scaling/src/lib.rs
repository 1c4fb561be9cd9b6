//! How many replicas a service needs: arithmetic over how far its consumer group got in a while.
//!
//! `quadrille scale-advice` prints it; an autoscaler can ask the same. This crate asks no broker, has no clock and knows no
//! terminal: whoever calls it looks twice at the group and says how much time was between.
#![forbid(unsafe_code)]

use std::{fmt, time::Duration};

use quadrille_choreography::GroupProgress;

/// Of its capacity a replica should use, so that a burst or a lost replica is borne.
const UTILISATION: f64 = 0.8;
/// What waits at the moment of a look is a batch on its way, not a backlog.
const BATCH_OFFSETS: f64 = 100.0;

/// One consumer group over a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub partitions: usize,
    pub replicas: usize,
    pub lanes: usize,
    /// Offsets that wait at the end of it.
    pub lag: i64,
    /// Offsets a second that came in.
    pub incoming: f64,
    /// Offsets a second that were handled.
    pub handled: f64,
}

impl Load {
    /// `elapsed`: between the two looks.
    pub fn between(before: &GroupProgress, after: &GroupProgress, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let pairs = before.partitions.iter().zip(&after.partitions);
        let (incoming, handled) = pairs.fold((0, 0), |(incoming, handled), (a, b)| {
            (
                incoming + (b.end - a.end),
                handled + (b.next_offset() - a.next_offset()).max(0),
            )
        });
        Load {
            partitions: after.partitions.len(),
            replicas: after.replicas(),
            lanes: after.members.len(),
            lag: after.lag(),
            incoming: incoming as f64 / seconds,
            handled: handled as f64 / seconds,
        }
    }

    /// How old the oldest of what waits will be when it is handled; None where nothing is handled.
    pub fn behind(&self) -> Option<Duration> {
        match (self.lag, self.handled) {
            (0, _) => Some(Duration::ZERO),
            (_, 0.0) => None,
            (lag, handled) => Duration::try_from_secs_f64(lag as f64 / handled).ok(),
        }
    }

    /// As many replicas as have a partition for each of their lanes.
    fn replicas_max(&self) -> usize {
        let lanes_each = self.lanes.div_ceil(self.replicas.max(1)).max(1);
        self.partitions.div_ceil(lanes_each).max(1)
    }

    fn has_backlog(&self) -> bool {
        self.lag as f64 > self.incoming.max(self.handled).max(BATCH_OFFSETS)
    }
}

/// What is wanted of a service.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Within which time what waits should be worked off.
    pub catch_up: Duration,
    /// KEDA's `lagThreshold`; not 0.
    pub lag_threshold: u64,
}

/// How many replicas, and why that many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advice {
    pub replicas: usize,
    /// What KEDA's Kafka scaler would set. It scales to partitions, of which a replica here takes several.
    pub keda: usize,
    pub reason: Reason,
}

/// Why. Written out, it is a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    NoConsumers,
    NothingComes,
    KeepsUp,
    /// Records wait and none is handled, which no number of replicas changes.
    Stalled,
    /// It does what it can, so that is its capacity.
    Behind {
        per_replica: f64,
        incoming: f64,
        lag: i64,
        within: Duration,
        /// Replicas that the load needs, where partitions feed fewer.
        limited: Option<Limited>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub needed: usize,
    pub partitions: usize,
    pub replicas: usize,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoConsumers => f.write_str("nobody consumes: start one"),
            Reason::NothingComes => f.write_str("nothing comes in; fewer may do: look at its CPU"),
            Reason::KeepsUp => f.write_str("keeps up; fewer may do: look at its CPU"),
            Reason::Stalled => f.write_str(
                "records wait and none is handled: that is no matter of replicas, look at its log",
            ),
            Reason::Behind {
                per_replica,
                incoming,
                lag,
                within,
                limited,
            } => {
                write!(
                    f,
                    "behind at {per_replica:.0}/s a replica: {incoming:.0}/s come, and {lag} within {within:?}"
                )?;
                match limited {
                    None => Ok(()),
                    Some(Limited {
                        needed,
                        partitions,
                        replicas,
                    }) => write!(
                        f,
                        ", would need {needed}; {partitions} partitions feed {replicas}"
                    ),
                }
            }
        }
    }
}

pub fn advise(load: &Load, goal: &Goal) -> Advice {
    let lag = load.lag.max(0) as u64;
    let keda = lag.div_ceil(goal.lag_threshold.max(1)) as usize;
    let (replicas, reason) = needed(load, goal);
    Advice {
        replicas,
        keda: keda.clamp(1, load.partitions.max(1)),
        reason,
    }
}

fn needed(load: &Load, goal: &Goal) -> (usize, Reason) {
    let (replicas, most) = (load.replicas, load.replicas_max());
    if replicas == 0 {
        return (1, Reason::NoConsumers);
    }
    if !load.has_backlog() {
        let reason = match load.incoming {
            0.0 => Reason::NothingComes,
            _ => Reason::KeepsUp,
        };
        return (replicas.min(most), reason);
    }
    if load.handled == 0.0 {
        return (replicas.min(most), Reason::Stalled);
    }
    let per_replica = load.handled / replicas as f64;
    let rate = load.incoming + load.lag as f64 / goal.catch_up.as_secs_f64();
    let needed = (rate / (per_replica * UTILISATION)).ceil() as usize;
    let needed = needed.max(replicas);
    let limited = (needed > most).then_some(Limited {
        needed,
        partitions: load.partitions,
        replicas: most,
    });
    let reason = Reason::Behind {
        per_replica,
        incoming: load.incoming,
        lag: load.lag,
        within: goal.catch_up,
        limited,
    };
    (needed.min(most), reason)
}

#[cfg(test)]
mod tests {
    use quadrille_choreography::PartitionProgress;

    use super::*;

    const GOAL: Goal = Goal {
        catch_up: Duration::from_secs(60),
        lag_threshold: 1_000,
    };

    /// Two lanes a replica, eight partitions.
    fn load(replicas: usize, lag: i64, incoming: f64, handled: f64) -> Load {
        Load {
            partitions: 8,
            replicas,
            lanes: replicas * 2,
            lag,
            incoming,
            handled,
        }
    }

    #[test]
    fn who_keeps_up_is_left_alone() {
        let advice = advise(&load(2, 30, 500.0, 500.0), &GOAL);
        assert_eq!((advice.replicas, advice.keda), (2, 1));
        assert_eq!(advice.reason, Reason::KeepsUp);
    }

    #[test]
    fn who_is_behind_gets_what_the_load_and_the_backlog_need() {
        // One does 1,000/s; 1,500/s come and 60,000 wait: 2,500/s at 800 each.
        let advice = advise(&load(1, 60_000, 1_500.0, 1_000.0), &GOAL);
        assert_eq!((advice.replicas, advice.keda), (4, 8));
    }

    #[test]
    fn more_lanes_than_partitions_are_not_advised() {
        let advice = advise(&load(2, 600_000, 9_000.0, 2_000.0), &GOAL);
        assert_eq!(advice.replicas, 4);
        let why = advice.reason.to_string();
        assert!(why.ends_with("would need 24; 8 partitions feed 4"), "{why}");
    }

    #[test]
    fn a_stage_that_does_nothing_is_not_scaled() {
        let advice = advise(&load(1, 5_000, 0.0, 0.0), &GOAL);
        assert_eq!((advice.replicas, advice.reason), (1, Reason::Stalled));
    }

    #[test]
    fn where_nobody_consumes_one_is_advised() {
        assert_eq!(advise(&load(0, 0, 0.0, 0.0), &GOAL).replicas, 1);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let look = |committed, end| GroupProgress {
            members: vec!["g-a-0".to_owned(), "g-a-1".to_owned()],
            partitions: vec![PartitionProgress {
                partition: 0,
                committed: Some(committed),
                begin: 0,
                end,
            }],
        };
        let load = Load::between(&look(100, 150), &look(300, 450), Duration::from_secs(10));
        assert_eq!((load.incoming, load.handled, load.lag), (30.0, 20.0, 150));
        assert_eq!((load.replicas, load.lanes), (1, 2));
        assert_eq!(load.behind(), Some(Duration::from_millis(7_500)));
    }
}
