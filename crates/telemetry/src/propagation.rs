//! Names of the headers that travel with a record.

/// W3C trace context, carried unchanged from input to output on every hop.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
pub const BAGGAGE: &str = "baggage";

/// Whether a `traceparent` value is one: version, trace id, parent id and flags in lower-case hex,
/// with neither id all zeros. An invalid one is carried like any other header but never acted upon.
pub fn is_valid_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let set = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let parts: Vec<&[u8]> = value.split(|b| *b == b'-').collect();
    let [version, trace, parent, flags, rest @ ..] = parts.as_slice() else {
        return false;
    };
    let lengths = version.len() == 2 && trace.len() == 32 && parent.len() == 16 && flags.len() == 2;
    let all_hex = [version, trace, parent, flags].iter().all(|part| hex(part));
    let known = *version != b"ff" && (*version != b"00" || rest.is_empty());
    lengths && all_hex && known && set(trace) && set(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_of_the_recommendation_is_valid() {
        assert!(is_valid_traceparent(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
    }

    #[test]
    fn broken_traceparents_are_not() {
        for broken in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_valid_traceparent(broken.as_bytes()), "{broken}");
        }
    }
}
