//! What state survives, one after the other under load: an owner that is killed, one whose folder is lost as well, one that stands
//! still and wakes up. Both replicas are asked all the while, about one key after the other.
//!
//! With QUADRILLE_TEST_KEYS the same with more keys: a million take some minutes. Without standbys who takes partitions over reads
//! back all of them, for which services that were built for tests are slow: QUADRILLE_TEST_SERVICES names a folder of others.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use quadrille_proto::{
    Service,
    v1::{FeaturesSource, GetFeaturesResponse},
};
use tonic::{Code, Status};

use crate::{
    harness::{
        PATIENCE,
        cards::{Cards, PARTITIONS},
        client::Watch,
        eventually, eventually_or_show, http,
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
const BEGUN_ANEW: &str = "the standby begins anew with its changelog";

fn keys() -> usize {
    let keys = std::env::var("QUADRILLE_TEST_KEYS");
    keys.map_or(KEYS, |it| {
        it.parse().expect("QUADRILLE_TEST_KEYS: a number")
    })
}

/// A load for two replicas.
struct Scene {
    cards: Cards,
    /// Records a second.
    rate: u32,
    replicas: Replicas,
}

/// Two replicas, and whoever asks them.
struct Replicas {
    launches: [Launch; 2],
    processes: [Process; 2],
    questions: Questions,
    /// When an owner died or stood still.
    storms: Vec<Instant>,
}

/// A question to one of them.
struct Asked {
    at: Instant,
    ended: Instant,
    replica: usize,
    key: String,
    /// After so many tries, as it was told to.
    answer: Result<GetFeaturesResponse, Status>,
    tries: usize,
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
        let (answer, tries) = asker.key_patiently(address, &key);
        // It was killed or stopped with the question in its hands.
        if place() == Some(address) || answer.is_ok() {
            all.push(Asked {
                at,
                ended: Instant::now(),
                replica,
                key,
                answer,
                tries,
            });
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
        let mut processes = launches.each_ref().map(Launch::start);
        for process in &mut processes {
            process.ready();
        }
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
        for (replica, process) in processes.iter().enumerate() {
            questions.place(replica, Some(process.address()));
        }
        let scene = Scene {
            rate: 200 + cards.keys as u32 / 500,
            replicas: Replicas {
                launches,
                processes,
                questions,
                storms: Vec::new(),
            },
            cards,
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
        if self.replicas.launches[0].env["QUADRILLE_STANDBY"] == "all" {
            lines.push(format!(
                "quadrille_standby_partitions{{pipeline=\"{pipeline}\",state=\"ready\""
            ));
        }
        for (line, replica) in lines
            .iter()
            .flat_map(|line| self.replicas.processes.iter().map(move |it| (line, it)))
        {
            eventually_or_show("it has its share", PATIENCE, || {
                match replica.metric(line) {
                    Some(found) if found == half => Ok(()),
                    found => Err(format!("{line} {found:?}\n{}", replica.log())),
                }
            });
        }
    }

    /// Sends a load of so many seconds; has something happen after two of them.
    fn load(&mut self, seconds: u32, happens: impl FnOnce(&mut Replicas)) {
        let (rate, mut happens) = (self.rate, Some(happens));
        let replicas = &mut self.replicas;
        self.cards.send((seconds * rate) as usize, rate, |n| {
            if n as u32 >= 2 * rate
                && let Some(happens) = happens.take()
            {
                happens(replicas);
            }
        });
    }
}

impl Replicas {
    /// The owner of half of the partitions is not there any more.
    fn lose(&mut self, lost: impl FnOnce(&mut Process)) {
        self.questions.place(0, None);
        self.storms.push(Instant::now());
        lost(&mut self.processes[0]);
    }

    fn start_again(&mut self) {
        self.processes[0] = self.launches[0].start();
        self.asked_again();
    }

    fn asked_again(&self) {
        let address = self.processes[0].address();
        self.questions.place(0, Some(address));
    }

    /// How many restores the one that survives has done, and of how many rows.
    fn restored(&self) -> (usize, u64) {
        let restored = self.processes[1].events("state restored");
        let rows = restored.iter().map(|it| it["records"].as_u64());
        let rows = rows.map(|it| it.expect("a number"));
        (restored.len(), rows.sum())
    }
}

#[track_caller]
fn at_rest(cards: &Cards) {
    let topics = cards.world.topics();
    wait_for(&cards.world, Service::Ingest, &topics.inbox);
    wait_for(&cards.world, Service::Feature, &topics.records);
}

/// Who is asked after an answer of the owner's has one of the same place or a later one, if it answers as the owner: one that was
/// frozen does not.
#[track_caller]
fn owners_never_go_back(asked: &[Asked]) {
    let mut answers: Vec<(&Asked, i32, i64)> = Vec::new();
    for question in asked {
        let as_of = question
            .answer
            .as_ref()
            .ok()
            .and_then(|it| it.as_of.as_ref());
        if let Some(as_of) = as_of.filter(|it| it.source() == FeaturesSource::Owner) {
            answers.push((
                question,
                as_of.partition,
                as_of.records_offset.expect("an offset"),
            ));
        }
    }
    answers.sort_by_key(|(question, ..)| question.ended);
    for (at, (earlier, partition, offset)) in answers.iter().enumerate() {
        for (later, other, later_offset) in &answers[at + 1..] {
            if later.at >= earlier.ended && other == partition {
                assert!(
                    later_offset >= offset,
                    "partition {partition}: {offset} of {}, then {later_offset} of {}",
                    earlier.replica,
                    later.replica
                );
            }
        }
    }
}

/// How many questions were asked, how many more than once, and how many had no answer within their deadline.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    again: usize,
    unanswered: usize,
}

/// What came of it all.
#[derive(Debug, Default)]
struct Survived {
    /// Outside the storms and in them.
    calm: Tally,
    storm: Tally,
    /// Of the answers.
    owners: usize,
    standbys: usize,
    /// That another replica had than the one that was asked.
    forwarded: usize,
    /// Rows that were read to take over from who was killed, of so many that the changelog had.
    read: u64,
    long: u64,
    /// The longest time that a partition brought no vector after its owner was killed.
    pause: Duration,
}

fn survives(standby: &str) -> Survived {
    let mut scene = Scene::new(standby);
    let mut survived = Survived {
        long: scene.cards.changelog().values().sum(),
        ..Survived::default()
    };

    let (restores, rows) = scene.replicas.restored();
    let watch = Watch::start(&scene.cards.world, &scene.cards.world.topics().features);
    // Away for so long that the other one takes over, and has read what there is.
    let away = 12 + scene.cards.keys as u32 / 50_000;
    scene.load(away, |replicas| replicas.lose(Process::kill));
    let theirs = PARTITIONS as usize / 2;
    survived.read = eventually("the other one took over", PATIENCE, || {
        let (restored, read) = scene.replicas.restored();
        (restored >= restores + theirs).then_some(read - rows)
    });
    scene.replicas.start_again();
    scene.load(6, |_| {});
    survived.pause = watch.longest_pause(scene.replicas.storms[0]);
    scene.shares();

    // Back at once: it may have its partitions again when its session is over.
    let folder = scene.cards.state("a");
    scene.load(12, |replicas| {
        replicas.lose(Process::kill);
        std::fs::remove_dir_all(folder).expect("the folder of its state");
        replicas.start_again();
    });
    scene.shares();

    scene.load(12, |replicas| replicas.lose(|owner| owner.signal("STOP")));
    scene.replicas.processes[0].signal("CONT");
    scene.replicas.asked_again();
    scene.load(6, |_| {});
    scene.shares();

    let Scene {
        cards, replicas, ..
    } = scene;
    let asked = replicas.questions.end();
    at_rest(&cards);
    cards.check();
    let answers = survived.count(&cards, asked, &replicas.storms);
    check(&cards.world, &cards.pipeline, &cards.client, &answers);
    println!("standby {standby}: {survived:?}; a storm is {SESSION:?} and {SLACK:?} long");
    for mut process in replicas.processes {
        assert_eq!(process.events(BEGUN_ANEW).len(), 0);
        process.drain();
    }
    survived
}

impl Survived {
    /// The answers.
    fn count(&mut self, cards: &Cards, asked: Vec<Asked>, storms: &[Instant]) -> Answers {
        owners_never_go_back(&asked);
        let mut answers = Answers::new();
        for question in asked {
            let key = question.key;
            let since = storms.iter().rev().find(|storm| **storm <= question.at);
            let since = since.map(|storm| question.at - *storm);
            let tally = match since.is_some_and(|it| it < SESSION + SLACK) {
                true => &mut self.storm,
                false => &mut self.calm,
            };
            tally.asked += 1;
            tally.again += usize::from(question.tries > 1);
            match question.answer {
                Ok(answer) => {
                    let as_of = answer.as_of.as_ref().expect("it says as of when");
                    let own = format!("{}-{}", cards.world.pipeline, ["a", "b"][question.replica]);
                    self.forwarded += usize::from(as_of.instance != own);
                    match as_of.source() {
                        FeaturesSource::Owner => self.owners += 1,
                        FeaturesSource::Standby => self.standbys += 1,
                        other => panic!("{key}: {other:?}"),
                    }
                    answers.push((key, answer));
                }
                Err(status) => {
                    let of = ["a", "b"][question.replica];
                    println!(
                        "{key} of {of}, {since:.1?} after the last storm: {}",
                        status.message()
                    );
                    assert_eq!(status.code(), Code::Unavailable, "{key}: {status}");
                    tally.unanswered += 1;
                }
            }
        }
        answers
    }
}

#[test]
fn owners_that_die_lose_their_folders_or_stand_still_change_no_vector_and_no_answer() {
    let survived = survives("none");
    let Survived { calm, storm, .. } = &survived;
    // While nobody has an answer, each question takes as long as its caller waits.
    assert!(calm.asked > 200 && storm.asked > 20, "{survived:?}");
    assert!(calm.unanswered * 100 <= calm.asked, "{survived:?}");
    // The other half of the partitions has its owner all the while.
    assert!(storm.unanswered * 4 < storm.asked * 3, "{survived:?}");
    assert!(survived.forwarded * 10 > calm.asked, "{survived:?}");
    assert_eq!(survived.standbys, 0);
}

#[test]
fn with_standbys_every_question_is_answered_although_owners_die_lose_their_folders_or_stand_still()
{
    let survived = survives("all");
    let Survived { calm, storm, .. } = &survived;
    assert!(calm.asked > 200 && storm.asked > 200, "{survived:?}");
    assert_eq!((calm.again, calm.unanswered), (0, 0), "{survived:?}");
    assert_eq!((storm.again, storm.unanswered), (0, 0), "{survived:?}");
    assert!(
        survived.owners > 20 && survived.standbys > 20,
        "{survived:?}"
    );
    assert!(survived.forwarded * 10 > calm.asked, "{survived:?}");
    // What was written in the session's time and the transaction's, at most.
    assert!(survived.read * 4 < survived.long, "{survived:?}");
}
