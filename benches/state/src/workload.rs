//! Which keys come, and what their rows are.

use clap::ValueEnum;

pub const BATCH_RECORDS: usize = 500;
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    Uniform,
    /// Few keys have most records: exponent 1.
    Zipf,
}

impl Distribution {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// The same keys in the same order, every time.
pub struct Workload {
    keys: u64,
    distribution: Distribution,
    random: u64,
}

impl Workload {
    pub fn new(keys: u64, distribution: Distribution) -> Self {
        Self {
            keys,
            distribution,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The key of the next record.
    pub fn next_key(&mut self) -> [u8; KEY_BYTES] {
        let share = self.next_random() as f64 / u64::MAX as f64;
        let rank = match self.distribution {
            Distribution::Uniform => share * self.keys as f64,
            // The inverse of the harmonic sum, nearly.
            Distribution::Zipf => (self.keys as f64).powf(share),
        };
        key((rank as u64).min(self.keys - 1))
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Neighbours in rank are none in order. The last four bytes are the bucket's.
pub fn key(rank: u64) -> [u8; KEY_BYTES] {
    let mixed = (rank + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&mixed.to_be_bytes());
    key
}

/// What a record makes of a row.
pub fn change(row: &mut Vec<u8>, record: u64) {
    row.resize(VALUE_BYTES, 0);
    let at = record as usize % (VALUE_BYTES / 8) * 8;
    row[at..at + 8].copy_from_slice(&record.to_le_bytes());
}
