//! What state survives, one after the other under load: an owner that is killed, one whose folder is lost as well, one that stands
//! still and wakes up. Both replicas are asked all the while, about one key after the other.
//!
//! With QUADRILLE_TEST_KEYS the same with more keys: a million take some minutes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use quadrille_proto::{
    Service,
    v1::{FeaturesSource, GetFeaturesResponse},
};
use rdkafka::Message;
use tonic::{Code, Status};

use crate::{
    harness::{
        PATIENCE,
        cards::{Cards, PARTITIONS},
        eventually_or_show, http,
        oracle::quiescence::wait_for,
        process::{Launch, Process},
    },
    queries::{Answers, Asker, check},
};

/// With so many, a test is done within a minute.
const KEYS: usize = 2_000;
/// Records that are sent before they are waited for.
const LOADED_AT_ONCE: usize = 50_000;
/// Of [`SHORT`](crate::harness::cards::SHORT).
const SESSION: Duration = Duration::from_secs(6);
/// What a loaded machine is given besides, to end the transaction of who died and to restore.
const SLACK: Duration = Duration::from_secs(4);
/// How long a replica is left alone by whoever asks, between two questions.
const ASKED_EVERY: Duration = Duration::from_millis(40);

fn keys() -> usize {
    let keys = std::env::var("QUADRILLE_TEST_KEYS");
    keys.map_or(KEYS, |it| {
        it.parse().expect("QUADRILLE_TEST_KEYS: a number")
    })
}

/// Two replicas, whoever asks them, and the load.
struct Scene {
    cards: Cards,
    launches: [Launch; 2],
    replicas: [Process; 2],
    questions: Questions,
    /// Records a second.
    rate: u32,
    /// When an owner died or stood still.
    storms: Vec<Instant>,
}

/// A question to one of them.
struct Asked {
    at: Instant,
    key: String,
    answer: Result<GetFeaturesResponse, Status>,
}

/// Where the replicas are; None: nobody is to ask it. Whoever asks looks whether it is ready, as load balancers do.
type Places = Arc<Mutex<[Option<SocketAddr>; 2]>>;

struct Questions {
    places: Places,
    /// Dropped to end them.
    more: mpsc::SyncSender<()>,
    threads: Vec<JoinHandle<Vec<Asked>>>,
}

impl Questions {
    fn start(cards: &Cards) -> Self {
        let places = Places::default();
        let (more, no_more) = mpsc::sync_channel(0);
        let no_more = Arc::new(Mutex::new(no_more));
        let threads = (0..2).map(|replica| {
            let (asker, places, keys) = (Asker::new(&cards.world), Arc::clone(&places), cards.keys);
            let no_more = Arc::clone(&no_more);
            std::thread::spawn(move || ask(&asker, replica, &places, keys, &no_more))
        });
        Questions {
            threads: threads.collect(),
            places,
            more,
        }
    }

    fn place(&self, replica: usize, place: Option<SocketAddr>) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[replica] = place;
    }

    #[track_caller]
    fn end(self) -> Vec<Asked> {
        drop(self.more);
        let threads = self.threads.into_iter();
        threads.flat_map(|it| it.join().expect("it asks")).collect()
    }
}

fn ask(
    asker: &Asker,
    replica: usize,
    places: &Places,
    keys: usize,
    no_more: &Mutex<mpsc::Receiver<()>>,
) -> Vec<Asked> {
    let place = || places.lock().unwrap_or_else(PoisonError::into_inner)[replica];
    let mut all = Vec::new();
    let ended = || {
        let no_more = no_more.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(no_more.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    };
    for n in 0.. {
        // The pace, not a wait for a condition.
        std::thread::park_timeout(ASKED_EVERY);
        if ended() {
            break;
        }
        let Some(address) = place() else { continue };
        let ready = http::try_request(address, "GET", "/readyz", &[], b"");
        if ready.is_none_or(|(status, _)| status != 200) {
            continue;
        }
        let key = format!("c{}", (n * 2 + replica) * 7_919 % keys);
        let at = Instant::now();
        let answer = asker.key(address, &key);
        // It was killed or stopped with the question in its hands.
        if place() == Some(address) || answer.is_ok() {
            all.push(Asked { at, key, answer });
        }
    }
    all
}

impl Scene {
    #[track_caller]
    fn new(standby: &str) -> Self {
        let mut cards = Cards::many(keys());
        let launches = ["a", "b"].map(|instance| {
            let launch = cards.replica_on_disk(instance);
            launch.env("QUADRILLE_STANDBY", standby)
        });
        let mut replicas = launches.each_ref().map(Launch::start);
        replicas.iter_mut().for_each(|it| drop(it.ready()));
        let started = Instant::now();
        // From here on each key is known.
        let mut left = cards.keys;
        while left > 0 {
            let more = left.min(LOADED_AT_ONCE);
            cards.send(more, u32::MAX, |_| {});
            left -= more;
            at_rest(&cards);
        }
        println!("{} keys after {:.1?}", cards.keys, started.elapsed());
        let questions = Questions::start(&cards);
        for (replica, process) in replicas.iter().enumerate() {
            questions.place(replica, Some(process.address()));
        }
        let scene = Scene {
            rate: 200 + cards.keys as u32 / 500,
            launches,
            replicas,
            questions,
            cards,
            storms: Vec::new(),
        };
        scene.shares();
        scene
    }

    /// Waits until each replica owns half of the partitions, and stands by for the others where it is to.
    #[track_caller]
    fn shares(&self) {
        let pipeline = &self.cards.world.pipeline;
        let half = f64::from(PARTITIONS / 2);
        let mut lines = vec![format!(
            "quadrille_assigned_partitions{{pipeline=\"{pipeline}\""
        )];
        if self.launches[0].env["QUADRILLE_STANDBY"] == "all" {
            lines.push(format!(
                "quadrille_standby_partitions{{pipeline=\"{pipeline}\",state=\"ready\""
            ));
        }
        for (line, replica) in lines
            .iter()
            .flat_map(|line| self.replicas.iter().map(move |it| (line, it)))
        {
            eventually_or_show("it has its share", PATIENCE, || {
                match replica.metric(line) {
                    Some(found) if found == half => Ok(()),
                    found => Err(format!("{line} {found:?}\n{}", replica.log())),
                }
            });
        }
    }

    /// The owner of half of the partitions is not there any more.
    fn lose(&mut self, lost: impl FnOnce(&mut Process)) {
        self.questions.place(0, None);
        self.storms.push(Instant::now());
        lost(&mut self.replicas[0]);
    }

    fn start_again(&mut self) {
        self.replicas[0] = self.launches[0].start();
        let address = self.replicas[0].address();
        self.questions.place(0, Some(address));
    }

    /// Sends a load of so many seconds, and has something happen after two of them.
    fn load(&mut self, seconds: u32, happens: impl FnOnce(&mut Scene)) {
        let rate = self.rate;
        let mut sent = |scene: &mut Scene, seconds: u32| {
            scene.cards.send((seconds * rate) as usize, rate, |_| {})
        };
        sent(self, 2);
        happens(self);
        sent(self, seconds - 2);
    }
}

#[track_caller]
fn at_rest(cards: &Cards) {
    let topics = cards.world.topics();
    wait_for(&cards.world, Service::Ingest, &topics.inbox);
    wait_for(&cards.world, Service::Feature, &topics.records);
}

/// Of a replica's answers how many came from where.
fn sources(answers: &Answers) -> BTreeMap<&'static str, usize> {
    let mut sources = BTreeMap::new();
    for (_, answer) in answers {
        let as_of = answer.as_of.as_ref().expect("it says as of when");
        *sources.entry(as_of.source().as_str_name()).or_default() += 1;
    }
    sources
}

/// How many questions were asked and how many had no answer, outside the storms and in them.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    unanswered: usize,
}

fn survives(standby: &str) -> (Tally, Tally, BTreeMap<&'static str, usize>) {
    let mut scene = Scene::new(standby);

    scene.load(14, |scene| {
        scene.lose(Process::kill);
        scene.start_again();
    });
    scene.shares();
    scene.load(14, |scene| {
        scene.lose(Process::kill);
        let folder = scene.cards.state("a");
        std::fs::remove_dir_all(folder).expect("the folder of its state");
        scene.start_again();
    });
    scene.shares();
    scene.load(14, |scene| scene.lose(|owner| owner.signal("STOP")));
    scene.replicas[0].signal("CONT");
    let address = scene.replicas[0].address();
    scene.questions.place(0, Some(address));
    scene.load(6, |_| {});
    scene.shares();

    let Scene {
        cards,
        questions,
        storms,
        mut replicas,
        ..
    } = scene;
    let asked = questions.end();
    at_rest(&cards);
    cards.check();
    let (mut calm, mut storm) = (Tally::default(), Tally::default());
    let mut answers = Answers::new();
    for Asked { at, key, answer } in asked {
        let within = storms
            .iter()
            .map(|storm| at.saturating_duration_since(*storm));
        let since = within.filter(|it| !it.is_zero()).min();
        let tally = match since.is_some_and(|it| it < SESSION + SLACK) {
            true => &mut storm,
            false => &mut calm,
        };
        tally.asked += 1;
        match answer {
            Ok(answer) => answers.push((key, answer)),
            Err(status) => {
                println!(
                    "{key}: {since:.1?} after the last storm: {}",
                    status.message()
                );
                assert_eq!(status.code(), Code::Unavailable, "{key}: {status}");
                tally.unanswered += 1;
            }
        }
    }
    check(&cards.world, &cards.pipeline, &cards.client, &answers);
    let sources = sources(&answers);
    println!(
        "standby {standby}: {calm:?}, within {SESSION:?} and {SLACK:?} of a storm {storm:?}, {sources:?}"
    );
    progress(&cards);
    replicas.iter_mut().for_each(Process::drain);
    (calm, storm, sources)
}

/// Tells how much of the changelog is there for standbys.
fn progress(cards: &Cards) {
    let rows = cards
        .client
        .read(&format!("{}.feature-state", cards.world.pipeline));
    let progress = rows.iter().filter(|it| it.key() == Some(&[0_u8, 1][..]));
    println!(
        "{} of {} rows of the changelog are progress",
        progress.count(),
        rows.len()
    );
}

#[test]
fn owners_that_die_lose_their_folders_or_stand_still_change_no_vector_and_no_answer() {
    let (calm, storm, sources) = survives("none");
    assert!(calm.asked > 200 && storm.asked > 200, "{calm:?} {storm:?}");
    assert!(calm.unanswered * 100 <= calm.asked, "{calm:?}");
    // The other half of the partitions has its owner all the while.
    assert!(storm.unanswered * 4 < storm.asked * 3, "{storm:?}");
    assert_eq!(sources.len(), 1, "{sources:?}");
}

#[test]
fn with_standbys_every_question_is_answered_although_owners_die_lose_their_folders_or_stand_still()
{
    let (calm, storm, sources) = survives("all");
    assert!(calm.asked > 200 && storm.asked > 200, "{calm:?} {storm:?}");
    assert_eq!((calm.unanswered, storm.unanswered), (0, 0));
    for source in [FeaturesSource::Owner, FeaturesSource::Standby] {
        assert!(
            sources.get(source.as_str_name()).is_some_and(|it| *it > 20),
            "{sources:?}"
        );
    }
}
