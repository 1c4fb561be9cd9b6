//! What a push and a look cost: `cargo run --release -p quadrille-history --example speed`.

use std::{hint::black_box, time::Instant};

use quadrille_history::{
    Aggregate, Current, Definition, Event, Function, History, Pushed, Settings, Window,
};

const HOUR_MS: i64 = 3_600_000;

fn main() {
    let windows =
        [HOUR_MS, 24 * HOUR_MS, 168 * HOUR_MS].map(|to_ms| Window::Time { from_ms: 0, to_ms });
    let of_each = |functions: &[Function]| {
        let pairs = windows
            .iter()
            .flat_map(|window| functions.iter().map(|f| (*f, *window)));
        definition(pairs.collect())
    };
    let sums = of_each(&[Function::Count, Function::Sum, Function::Mean]);
    let moments = of_each(&[Function::Mean, Function::Max, Function::StdDev]);
    let all = definition(vec![
        (Function::Mean, Window::All),
        (
            Function::Ewma {
                half_life_ms: HOUR_MS,
            },
            Window::All,
        ),
        (Function::Last, Window::All),
        (Function::Lag(1), Window::All),
        (Function::TimeSince, Window::All),
    ]);
    for (name, definition) in [
        ("3 windows of count, sum, mean", &sums),
        ("3 windows of mean, max, stddev", &moments),
        ("mean, ewma, last, lag, time since", &all),
    ] {
        println!("{name}");
        many_keys(definition, 1_000);
        many_keys(definition, 100_000);
        stored_keys(definition);
        hot_key(definition, 0);
        hot_key(definition, 20);
    }
}

fn definition(aggregates: Vec<(Function, Window)>) -> Definition {
    let aggregates = aggregates.into_iter().map(|(function, window)| Aggregate {
        function,
        column: Some(0),
        window,
        filter: None,
        current: Current::Seen,
    });
    Definition::new(Settings {
        columns: 2,
        aggregates: aggregates.collect(),
        lateness_ms: HOUR_MS,
        forget_after_ms: None,
        events_max: 100_000,
    })
    .expect("the settings make sense")
}

/// Numbers without order, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 29
    }

    fn event(&mut self, time_ms: i64, values: &mut [f64; 2], mut use_it: impl FnMut(&Event<'_>)) {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        *values = [
            (self.next() % 100_000) as f64 / 100.0,
            (self.next() % 8) as f64,
        ];
        use_it(&Event {
            id,
            time_ms,
            reset: false,
            values,
        });
    }
}

fn push(definition: &Definition, history: &mut History, event: &Event<'_>, out: &mut Vec<f64>) {
    if let Pushed::New(at) = history.push(definition, event) {
        out.clear();
        history.look(definition, at, out);
        black_box(&out);
    }
}

/// Keys in memory, an event of each every day: 7 in the longest window. 1,000 keys are in the processor's caches.
fn many_keys(definition: &Definition, keys: usize) {
    let rounds = 12;
    let mut histories = vec![History::new(); keys];
    let (mut numbers, mut values, mut out) = (Numbers(1), [0.0; 2], Vec::new());
    let mut started = Instant::now();
    for round in 0..rounds {
        if round == 2 {
            started = Instant::now();
        }
        for key in 0..keys {
            let history = &mut histories[key * 7919 % keys];
            numbers.event(round * 24 * HOUR_MS, &mut values, |event| {
                push(definition, history, event, &mut out)
            });
        }
    }
    report(
        &format!("{keys} keys, few events"),
        started,
        keys as f64 * (rounds - 2) as f64,
    );
    let bytes: usize = histories.iter().map(History::bytes).sum();
    println!("  {:40}{:8} bytes per key", "", bytes / keys);
}

/// The same with each key loaded from its rows and its changes encoded.
fn stored_keys(definition: &Definition) {
    let (keys, rounds) = (20_000, 12);
    let mut stores: Vec<Vec<(u32, Vec<u8>)>> = vec![Vec::new(); keys];
    let (mut numbers, mut values, mut out) = (Numbers(1), [0.0; 2], Vec::new());
    let mut started = Instant::now();
    for round in 0..rounds {
        if round == 2 {
            started = Instant::now();
        }
        for rows in &mut stores {
            let stored = rows.iter().map(|(row, bytes)| (*row, bytes.as_slice()));
            let mut history = History::load(definition, stored).expect("rows as they were written");
            numbers.event(round * 24 * HOUR_MS, &mut values, |event| {
                push(definition, &mut history, event, &mut out);
            });
            history.changes(definition, |row, bytes| {
                let place = rows.iter().position(|(known, _)| *known == row);
                match (bytes, place) {
                    (Some(bytes), Some(place)) => {
                        rows[place].1.clear();
                        rows[place].1.extend_from_slice(bytes);
                    }
                    (Some(bytes), None) => rows.push((row, bytes.to_vec())),
                    (None, place) => drop(place.map(|place| rows.remove(place))),
                }
            });
        }
    }
    report(
        "20000 keys, loaded and stored each time",
        started,
        keys as f64 * (rounds - 2) as f64,
    );
    let bytes: usize = stores.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
    println!("  {:40}{:8} bytes stored per key", "", bytes / keys);
}

/// One key with 10,000 events in the longest window, some of them late.
fn hot_key(definition: &Definition, late_percent: u64) {
    let events = 60_000;
    let gap_ms = 168 * HOUR_MS / 10_000;
    let mut history = History::new();
    let (mut numbers, mut values, mut out) = (Numbers(2), [0.0; 2], Vec::new());
    let mut started = Instant::now();
    for i in 0..events {
        if i == 20_000 {
            started = Instant::now();
        }
        let late = numbers.next() % 100 < late_percent;
        let late_ms = if late {
            (numbers.next() % HOUR_MS as u64) as i64
        } else {
            0
        };
        numbers.event(i * gap_ms - late_ms, &mut values, |event| {
            push(definition, &mut history, event, &mut out)
        });
        history.changes(definition, |_, bytes| {
            assert!(black_box(bytes).is_none_or(|bytes| !bytes.is_empty()))
        });
    }
    let name = format!("hot key, 10,000 events, {late_percent} % late");
    report(&name, started, (events - 20_000) as f64);
    let started = Instant::now();
    for _ in 0..10 {
        black_box(history.clone());
    }
    report("  a copy of it", started, 10.0);
}

fn report(name: &str, started: Instant, count: f64) {
    let each = started.elapsed().as_secs_f64() * 1e9 / count;
    println!("  {name:40}{each:8.0} ns");
}
