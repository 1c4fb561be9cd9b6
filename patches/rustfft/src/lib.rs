//! Fourier transforms by their definition, with as much of the interface of the crate `rustfft` as `tract-core` calls.
//!
//! `tract-core` compiles that crate's hundreds of unrolled transforms anew for each number type, a sixth of its own code,
//! for operators that no network may have here (`OPERATORS` in quadrille-model). Without them a first build takes 40 s of CPU
//! less. Results are the same to rounding; a transform takes the square of its length.

use std::{f64::consts::TAU, fmt::Debug, marker::PhantomData, sync::Arc};

pub use num_complex;
pub use num_traits;

use num_complex::Complex;
use num_traits::{FromPrimitive, Signed};

/// A number that can be transformed.
pub trait FftNum: Copy + FromPrimitive + Signed + Sync + Send + Debug + 'static {}

impl<T: Copy + FromPrimitive + Signed + Sync + Send + Debug + 'static> FftNum for T {}

/// There, or back; neither divides by the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FftDirection {
    Forward,
    Inverse,
}

/// Makes transforms.
#[derive(Debug, Default)]
pub struct FftPlanner<T>(PhantomData<T>);

impl<T: FftNum> FftPlanner<T> {
    pub fn new() -> Self {
        FftPlanner(PhantomData)
    }

    /// A transform of `len` numbers.
    pub fn plan_fft(&mut self, len: usize, direction: FftDirection) -> Arc<Dft<T>> {
        let sign = match direction {
            FftDirection::Forward => -1.0,
            FftDirection::Inverse => 1.0,
        };
        let turn = |part: usize| {
            let (sin, cos) = (sign * TAU * part as f64 / len as f64).sin_cos();
            let number = |it: f64| T::from_f64(it).unwrap_or_else(T::zero);
            Complex::new(number(cos), number(sin))
        };
        Arc::new(Dft {
            turns: (0..len).map(turn).collect(),
        })
    }

    /// A transform of `len` numbers, there.
    pub fn plan_fft_forward(&mut self, len: usize) -> Arc<Dft<T>> {
        self.plan_fft(len, FftDirection::Forward)
    }
}

/// A transform.
#[derive(Debug)]
pub struct Dft<T> {
    /// The roots of one.
    turns: Vec<Complex<T>>,
}

impl<T: FftNum> Dft<T> {
    /// Transforms each piece of `buffer` in place.
    pub fn process(&self, buffer: &mut [Complex<T>]) {
        let len = self.turns.len().max(1);
        for piece in buffer.chunks_exact_mut(len) {
            let sum = |to: usize| {
                let terms = piece.iter().enumerate();
                let zero = Complex::new(T::zero(), T::zero());
                terms.fold(zero, |sum, (from, it)| {
                    sum + *it * self.turns[to * from % len]
                })
            };
            let sums: Vec<_> = (0..len).map(sum).collect();
            piece.copy_from_slice(&sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transformed(direction: FftDirection, numbers: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let mut buffer: Vec<_> = numbers.iter().map(|(a, b)| Complex::new(*a, *b)).collect();
        let transform = FftPlanner::new().plan_fft(numbers.len(), direction);
        transform.process(&mut buffer);
        let round = |it: f64| (it * 1e9).round() / 1e9 + 0.0;
        buffer
            .iter()
            .map(|it| (round(it.re), round(it.im)))
            .collect()
    }

    #[test]
    fn one_turn_of_a_wave_is_one_frequency() {
        let wave = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)];
        let zero = (0.0, 0.0);
        assert_eq!(
            transformed(FftDirection::Forward, &wave),
            [zero, (4.0, 0.0), zero, zero]
        );
    }

    #[test]
    fn there_and_back_multiplies_by_the_length() {
        let numbers = [(1.0, 2.0), (-3.0, 0.5), (0.0, 7.0)];
        let back = transformed(
            FftDirection::Inverse,
            &transformed(FftDirection::Forward, &numbers),
        );
        for ((a, b), (c, d)) in numbers.iter().zip(back) {
            assert!((a * 3.0 - c).abs() < 1e-6 && (b * 3.0 - d).abs() < 1e-6);
        }
    }
}
