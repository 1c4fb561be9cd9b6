//! Span contexts: read from W3C headers, written to them, and created.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};

use crate::propagation;

/// Bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The context in W3C headers, if it is valid.
pub fn context_of(traceparent: &[u8], tracestate: Option<&str>) -> Option<SpanContext> {
    if !propagation::is_valid_traceparent(traceparent) {
        return None;
    }
    let trace = from_hex(traceparent.get(3..35)?)?;
    let span = from_hex(traceparent.get(36..52)?)?;
    let [flags] = from_hex(traceparent.get(53..55)?)?;
    let state = tracestate.and_then(|state| state.parse().ok());
    Some(SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(span),
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    ))
}

fn from_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// The `traceparent` of a context.
#[derive(Debug, Clone, Copy)]
pub struct Traceparent([u8; TRACEPARENT_BYTES]);

impl Traceparent {
    pub fn of(context: &SpanContext) -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        to_hex(&context.trace_id().to_bytes(), &mut text[3..35]);
        to_hex(&context.span_id().to_bytes(), &mut text[36..52]);
        to_hex(&[context.trace_flags().to_u8()], &mut text[53..55]);
        Traceparent(text)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn to_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Whether a header's value asks for a trace.
pub fn forces(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| !matches!(value, b"" | b"0" | b"false"))
}

/// The context of a new, sampled span under `parent`, or of a new trace.
pub(super) fn child_of(parent: Option<&SpanContext>) -> SpanContext {
    let span = SpanId::from(random());
    match parent.filter(|parent| parent.is_valid()) {
        Some(parent) => SpanContext::new(
            parent.trace_id(),
            span,
            TraceFlags::SAMPLED,
            false,
            parent.trace_state().clone(),
        ),
        None => SpanContext::new(
            new_trace(),
            span,
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
    }
}

pub(super) fn new_trace() -> TraceId {
    TraceId::from(u128::from(random()) << 64 | u128::from(random()))
}

/// Uniform and never 0; SplitMix64, seeded by the system's randomness in each thread.
pub(super) fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0u8));
    }
    STATE.with(|state| {
        loop {
            let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            state.set(next);
            let mut z = next;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            if z != 0 {
                return z;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_survives_its_header() {
        let context = context_of(SAMPLED.as_bytes(), Some("a=1,b=2")).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(Traceparent::of(&context).as_bytes(), SAMPLED.as_bytes());
        assert_eq!(context.trace_state().header(), "a=1,b=2");
    }

    #[test]
    fn a_broken_tracestate_does_not_cost_the_trace() {
        let context = context_of(SAMPLED.as_bytes(), Some("no pairs here")).unwrap();
        assert_eq!(context.trace_state().header(), "");
    }

    #[test]
    fn a_span_keeps_its_trace_and_gets_an_id_of_its_own() {
        let parent = context_of(SAMPLED.as_bytes(), Some("a=1")).unwrap();
        let (one, other) = (child_of(Some(&parent)), child_of(Some(&parent)));
        assert_eq!(one.trace_id(), parent.trace_id());
        assert_eq!(one.trace_state().header(), "a=1");
        assert!(!one.is_remote());
        assert_ne!(one.span_id(), other.span_id());
        assert_ne!(child_of(None).trace_id(), child_of(None).trace_id());
    }

    #[test]
    fn a_force_header_asks_unless_it_says_no() {
        assert!(forces(Some(b"1")) && forces(Some(b"always")));
        assert!(!forces(None) && !forces(Some(b"0")) && !forces(Some(b"false")));
    }
}
