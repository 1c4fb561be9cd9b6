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
    takes: Mutex<Duration>,
}

impl Fake {
    /// How long an answer takes.
    fn takes(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }
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
        let takes = *self.takes.lock().unwrap();
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            answer
        })
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

/// Asks with little time, twice, an owner that stands still; how long it was given, and whether it was asked twice.
async fn hurried(standby: Option<Replica>) -> (Duration, bool) {
    let world = World::new(&[("a", 10)]);
    world.reports.lock().unwrap().extend(standby);
    world.fake.takes(SLOW);
    world.answers("a", Err(Status::deadline_exceeded("no answer in time")));
    let soon = || Some(Instant::now() + Duration::from_secs(1));
    assert!(is_busy_replica(&world.ask(soon()).await.unwrap_err()));
    let (_, _, within) = world.fake.asked.lock().unwrap()[0].clone();
    assert!(is_busy_replica(&world.ask(soon()).await.unwrap_err()));
    (within, world.asked().len() == 2)
}

#[tokio::test]
async fn an_owner_that_stands_still_takes_half_of_a_short_deadline_once_where_a_standby_can_be_asked()
 {
    let standby = |instance: &str, address: &str, at_ms: i64| Replica {
        service: "feature".to_owned(),
        instance: instance.to_owned(),
        address: address.to_owned(),
        at_ms,
        standing_by: [("p".to_owned(), [(3, 5)].into())].into(),
        ..Replica::default()
    };
    let now = now_ms();
    for replica in [standby("own", "", now), standby("b", "b", now)] {
        let (within, again) = hurried(Some(replica)).await;
        assert!(within <= Duration::from_millis(500), "{within:?}");
        assert!(!again, "the second question goes past it");
    }
    // Nobody, or nobody who can be asked.
    let gone = standby("b", "b", now - 60_000);
    for replica in [None, Some(gone), Some(standby("a", "a", now))] {
        let (within, again) = hurried(replica).await;
        assert!(within > Duration::from_millis(800), "{within:?}");
        assert!(again, "others may have more time");
    }
}

#[tokio::test]
async fn a_standby_that_stands_still_is_passed_over_where_another_one_can_be_asked() {
    let world = World::new(&[]);
    let standby = |instance: &str, since_ms| Replica {
        service: "feature".to_owned(),
        instance: instance.to_owned(),
        address: instance.to_owned(),
        at_ms: now_ms(),
        standing_by: [("p".to_owned(), [(3, since_ms)].into())].into(),
        ..Replica::default()
    };
    world.fake.takes(SLOW);
    world.answers("b", Err(Status::deadline_exceeded("no answer in time")));
    world.answers("c", by("c"));
    let ask = async || {
        let request = forwarded(&GetFeaturesRequest::default(), &MetadataMap::new());
        let soon = Some(Instant::now() + Duration::from_secs(1));
        let place = (Role::Standby, "p", 3);
        world.siblings.ask(place, request, soon).await.is_ok()
    };
    world.reports.lock().unwrap().push(standby("b", 20));
    assert!(!ask().await && !ask().await, "there is no other one");
    world.reports.lock().unwrap().push(standby("c", 10));
    assert!(!ask().await && ask().await);
    assert_eq!(world.asked(), ["b", "b", "b", "c"]);
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
