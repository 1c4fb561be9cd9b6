//! Sums in integers wide enough for every double: nothing is lost before the one rounding at the end.

/// 32 bits each, of which the lowest is 2^-1074.
const LIMBS: usize = 72;

#[derive(Debug, Clone)]
pub struct WideSum {
    limbs: [i64; LIMBS],
}

impl Default for WideSum {
    fn default() -> Self {
        WideSum { limbs: [0; LIMBS] }
    }
}

impl WideSum {
    pub fn of(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = WideSum::default();
        for value in values {
            sum.add(value);
        }
        sum.rounded()
    }

    pub fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, shift) = match exponent {
            0 => (fraction, 0),
            _ => (fraction | 1 << 52, exponent - 1),
        };
        let wide = u128::from(mantissa) << (shift % 32);
        for i in 0..3 {
            let limb = (wide >> (32 * i)) as u32;
            let signed = if value < 0.0 {
                -i64::from(limb)
            } else {
                i64::from(limb)
            };
            self.limbs[shift / 32 + i] += signed;
        }
        self.carry();
    }

    fn carry(&mut self) {
        for i in 0..LIMBS - 1 {
            let carry = self.limbs[i] >> 32;
            self.limbs[i] -= carry << 32;
            self.limbs[i + 1] += carry;
        }
    }

    /// To the nearest double, half to even.
    pub fn rounded(&self) -> f64 {
        if self.limbs[LIMBS - 1] < 0 {
            let mut negated = self.clone();
            negated.limbs = self.limbs.map(|limb| -limb);
            negated.carry();
            return -negated.rounded();
        }
        let Some(highest) = (0..LIMBS * 32).rev().find(|bit| self.bit(*bit)) else {
            return 0.0;
        };
        let lowest = highest.saturating_sub(52);
        let mut mantissa = (lowest..=highest)
            .rev()
            .fold(0u64, |m, bit| m << 1 | u64::from(self.bit(bit)));
        if lowest > 0 && self.bit(lowest - 1) {
            let beyond_half = (0..lowest - 1).any(|bit| self.bit(bit));
            mantissa += u64::from(beyond_half || mantissa & 1 == 1);
        }
        // Above subnormal numbers the mantissa's highest bit adds the 1 that is missing in the exponent.
        f64::from_bits(((lowest as u64) << 52) + mantissa)
    }

    fn bit(&self, bit: usize) -> bool {
        self.limbs[bit / 32] >> (bit % 32) & 1 == 1
    }
}
