//! The row of what was dropped: for each matcher what its aggregates need, then the EWMAs.

use crate::{
    codec::bytes::{Reader, VARINT_MAX, put_f64, put_signed, put_varint},
    definition::plan::{Matcher, Plan},
    exact::{Exact, PARTS_MAX},
    prefix::{Folded, Prefix},
    summary::{Ewma, Needs, Summary},
};

pub(crate) fn bytes_max(plan: &Plan) -> usize {
    let exact = 1 + 8 * PARTS_MAX;
    let matchers = plan.matchers.iter().map(|matcher| {
        let summary = matcher.folded.map_or(0, |needs| {
            VARINT_MAX
                + if needs.extremes { 16 } else { 0 }
                + if needs.sum { VARINT_MAX + exact } else { 0 }
                + if needs.squares { exact } else { 0 }
        });
        let recent = VARINT_MAX + matcher.recent.saturating_mul(VARINT_MAX + 8);
        summary + recent
    });
    let matchers = matchers.fold(0, usize::saturating_add);
    matchers.saturating_add(1 + plan.ewmas.len() * (16 + VARINT_MAX))
}

pub(super) fn write(plan: &Plan, prefix: &Prefix, out: &mut Vec<u8>) {
    for (matcher, folded) in plan.matchers.iter().zip(&prefix.folded) {
        if let Some(needs) = matcher.folded {
            write_summary(&folded.summary, needs, out);
        }
        if matcher.recent > 0 {
            write_recent(folded, out);
        }
    }
    for ewma in &prefix.ewmas {
        put_f64(ewma.sum, out);
        put_f64(ewma.weight, out);
        put_signed(ewma.time_ms, out);
    }
}

fn write_summary(summary: &Summary, needs: Needs, out: &mut Vec<u8>) {
    put_varint(summary.count, out);
    if needs.extremes && summary.count > 0 {
        put_f64(summary.min, out);
        put_f64(summary.max, out);
    }
    if needs.sum {
        put_varint(summary.summed, out);
        write_exact(&summary.sum, out);
    }
    if needs.squares {
        write_exact(&summary.squares, out);
    }
}

fn write_exact(exact: &Exact, out: &mut Vec<u8>) {
    out.push(exact.parts().len() as u8);
    for part in exact.parts() {
        put_f64(*part, out);
    }
}

fn write_recent(folded: &Folded, out: &mut Vec<u8>) {
    put_varint(folded.recent.len() as u64, out);
    let mut before_ms = 0;
    for (i, (time_ms, value)) in folded.recent.iter().enumerate() {
        match i {
            0 => put_signed(*time_ms, out),
            _ => put_varint(time_ms.wrapping_sub(before_ms) as u64, out),
        }
        put_f64(*value, out);
        before_ms = *time_ms;
    }
}

pub(super) fn read(plan: &Plan, reader: &mut Reader<'_>) -> Option<Prefix> {
    let mut prefix = Prefix::new(plan);
    for (matcher, folded) in plan.matchers.iter().zip(&mut prefix.folded) {
        if let Some(needs) = matcher.folded {
            folded.summary = read_summary(needs, reader)?;
        }
        if matcher.recent > 0 {
            read_recent(matcher, reader, folded)?;
        }
    }
    for ewma in &mut prefix.ewmas {
        *ewma = Ewma {
            sum: reader.finite()?,
            weight: reader.finite().filter(|weight| *weight >= 0.0)?,
            time_ms: reader.signed()?,
        };
    }
    Some(prefix)
}

fn read_summary(needs: Needs, reader: &mut Reader<'_>) -> Option<Summary> {
    let mut summary = Summary {
        count: reader.varint().filter(|count| *count <= COUNT_MAX)?,
        ..Summary::default()
    };
    if needs.extremes && summary.count > 0 {
        summary.min = reader.finite()?;
        summary.max = reader.finite().filter(|max| *max >= summary.min)?;
    }
    if needs.sum {
        summary.summed = reader.varint().filter(|summed| *summed <= summary.count)?;
        summary.sum = read_exact(reader)?;
    }
    if needs.squares {
        summary.squares = read_exact(reader)?;
    }
    Some(summary)
}

/// No key has so many events, and a double holds each number up to it.
const COUNT_MAX: u64 = 1 << 53;

fn read_exact(reader: &mut Reader<'_>) -> Option<Exact> {
    let parts = reader.byte()?;
    if usize::from(parts) > PARTS_MAX {
        return None;
    }
    let mut exact = Exact::default();
    for _ in 0..parts {
        exact.add(reader.finite()?);
    }
    // What has overflowed is not finite any more, and would be nothing once it is canonical.
    if !exact.value().is_finite() {
        return None;
    }
    // As it was written: adding may leave a tie between two parts otherwise.
    exact.make_canonical();
    exact.value().is_finite().then_some(exact)
}

fn read_recent(matcher: &Matcher, reader: &mut Reader<'_>, folded: &mut Folded) -> Option<()> {
    let events = usize::try_from(reader.varint()?).ok()?;
    // Each takes at least 9 bytes: the count alone is no reason for a large allocation.
    if events > matcher.recent || events > reader.left() / 9 {
        return None;
    }
    folded.recent.reserve_exact(events);
    let mut before_ms = 0i64;
    for i in 0..events {
        before_ms = match i {
            0 => reader.signed()?,
            _ => before_ms.checked_add_unsigned(reader.varint()?)?,
        };
        folded.recent.push_back((before_ms, reader.finite()?));
    }
    Some(())
}
