//! What is stored: its size, how often it is written, and what happens when it is garbage.

mod common;

use common::{
    Owned, Rows, load, push_and_look, store,
    strategy::{SMALL, settings, steps},
};
use proptest::{prelude::*, sample::Index};
use quadrille_history::{
    Aggregate, Current, Definition, Filter, Function, History, Pushed, Settings, Window,
};

fn aggregate(function: Function, window: Window) -> Aggregate {
    Aggregate {
        function,
        column: Some(0),
        window,
        filter: None,
        current: Current::Seen,
    }
}

fn definition(aggregates: Vec<Aggregate>, events_max: usize, lateness_ms: i64) -> Definition {
    Definition::new(Settings {
        columns: 1,
        aggregates,
        lateness_ms,
        forget_after_ms: None,
        events_max,
    })
    .unwrap()
}

fn event(id: u64, time_ms: i64, value: f64) -> Owned {
    Owned {
        id,
        time_ms,
        reset: false,
        values: vec![value],
    }
}

/// The rows after a stream.
fn rows(settings: &Settings, steps: &[common::strategy::Step]) -> (Definition, Rows) {
    let definition = Definition::new(settings.clone()).unwrap();
    let mut history = History::new();
    let mut time_ms = 0;
    for (id, step) in (0..).zip(steps) {
        time_ms += step.gap_ms;
        let event = Owned {
            id,
            time_ms: time_ms - step.late_ms,
            reset: step.reset,
            values: step.values.clone(),
        };
        let _ = push_and_look(&definition, &mut history, &event);
    }
    let mut rows = Rows::new();
    store(&definition, &mut history, &mut rows);
    (definition, rows)
}

/// If anything was read, it goes on without a panic.
fn use_history(definition: &Definition, rows: &Rows) {
    let Ok(mut history) = load(definition, rows) else {
        return;
    };
    let mut out = Vec::new();
    let newest_ms = history.newest_ms().unwrap_or(0);
    let _ = history.look_at(definition, newest_ms, &mut out);
    for (id, time_ms) in (1_000_000..).zip([0, 1, 20, 40, 2000]) {
        let time_ms = newest_ms.saturating_add(time_ms);
        let values = vec![1.0, 2.0, f64::NAN];
        let event = Owned {
            id,
            time_ms,
            reset: false,
            values,
        };
        if let Ok(seen) = push_and_look(definition, &mut history, &event) {
            assert!(seen.iter().all(|v| v.is_finite() || v.is_nan()));
        }
    }
    assert!(history.bytes() < 10 << 20);
    history.changes(definition, |_, bytes| {
        assert!(bytes.is_none_or(|bytes| bytes.len() <= definition.row_bytes_max()));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_row_cut_short_or_made_longer_is_corrupt(settings in settings(SMALL), steps in steps(SMALL)) {
        let (definition, rows) = rows(&settings, &steps);
        for (row, bytes) in &rows {
            for length in 0..bytes.len() {
                let mut cut = rows.clone();
                cut.insert(*row, bytes[..length].to_vec());
                prop_assert_eq!(load(&definition, &cut).unwrap_err().row, *row);
            }
            let mut longer = rows.clone();
            longer.insert(*row, [bytes, &[0][..]].concat());
            prop_assert_eq!(load(&definition, &longer).unwrap_err().row, *row);
        }
    }

    #[test]
    fn a_row_with_flipped_bytes_is_corrupt_or_a_history(
        settings in settings(SMALL),
        steps in steps(SMALL),
        flips in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>(), 1..4usize), 60),
    ) {
        let (definition, rows) = rows(&settings, &steps);
        for (row, byte, value, count) in flips {
            let mut flipped = rows.clone();
            let row = *row.get(&rows.keys().collect::<Vec<_>>());
            let bytes = flipped.get_mut(row).unwrap();
            // Lengths and flags are at the front.
            let near = [bytes.len(), 24.min(bytes.len())][usize::from(value % 2)];
            for i in 0..count {
                let at = (byte.index(near) + i * 7) % bytes.len();
                bytes[at] ^= value;
            }
            use_history(&definition, &flipped);
        }
    }

    #[test]
    fn garbage_is_corrupt_or_a_history(
        settings in settings(SMALL),
        rows in prop::collection::btree_map(
            0..4u32, prop::collection::vec(any::<u8>(), 0..600), 0..4),
    ) {
        let definition = Definition::new(settings).unwrap();
        let versioned = rows.into_iter().map(|(row, mut bytes)| {
            bytes.insert(0, 1);
            (row, bytes)
        });
        use_history(&definition, &versioned.collect());
    }

    #[test]
    fn a_row_that_is_lost_is_noticed_or_a_shorter_past(
        settings in settings(SMALL), steps in steps(SMALL), lost in any::<Index>(),
    ) {
        let (definition, mut rows) = rows(&settings, &steps);
        let row = **lost.get(&rows.keys().collect::<Vec<_>>());
        rows.remove(&row);
        use_history(&definition, &rows);
    }
}

#[test]
fn no_rows_are_an_empty_history() {
    let definition = definition(vec![aggregate(Function::Sum, Window::All)], 100, 0);
    let history = load(&definition, &Rows::new()).unwrap();
    assert_eq!(history.newest_ms(), None);
    let mut out = vec![7.0];
    history.look_at(&definition, 5, &mut out).unwrap();
    assert_eq!(out, [7.0, 0.0]);
}

#[test]
fn a_push_changes_one_row_in_the_usual_case() {
    let week = Window::Time {
        from_ms: 0,
        to_ms: 100,
    };
    let all = vec![
        aggregate(Function::Sum, week),
        aggregate(Function::Mean, Window::All),
    ];
    let definition = definition(all, 1000, 10);
    let (mut history, mut rows) = (History::new(), Rows::new());
    let mut written = 0;
    for i in 0..1600 {
        let pushed = push_and_look(&definition, &mut history, &event(i, i as i64, 1.5));
        assert_eq!(pushed.unwrap(), [1.5 * (i + 1).min(100) as f64, 1.5]);
        written += store(&definition, &mut history, &mut rows);
    }
    // Once in 16 pushes a bucket is dropped and the prefix is written.
    assert!(written <= 1600 + 2 * 100, "{written} rows were written");
    assert!(rows.len() <= 1 + 9, "{} rows are kept", rows.len());
    assert!(rows.values().map(Vec::len).sum::<usize>() < 9 * 400);
}

#[test]
fn a_full_key_takes_events_again_as_time_goes_on() {
    let time = |to_ms| Window::Time { from_ms: 0, to_ms };
    let rare = Aggregate {
        filter: Some(Filter {
            column: 0,
            values: vec![-1.0],
        }),
        ..aggregate(Function::Last, Window::Newest(50))
    };
    for (aggregates, lateness_ms) in [
        (vec![aggregate(Function::Median, time(50))], 0),
        (vec![aggregate(Function::Sum, Window::Newest(10_000))], 30),
        (vec![rare, aggregate(Function::Lag(500), Window::All)], 70),
        (
            vec![
                aggregate(Function::Sum, time(10)),
                aggregate(Function::Sum, Window::All),
            ],
            40,
        ),
    ] {
        for events_max in [1, 2, 15, 16, 17, 40] {
            let definition = definition(aggregates.clone(), events_max, lateness_ms);
            let mut history = History::new();
            let mut next = 0..;
            let mut push = |time_ms| {
                let event = event(next.next().unwrap(), time_ms, 1.0);
                history.push(&definition, &event.event())
            };
            for _ in 0..events_max {
                assert!(matches!(push(0), Pushed::New(_)));
            }
            assert_eq!(push(0), Pushed::Full);
            for round in 1..20 {
                assert!(matches!(push(round * 200), Pushed::New(_)), "{events_max}");
            }
        }
    }
}

#[test]
fn what_is_newest_survives_that_its_event_is_dropped() {
    let rare = Filter {
        column: 0,
        values: vec![7.0],
    };
    let of_rare = |function, window| Aggregate {
        filter: Some(rare.clone()),
        ..aggregate(function, window)
    };
    let definition = definition(
        vec![
            of_rare(Function::Count, Window::Newest(3)),
            of_rare(Function::TimeSince, Window::All),
            of_rare(Function::Last, Window::All),
            of_rare(Function::Lag(1), Window::All),
            of_rare(Function::Median, Window::Newest(2)),
        ],
        20,
        0,
    );
    let (mut history, mut rows) = (History::new(), Rows::new());
    let mut seen = Vec::new();
    for i in 0..5000 {
        let value = if i == 10 || i == 11 { 7.0 } else { 1.0 };
        let pushed = push_and_look(&definition, &mut history, &event(i, i as i64 * 1000, value));
        seen = pushed.unwrap();
        store(&definition, &mut history, &mut rows);
    }
    assert_eq!(seen, [2.0, 4988.0, 7.0, 7.0, 7.0]);
    assert!(rows.len() <= 4);
}

#[test]
fn forgetting_deletes_all_rows() {
    let mut settings = definition(vec![aggregate(Function::Count, Window::All)], 50, 0)
        .settings()
        .clone();
    settings.forget_after_ms = Some(1000);
    let definition = Definition::new(settings).unwrap();
    let (mut history, mut rows) = (History::new(), Rows::new());
    for i in 0..100 {
        push_and_look(&definition, &mut history, &event(i, i as i64, 1.0)).unwrap();
    }
    store(&definition, &mut history, &mut rows);
    assert!(rows.contains_key(&0));
    let mut out = Vec::new();
    history.look_at(&definition, 1098, &mut out).unwrap();
    history.look_at(&definition, 1099, &mut out).unwrap();
    assert_eq!(out, [100.0, 0.0]);
    assert_eq!(
        push_and_look(&definition, &mut history, &event(100, 1099, 1.0)).unwrap(),
        [1.0]
    );
    store(&definition, &mut history, &mut rows);
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_row_of_another_version_is_corrupt() {
    let definition = definition(vec![aggregate(Function::Sum, Window::All)], 100, 0);
    let rows = Rows::from([(1, vec![2, 1, 0, 0])]);
    let corrupt = load(&definition, &rows).unwrap_err();
    assert_eq!(
        corrupt.to_string(),
        "row 1 of a key's history is corrupt: it is of no known version"
    );
}
