//! Who is to be asked about a partition: what replicas claim, and what became of asking. Pure.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use quadrille_proto::Service;
use quadrille_registry::Replica;

/// How long a claim is passed over whose replica did not answer.
pub(super) const PASSED_OVER: Duration = Duration::from_secs(5);
/// Claims in doubt that are kept; with more, those that are in no report any more are let go.
const DOUBTS_MAX: usize = 1_024;

/// As what a replica can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Owner,
    Standby,
}

impl Role {
    /// Since when a replica says that it is that of a partition.
    fn since(self, replica: &Replica, pipeline: &str, partition: i32) -> Option<i64> {
        match self {
            Role::Owner => replica.holds_since(pipeline, partition),
            Role::Standby => replica.stands_by_since(pipeline, partition),
        }
    }
}

/// That a replica holds a partition, or stands by for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub role: Role,
    pub pipeline: String,
    pub partition: i32,
    /// In milliseconds since the Unix epoch, by the replica's clock; with it a later claim of the same replica is another one.
    pub since_ms: i64,
    pub instance: String,
    pub address: String,
}

/// Why a claim is not to be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// It did not answer, and is not asked again before then.
    Silent { until: Instant },
    /// The replica itself said that it is over.
    Denied,
}

/// Claims that turned out wrong.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<BTreeMap<Claim, Doubt>>);

impl Doubts {
    pub fn add(&self, claim: Claim, doubt: Doubt, reports: &[Replica]) {
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if doubts.len() >= DOUBTS_MAX {
            doubts.retain(|claim, _| {
                let mut claims = reports.iter();
                claims.any(|it| {
                    let since = claim.role.since(it, &claim.pipeline, claim.partition);
                    it.instance == claim.instance && since == Some(claim.since_ms)
                })
            });
        }
        // What is known already may be more.
        let known = doubts.entry(claim).or_insert(doubt);
        *known = (*known).max(doubt);
    }

    fn holds(&self, claim: &Claim, now: Instant) -> bool {
        let doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match doubts.get(claim) {
            None => false,
            Some(Doubt::Denied) => true,
            Some(Doubt::Silent { until }) => now < *until,
        }
    }
}

/// The moment of a question, by both clocks: reports bear the wall's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub at: Instant,
    pub wall_ms: i64,
}

/// The newest claim in this role by another replica that reports and was not caught being wrong. Which of two is newer is said by
/// the clocks of their replicas; where these mislead, the one that is asked denies, and the other is asked the next time.
pub(crate) fn newest<'a>(
    reports: impl Iterator<Item = &'a Replica>,
    own_instance: &str,
    (role, pipeline, partition): (Role, &str, i32),
    doubts: &Doubts,
    now: Now,
) -> Option<Claim> {
    let siblings = reports.filter(|it| {
        it.service == Service::Feature.name()
            && it.instance != own_instance
            && !it.address.is_empty()
            && !it.is_silent(now.wall_ms)
    });
    let claims = siblings.filter_map(|it| {
        Some(Claim {
            role,
            pipeline: pipeline.to_owned(),
            partition,
            since_ms: role.since(it, pipeline, partition)?,
            instance: it.instance.clone(),
            address: it.address.clone(),
        })
    });
    claims
        .filter(|claim| !doubts.holds(claim, now.at))
        .max_by_key(|claim| claim.since_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: i64 = 1_000_000;

    fn replica(instance: &str, held: &[(i32, i64)]) -> Replica {
        Replica {
            service: "feature".to_owned(),
            instance: instance.to_owned(),
            at_ms: WALL_MS,
            address: format!("{instance}:7002"),
            held: [("p".to_owned(), held.iter().copied().collect())].into(),
            ..Replica::default()
        }
    }

    struct Asker {
        doubts: Doubts,
        start: Instant,
    }

    impl Asker {
        fn new() -> Self {
            Asker {
                doubts: Doubts::default(),
                start: Instant::now(),
            }
        }

        /// The claim that is chosen so many ms after the start.
        fn claim(&self, reports: &[Replica], ms: u64) -> Option<Claim> {
            let now = Now {
                at: self.start + Duration::from_millis(ms),
                wall_ms: WALL_MS + ms as i64,
            };
            newest(
                reports.iter(),
                "own",
                (Role::Owner, "p", 3),
                &self.doubts,
                now,
            )
        }

        fn asks(&self, reports: &[Replica], ms: u64) -> Option<String> {
            self.claim(reports, ms).map(|claim| claim.instance)
        }
    }

    #[test]
    fn of_two_claimants_the_later_one_is_asked() {
        let asker = Asker::new();
        let reports = [
            replica("a", &[(3, 10)]),
            replica("b", &[(3, 20), (4, 5)]),
            replica("c", &[(4, 90)]),
        ];
        assert_eq!(asker.asks(&reports, 0).as_deref(), Some("b"));
        assert_eq!(asker.asks(&reports[..1], 0).as_deref(), Some("a"));
        assert_eq!(asker.asks(&reports[2..], 0), None);
    }

    #[test]
    fn who_cannot_be_asked_is_not() {
        let asker = Asker::new();
        let mut mute = replica("a", &[(3, 10)]);
        mute.address = String::new();
        let mut other = replica("b", &[(3, 10)]);
        other.service = "inference".to_owned();
        let own = replica("own", &[(3, 10)]);
        assert_eq!(asker.asks(&[mute, other, own], 0), None);
        let silent = [replica("c", &[(3, 10)])];
        assert_eq!(asker.asks(&silent, 30_000).as_deref(), Some("c"));
        assert_eq!(asker.asks(&silent, 30_001), None);
    }

    #[test]
    fn who_denied_is_not_asked_again_before_a_new_claim() {
        let asker = Asker::new();
        let mut reports = [replica("a", &[(3, 10)]), replica("b", &[(3, 20)])];
        let claim = asker.claim(&reports, 0).expect("b's");
        asker.doubts.add(claim, Doubt::Denied, &reports);
        assert_eq!(asker.asks(&reports, 29_000).as_deref(), Some("a"));
        reports[1] = replica("b", &[(3, 30)]);
        assert_eq!(asker.asks(&reports, 0).as_deref(), Some("b"));
    }

    #[test]
    fn who_was_silent_is_asked_again_after_a_while() {
        let asker = Asker::new();
        let reports = [replica("a", &[(3, 10)])];
        let claim = asker.claim(&reports, 0).expect("a's");
        let doubt = Doubt::Silent {
            until: asker.start + PASSED_OVER,
        };
        asker.doubts.add(claim, doubt, &reports);
        assert_eq!(asker.asks(&reports, 4_999), None);
        assert_eq!(asker.asks(&reports, 5_000).as_deref(), Some("a"));
    }

    #[test]
    fn a_lesser_doubt_does_not_replace_a_greater_one() {
        let asker = Asker::new();
        let reports = [replica("a", &[(3, 10)])];
        let claim = asker.claim(&reports, 0).expect("a's");
        let silent = |ms| Doubt::Silent {
            until: asker.start + Duration::from_millis(ms),
        };
        for ms in [5_000, 1_000] {
            asker.doubts.add(claim.clone(), silent(ms), &reports);
        }
        assert_eq!(asker.asks(&reports, 4_999), None);
        for doubt in [Doubt::Denied, silent(6_000)] {
            asker.doubts.add(claim.clone(), doubt, &reports);
        }
        assert_eq!(asker.asks(&reports, 6_000), None);
    }

    #[test]
    fn doubts_of_what_nobody_claims_any_more_are_let_go() {
        let asker = Asker::new();
        let reports = [replica("a", &[(3, 5_000)])];
        let newest = asker.claim(&reports, 0).expect("a's");
        asker.doubts.add(newest.clone(), Doubt::Denied, &reports);
        for since_ms in 0..5_000 {
            let claim = Claim {
                since_ms,
                ..newest.clone()
            };
            asker.doubts.add(claim, Doubt::Denied, &reports);
        }
        assert!(asker.doubts.0.lock().unwrap().len() <= DOUBTS_MAX + 1);
        assert_eq!(asker.asks(&reports, 0), None, "this one is still claimed");
    }
}
