//! Settings in 8 bytes: FNV-1a over all of them and the version of the rows' format.

use crate::{
    codec,
    definition::{Aggregate, Current, Function, Settings, Window},
};

struct Fnv(u64);

pub(super) fn fingerprint(settings: &Settings) -> [u8; 8] {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.number(u64::from(codec::VERSION));
    hash.number(settings.columns as u64);
    hash.number(settings.lateness_ms as u64);
    hash.number(settings.forget_after_ms.unwrap_or(0) as u64);
    hash.number(settings.events_max as u64);
    hash.number(settings.aggregates.len() as u64);
    for aggregate in &settings.aggregates {
        hash.aggregate(aggregate);
    }
    hash.0.to_le_bytes()
}

impl Fnv {
    fn number(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) {
        // Numbers that are released stay: a key's state is rebuilt when its fingerprint changes.
        let (function, parameter) = match aggregate.function {
            Function::Count => (1, 0),
            Function::Sum => (2, 0),
            Function::Mean => (3, 0),
            Function::Min => (4, 0),
            Function::Max => (5, 0),
            Function::Median => (6, 0),
            Function::StdDev => (7, 0),
            Function::Rate { per_ms } => (8, per_ms as u64),
            Function::Ewma { half_life_ms } => (9, half_life_ms as u64),
            Function::Last => (10, 0),
            Function::Lag(n) => (11, u64::from(n)),
            Function::TimeSince => (12, 0),
            Function::Distinct => (13, 0),
        };
        let (window, from, to) = match aggregate.window {
            Window::All => (1, 0, 0),
            Window::Newest(n) => (2, 0, u64::from(n)),
            Window::Time { from_ms, to_ms } => (3, from_ms as u64, to_ms as u64),
        };
        let current = match aggregate.current {
            Current::Seen => 1,
            Current::Excluded => 2,
        };
        let column = aggregate.column.map_or(0, |column| column as u64 + 1);
        for number in [function, parameter, window, from, to, current, column] {
            self.number(number);
        }
        match &aggregate.filter {
            None => self.number(0),
            Some(filter) => {
                self.number(filter.column as u64 + 1);
                self.number(filter.values.len() as u64);
                for value in &filter.values {
                    self.number((value + 0.0).to_bits());
                }
            }
        }
    }
}
