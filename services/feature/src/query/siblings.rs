//! A question that another replica has to answer: asked once, and never again by that one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_proto::v1::{GetFeaturesRequest, GetFeaturesResponse};
use quadrille_registry::Replica;
use quadrille_service::fields::now_ms;
use tonic::{Code, Request, Status};

use super::{
    error::{Error, is_busy_replica, is_not_owner},
    peers::Ask,
    route::{Claim, Doubt, Doubts, Now, PASSED_OVER, Role, newest},
};

/// An answer that takes longer is none: the partition has moved in the meantime, or its replica hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Who gave no answer for as long may stand still: callers with little time are not to lose it there one after the other.
const SLOW: Duration = Duration::from_millis(200);
const SLOW_PASSED_OVER: Duration = Duration::from_secs(1);

/// The last report of each replica.
pub(crate) type Reports = Arc<dyn Fn() -> Arc<Vec<Replica>> + Send + Sync>;

/// How long an answer was waited for.
struct Patience {
    within: Duration,
    /// Too long, where somebody else can be asked.
    is_slow: bool,
}

/// The other replicas.
pub(crate) struct Siblings {
    /// Of this replica.
    instance: String,
    reports: Reports,
    peers: Arc<dyn Ask>,
    doubts: Doubts,
}

impl Siblings {
    pub fn new(instance: String, reports: Reports, peers: Arc<dyn Ask>) -> Self {
        Siblings {
            instance,
            reports,
            peers,
            doubts: Doubts::default(),
        }
    }

    /// The answer of whoever holds the partition, or stands by for it.
    ///
    /// # Errors
    /// Nobody is known to, or the one that is asked has no answer.
    pub async fn ask(
        &self,
        (role, pipeline, partition): (Role, &str, i32),
        request: Request<GetFeaturesRequest>,
        deadline: Option<Instant>,
    ) -> Result<GetFeaturesResponse, Error> {
        let reports = (self.reports)();
        let now = Now {
            at: Instant::now(),
            wall_ms: now_ms(),
        };
        let of = (role, pipeline, partition);
        let claim = newest(reports.iter(), &self.instance, of, &self.doubts, now);
        let Some(claim) = claim else {
            return Err(Error::Unavailable(format!(
                "no replica reports that it holds partition {partition} of {pipeline}.records now; it may be moving or being restored: \
                 ask again"
            )));
        };
        let others = self.others(&claim, &reports, now);
        // Only one standby is asked.
        let is_last = role == Role::Standby || !others;
        let within = within(deadline, now.at, is_last);
        let answer = self.peers.ask(&claim.address, request, within).await;
        match answer {
            Ok(answer) if is_of(&claim, &answer) => Ok(answer),
            Ok(_) => Err(self.misled(claim, &reports)),
            Err(status) => {
                let patience = Patience {
                    within,
                    is_slow: others && now.at.elapsed() >= SLOW,
                };
                Err(self.refused(claim, &status, patience, &reports))
            }
        }
    }

    /// Whether a standby can be asked instead of a claimant.
    fn others(&self, claim: &Claim, reports: &[Replica], now: Now) -> bool {
        let (pipeline, partition) = (claim.pipeline.as_str(), claim.partition);
        let stands_by = |it: &Replica| it.stands_by_since(pipeline, partition).is_some();
        let mut own = reports.iter().filter(|it| it.instance == self.instance);
        let rest = reports.iter().filter(|it| it.instance != claim.instance);
        let of = (Role::Standby, pipeline, partition);
        own.any(stands_by) || newest(rest, &self.instance, of, &self.doubts, now).is_some()
    }

    /// Something else is reached at the replica's address by now: it may be of another cluster.
    fn misled(&self, claim: Claim, reports: &[Replica]) -> Error {
        let Claim {
            instance, address, ..
        } = &claim;
        let why = format!(
            "not replica {instance} but another one answers at {address}: if it lasts, check their QUADRILLE_ADVERTISE"
        );
        self.doubts.add(claim, silent(PASSED_OVER), reports);
        Error::Unavailable(why)
    }

    fn refused(
        &self,
        claim: Claim,
        status: &Status,
        Patience { within, is_slow }: Patience,
        reports: &[Replica],
    ) -> Error {
        let Claim {
            partition,
            instance,
            address,
            ..
        } = &claim;
        let said = status.message();
        if is_not_owner(status) {
            let why =
                format!("replica {instance} no longer holds partition {partition}; ask again");
            self.doubts.add(claim, Doubt::Denied, reports);
            return Error::Unavailable(why);
        }
        if is_busy_replica(status) {
            return Error::Unavailable(format!("replica {instance}: {said}"));
        }
        let why = match status.code() {
            // It may not be the replica that is slow: the caller has little time.
            Code::DeadlineExceeded | Code::Cancelled if within < ANSWER_WITHIN => {
                let why = format!(
                    "replica {instance}, which holds partition {partition}, did not answer within {} ms; give the call more time",
                    within.as_millis()
                );
                if is_slow {
                    self.doubts.add(claim, silent(SLOW_PASSED_OVER), reports);
                }
                return Error::Unavailable(why);
            }
            // Of this question; it may answer all others.
            Code::Internal | Code::OutOfRange | Code::DataLoss => {
                return Error::Broken(format!("replica {instance}: {said}"));
            }
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::ResourceExhausted => return Error::Passed(Status::new(status.code(), said)),
            Code::PermissionDenied | Code::Unimplemented | Code::Unauthenticated => format!(
                "replica {instance}, which holds partition {partition}, does not answer at {address}: {said}; check its \
                 QUADRILLE_ADVERTISE and QUADRILLE_ALLOWED_HOSTS"
            ),
            _ => format!(
                "replica {instance}, which holds partition {partition}, does not answer at {address}: {said}"
            ),
        };
        self.doubts.add(claim, silent(PASSED_OVER), reports);
        Error::Unavailable(why)
    }
}

fn silent(passed_over: Duration) -> Doubt {
    Doubt::Silent {
        until: Instant::now() + passed_over,
    }
}

/// Whether it is the claimant's.
fn is_of(claim: &Claim, answer: &GetFeaturesResponse) -> bool {
    let as_of = answer.as_of.as_ref();
    as_of.is_some_and(|as_of| as_of.instance == claim.instance)
}

/// Less than the caller waits, so that it hears why there is no answer; half of it where somebody else can be asked afterwards.
fn within(deadline: Option<Instant>, now: Instant, is_last: bool) -> Duration {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
    left.map_or(ANSWER_WITHIN, |left| match is_last {
        true => ANSWER_WITHIN.min(left / 10 * 9),
        false => ANSWER_WITHIN.min(left / 2),
    })
}

#[cfg(test)]
mod tests;
