//! The queue with a model that waits where it is told to.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize},
        mpsc,
    },
    time::Duration,
};

use quadrille_model::Outputs;
use quadrille_telemetry::{Registry, metrics::ServingMetrics};

use super::*;
use crate::fake::{self, work};

/// Doubles each row; waits where it is told to, panics on 13.
struct Slow {
    inputs: Vec<String>,
    outputs: Outputs,
    /// Told of each batch's rows, and waited for.
    gate: Option<(Mutex<mpsc::Sender<usize>>, Arc<Barrier>)>,
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

impl Model for Slow {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        if let Some((told, gate)) = &self.gate {
            told.lock().unwrap().send(rows.len()).unwrap();
            gate.wait();
        }
        assert!(!rows.contains(&13.0), "thirteen");
        outputs.extend(rows.iter().map(|row| row * 2.0));
    }
}

struct World {
    queue: Arc<Queue>,
    registry: Registry,
    counts: Arc<Counts>,
    batches: mpsc::Receiver<usize>,
    gate: Arc<Barrier>,
}

fn world(gated: bool, batching: &Batching) -> World {
    let (told, batches) = mpsc::channel();
    let gate = Arc::new(Barrier::new(2));
    let model = Arc::new(Slow {
        inputs: vec!["x".to_owned()],
        outputs: Outputs::Values(vec!["y".to_owned()]),
        gate: gated.then(|| (Mutex::new(told), Arc::clone(&gate))),
    });
    let registry = Registry::default();
    let metrics = ServingMetrics::register(&registry).queue("m", "1");
    let counts = Arc::<Counts>::default();
    let queue = Queue::start(model, batching, metrics, Arc::clone(&counts));
    World {
        queue: Arc::new(queue.unwrap()),
        registry,
        counts,
        batches,
        gate,
    }
}

fn one_worker() -> Batching {
    Batching {
        workers: 1,
        rows_max: 4,
        queued_rows_max: 8,
        delay_max: Duration::ZERO,
        ..Batching::default()
    }
}

fn ask(
    world: &World,
    rows: Vec<f64>,
    deadline: Option<Instant>,
) -> tokio::task::JoinHandle<Answer> {
    let queue = Arc::clone(&world.queue);
    tokio::spawn(async move { queue.score(rows, deadline).await })
}

/// On a runtime of one thread: what was spawned has run as far as it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_gathers_while_a_batch_is_scored_is_the_next_one_up_to_its_size() {
    let world = world(true, &one_worker());
    let first = ask(&world, vec![1.0], None);
    settle().await;
    assert_eq!(world.batches.recv().unwrap(), 1);
    let more: Vec<_> = (2..8)
        .map(|n| ask(&world, vec![f64::from(n)], None))
        .collect();
    settle().await;
    world.gate.wait();
    assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
    assert_eq!(world.batches.recv().unwrap(), 4);
    world.gate.wait();
    assert_eq!(world.batches.recv().unwrap(), 2);
    world.gate.wait();
    for (answer, n) in more.into_iter().zip(2..) {
        assert_eq!(answer.await.unwrap(), Ok(vec![f64::from(n) * 2.0]));
    }
    let text = world.registry.encode();
    let line = r#"quadrille_model_batches_total{model="m",version="1",reason="size"} 1"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_who_waited_too_long_is_not_scored() {
    let world = world(true, &one_worker());
    let first = ask(&world, vec![1.0], None);
    settle().await;
    assert_eq!(world.batches.recv().unwrap(), 1);
    // Its time is up when the worker is free again; nobody has to wait for that here.
    let late = ask(&world, vec![2.0; 2], Some(Instant::now()));
    let good = ask(
        &world,
        vec![3.0; 5],
        Some(Instant::now() + Duration::from_secs(3_600)),
    );
    let full = ask(&world, vec![5.0; 2], None);
    settle().await;
    let refused = world.queue.score(vec![4.0], None).await;
    assert_eq!(refused, Err(Error::Overloaded));
    world.gate.wait();
    assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
    assert_eq!(late.await.unwrap(), Err(Error::Expired));
    assert_eq!(world.batches.recv().unwrap(), 4, "pieces of the good one");
    world.gate.wait();
    assert_eq!(world.batches.recv().unwrap(), 2);
    world.gate.wait();
    assert_eq!(full.await.unwrap(), Ok(vec![10.0; 2]));
    settle().await;
    assert_eq!(world.batches.recv().unwrap(), 1, "its last piece");
    world.gate.wait();
    assert_eq!(good.await.unwrap(), Ok(vec![6.0; 5]));
    let text = world.registry.encode();
    for reason in ["overloaded", "expired"] {
        let line = format!(
            r#"quadrille_model_unanswered_total{{model="m",version="1",reason="{reason}"}} 1"#
        );
        assert!(text.contains(&line), "{line} not in {text}");
    }
}

#[tokio::test]
async fn a_request_that_makes_the_model_panic_is_refused_alone() {
    let world = world(true, &one_worker());
    let first = ask(&world, vec![1.0], None);
    settle().await;
    assert_eq!(world.batches.recv().unwrap(), 1);
    let rows = [vec![2.0], vec![13.0], vec![3.0]];
    let asked = rows.map(|rows| ask(&world, rows, None));
    settle().await;
    // The first, the three together, and each of them alone.
    world.gate.wait();
    for rows in [3, 1, 1, 1] {
        assert_eq!(world.batches.recv().unwrap(), rows);
        world.gate.wait();
    }
    assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
    let [a, b, c] = asked;
    assert_eq!(a.await.unwrap(), Ok(vec![4.0]));
    assert_eq!(b.await.unwrap(), Err(Error::Failed));
    assert_eq!(c.await.unwrap(), Ok(vec![6.0]));
}

#[test]
fn the_stream_waits_for_room_and_gets_its_rows_in_order() {
    let world = world(false, &one_worker());
    let rows: Vec<f64> = (0..1_000).map(f64::from).filter(|n| *n != 13.0).collect();
    let lanes: Vec<_> = (0..3)
        .map(|_| {
            let (queue, rows) = (Arc::clone(&world.queue), rows.clone());
            std::thread::spawn(move || {
                let mut outputs = Vec::new();
                queue
                    .score_waiting(&rows, &mut outputs, &mut || {})
                    .unwrap();
                outputs
            })
        })
        .collect();
    let expected: Vec<f64> = rows.iter().map(|n| n * 2.0).collect();
    for lane in lanes {
        assert_eq!(lane.join().unwrap(), expected);
    }
    let mut outputs = Vec::new();
    let refused = world.queue.score_waiting(&[13.0], &mut outputs, &mut || {});
    assert_eq!(refused, Err(Error::Failed));
}

#[tokio::test]
async fn a_queue_that_is_dropped_answers_what_waits_and_ends_its_threads() {
    let world = world(false, &one_worker());
    let shared = Arc::downgrade(&world.queue.shared);
    assert_eq!(world.queue.score(vec![1.0], None).await, Ok(vec![2.0]));
    drop(world);
    let ended = async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("in time");
}

#[tokio::test]
async fn a_large_request_goes_in_pieces_and_no_further_when_nobody_waits_for_it() {
    let world = world(true, &one_worker());
    let first = ask(&world, vec![1.0], None);
    settle().await;
    assert_eq!(world.batches.recv().unwrap(), 1);
    let large = ask(&world, vec![2.0; 1_000], None);
    let small = ask(&world, vec![3.0], None);
    settle().await;
    world.gate.wait();
    assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
    assert_eq!(world.batches.recv().unwrap(), 4, "two pieces of two rows");
    large.abort();
    assert!(large.await.unwrap_err().is_cancelled());
    world.gate.wait();
    assert_eq!(
        world.batches.recv().unwrap(),
        1,
        "the small one, and no piece of the large one"
    );
    world.gate.wait();
    assert_eq!(small.await.unwrap(), Ok(vec![6.0]));
    // A request counts once, however many pieces it has.
    assert_eq!(world.counts.read().queued.0, 3);
    // One whose time is up is not begun.
    let late = world
        .queue
        .score(vec![2.0; 1_000], Some(Instant::now()))
        .await;
    assert_eq!(late, Err(Error::Expired));
}

#[tokio::test]
async fn a_request_beside_a_lane_that_is_always_full_waits_for_one_batch_and_its_own() {
    let world = world(true, &one_worker());
    let lane = {
        let queue = Arc::clone(&world.queue);
        std::thread::spawn(move || {
            let (mut outputs, mut signs) = (Vec::new(), 0_u32);
            let rows = vec![1.0; 100];
            queue
                .score_waiting(&rows, &mut outputs, &mut || signs += 1)
                .unwrap();
            (outputs.len(), signs)
        })
    };
    world.batches.recv().unwrap();
    // As many pieces wait as may: four of two rows.
    while world.queue.shared.lock().stream.rows < 8 {
        std::thread::yield_now();
    }
    let request = ask(&world, vec![21.0], None);
    settle().await;
    world.gate.wait();
    assert_eq!(
        world.batches.recv().unwrap(),
        3,
        "it, and a piece of the lane's"
    );
    world.gate.wait();
    let answer = tokio::time::timeout(Duration::from_secs(30), request);
    assert_eq!(answer.await.expect("in time").unwrap(), Ok(vec![42.0]));
    while !lane.is_finished() {
        if world
            .batches
            .recv_timeout(Duration::from_millis(10))
            .is_ok()
        {
            world.gate.wait();
        }
    }
    let (count, signs) = lane.join().unwrap();
    assert_eq!(count, 100);
    assert!(signs >= 50, "{signs} signs of life");
}

#[tokio::test]
async fn requests_and_stream_have_half_of_a_batch_each_and_neither_starves() {
    for rows_max in [1, 2, 3, 4] {
        let batching = Batching {
            rows_max,
            queued_rows_max: 1_000,
            ..one_worker()
        };
        let world = world(false, &batching);
        let queue = Arc::clone(&world.queue);
        let lane = std::thread::spawn(move || {
            let mut outputs = Vec::new();
            let scored = queue.score_waiting(&[1.0; 500], &mut outputs, &mut || {});
            scored.map(|()| outputs.len())
        });
        let requests: Vec<_> = (0..50).map(|_| ask(&world, vec![2.0; 7], None)).collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), Ok(vec![4.0; 7]));
        }
        assert_eq!(lane.join().unwrap(), Ok(500));
    }
}

#[tokio::test]
async fn of_a_request_whose_deadline_passes_between_pieces_the_rest_is_not_scored() {
    let world = world(true, &one_worker());
    let deadline = Instant::now() + Duration::from_millis(200);
    let large = ask(&world, vec![2.0; 1_000], Some(deadline));
    settle().await;
    let mut scored = world.batches.recv().unwrap();
    while Instant::now() <= deadline {
        std::thread::yield_now();
    }
    world.gate.wait();
    assert_eq!(large.await.unwrap(), Err(Error::Expired));
    // The next batch is another's: what was queued already of the large one is not scored either.
    let small = ask(&world, vec![3.0], None);
    settle().await;
    let mut next = world.batches.recv().unwrap();
    // On a busy machine its second piece may have been begun before the deadline.
    if next > 1 {
        scored += next;
        world.gate.wait();
        next = world.batches.recv().unwrap();
    }
    assert_eq!(next, 1, "the small one alone");
    world.gate.wait();
    assert_eq!(small.await.unwrap(), Ok(vec![6.0]));
    assert!(scored <= 4, "{scored} of 1,000 rows were scored");
}

#[test]
fn a_lane_that_waits_shows_that_it_lives_while_the_queue_moves_and_not_when_it_stands_still() {
    let world = world(false, &one_worker());
    let shared = &*world.queue.shared;
    let mut signs = 0;
    let mut alive = || signs += 1;
    let mut lane = Lane {
        scored: &shared.scored,
        seen: shared.scored.load(Ordering::Relaxed),
        alive: &mut alive,
    };
    lane.looks();
    shared.scored.fetch_add(1, Ordering::Relaxed);
    lane.looks();
    lane.looks();
    assert_eq!(signs, 1);

    // Behind a queue that is full of requests: nothing is answered yet, but batches are scored.
    let (answer, answered) = oneshot::channel();
    let (told, signs) = mpsc::channel();
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || {
            let mut lane = Lane {
                scored: &shared.scored,
                seen: 0,
                alive: &mut || told.send(()).unwrap(),
            };
            lane.take(Pending(answered))
        });
        for _ in 0..2 {
            signs.recv_timeout(Duration::from_secs(60)).expect("a sign");
            shared.scored.fetch_add(1, Ordering::Relaxed);
        }
        answer.send(Ok(vec![1.0])).unwrap();
        assert_eq!(waits.join().unwrap(), Ok(vec![1.0]));
    });
}

#[tokio::test]
async fn beside_saturated_lanes_a_request_of_one_row_is_in_the_batch_after_the_one_at_work() {
    const ROW: Duration = Duration::from_micros(50);
    const ASKED: usize = 300;
    /// Batches that were begun, in which of them each request was, and how long full ones took.
    #[derive(Default)]
    struct Seen {
        begun: AtomicUsize,
        own: Mutex<Vec<(usize, usize)>>,
        took: Mutex<Vec<Duration>>,
    }
    let seen = Arc::new(Seen::default());
    let sees = Arc::clone(&seen);
    let model = fake::Model::new(1, fake::value(), move |rows, outputs| {
        let start = Instant::now();
        let batch = sees.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let requests = rows.iter().filter(|row| **row >= 0.0);
        let requests = requests.map(|row| (*row as usize, batch));
        sees.own.lock().unwrap().extend(requests);
        work(ROW * rows.len() as u32);
        outputs.extend_from_slice(rows);
        if rows.len() == 64 {
            sees.took.lock().unwrap().push(start.elapsed());
        }
    });
    let batching = Batching {
        workers: 1,
        ..Batching::default()
    };
    let metrics = ServingMetrics::register(&Registry::default()).queue("m", "1");
    let queue = Arc::new(Queue::start(model, &batching, metrics, Arc::default()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let lanes: Vec<_> = (0..2)
        .map(|_| {
            let (queue, stop) = (Arc::clone(&queue), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut outputs = Vec::new();
                    queue
                        .score_waiting(&[-1.0; 500], &mut outputs, &mut || {})
                        .unwrap();
                }
            })
        })
        .collect();
    let (mut later, mut waited) = (Vec::new(), Vec::new());
    for request in 0..ASKED {
        // The lanes have as much waiting as may.
        while queue.shared.lock().stream.rows < queue.shared.stream_rows_max / 2 {
            std::thread::yield_now();
        }
        let (asked_at, begun) = (Instant::now(), seen.begun.load(Ordering::SeqCst));
        let answer = queue.score(vec![request as f64], None).await;
        waited.push(asked_at.elapsed());
        assert_eq!(answer, Ok(vec![request as f64]));
        let own = seen.own.lock().unwrap().pop().expect("it was scored");
        assert_eq!(own.0, request);
        later.push(own.1 - begun);
    }
    stop.store(true, Ordering::Relaxed);
    for lane in lanes {
        lane.join().unwrap();
    }
    let mut took = seen.took.lock().unwrap().clone();
    for times in [&mut took, &mut waited] {
        times.sort_unstable();
    }
    later.sort_unstable();
    let (p99, batch) = (waited[ASKED * 99 / 100], took[took.len() / 2]);
    println!(
        "a request of one row beside two saturated lanes: p50 {:?}, p99 {p99:?}; a batch of 64 rows: {batch:?}; p99 is {:.2} batches",
        waited[ASKED / 2],
        p99.as_secs_f64() / batch.as_secs_f64()
    );
    // The next batch; or the one after it, where the next was closed between the look at the count and the question.
    assert!(later[ASKED / 2] <= 1, "{later:?}");
    assert!(later[ASKED * 99 / 100] <= 2, "{later:?}");
}
