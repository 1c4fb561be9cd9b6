//! What is known of a run of values without looking at each: count, extremes, exact sums; and means that fade.

use crate::exact::Exact;

/// Beyond it squares could overflow, so a value counts as missing wherever values are added.
const SUMMED_MAX: f64 = 1e150;

/// Which parts of a summary are kept, beside the count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub extremes: bool,
    pub sum: bool,
    pub squares: bool,
}

impl Needs {
    pub(crate) fn or(self, other: Needs) -> Needs {
        Needs {
            extremes: self.extremes || other.extremes,
            sum: self.sum || other.sum,
            squares: self.squares || other.squares,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub count: u64,
    /// Values small enough to be added.
    pub summed: u64,
    pub min: f64,
    pub max: f64,
    pub sum: Exact,
    pub squares: Exact,
}

impl Default for Summary {
    fn default() -> Self {
        Summary {
            count: 0,
            summed: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: Exact::default(),
            squares: Exact::default(),
        }
    }
}

impl Summary {
    #[inline]
    pub(crate) fn add(&mut self, value: f64, needs: Needs) {
        self.count += 1;
        if needs.extremes {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        if needs.sum && is_summed(value) {
            self.summed += 1;
            self.sum.add(value);
            if needs.squares {
                self.squares.add_product(value, value);
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Summary, needs: Needs) {
        self.count += other.count;
        if needs.extremes {
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
        }
        if needs.sum {
            self.summed += other.summed;
            self.sum.merge(&other.sum);
        }
        if needs.squares {
            self.squares.merge(&other.squares);
        }
    }
}

#[inline]
pub(crate) fn is_summed(value: f64) -> bool {
    value.abs() <= SUMMED_MAX
}

/// A mean in which a value weighs half as much after each half-life. It depends on the order of its values, so it is always
/// computed from the oldest to the newest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Ewma {
    pub sum: f64,
    /// 0 of no value.
    pub weight: f64,
    /// Of the newest value, to which the others have faded.
    pub time_ms: i64,
}

impl Ewma {
    pub(crate) fn add(&mut self, value: f64, time_ms: i64, half_life_ms: i64) {
        if !is_summed(value) {
            return;
        }
        let fade = if self.weight == 0.0 {
            0.0
        } else {
            faded(time_ms.saturating_sub(self.time_ms), half_life_ms)
        };
        self.sum = self.sum * fade + value;
        self.weight = self.weight * fade + 1.0;
        self.time_ms = time_ms;
    }

    pub(crate) fn value(&self) -> f64 {
        if self.weight == 0.0 {
            f64::NAN
        } else {
            self.sum / self.weight
        }
    }
}

/// 2^(−time/half-life). Written out because libraries of mathematics differ in the last bit, and training and serving may run on
/// different machines.
fn faded(time_ms: i64, half_life_ms: i64) -> f64 {
    let halvings = time_ms as f64 / half_life_ms as f64;
    if halvings >= 1000.0 {
        return 0.0;
    }
    let whole = (halvings + 0.5) as u64;
    let exponent = (whole as f64 - halvings) * std::f64::consts::LN_2;
    let mut power = 1.0;
    for reciprocal in RECIPROCALS.iter().rev() {
        power = 1.0 + power * exponent * reciprocal;
    }
    power * f64::from_bits((1023 - whole) << 52)
}

/// 1/1, 1/2, …: as many terms of the exponential series as change the result where the exponent is at most ln 2 / 2.
const RECIPROCALS: [f64; 14] = {
    let mut reciprocals = [1.0; 14];
    let mut i = 1;
    while i < reciprocals.len() {
        reciprocals[i] = 1.0 / (i + 1) as f64;
        i += 1;
    }
    reciprocals
};
