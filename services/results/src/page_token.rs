//! Page tokens: where a listing goes on, bound to the pipeline and the filters it began with.
//!
//! A token is hex of: format (1 byte), digest of pipeline and filters (8), event time (8), id; of shadows a NUL and
//! the variant, too.

use crate::{
    prediction::Kind,
    query::{Cursor, Error, Filter},
};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 17;

/// The token that makes `filter` go on after `cursor`.
pub fn encode(pipeline: &str, filter: &Filter, cursor: &Cursor) -> String {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + cursor.id.len());
    bytes.push(FORMAT);
    bytes.extend(digest(pipeline, filter).to_be_bytes());
    bytes.extend(cursor.event_time_ms.to_be_bytes());
    bytes.extend(cursor.id.as_bytes());
    if filter.kind == Kind::Shadow {
        bytes.push(0);
        bytes.extend(cursor.variant.as_bytes());
    }
    hex(&bytes)
}

/// The cursor in a token that was encoded for the same pipeline and filters.
pub fn decode(pipeline: &str, filter: &Filter, token: &str) -> Result<Cursor, Error> {
    let cursor = || {
        let bytes = unhex(token)?;
        let (head, id) = bytes.split_at_checked(HEAD_BYTES)?;
        let (format, head) = head.split_first()?;
        let (digest_given, time) = head.split_first_chunk::<8>()?;
        let time: [u8; 8] = time.try_into().ok()?;
        if *format != FORMAT || u64::from_be_bytes(*digest_given) != digest(pipeline, filter) {
            return None;
        }
        let id = std::str::from_utf8(id).ok()?;
        let (id, variant) = match filter.kind {
            Kind::Live => (id, ""),
            Kind::Shadow => id.split_once('\0')?,
        };
        (!id.contains('\0') && !variant.contains('\0')).then(|| Cursor {
            event_time_ms: i64::from_be_bytes(time),
            id: id.to_owned(),
            variant: variant.to_owned(),
        })
    };
    cursor().ok_or(Error::PageToken)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

/// FNV-1a, which is the same in every version of the service: it guards against mistakes, not
/// against malice, and a token opens nothing that a request without one does not.
fn digest(pipeline: &str, filter: &Filter) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut hash_in = |part: Option<&[u8]>| {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        for byte in length.to_be_bytes().iter().chain(part.unwrap_or_default()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    hash_in(Some(pipeline.as_bytes()));
    hash_in(filter.key.as_deref().map(str::as_bytes));
    hash_in(filter.decision.as_deref().map(str::as_bytes));
    hash_in(
        filter
            .from_ms
            .map(i64::to_be_bytes)
            .as_ref()
            .map(|bytes| &bytes[..]),
    );
    hash_in(
        filter
            .to_ms
            .map(i64::to_be_bytes)
            .as_ref()
            .map(|bytes| &bytes[..]),
    );
    if filter.kind == Kind::Shadow {
        hash_in(Some(b"shadow"));
    }
    // Without one the digest is what it was before there was this filter.
    if let Some(variant) = &filter.variant {
        hash_in(Some(b"variant"));
        hash_in(Some(variant.as_bytes()));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            event_time_ms: -5,
            id: "récord/1".into(),
            variant: String::new(),
        }
    }

    #[test]
    fn a_token_comes_back_as_the_position_it_was_made_of() {
        let filter = Filter {
            key: Some("k".into()),
            ..Filter::default()
        };
        let token = encode("p", &filter, &cursor());
        assert_eq!(decode("p", &filter, &token), Ok(cursor()));
        let shadows = Filter {
            kind: Kind::Shadow,
            ..filter.clone()
        };
        let cursor = Cursor {
            variant: "candidate".into(),
            ..cursor()
        };
        let token = encode("p", &shadows, &cursor);
        assert_eq!(decode("p", &shadows, &token), Ok(cursor));
        assert_eq!(decode("p", &filter, &token), Err(Error::PageToken));
    }

    #[test]
    fn a_token_is_refused_for_another_pipeline_or_other_filters() {
        let filter = Filter {
            key: Some("k".into()),
            ..Filter::default()
        };
        let token = encode("p", &filter, &cursor());
        let others = [
            Filter::default(),
            Filter {
                key: Some(String::new()),
                ..Filter::default()
            },
            Filter {
                decision: Some("k".into()),
                ..Filter::default()
            },
            Filter {
                kind: Kind::Shadow,
                ..filter.clone()
            },
            Filter {
                from_ms: Some(0),
                ..filter.clone()
            },
            Filter {
                to_ms: Some(0),
                ..filter.clone()
            },
        ];
        for other in &others {
            assert_eq!(decode("p", other, &token), Err(Error::PageToken));
        }
        assert_eq!(decode("q", &filter, &token), Err(Error::PageToken));
    }

    #[test]
    fn what_is_no_token_is_refused_at_every_length() {
        let filter = Filter::default();
        let token = encode("p", &filter, &cursor());
        for length in 0..HEAD_BYTES * 2 {
            assert_eq!(
                decode("p", &filter, &token[..length]),
                Err(Error::PageToken)
            );
        }
        for wrong in [
            "zz",
            "é",
            "0",
            "01ff",
            &format!("{token}f"),
            &format!("{token}ff"),
        ] {
            assert_eq!(decode("p", &filter, wrong), Err(Error::PageToken));
        }
    }
}
