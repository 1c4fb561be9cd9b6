//! Sums of doubles without error, rounded when they are read (Shewchuk's expansions).
//!
//! A sum is kept as doubles that do not overlap, smallest first. Whatever the order in which values came and sums were merged, its
//! rounded value is the same, and so is its canonical form, which is what is stored.

/// Sums of measured values take two or three parts, their squares three or four: more go to the heap.
const INLINE: usize = 6;
/// Doubles that never overlap by more than a bit fit in 41; what is longer is made canonical.
const SPILLED_MAX: usize = 48;
/// Parts that a canonical sum of finite doubles can have: 2,098 bits, 53 in each, and one for signs.
pub(crate) const PARTS_MAX: usize = 41;

#[derive(Debug, Clone, Default)]
pub(crate) struct Exact {
    parts: [f64; INLINE],
    len: usize,
    /// All parts, where they are more than fit.
    spilled: Box<[f64]>,
}

impl Exact {
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        if !self.spilled.is_empty() {
            return self.add_spilled(value);
        }
        let mut carry = value;
        let mut kept = 0;
        for i in 0..self.len.min(INLINE) {
            let (sum, error) = two_sum(carry, self.parts[i]);
            self.parts[kept] = error;
            kept += usize::from(error != 0.0);
            carry = sum;
        }
        self.len = kept;
        if carry != 0.0 {
            if kept == INLINE {
                return self.add_spilled(carry);
            }
            self.parts[kept] = carry;
            self.len = kept + 1;
        }
    }

    /// The product without error, unless it underflows.
    #[inline]
    pub(crate) fn add_product(&mut self, a: f64, b: f64) {
        let product = a * b;
        let error = a.mul_add(b, -product);
        if error != 0.0 {
            self.add(error);
        }
        self.add(product);
    }

    pub(crate) fn merge(&mut self, other: &Exact) {
        if self.len == 0 && self.spilled.is_empty() {
            *self = other.clone();
            return;
        }
        for part in other.parts() {
            self.add(*part);
        }
    }

    /// The sum, rounded once.
    pub(crate) fn value(&self) -> f64 {
        round(self.parts())
    }

    /// Not overlapping, smallest first.
    pub(crate) fn parts(&self) -> &[f64] {
        if self.spilled.is_empty() {
            &self.parts[..self.len]
        } else {
            &self.spilled
        }
    }

    /// Brings the sum to the one form that depends on its value alone.
    pub(crate) fn make_canonical(&mut self) {
        if self.parts().len() > 1 {
            let parts = canonical(self.parts().to_vec());
            self.set(parts);
        }
    }

    #[cold]
    fn add_spilled(&mut self, value: f64) {
        let mut parts = self.parts().to_vec();
        grow(&mut parts, value);
        if parts.len() <= INLINE + 1 || parts.len() > SPILLED_MAX {
            parts = canonical(parts);
        }
        self.set(parts);
    }

    fn set(&mut self, parts: Vec<f64>) {
        if parts.len() <= INLINE {
            self.parts[..parts.len()].copy_from_slice(&parts);
            self.len = parts.len();
            self.spilled = Box::default();
        } else {
            self.spilled = parts.into_boxed_slice();
        }
    }
}

/// The rounded sum and what rounding lost.
#[inline]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    let a_part = sum - b_part;
    (sum, (a - a_part) + (b - b_part))
}

fn grow(parts: &mut Vec<f64>, value: f64) {
    let mut carry = value;
    parts.retain_mut(|part| {
        let (sum, error) = two_sum(carry, *part);
        carry = sum;
        *part = error;
        error != 0.0
    });
    if carry != 0.0 {
        parts.push(carry);
    }
}

/// Each part is the rounded value of itself and all that are smaller.
fn canonical(mut parts: Vec<f64>) -> Vec<f64> {
    let mut largest_first = Vec::with_capacity(parts.len());
    while largest_first.len() < SPILLED_MAX {
        let rounded = round(&parts);
        if rounded == 0.0 || !rounded.is_finite() {
            break;
        }
        largest_first.push(rounded);
        grow(&mut parts, -rounded);
    }
    largest_first.reverse();
    largest_first
}

/// As Python's `math.fsum` rounds: half to even, also where the half is made of several parts.
fn round(parts: &[f64]) -> f64 {
    let mut smaller = parts.iter().rev().copied();
    let mut high = smaller.next().unwrap_or(0.0);
    for part in smaller.by_ref() {
        let before = high;
        high = before + part;
        let low = part - (high - before);
        if low == 0.0 {
            continue;
        }
        if let Some(next) = smaller.next()
            && (low < 0.0) == (next < 0.0)
        {
            let twice = low * 2.0;
            let up = high + twice;
            if up - high == twice {
                high = up;
            }
        }
        break;
    }
    // The sum of nothing, and of −0, is 0.
    high + 0.0
}

/// Sums larger than this, 2^480, are scaled by 2^-64 so that their square does not overflow.
const LARGE: f64 = f64::from_bits((1023 + 480) << 52);
const SCALE: f64 = f64::from_bits((1023 - 64) << 52);

/// Of the sample, from n exact values' sum and sum of squares. The one cancellation, n·Σx² − (Σx)², is exact as well: equal values
/// give 0.
pub(crate) fn standard_deviation(n: u64, sum: &Exact, squares: &Exact) -> f64 {
    if n < 2 {
        return f64::NAN;
    }
    let count = n as f64;
    let scale = if sum.value().abs() > LARGE || squares.value() > LARGE * LARGE {
        SCALE
    } else {
        1.0
    };
    let mut numerator = Exact::default();
    for part in squares.parts() {
        numerator.add_product(part * (scale * scale), count);
    }
    let parts = sum.parts();
    for (i, part) in parts.iter().enumerate() {
        let scaled = part * scale;
        numerator.add_product(scaled, -scaled);
        for other in &parts[..i] {
            numerator.add_product(scaled, other * (-2.0 * scale));
        }
    }
    let variance = numerator.value().max(0.0) / (count * (count - 1.0));
    variance.sqrt() / scale
}
