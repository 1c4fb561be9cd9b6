//! Settings and streams of events at random, in small numbers so that everything happens.

use proptest::{collection::vec, prelude::*, sample::select};
use quadrille_history::{Aggregate, Current, Filter, Function, Settings, Window};

/// What to generate.
#[derive(Debug, Clone)]
pub struct Scale {
    pub pushes: std::ops::Range<usize>,
    /// Of windows, lateness and forgetting.
    pub span_ms: i64,
    /// Between events.
    pub gap_ms: i64,
    pub events_max: std::ops::Range<usize>,
    pub newest_max: u32,
    /// How often a reset and a long gap come.
    pub breaks: f64,
}

pub const SMALL: Scale = Scale {
    pushes: 1..160,
    span_ms: 80,
    gap_ms: 6,
    events_max: 20..60,
    newest_max: 25,
    breaks: 0.02,
};

/// Enough events for summaries of summaries.
pub const LARGE: Scale = Scale {
    pushes: 900..1400,
    span_ms: 900,
    gap_ms: 2,
    events_max: 600..1500,
    newest_max: 800,
    breaks: 0.0005,
};

/// One step of a stream.
#[derive(Debug, Clone)]
pub struct Step {
    pub gap_ms: i64,
    /// How late the event is.
    pub late_ms: i64,
    pub reset: bool,
    /// The id is that of the event so many before.
    pub repeats: Option<usize>,
    pub values: Vec<f64>,
    pub what: What,
}

/// What happens after a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Nothing,
    Store,
    StoreAndLoad,
}

const COLUMNS: usize = 3;

pub fn settings(scale: Scale) -> impl Strategy<Value = Settings> {
    let span = scale.span_ms;
    (
        vec(aggregate(scale.clone()), 1..10),
        prop_oneof![Just(0), 1..span / 2],
        prop_oneof![3 => Just(None), 1 => (span..span * 4).prop_map(Some)],
        scale.events_max,
    )
        .prop_map(
            |(aggregates, lateness_ms, forget_after_ms, events_max)| Settings {
                columns: COLUMNS,
                aggregates,
                lateness_ms,
                forget_after_ms,
                events_max,
            },
        )
}

fn aggregate(scale: Scale) -> impl Strategy<Value = Aggregate> {
    let span = scale.span_ms;
    let time = (prop_oneof![2 => Just(0), 1 => 0..span / 2], 1..span);
    let time = time.prop_map(|(from_ms, length)| Window::Time {
        from_ms,
        to_ms: from_ms + length,
    });
    let newest = (1..scale.newest_max).prop_map(Window::Newest);
    let function = prop_oneof![
        Just(Function::Count),
        Just(Function::Sum),
        Just(Function::Mean),
        Just(Function::Min),
        Just(Function::Max),
        Just(Function::Median),
        Just(Function::StdDev),
        (1..1000i64).prop_map(|per_ms| Function::Rate { per_ms }),
        (1..span).prop_map(|half_life_ms| Function::Ewma { half_life_ms }),
        Just(Function::Last),
        (1..scale.newest_max).prop_map(Function::Lag),
        Just(Function::TimeSince),
        Just(Function::Distinct),
    ];
    let filter = (0..COLUMNS, vec(select(&[0.0, 1.0, 2.0, 2.5][..]), 1..3))
        .prop_map(|(column, values)| Filter { column, values });
    (
        function,
        (0..COLUMNS, any::<bool>()),
        (
            time.clone(),
            prop_oneof![time, newest.clone(), Just(Window::All)],
            newest,
        ),
        prop_oneof![2 => Just(None), 1 => filter.prop_map(Some)],
        select(&[Current::Seen, Current::Excluded][..]),
    )
        .prop_map(|(function, (column, without), windows, filter, current)| {
            let (time, any, newest) = windows;
            let column_free = matches!(
                function,
                Function::Count | Function::Rate { .. } | Function::TimeSince
            );
            Aggregate {
                function,
                column: (!(column_free && without)).then_some(column),
                window: match function {
                    Function::Rate { .. } => time,
                    Function::Ewma { .. } => Window::All,
                    Function::Median | Function::Distinct if any == Window::All => newest,
                    _ => any,
                },
                filter,
                current,
            }
        })
}

pub fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0..6i32).prop_map(|n| f64::from(n) / 2.0),
        4 => (-4000..4000i32).prop_map(|n| f64::from(n) / 4.0),
        2 => Just(f64::NAN),
        2 => (-1000..1000i32).prop_map(|n| f64::from(n) * 0.1),
        1 => select(&[-0.0, 1e16, -1e16, 1e-9, 1e200, -1e300, f64::INFINITY, 3e-320, 1e100][..]),
    ]
}

pub fn steps(scale: Scale) -> impl Strategy<Value = Vec<Step>> {
    let span = scale.span_ms;
    let gap = (
        0..=scale.gap_ms,
        prop::bool::weighted(scale.breaks),
        0..span * 5,
    )
        .prop_map(|(gap_ms, long, long_ms)| if long { long_ms } else { gap_ms });
    let late = prop_oneof![6 => Just(0), 2 => 0..span / 2, 1 => 0..span];
    let step = (
        gap,
        late,
        prop::bool::weighted(scale.breaks),
        prop_oneof![12 => Just(None), 1 => (0..20usize).prop_map(Some)],
        vec(value(), COLUMNS),
        prop_oneof![6 => Just(What::Nothing), 3 => Just(What::Store), 1 => Just(What::StoreAndLoad)],
    );
    let step = step.prop_map(|(gap_ms, late_ms, reset, repeats, values, what)| Step {
        gap_ms,
        late_ms,
        reset,
        repeats,
        values,
        what,
    });
    vec(step, scale.pushes)
}
