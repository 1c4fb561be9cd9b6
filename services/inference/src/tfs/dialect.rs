//! What TensorFlow Serving's JSON has beyond JSON: `NaN`, `Infinity` and `-Infinity` as numbers, in requests and answers, and bytes as `{"b64": "…"}`. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use crate::tensor::{Error, json::Dialect};

/// What stands for infinity from here on: no double is this large, and nobody spells another number so.
const INFINITY: &str = "1.7976931348623159e99999";

/// Tokens and what stands for them; a null is a missing number.
const TOKENS: [(&[u8], &str); 2] = [(b"NaN", "null"), (b"Infinity", INFINITY)];

/// What its JSON has beyond JSON, once tokens are replaced.
pub(super) static DIALECT: Dialect = Dialect {
    text: text_of_bytes,
    infinity: INFINITY,
};

/// The body as JSON.
pub(super) fn plain(body: &[u8]) -> Cow<'_, [u8]> {
    let mut plain: Option<Vec<u8>> = None;
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = body.get(at) {
        let token = TOKENS.iter().find(|(token, _)| {
            !quoted && body[at..].starts_with(token) && !is_letter(body.get(at + token.len()))
        });
        let length = match (token, byte) {
            (Some((token, stands)), _) => {
                let plain = plain.get_or_insert_with(|| body[..at].to_vec());
                plain.extend_from_slice(stands.as_bytes());
                at += token.len();
                continue;
            }
            // What is escaped ends no text.
            (None, b'\\') if quoted => 2.min(body.len() - at),
            (None, byte) => {
                quoted ^= byte == b'"';
                1
            }
        };
        if let Some(plain) = &mut plain {
            plain.extend_from_slice(&body[at..at + length]);
        }
        at += length;
    }
    plain.map_or(Cow::Borrowed(body), Cow::Owned)
}

/// What stands in a list of an answer: a number, or a row of them.
pub(super) trait AsNumbers {
    fn write(&self, json: &mut Vec<u8>);
}

impl AsNumbers for f64 {
    fn write(&self, json: &mut Vec<u8>) {
        match self {
            value if value.is_finite() => {
                // Into memory, and every finite number has a text.
                let _ = serde_json::to_writer(json, value);
            }
            value if value.is_nan() => json.extend_from_slice(b"NaN"),
            value if *value > 0.0 => json.extend_from_slice(b"Infinity"),
            _ => json.extend_from_slice(b"-Infinity"),
        }
    }
}

impl AsNumbers for &[f64] {
    fn write(&self, json: &mut Vec<u8>) {
        list(json, self.iter().copied());
    }
}

/// An object of one list; what is not finite is a token.
pub(super) fn written(name: &str, rows: impl Iterator<Item = impl AsNumbers>) -> Vec<u8> {
    let mut json = format!("{{\"{name}\":").into_bytes();
    list(&mut json, rows);
    json.push(b'}');
    json
}

fn list(json: &mut Vec<u8>, items: impl Iterator<Item = impl AsNumbers>) {
    json.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            json.push(b',');
        }
        item.write(json);
    }
    json.push(b']');
}

fn is_letter(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_alphanumeric)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes<'a> {
    #[serde(borrow)]
    b64: Cow<'a, str>,
}

/// Whether an object is bytes, not a row by its names.
pub(super) fn is_bytes(object: &str) -> bool {
    serde_json::from_str::<Bytes<'_>>(object).is_ok()
}

/// The text that bytes are.
///
/// # Errors
/// The object is not of bytes, or they are no text.
fn text_of_bytes(object: &str) -> Result<String, Error> {
    let invalid = |what: &str| Error::Invalid(format!("the data {what}"));
    let Bytes { b64 } = serde_json::from_str(object).map_err(|_| {
        invalid("holds an object; send numbers, texts, true or false, or bytes as {\"b64\": \"…\"}")
    })?;
    let bytes = decode(&b64).ok_or_else(|| invalid("has a \"b64\" that is not Base64"))?;
    String::from_utf8(bytes).map_err(|_| {
        invalid(
            "has a \"b64\" whose bytes are no text in UTF-8, and inputs here are numbers and texts",
        )
    })
}

/// Base64 of RFC 4648, section 4; the padding may be left out.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let padding = text.len() - digits.len();
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits << 6 | value(*digit)?;
        }
        // Four digits are three bytes, and one is none.
        let whole = group.len().checked_sub(1).filter(|it| *it > 0)?;
        bits <<= 6 * (4 - group.len());
        // Nothing may be left over in the last digit: the same bytes have one text.
        let left = (1_u32 << (8 * (3 - whole))) - 1;
        if bits & left != 0 {
            return None;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_numbers_outside_of_texts_only() {
        let body = br#"{"a": [NaN, -Infinity,Infinity], "NaN": "NaN, \"Infinity", "b": [NaN]}"#;
        let expected = format!(
            r#"{{"a": [null, -{INFINITY},{INFINITY}], "NaN": "NaN, \"Infinity", "b": [null]}}"#
        );
        assert_eq!(plain(body), expected.as_bytes());
        assert_eq!(INFINITY.parse(), Ok(f64::INFINITY));
        for same in [
            &br#"{"a": [1, "NaN"]}"#[..],
            b"",
            b"NaNcy",
            b"\"\\",
            b"\"NaN",
        ] {
            assert!(matches!(plain(same), Cow::Borrowed(it) if it == same));
        }
    }

    #[test]
    fn answers_have_tokens_for_what_json_has_no_number_for_and_all_others_to_the_last_bit() {
        let numbers = [0.1, f64::INFINITY, -0.0, f64::NEG_INFINITY, f64::NAN, 1e300];
        let rows = [&numbers[..2], &numbers[2..], &[]];
        let json = written("predictions", rows.into_iter());
        let expected = br#"{"predictions":[[0.1,Infinity],[-0.0,-Infinity,NaN,1e+300],[]]}"#;
        assert_eq!(
            String::from_utf8_lossy(&json),
            String::from_utf8_lossy(expected)
        );
        let json = written("results", numbers[..2].iter().copied());
        assert_eq!(json, br#"{"results":[0.1,Infinity]}"#);
    }

    #[test]
    fn bytes_are_the_text_that_they_encode() {
        for (text, expected) in [
            ("", ""),
            ("cmVk", "red"),
            ("cmVkcw==", "reds"),
            ("cmVkcw", "reds"),
            ("w6k=", "é"),
            ("Pz8/", "???"),
        ] {
            let object = format!(r#"{{"b64": "{text}"}}"#);
            assert!(is_bytes(&object));
            assert_eq!(text_of_bytes(&object), Ok(expected.to_owned()), "{text}");
        }
        for wrong in [
            "c", "cmV", "cm=k", "cmVk=", "cmVk====", "cm-k", "/w==", "cmék",
        ] {
            let refused = text_of_bytes(&format!(r#"{{"b64": "{wrong}"}}"#));
            assert!(refused.is_err(), "{wrong}: {refused:?}");
        }
        assert!(!is_bytes(r#"{"b64": 1}"#) && !is_bytes(r#"{"b64": "", "a": 1}"#));
    }
}
