//! Sums, means and standard deviations are exact, whatever the order.

mod common;

use common::{Owned, bits, push_and_look, reference::WideSum};
use proptest::{collection::vec, prelude::*};
use quadrille_history::{
    Aggregate, Current, Definition, Function, History, Pushed, Settings, Window,
};

fn definition(window: Window) -> Definition {
    let aggregate = |function| Aggregate {
        function,
        column: Some(0),
        window,
        filter: None,
        current: Current::Seen,
    };
    Definition::new(Settings {
        columns: 1,
        aggregates: [Function::Sum, Function::Mean, Function::StdDev]
            .map(aggregate)
            .into(),
        lateness_ms: 0,
        forget_after_ms: None,
        events_max: 4096,
    })
    .unwrap()
}

/// Seen from the newest, with `gap_ms` between events.
fn seen(definition: &Definition, values: &[f64], gap_ms: i64) -> Vec<f64> {
    let mut history = History::new();
    for (id, value) in (0..).zip(values) {
        let event = Owned {
            id,
            time_ms: id as i64 * gap_ms,
            reset: false,
            values: vec![*value],
        };
        assert!(matches!(
            history.push(definition, &event.event()),
            Pushed::New(_)
        ));
    }
    let mut seen = Vec::new();
    let newest_ms = history.newest_ms().unwrap_or(0);
    history.look_at(definition, newest_ms, &mut seen).unwrap();
    seen
}

/// Any finite double that sums take, of every magnitude.
fn summable() -> impl Strategy<Value = f64> {
    let finite = any::<u64>().prop_map(f64::from_bits);
    let any_magnitude = finite.prop_filter("too large", |v| v.abs() <= 1e150);
    prop_oneof![
        2 => any_magnitude,
        2 => -1e6..1e6,
        1 => (-1000..1000i32).prop_map(|cents| f64::from(cents) / 100.0),
        1 => (0..52i32).prop_map(|bit| 1.0 + f64::EPSILON * f64::from(bit).exp2()),
    ]
}

fn shuffled(count: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    vec(summable(), count)
        .prop_flat_map(|values| (Just(values.clone()), Just(values).prop_shuffle()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_sum_is_the_integer_sum_rounded_once_in_any_order_and_any_window(
        (values, shuffled) in shuffled(1..150),
    ) {
        let expected = WideSum::of(values.iter().copied());
        let windows = [Window::All, Window::Newest(1000), Window::Time { from_ms: 0, to_ms: 100_000 }];
        for (window, gap_ms) in windows.into_iter().flat_map(|w| [(w, 0), (w, 2)]) {
            let definition = definition(window);
            let one = seen(&definition, &values, gap_ms);
            let other = seen(&definition, &shuffled, gap_ms);
            prop_assert_eq!(one[0].to_bits(), expected.to_bits());
            prop_assert_eq!(bits(&one), bits(&other));
        }
    }

    #[test]
    fn opposite_values_cancel_whatever_lies_between(values in vec(summable(), 1..60)) {
        let mut all = values.clone();
        all.extend(values.iter().rev().map(|value| -value));
        all.push(0.1);
        prop_assert_eq!(seen(&definition(Window::All), &all, 1)[0], 0.1);
    }

    #[test]
    fn a_standard_deviation_far_from_zero_is_that_near_zero(
        values in vec(0..1000i32, 2..100), far in 0..40i32,
    ) {
        let far = f64::from(far).exp2();
        let near: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let away: Vec<f64> = near.iter().map(|v| v + far.trunc()).collect();
        let definition = definition(Window::All);
        prop_assert_eq!(seen(&definition, &near, 1)[2], seen(&definition, &away, 1)[2]);
    }

    #[test]
    fn a_standard_deviation_scales_with_its_values(
        values in vec(0..1000i32, 2..40), power in -400..480i32,
    ) {
        let scale = f64::from(power).exp2();
        let near: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let scaled: Vec<f64> = near.iter().map(|v| v * scale).collect();
        let definition = definition(Window::All);
        let near = seen(&definition, &near, 1)[2];
        prop_assert_eq!(near * scale, seen(&definition, &scaled, 1)[2]);
    }

    #[test]
    fn equal_values_do_not_deviate(value in summable(), count in 2..50usize) {
        // Closer to 0 the square of a value is no double.
        prop_assume!(value.abs() > 1e-140 || value == 0.0);
        prop_assert_eq!(seen(&definition(Window::All), &vec![value; count], 1)[2], 0.0);
    }
}

#[test]
fn values_too_large_to_be_added_count_as_missing_in_sums() {
    let seen = seen(
        &definition(Window::All),
        &[1.0, 2e150, -1e300, f64::INFINITY, 3.0],
        1,
    );
    assert_eq!(seen[..2], [4.0, 2.0]);
    assert_eq!(seen[2], 2f64.sqrt());
}

#[test]
fn the_largest_values_that_are_added_do_not_overflow() {
    let values: Vec<f64> = (0..20_000)
        .map(|i| if i % 2 == 0 { 1e150 } else { -1e150 })
        .collect();
    let seen = seen(&definition(Window::All), &values, 1);
    assert_eq!(seen[..2], [0.0, 0.0]);
    assert!((seen[2] / 1e150 - (20_000.0 / 19_999f64).sqrt()).abs() < 1e-15);
}

#[test]
fn an_ewma_halves_the_weight_with_each_half_life() {
    let aggregate = Aggregate {
        function: Function::Ewma { half_life_ms: 10 },
        column: Some(0),
        window: Window::All,
        filter: None,
        current: Current::Seen,
    };
    let definition = Definition::new(Settings {
        columns: 1,
        aggregates: vec![aggregate],
        lateness_ms: 0,
        forget_after_ms: None,
        events_max: 10,
    })
    .unwrap();
    let mut history = History::new();
    let mut push = |id, time_ms, value| {
        let values = vec![value];
        let event = Owned {
            id,
            time_ms,
            reset: false,
            values,
        };
        push_and_look(&definition, &mut history, &event).unwrap()[0]
    };
    assert_eq!(push(1, 0, 8.0), 8.0);
    assert_eq!(push(2, 10, 2.0), (8.0 * 0.5 + 2.0) / 1.5);
    assert_eq!(push(3, 10, f64::NAN), (8.0 * 0.5 + 2.0) / 1.5);
    assert_eq!(push(4, 30, 1.0), (6.0 * 0.25 + 1.0) / (1.5 * 0.25 + 1.0));
    assert_eq!(push(5, i64::MAX, 7.0), 7.0);
}

#[test]
fn times_at_the_ends_of_all_time_do_not_overflow() {
    let definition = definition(Window::Time {
        from_ms: 5,
        to_ms: 10,
    });
    let mut history = History::new();
    let mut out = Vec::new();
    for (id, time_ms) in (0..).zip([i64::MIN, i64::MIN, i64::MIN + 7, 0, i64::MAX - 6, i64::MAX]) {
        let values = vec![1.0];
        let event = Owned {
            id,
            time_ms,
            reset: false,
            values,
        };
        let Pushed::New(at) = history.push(&definition, &event.event()) else {
            panic!("{time_ms} was refused");
        };
        out.clear();
        history.look(&definition, at, &mut out);
    }
    assert_eq!(out[0], 1.0);
    let late = Owned {
        id: 9,
        time_ms: i64::MIN,
        reset: false,
        values: vec![1.0],
    };
    assert_eq!(
        history.push(&definition, &late.event()),
        Pushed::Late { by_ms: i64::MAX }
    );
}
