//! Settings that are refused, and fingerprints.

use quadrille_history::{
    Aggregate, Current, Definition, Filter, Function, Settings, Window, definition::Error,
};

const DAY: Window = Window::Time {
    from_ms: 0,
    to_ms: 86_400_000,
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

fn settings(aggregates: Vec<Aggregate>) -> Settings {
    Settings {
        columns: 2,
        aggregates,
        lateness_ms: 60_000,
        forget_after_ms: Some(1 << 40),
        events_max: 10_000,
    }
}

fn refusal(aggregate: Aggregate) -> Error {
    Definition::new(settings(vec![aggregate])).unwrap_err()
}

#[test]
fn aggregates_without_sense_are_refused() {
    let time = |from_ms, to_ms| aggregate(Function::Sum, Window::Time { from_ms, to_ms });
    let (all, newest) = (Window::All, Window::Newest(5));
    let without = |function| Aggregate {
        column: None,
        ..aggregate(function, DAY)
    };
    let filtered = |column, values| Aggregate {
        filter: Some(Filter { column, values }),
        ..aggregate(Function::Count, DAY)
    };
    let missing = |column| Error::NoColumn {
        aggregate: 0,
        column,
        columns: 2,
    };
    for (aggregate, error) in [
        (time(0, 0), Error::Time(0)),
        (time(5, 5), Error::Time(0)),
        (time(6, 5), Error::Time(0)),
        (time(-1, 5), Error::Time(0)),
        (time(0, i64::MAX), Error::Time(0)),
        (
            aggregate(Function::Sum, Window::Newest(0)),
            Error::Newest(0),
        ),
        (aggregate(Function::Lag(0), all), Error::Lag(0)),
        (aggregate(Function::Median, all), Error::Unbounded(0)),
        (aggregate(Function::Distinct, all), Error::Unbounded(0)),
        (aggregate(Function::Rate { per_ms: 1 }, all), Error::Rate(0)),
        (
            aggregate(Function::Rate { per_ms: 1 }, newest),
            Error::Rate(0),
        ),
        (
            aggregate(Function::Rate { per_ms: 0 }, DAY),
            Error::Duration(0),
        ),
        (
            aggregate(Function::Ewma { half_life_ms: 1 }, DAY),
            Error::Ewma(0),
        ),
        (
            aggregate(Function::Ewma { half_life_ms: 0 }, all),
            Error::Duration(0),
        ),
        (without(Function::Sum), Error::ColumnNeeded(0)),
        (without(Function::Last), Error::ColumnNeeded(0)),
        (filtered(2, vec![1.0]), missing(2)),
        (filtered(1, vec![]), Error::Filter(0)),
        (filtered(1, vec![f64::NAN]), Error::Filter(0)),
        (filtered(1, vec![1.0; 65]), Error::Filter(0)),
    ] {
        assert_eq!(refusal(aggregate), error);
    }
    let column = Aggregate {
        column: Some(9),
        ..aggregate(Function::Sum, DAY)
    };
    assert_eq!(refusal(column), missing(9));
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let good = settings(vec![aggregate(Function::Sum, DAY)]);
    let refusal = |change: fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        Definition::new(settings).unwrap_err()
    };
    assert_eq!(refusal(|s| s.lateness_ms = -1), Error::Lateness(-1));
    assert_eq!(
        refusal(|s| s.lateness_ms = i64::MAX),
        Error::Lateness(i64::MAX)
    );
    assert_eq!(
        refusal(|s| s.forget_after_ms = Some(0)),
        Error::ForgetAfter(0)
    );
    assert_eq!(refusal(|s| s.events_max = 0), Error::EventsMax(0));
    assert_eq!(
        refusal(|s| s.events_max = usize::MAX),
        Error::EventsMax(usize::MAX)
    );
    assert_eq!(refusal(|s| s.columns = 1025), Error::Columns(1025));
    let many = refusal(|s| s.aggregates = vec![s.aggregates[0].clone(); 257]);
    assert_eq!(many, Error::Aggregates(257));
}

#[test]
fn a_past_that_does_not_fit_into_a_row_is_refused() {
    for (function, window) in [
        (Function::Sum, Window::Newest(30_000)),
        (Function::Sum, Window::Newest(u32::MAX)),
        (Function::Lag(u32::MAX), Window::All),
    ] {
        let error = refusal(aggregate(function, window));
        assert!(matches!(error, Error::Row { max: 524_288, .. }), "{error}");
    }
    let definition = Definition::new(settings(vec![aggregate(
        Function::Sum,
        Window::Newest(29_000),
    )]));
    assert_eq!(definition.unwrap().row_bytes_max(), 29_000 * 18 + 11);
}

#[test]
fn a_refusal_says_what_to_do() {
    assert_eq!(
        refusal(aggregate(Function::Lag(0), Window::All)).to_string(),
        "aggregate 0: lag 0 is the newest value; use `last`, or a lag of 1 or more"
    );
}

#[test]
fn every_setting_changes_the_fingerprint() {
    let good = settings(vec![aggregate(Function::Sum, DAY)]);
    let changes: [fn(&mut Settings); 12] = [
        |_| {},
        |s| s.columns = 3,
        |s| s.lateness_ms = 1,
        |s| s.forget_after_ms = None,
        |s| s.events_max = 5,
        |s| s.aggregates.push(s.aggregates[0].clone()),
        |s| s.aggregates[0].column = Some(1),
        |s| s.aggregates[0].function = Function::Mean,
        |s| s.aggregates[0].function = Function::Lag(3),
        |s| s.aggregates[0].window = Window::Newest(3),
        |s| s.aggregates[0].current = Current::Excluded,
        |s| {
            s.aggregates[0].filter = Some(Filter {
                column: 0,
                values: vec![1.0],
            })
        },
    ];
    let fingerprint = |change: fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        Definition::new(settings).unwrap().fingerprint()
    };
    let all: std::collections::BTreeSet<_> = changes.into_iter().map(fingerprint).collect();
    assert_eq!(all.len(), 12);
    assert_eq!(fingerprint(|_| {}), fingerprint(|_| {}));
}
