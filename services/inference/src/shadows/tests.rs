//! Shadows that are slow, stuck, wrong, or panic.

use std::sync::{Arc, Mutex, mpsc};

use proptest::prelude::*;
use quadrille_telemetry::{Registry, metrics::ServingMetrics};

use super::*;
use crate::fake::{self, work};

struct World {
    variant: Variant,
    shadow: Shadow,
    registry: Registry,
}

impl World {
    fn new(queued: bool, score: impl Fn(&[f64], &mut Vec<f64>) + Send + Sync + 'static) -> Self {
        let registry = Registry::default();
        let model = fake::Model::new(1, fake::value(), score);
        let loaded = Arc::new(fake::loaded(model, queued, &Registry::default()));
        let variant = Variant {
            name: "watch".to_owned(),
            loaded,
            width: 1,
            config_hash: [0; 32],
            metrics: ServingMetrics::register(&registry).variant("ward", "watch", "m", "1"),
        };
        World {
            variant,
            shadow: Shadow::new(0, 1, Instant::now()),
            registry,
        }
    }

    /// The lane's next batch: how many predictions of the shadow it has.
    fn batch(&mut self, rows: &[f64]) -> usize {
        self.shadow.score(&self.variant, rows, 1);
        let predictions = rows.iter().enumerate().filter(|(at, row)| {
            let outputs = self.shadow.prediction(&self.variant, *at, &[**row]);
            outputs.is_some_and(|outputs| outputs == [**row * 2.0])
        });
        let count = predictions.count();
        let failed = std::mem::take(&mut self.shadow.failed);
        self.variant.metrics.missed(Missed::Failed, failed);
        count
    }

    /// What the metrics say: predictions made, records missed for want of time, and those it failed on.
    fn counted(&self) -> [usize; 3] {
        let text = self.registry.encode();
        let of = |name: &str, reason: &str| {
            let line = text.lines().find(|line| {
                line.starts_with(name) && line.contains("\"watch\"") && line.contains(reason)
            });
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
                .unwrap_or(0)
        };
        let missed = "quadrille_shadow_missed_total{";
        [
            of("quadrille_variant_records_total{", ""),
            of(missed, "reason=\"budget\""),
            of(missed, "reason=\"failed\""),
        ]
    }
}

fn double(rows: &[f64], outputs: &mut Vec<f64>) {
    outputs.extend(rows.iter().map(|row| row * 2.0));
}

#[test]
fn a_fast_shadow_predicts_every_record_of_every_batch() {
    let mut world = World::new(false, double);
    let rows: Vec<f64> = (0..100).map(f64::from).collect();
    for _ in 0..10 {
        assert_eq!(world.batch(&rows), 100);
    }
    assert_eq!(world.counted(), [1_000, 0, 0]);
}

#[test]
fn a_slow_shadow_has_its_share_of_a_lanes_time_and_what_it_misses_is_counted() {
    // A row of it takes a millisecond, a batch of 100 rows all else 4 ms: to score everything would make the pipeline 26 times slower.
    let mut world = World::new(false, |rows, outputs| {
        work(Duration::from_millis(1) * rows.len() as u32);
        double(rows, outputs);
    });
    let start = Instant::now();
    let (mut of_shadow, mut predicted) = (Duration::ZERO, 0);
    for _ in 0..100 {
        work(Duration::from_millis(4));
        let start = Instant::now();
        predicted += world.batch(&[1.0; 100]);
        of_shadow += start.elapsed();
    }
    let share = of_shadow.as_secs_f64() / start.elapsed().as_secs_f64();
    println!("a shadow of 1 ms a row beside batches of 4 ms has {share:.3} of the lane's time");
    // A fifth, and the budget that it had saved; other processes may hold it up at any time.
    assert!(share < 0.4, "{share} of the time, {predicted} predictions");
    let [scored, late, failed] = world.counted();
    assert_eq!((scored, scored + late, failed), (predicted, 10_000, 0));
    assert!(predicted > 0 && late > 5_000, "{predicted} predictions");
}

#[test]
fn a_lane_does_not_wait_for_a_shadow_that_stands_still_in_its_queue() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut world = World::new(true, move |rows, outputs| {
        let _ = gate.lock().expect("one thread").recv();
        double(rows, outputs);
    });
    // It gets an answer to none of these, nor does the lane wait for more than one piece.
    for _ in 0..50 {
        assert_eq!(world.batch(&[1.0; 10]), 0);
    }
    assert_eq!(world.counted(), [0, 500, 0]);
    drop(go);
    // It pays back what it took, then it predicts again.
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.batch(&[1.0]) == 0 {
        assert!(Instant::now() < deadline, "not within a minute");
        std::thread::yield_now();
    }
    assert_eq!(world.counted()[0], 1);
}

#[test]
fn a_shadow_that_panics_or_answers_no_number_costs_its_own_predictions_only() {
    for queued in [false, true] {
        let mut world = World::new(queued, |rows, outputs| {
            assert!(!rows.contains(&13.0), "thirteen");
            outputs.extend(rows.iter().map(|row| match row {
                7.0 => f64::NAN,
                row => row * 2.0,
            }));
        });
        assert_eq!(world.batch(&[1.0, 13.0, 2.0]), 0);
        let [_, late, failed] = world.counted();
        // Telling of a panic takes its time, which may be more than the shadow has.
        assert_eq!(late + failed, 3);
        let deadline = Instant::now() + Duration::from_secs(60);
        // What a queue took is paid back first.
        while world.batch(&[1.0]) == 0 {
            assert!(Instant::now() < deadline, "not within a minute");
        }
        let failed = world.counted()[2];
        // Until its time is enough for both rows.
        let (mut batch, mut now) = (0, failed);
        while now == failed {
            assert!(Instant::now() < deadline, "not within a minute");
            batch = world.batch(&[1.0, 7.0]);
            now = world.counted()[2];
        }
        assert_eq!((batch, now), (1, failed + 1), "the seven has none");
    }
}

#[test]
fn a_slow_shadow_sees_the_beginning_of_a_batch_or_one_row() {
    let rows: Vec<f64> = (0..4_000).map(f64::from).collect();
    let budget = Duration::from_millis(50);
    let mut seen = Vec::new();
    let all: Result<(), ()> = within(budget, Pace::default(), &rows, 2, |piece| {
        work(Duration::from_millis(2) * (piece.len() / 2) as u32);
        seen.extend_from_slice(piece);
        ControlFlow::Continue(())
    });
    assert_eq!(all, Ok(()));
    assert!((2..=100).contains(&seen.len()), "{} numbers", seen.len());
    assert_eq!(seen, rows[..seen.len()]);
    for pace in [Pace::default(), Pace { row: budget * 2 }] {
        let mut pieces = Vec::new();
        let one: Result<(), ()> = within(budget, pace, &rows, 1, |piece| {
            work(budget);
            pieces.push(piece.len());
            ControlFlow::Continue(())
        });
        assert_eq!((one, pieces), (Ok(()), vec![1]));
    }
}

#[test]
fn where_a_thread_loses_its_core_its_shadow_pays_for_its_own_time_only() {
    let us = Duration::from_micros;
    let mut pace = Pace::default();
    assert_eq!(pace.cost(10, us(500)), us(500), "nothing is known yet");
    pace.measured(10, us(100));
    assert_eq!((pace.row, pace.rows(us(1_000))), (us(10), Some(100)));
    assert_eq!(pace.cost(10, us(30_000)), us(200));
    assert_eq!(pace.cost(10, us(90)), us(90));
    // One that became slower is believed within some batches.
    for _ in 0..60 {
        pace.measured(10, us(10_000));
    }
    assert!(pace.row > us(900), "{pace:?}");
}

proptest! {
    #[test]
    fn shadows_never_have_more_than_their_share_and_what_was_saved(
        shadows in 1_usize..4,
        steps in prop::collection::vec((0_u64..50_000, 0_u64..50_000), 1..100),
    ) {
        let us = Duration::from_micros;
        let start = Instant::now();
        let mut now = start;
        let mut allowance = Allowance::new(shadows, now);
        let (mut taken, mut last) = (Duration::ZERO, Duration::ZERO);
        for (wait, work) in steps {
            now += us(wait);
            let left = allowance.left(now);
            prop_assert!(left <= BUDGET / shadows as u32);
            if left.is_zero() {
                continue;
            }
            // It may take more than it has: a row is not interrupted.
            let took = us(work);
            now += took;
            allowance.spent(took);
            taken += took;
            last = took;
        }
        let share = (now - start) / SHARE / shadows as u32;
        let most = share + BUDGET / shadows as u32 + last + us(1);
        prop_assert!(taken <= most, "{taken:?} of {:?}, at most {most:?}", now - start);
    }
}
