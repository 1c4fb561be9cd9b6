//! The queue with a model that waits where it is told to.

use std::{
    sync::{Barrier, mpsc},
    time::Duration,
};

use quadrille_model::Outputs;
use quadrille_telemetry::{Registry, metrics::ServingMetrics};

use super::*;

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
    World {
        queue: Arc::new(Queue::start(model, batching, metrics).unwrap()),
        registry,
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
    assert_eq!(refused, Err(Refused::Overloaded));
    world.gate.wait();
    assert_eq!(first.await.unwrap(), Ok(vec![2.0]));
    assert_eq!(late.await.unwrap(), Err(Refused::Expired));
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
    assert_eq!(b.await.unwrap(), Err(Refused::Failed));
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
    assert_eq!(refused, Err(Refused::Failed));
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
    // One whose time is up is not begun.
    let late = world
        .queue
        .score(vec![2.0; 1_000], Some(Instant::now()))
        .await;
    assert_eq!(late, Err(Refused::Expired));
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
