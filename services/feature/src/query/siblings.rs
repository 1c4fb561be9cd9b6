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
    route::{Claim, Doubt, Doubts, Now, Role, newest},
};

/// An answer that takes longer is none: the partition has moved in the meantime, or its replica hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The last report of each replica.
pub(crate) type Reports = Arc<dyn Fn() -> Arc<Vec<Replica>> + Send + Sync>;

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
        let claim = newest(&reports, &self.instance, of, &self.doubts, now);
        let Some(claim) = claim else {
            return Err(Error::Unavailable(format!(
                "no replica reports that it holds partition {partition} of {pipeline}.records now; it may be moving or being restored: \
                 ask again"
            )));
        };
        let within = within(deadline, now.at);
        let answer = self.peers.ask(&claim.address, request, within).await;
        match answer {
            Ok(answer) if is_of(&claim, &answer) => Ok(answer),
            Ok(_) => Err(self.misled(claim, &reports)),
            Err(status) => Err(self.refused(claim, &status, within, &reports)),
        }
    }

    /// Something else is reached at the replica's address by now: it may be of another cluster.
    fn misled(&self, claim: Claim, reports: &[Replica]) -> Error {
        let Claim {
            instance, address, ..
        } = &claim;
        let why = format!(
            "not replica {instance} but another one answers at {address}: if it lasts, check their QUADRILLE_ADVERTISE"
        );
        let doubt = Doubt::Silent { at: Instant::now() };
        self.doubts.add(claim, doubt, reports);
        Error::Unavailable(why)
    }

    fn refused(
        &self,
        claim: Claim,
        status: &Status,
        within: Duration,
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
            // Not the replica is slow: the caller has no time.
            Code::DeadlineExceeded | Code::Cancelled if within < ANSWER_WITHIN => {
                return Error::Unavailable(format!(
                    "replica {instance}, which holds partition {partition}, did not answer within {} ms; give the call more time",
                    within.as_millis()
                ));
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
        let doubt = Doubt::Silent { at: Instant::now() };
        self.doubts.add(claim, doubt, reports);
        Error::Unavailable(why)
    }
}

/// Whether it is the claimant's.
fn is_of(claim: &Claim, answer: &GetFeaturesResponse) -> bool {
    let as_of = answer.as_of.as_ref();
    as_of.is_some_and(|as_of| as_of.instance == claim.instance)
}

/// Less than the caller waits, so that it hears why there is no answer.
fn within(deadline: Option<Instant>, now: Instant) -> Duration {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
    left.map_or(ANSWER_WITHIN, |left| ANSWER_WITHIN.min(left / 10 * 9))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use quadrille_proto::v1::AsOf;
    use quadrille_service::Boxed;
    use tonic::metadata::MetadataMap;

    use super::*;
    use crate::query::peers::forwarded;

    type Answered = Result<GetFeaturesResponse, Status>;
    type Asked = Vec<(String, GetFeaturesRequest, Duration)>;

    /// Answers as it is told, by address; others are unreachable.
    #[derive(Default)]
    struct Fake {
        answers: Mutex<Vec<(&'static str, Answered)>>,
        asked: Mutex<Asked>,
    }

    impl Ask for Fake {
        fn ask(
            &self,
            address: &str,
            request: Request<GetFeaturesRequest>,
            within: Duration,
        ) -> Boxed<'static, Answered> {
            let asked = (address.to_owned(), request.into_inner(), within);
            self.asked.lock().unwrap().push(asked);
            let answers = self.answers.lock().unwrap();
            let answer = answers.iter().find(|(at, _)| *at == address);
            let answer = answer.map_or_else(
                || Err(Status::unavailable("connection refused")),
                |(_, answer)| answer.clone(),
            );
            Box::pin(async move { answer })
        }
    }

    struct World {
        fake: Arc<Fake>,
        reports: Arc<Mutex<Vec<Replica>>>,
        siblings: Siblings,
    }

    impl World {
        fn new(claims: &[(&str, i64)]) -> Self {
            let replica = |(instance, since_ms): &(&str, i64)| Replica {
                service: "feature".to_owned(),
                instance: (*instance).to_owned(),
                at_ms: now_ms(),
                address: (*instance).to_owned(),
                held: [("p".to_owned(), [(3, *since_ms)].into())].into(),
                ..Replica::default()
            };
            let reports = Arc::new(Mutex::new(claims.iter().map(replica).collect::<Vec<_>>()));
            let fake = Arc::new(Fake::default());
            let read = Arc::clone(&reports);
            let siblings = Siblings::new(
                "own".to_owned(),
                Arc::new(move || Arc::new(read.lock().unwrap().clone())),
                Arc::clone(&fake) as Arc<dyn Ask>,
            );
            World {
                fake,
                reports,
                siblings,
            }
        }

        fn answers(&self, address: &'static str, answer: Answered) {
            let mut answers = self.fake.answers.lock().unwrap();
            answers.retain(|(at, _)| *at != address);
            answers.push((address, answer));
        }

        async fn ask(&self, deadline: Option<Instant>) -> Answered {
            let question = GetFeaturesRequest {
                key: "k".to_owned(),
                ..GetFeaturesRequest::default()
            };
            let request = forwarded(&question, &MetadataMap::new());
            let siblings = &self.siblings;
            let answer = siblings.ask((Role::Owner, "p", 3), request, deadline);
            let answer = answer.await;
            answer.map_err(Status::from)
        }

        fn asked(&self) -> Vec<String> {
            let asked = std::mem::take(&mut *self.fake.asked.lock().unwrap());
            asked.into_iter().map(|(address, ..)| address).collect()
        }
    }

    fn by(instance: &str) -> Answered {
        Ok(GetFeaturesResponse {
            as_of: Some(AsOf {
                instance: instance.to_owned(),
                ..AsOf::default()
            }),
            ..GetFeaturesResponse::default()
        })
    }

    fn not_owner() -> Answered {
        Err(Error::NotOwner("not here".to_owned()).into())
    }

    #[tokio::test]
    async fn the_newest_claimant_is_asked_once_and_told_not_to_ask_on() {
        let world = World::new(&[("a", 10), ("b", 20)]);
        world.answers("b", by("b"));
        assert_eq!(world.ask(None).await.unwrap(), by("b").unwrap());
        let asked = world.fake.asked.lock().unwrap();
        let (address, request, within) = &asked[0];
        assert_eq!((asked.len(), address.as_str()), (1, "b"));
        assert!(request.forwarded && request.key == "k");
        assert_eq!(*within, ANSWER_WITHIN);
    }

    #[tokio::test]
    async fn nobody_is_asked_while_nobody_is_known_to_hold_it() {
        let world = World::new(&[]);
        let status = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        assert!(world.asked().is_empty());
    }

    #[tokio::test]
    async fn a_partition_that_moved_meanwhile_is_asked_for_again_by_the_caller_and_found() {
        let world = World::new(&[("a", 10)]);
        world.answers("a", not_owner());
        let status = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        assert_eq!(world.asked(), ["a"], "once");
        // Its claim is over, whatever its report still says.
        assert!(is_busy_replica(&world.ask(None).await.unwrap_err()));
        assert!(world.asked().is_empty());
        let mut new = world.reports.lock().unwrap()[0].clone();
        (new.instance, new.address) = ("b".to_owned(), "b".to_owned());
        new.held = [("p".to_owned(), [(3, 5)].into())].into();
        world.reports.lock().unwrap().push(new);
        world.answers("b", by("b"));
        assert_eq!(world.ask(None).await.unwrap(), by("b").unwrap());
    }

    #[tokio::test]
    async fn a_silent_claimant_costs_one_question_and_an_older_claim_is_tried_next() {
        let world = World::new(&[("a", 10), ("b", 20)]);
        world.answers("a", by("a"));
        let status = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        assert!(status.message().contains("connection refused"), "{status}");
        assert_eq!(world.ask(None).await.unwrap(), by("a").unwrap());
        assert_eq!(world.asked(), ["b", "a"]);
    }

    #[tokio::test]
    async fn what_the_replica_says_of_the_question_itself_is_passed_on() {
        let world = World::new(&[("a", 10)]);
        for status in [
            Status::not_found("no such key"),
            Status::failed_precondition("late"),
            Status::already_exists("twice"),
        ] {
            world.answers("a", Err(status.clone()));
            let passed = world.ask(None).await.unwrap_err();
            assert_eq!(passed.code(), status.code());
            assert_eq!(passed.message(), status.message());
        }
        world.answers("a", Err(Error::Unavailable("woke up".to_owned()).into()));
        let busy = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&busy) && busy.message().contains("woke up"));
        world.answers("a", by("a"));
        assert!(world.ask(None).await.is_ok(), "none of it is a doubt");
    }

    #[tokio::test]
    async fn a_caller_without_time_and_a_question_that_breaks_are_no_doubts_of_the_replica() {
        let world = World::new(&[("a", 10)]);
        world.answers("a", Err(Status::deadline_exceeded("no answer in time")));
        let soon = Instant::now() + Duration::from_millis(20);
        let status = world.ask(Some(soon)).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        world.answers("a", Err(Status::internal("a row")));
        let status = world.ask(None).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        world.answers("a", by("a"));
        assert_eq!(world.ask(None).await.unwrap(), by("a").unwrap());
        // One that takes as long as any answer may is passed over.
        world.answers("a", Err(Status::deadline_exceeded("no answer in time")));
        assert!(is_busy_replica(&world.ask(None).await.unwrap_err()));
        world.answers("a", by("a"));
        assert!(is_busy_replica(&world.ask(None).await.unwrap_err()));
    }

    #[tokio::test]
    async fn what_another_than_the_claimant_answers_is_not_passed_on() {
        let world = World::new(&[("a", 10)]);
        world.answers("a", by("z"));
        let status = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        assert!(status.message().contains("QUADRILLE_ADVERTISE"), "{status}");
        assert!(world.ask(None).await.is_err());
        assert_eq!(world.asked(), ["a"], "it is passed over for a while");
    }

    #[tokio::test]
    async fn standbys_are_asked_apart_from_owners() {
        let world = World::new(&[("a", 10)]);
        let standby = Replica {
            instance: "b".to_owned(),
            address: "b".to_owned(),
            held: BTreeMap::new(),
            standing_by: [("p".to_owned(), [(3, 5)].into())].into(),
            ..world.reports.lock().unwrap()[0].clone()
        };
        world.reports.lock().unwrap().push(standby);
        world.answers("b", by("b"));
        // The owner is unreachable.
        assert!(is_busy_replica(&world.ask(None).await.unwrap_err()));
        assert_eq!(world.asked(), ["a"]);
        let request = forwarded(&GetFeaturesRequest::default(), &MetadataMap::new());
        let place = (Role::Standby, "p", 3);
        let answer = world.siblings.ask(place, request, None).await;
        assert_eq!(answer.map_err(Status::from).unwrap(), by("b").unwrap());
    }

    #[tokio::test]
    async fn a_wrong_address_is_said_with_the_settings_that_decide_it() {
        let world = World::new(&[("a", 10)]);
        world.answers("a", Err(Status::unimplemented("what?")));
        let status = world.ask(None).await.unwrap_err();
        assert!(is_busy_replica(&status), "{status}");
        assert!(status.message().contains("QUADRILLE_ADVERTISE"), "{status}");
    }

    #[tokio::test]
    async fn the_answer_is_waited_for_less_than_the_caller_waits() {
        let world = World::new(&[("a", 10)]);
        let deadline = Instant::now() + Duration::from_millis(100);
        let _ = world.ask(Some(deadline)).await;
        let (_, _, within) = world.fake.asked.lock().unwrap()[0].clone();
        assert!(within <= Duration::from_millis(90), "{within:?}");
    }
}
