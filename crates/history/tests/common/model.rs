//! A history that keeps every event and computes each aggregate from all of them.

use quadrille_history::{Aggregate, Current, Function, Settings, Window};

use super::{Owned, reference::WideSum};

#[derive(Debug, Clone)]
pub struct Model {
    pub settings: Settings,
    pub events: Vec<Owned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    New,
    Duplicate,
    /// Its id came so long ago that it may be forgotten or not.
    MayBeDuplicate,
    Late,
    Full,
}

impl Model {
    pub fn new(settings: Settings) -> Self {
        Model {
            settings,
            events: Vec::new(),
        }
    }

    pub fn newest_ms(&self) -> Option<i64> {
        self.events.last().map(|event| event.time_ms)
    }

    fn forgets(&self, time_ms: i64) -> bool {
        match (self.settings.forget_after_ms, self.newest_ms()) {
            (Some(after_ms), Some(newest_ms)) => time_ms - newest_ms >= after_ms,
            _ => false,
        }
    }

    pub fn expected(&self, event: &Owned) -> Expected {
        let Some(newest_ms) = self.newest_ms().filter(|_| !self.forgets(event.time_ms)) else {
            return Expected::New;
        };
        let earliest_ms = newest_ms - self.settings.lateness_ms;
        if event.time_ms < earliest_ms {
            return Expected::Late;
        }
        let mut same = self.events.iter().filter(|known| known.id == event.id);
        if same.clone().any(|known| known.time_ms >= earliest_ms) {
            return Expected::Duplicate;
        }
        if same.next().is_some() {
            return Expected::MayBeDuplicate;
        }
        if self.within_reach(newest_ms.max(event.time_ms)) >= self.settings.events_max {
            return Expected::Full;
        }
        Expected::New
    }

    fn within_reach(&self, newest_ms: i64) -> usize {
        let horizon_ms = newest_ms - self.settings.lateness_ms;
        let reach_ms = self.settings.aggregates.iter().map(|a| match a.window {
            Window::Time { to_ms, .. } => to_ms,
            _ => 1,
        });
        let reach_ms = reach_ms.max().unwrap_or(1);
        let settled = self
            .events
            .iter()
            .filter(|event| event.time_ms < horizon_ms);
        let reset = settled
            .clone()
            .enumerate()
            .filter(|(_, event)| event.reset)
            .last();
        let hidden = reset.map_or(0, |(i, _)| i);
        let behind = self.events[hidden..].iter();
        behind
            .filter(|event| event.time_ms > horizon_ms - reach_ms)
            .count()
    }

    /// Where it went.
    pub fn insert(&mut self, event: &Owned) -> usize {
        if self.forgets(event.time_ms) {
            self.events.clear();
        }
        let at = self
            .events
            .partition_point(|known| known.time_ms <= event.time_ms);
        self.events.insert(at, event.clone());
        at
    }

    pub fn look(&self, at: usize) -> Vec<Value> {
        self.look_from(self.events[at].time_ms, at, at + 1)
    }

    pub fn look_at(&self, time_ms: i64) -> Vec<Value> {
        if self.forgets(time_ms) {
            return Model::new(self.settings.clone()).look_from(time_ms, 0, 0);
        }
        let end = self
            .events
            .partition_point(|event| event.time_ms <= time_ms);
        self.look_from(time_ms, end, end)
    }

    fn look_from(&self, time_ms: i64, before: usize, end: usize) -> Vec<Value> {
        let reset = self.events[..end]
            .iter()
            .rposition(|event| event.reset)
            .unwrap_or(0);
        let aggregates = self.settings.aggregates.iter();
        aggregates
            .map(|aggregate| {
                let excluded = aggregate.current == Current::Excluded
                    || aggregate.function == Function::TimeSince;
                let end = if excluded { before } else { end };
                let seen = &self.events[reset.min(end)..end];
                value(aggregate, &matching(aggregate, seen, time_ms), time_ms)
            })
            .collect()
    }
}

/// Times and values of what counts, oldest first.
fn matching(aggregate: &Aggregate, events: &[Owned], time_ms: i64) -> Vec<(i64, f64)> {
    let counts = |event: &Owned| {
        let filter = aggregate.filter.as_ref();
        let passes =
            filter.is_none_or(|filter| filter.values.contains(&event.values[filter.column]));
        let value = aggregate.column.map_or(0.0, |column| event.values[column]);
        (passes && value.is_finite()).then_some((event.time_ms, value))
    };
    let mut all: Vec<_> = events.iter().filter_map(counts).collect();
    match aggregate.window {
        Window::All => {}
        Window::Newest(n) => drop(all.drain(..all.len().saturating_sub(n as usize))),
        Window::Time { from_ms, to_ms } => {
            all.retain(|(event_ms, _)| (from_ms..to_ms).contains(&(time_ms - event_ms)));
        }
    }
    all
}

/// What an aggregate should be.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    Exactly(f64),
    /// Within so much.
    About(f64, f64),
}

impl Value {
    pub fn is(&self, value: f64) -> bool {
        match *self {
            Value::Exactly(own) => (own.is_nan() && value.is_nan()) || own == value,
            Value::About(own, _) if own.is_nan() => value.is_nan(),
            Value::About(own, within) => (own - value).abs() <= within,
        }
    }
}

fn value(aggregate: &Aggregate, seen: &[(i64, f64)], time_ms: i64) -> Value {
    let mut values: Vec<f64> = seen.iter().map(|(_, value)| *value).collect();
    let summed: Vec<f64> = values
        .iter()
        .copied()
        .filter(|v| v.abs() <= 1e150)
        .collect();
    let sum = WideSum::of(summed.iter().copied());
    Value::Exactly(match aggregate.function {
        Function::Count => values.len() as f64,
        Function::Sum => sum,
        Function::Mean if summed.is_empty() => f64::NAN,
        Function::Mean => sum / summed.len() as f64,
        Function::Min => values.iter().copied().reduce(f64::min).unwrap_or(f64::NAN),
        Function::Max => values.iter().copied().reduce(f64::max).unwrap_or(f64::NAN),
        Function::StdDev => return standard_deviation(&summed),
        Function::Rate { per_ms } => match aggregate.window {
            Window::Time { from_ms, to_ms } => {
                values.len() as f64 * per_ms as f64 / (to_ms - from_ms) as f64
            }
            _ => unreachable!("refused"),
        },
        Function::Ewma { half_life_ms } => return ewma(seen, half_life_ms),
        Function::Last => values.last().copied().unwrap_or(f64::NAN),
        Function::Lag(n) => values
            .iter()
            .rev()
            .nth(n as usize)
            .copied()
            .unwrap_or(f64::NAN),
        Function::TimeSince => seen.last().map_or(f64::NAN, |(event_ms, _)| {
            (time_ms - event_ms) as f64 / 1000.0
        }),
        Function::Median => {
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            match values.len() {
                0 => f64::NAN,
                n if n % 2 == 1 => values[middle],
                _ => half_of_sum(values[middle - 1], values[middle]),
            }
        }
        Function::Distinct => {
            values.sort_by(f64::total_cmp);
            values.dedup();
            values.len() as f64
        }
    })
}

/// Without a sum that overflows: of numbers this large, half is exact.
fn half_of_sum(lower: f64, upper: f64) -> f64 {
    match lower.abs().max(upper.abs()) > 1e300 {
        true => lower / 2.0 + upper / 2.0,
        false => (lower + upper) / 2.0,
    }
}

fn standard_deviation(values: &[f64]) -> Value {
    let n = values.len() as f64;
    if values.len() < 2 {
        return Value::Exactly(f64::NAN);
    }
    let quarters: Option<Vec<i128>> = values
        .iter()
        .map(|v| (v.abs() < 1e9 && (v * 4.0).fract() == 0.0).then_some((v * 4.0) as i128))
        .collect();
    if let Some(quarters) = quarters {
        let sum: i128 = quarters.iter().sum();
        let squares: i128 = quarters.iter().map(|q| q * q).sum();
        let numerator = values.len() as i128 * squares - sum * sum;
        return Value::Exactly((numerator as f64 / 16.0 / (n * (n - 1.0))).sqrt());
    }
    let mean = WideSum::of(values.iter().copied()) / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let largest = values.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    Value::About((squares / (n - 1.0)).sqrt(), largest * 1e-12)
}

fn ewma(seen: &[(i64, f64)], half_life_ms: i64) -> Value {
    let Some((newest_ms, _)) = seen.last() else {
        return Value::Exactly(f64::NAN);
    };
    let (mut sum, mut weight, mut largest) = (0.0, 0.0, 0.0f64);
    for (time_ms, value) in seen.iter().filter(|(_, value)| value.abs() <= 1e150) {
        let own = (-((newest_ms - time_ms) as f64) / half_life_ms as f64).exp2();
        sum += own * value;
        weight += own;
        largest = largest.max(value.abs());
    }
    Value::About(sum / weight, largest * 1e-10)
}
