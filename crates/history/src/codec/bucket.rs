//! A bucket's row: times as differences, and values in as few bytes as hold them.
//!
//! `count and whether there are resets, order, first time, differences, resets as bits, ids, kinds of values in 2 bits each, values`

use crate::{
    buckets::BUCKET_EVENTS,
    codec::bytes::{Reader, VARINT_MAX, put_f64, put_signed, put_varint},
    events::Events,
    history::Event,
};

/// Beside the count, in the same byte.
const HAS_RESETS: u8 = 0x80;

/// How a value is written.
const MISSING: u8 = 0;
const INTEGER: u8 = 1;
const SINGLE: u8 = 2;
const DOUBLE: u8 = 3;
/// Integers below it take no more bytes than a single.
const INTEGER_MAX: f64 = (1 << 27) as f64;

pub(crate) fn bytes_max(columns: usize) -> usize {
    let version_and_count = 2;
    let numbers = VARINT_MAX * (1 + BUCKET_EVENTS);
    let resets = 2;
    let values = columns * BUCKET_EVENTS;
    version_and_count + numbers + resets + 16 * BUCKET_EVENTS + values.div_ceil(4) + 8 * values
}

pub(super) fn write(events: &Events, start: usize, end: usize, order: i64, out: &mut Vec<u8>) {
    let times_ms = &events.times_ms()[start..end];
    let resets = (start..end)
        .filter(|i| events.is_reset(*i))
        .fold(0u16, |bits, i| bits | 1 << (i - start));
    out.push((end - start) as u8 | if resets == 0 { 0 } else { HAS_RESETS });
    put_signed(order, out);
    put_signed(times_ms.first().copied().unwrap_or(0), out);
    for pair in times_ms.windows(2) {
        put_varint(pair[1].wrapping_sub(pair[0]) as u64, out);
    }
    if resets != 0 {
        out.extend_from_slice(&resets.to_le_bytes());
    }
    for id in &events.ids()[start..end] {
        out.extend_from_slice(&id.to_le_bytes());
    }
    let values = events.rows(start, end);
    for four in values.chunks(4) {
        let kinds = four
            .iter()
            .rev()
            .fold(0, |bits, value| bits << 2 | kind(*value));
        out.push(kinds);
    }
    for value in values {
        match kind(*value) {
            MISSING => {}
            INTEGER => put_signed(*value as i64, out),
            SINGLE => out.extend_from_slice(&(*value as f32).to_le_bytes()),
            _ => put_f64(*value, out),
        }
    }
}

fn kind(value: f64) -> u8 {
    if value.is_nan() {
        MISSING
    } else if value.abs() < INTEGER_MAX && f64::from(value as i32) == value {
        INTEGER
    } else if f64::from(value as f32) == value {
        SINGLE
    } else {
        DOUBLE
    }
}

/// A row of which so much is read that it can be put in order.
pub(super) struct BucketRow<'r> {
    pub id: u32,
    pub len: usize,
    pub order: i64,
    pub first_ms: i64,
    has_resets: bool,
    rest: Reader<'r>,
}

impl<'r> BucketRow<'r> {
    pub(super) fn open(id: u32, mut reader: Reader<'r>) -> Result<Self, &'static str> {
        let count = reader.byte().ok_or("it ends early")?;
        let len = usize::from(count & !HAS_RESETS);
        if !(1..=BUCKET_EVENTS).contains(&len) {
            return Err("its number of events is impossible");
        }
        let order = reader.signed().ok_or("it ends early")?;
        // Orders count buckets of one time; neighbours of these numbers must exist.
        if i32::try_from(order).is_err() {
            return Err("its order is impossible");
        }
        let first_ms = reader.signed().ok_or("it ends early")?;
        // Every event has at least its id behind this: counts are no reason for large allocations.
        if reader.left() < 16 * len {
            return Err("it ends early");
        }
        Ok(BucketRow {
            id,
            len,
            order,
            first_ms,
            has_resets: count & HAS_RESETS != 0,
            rest: reader,
        })
    }

    /// Appends the events. `values` is for use meanwhile.
    pub(super) fn read(
        mut self,
        columns: usize,
        values: &mut Vec<f64>,
        events: &mut Events,
    ) -> Result<(), &'static str> {
        let mut times_ms = [self.first_ms; BUCKET_EVENTS];
        for i in 1..self.len {
            let delta = self.rest.varint().ok_or("it ends early")?;
            times_ms[i] = times_ms[i - 1]
                .checked_add_unsigned(delta)
                .ok_or("its times are impossible")?;
        }
        let resets = match self.has_resets {
            true => u16::from_le_bytes(self.rest.array().ok_or("it ends early")?),
            false => 0,
        };
        if u32::from(resets) >> self.len != 0 {
            return Err("its resets are impossible");
        }
        let ids = self.rest.bytes(16 * self.len).ok_or("it ends early")?;
        let kinds = (self.len * columns).div_ceil(4);
        let kinds = self.rest.bytes(kinds).ok_or("it ends early")?;
        values.clear();
        for i in 0..self.len * columns {
            let kind = kinds[i / 4] >> (2 * (i % 4)) & 3;
            values.push(read_value(&mut self.rest, kind).ok_or("a value is impossible")?);
        }
        if !self.rest.is_empty() {
            return Err("bytes follow its end");
        }
        let (ids, _) = ids.as_chunks::<16>();
        for (i, id) in ids.iter().enumerate() {
            let event = Event {
                id: *id,
                time_ms: times_ms[i],
                reset: resets >> i & 1 == 1,
                values: &values[i * columns..(i + 1) * columns],
            };
            events.insert(events.len(), &event);
        }
        Ok(())
    }
}

fn read_value(reader: &mut Reader<'_>, kind: u8) -> Option<f64> {
    match kind {
        MISSING => Some(f64::NAN),
        INTEGER => i32::try_from(reader.signed()?).ok().map(f64::from),
        SINGLE => Some(f64::from(f32::from_le_bytes(reader.array()?))).filter(|v| v.is_finite()),
        _ => reader.finite(),
    }
}
