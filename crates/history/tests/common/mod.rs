//! What the tests share: a model that keeps everything, settings and events at random, and rows as a store would hold them.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod model;
pub mod reference;
pub mod strategy;

use std::collections::BTreeMap;

use quadrille_history::{Corrupt, Definition, Event, History, Pushed};

pub type Rows = BTreeMap<u32, Vec<u8>>;

#[derive(Debug, Clone, PartialEq)]
pub struct Owned {
    pub id: u64,
    pub time_ms: i64,
    pub reset: bool,
    pub values: Vec<f64>,
}

impl Owned {
    pub fn event(&self) -> Event<'_> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.id.to_le_bytes());
        Event {
            id,
            time_ms: self.time_ms,
            reset: self.reset,
            values: &self.values,
        }
    }
}

pub fn load(definition: &Definition, rows: &Rows) -> Result<History, Corrupt> {
    History::load(
        definition,
        rows.iter().map(|(row, bytes)| (*row, bytes.as_slice())),
    )
}

/// Brings the rows up to date; how many changed.
pub fn store(definition: &Definition, history: &mut History, rows: &mut Rows) -> usize {
    let mut changed = 0;
    history.changes(definition, |row, bytes| {
        changed += 1;
        match bytes {
            Some(bytes) => {
                assert!(bytes.len() <= definition.row_bytes_max());
                rows.insert(row, bytes.to_vec());
            }
            None => assert!(rows.remove(&row).is_some(), "row {row} was never written"),
        }
    });
    changed
}

/// Pushes the event and looks from its place; None if it was not taken.
pub fn push_and_look(
    definition: &Definition,
    history: &mut History,
    event: &Owned,
) -> Result<Vec<f64>, Pushed> {
    match history.push(definition, &event.event()) {
        Pushed::New(at) => {
            let mut out = Vec::new();
            history.look(definition, at, &mut out);
            Ok(out)
        }
        refused => Err(refused),
    }
}

/// Equal where each number is the same to the last bit.
pub fn bits(numbers: &[f64]) -> Vec<u64> {
    let one_nan = |n: &f64| if n.is_nan() { f64::NAN } else { *n };
    numbers.iter().map(|n| one_nan(n).to_bits()).collect()
}
