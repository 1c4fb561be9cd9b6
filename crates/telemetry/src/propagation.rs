//! Names of the headers that travel with a record.

/// W3C trace context, carried unchanged from input to output on every hop.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
pub const BAGGAGE: &str = "baggage";

/// Chooses the route of a pipeline's deployment by name: a header of a record, or metadata of a request.
pub const VARIANT: &str = "quadrille-variant";

/// An invalid [`VARIANT`] header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{VARIANT} is not UTF-8 text; send a variant's name")]
    NotText,
    #[error("{VARIANT} is given twice, as {0:?} and as {1:?}; send one")]
    Several(String, String),
}

/// The variant named by these values of [`VARIANT`]; empty values name none.
///
/// # Errors
/// A value is not UTF-8, or they differ: another variant than the intended one would answer.
pub fn variant<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<&'a str>, Error> {
    let mut named: Option<&str> = None;
    for value in values {
        let value = std::str::from_utf8(value).map_err(|_| Error::NotText)?;
        match named {
            _ if value.is_empty() => {}
            Some(named) if named != value => {
                let (first, other) = (named.to_owned(), value.to_owned());
                return Err(Error::Several(first, other));
            }
            _ => named = Some(value),
        }
    }
    Ok(named)
}

/// Whether a `traceparent` value is one: version, trace id, parent id and flags in lower-case hex,
/// with neither id all zeros. An invalid one is carried like any other header but never acted upon.
pub fn is_valid_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let set = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let Some((known, rest)) = value.split_at_checked(55) else {
        return false;
    };
    let dashes = [2, 35, 52].iter().all(|place| known[*place] == b'-');
    let (version, trace, parent, flags) =
        (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    let all_hex = [version, trace, parent, flags].iter().all(|part| hex(part));
    // Later versions may append fields, after another dash.
    let whole = rest.is_empty() || (version != b"00" && rest[0] == b'-');
    dashes && all_hex && whole && version != b"ff" && set(trace) && set(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_values_one_variant_is_named_or_none_is_known() {
        let of = |values: &[&'static [u8]]| variant(values.iter().copied());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[b""]), Ok(None));
        assert_eq!(of(&[b"", b"canary", b"canary"]), Ok(Some("canary")));
        assert_eq!(of(&["größer".as_bytes()]), Ok(Some("größer")));
        assert_eq!(of(&[b"live", b"canary\xff"]), Err(Error::NotText));
        let several = of(&[b"canary", b"live"]).unwrap_err();
        assert_eq!(
            several.to_string(),
            "quadrille-variant is given twice, as \"canary\" and as \"live\"; send one"
        );
    }

    #[test]
    fn a_traceparent_of_the_recommendation_is_valid() {
        assert!(is_valid_traceparent(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(is_valid_traceparent(
            b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"
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
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
        ] {
            assert!(!is_valid_traceparent(broken.as_bytes()), "{broken}");
        }
    }
}
