//! One dead letter, and the case it belongs to.

use std::fmt;

use quadrille_proto::DLQ_SUFFIX;
use rdkafka::{Message, message::BorrowedMessage};
use sha2::{Digest, Sha256};

use crate::{Headers, dlq};

/// Bytes of a place kept in the ledger; a topic's name has at most 249.
const PLACE_BYTES_MAX: usize = 300;

/// One dead letter, for people.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch: the original record's.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// Name and value, in the order of the record; an absent value is empty.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl DeadLetter {
    pub(super) fn read(message: &BorrowedMessage<'_>) -> Self {
        DeadLetter {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: Headers(message.headers())
                .iter()
                .map(|(name, value)| (name.into_owned(), value.unwrap_or_default().to_vec()))
                .collect(),
        }
    }

    /// The last value under a header's name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The class of the failure: [`crate::Cause::class`].
    pub fn class(&self) -> Option<&str> {
        self.header(dlq::CLASS)
    }

    /// What was wrong, for people: [`crate::Cause::message`].
    pub fn message(&self) -> Option<&str> {
        self.header(dlq::MESSAGE)
    }

    /// A number, as it stands in the header: how often the record was handled, earlier redrives included.
    pub fn attempts(&self) -> Option<&str> {
        self.header(dlq::ATTEMPTS_HEADER)
    }

    /// `topic-partition-offset` where it failed.
    pub fn failed_at(&self) -> Option<String> {
        let place = [dlq::TOPIC, dlq::PARTITION, dlq::OFFSET].map(|name| self.header(name));
        let [Some(topic), Some(partition), Some(offset)] = place else {
            return None;
        };
        Some(format!("{topic}-{partition}-{offset}"))
    }

    /// `topic-partition-offset` where it lay first: a record that was sent back has failed elsewhere since.
    pub fn origin(&self) -> Option<String> {
        let first = self.header(dlq::ORIGIN_HEADER).map(str::to_owned);
        first.or_else(|| self.failed_at())
    }

    /// Whether it only names the original, whose bytes no dead letter could hold.
    pub fn is_truncated(&self) -> bool {
        self.header(dlq::TRUNCATED).is_some()
    }

    /// The case it belongs to in this dead-letter topic.
    pub(super) fn case(&self, topic: &str) -> CaseId {
        let own = || format!("{topic}-{}-{}", self.partition, self.offset);
        CaseId::of(
            &self.origin().unwrap_or_else(own),
            self.key.as_deref(),
            self.payload.as_deref(),
        )
    }

    /// [`DeadLetter::origin`], cut where it is longer than a place can be.
    pub(super) fn place(&self) -> String {
        let mut origin = self.origin().unwrap_or_default();
        origin.truncate(origin.floor_char_boundary(PLACE_BYTES_MAX));
        origin
    }

    /// The topic and partition it failed in, to which it goes back.
    pub(super) fn target(&self, topic: &str) -> (String, i32) {
        let failed = self.header(dlq::TOPIC);
        let source = failed.unwrap_or_else(|| topic.strip_suffix(DLQ_SUFFIX).unwrap_or(topic));
        let partition = self
            .header(dlq::PARTITION)
            .and_then(|text| text.parse().ok());
        (source.to_owned(), partition.unwrap_or(self.partition))
    }
}

/// One record in one dead-letter topic, however often it failed: the same first place, key and bytes. The place alone would
/// not do: it travels in a header, which a user's program may copy from one record to several.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CaseId([u8; 16]);

impl CaseId {
    pub fn of(origin: &str, key: Option<&[u8]>, payload: Option<&[u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in [Some(origin.as_bytes()), key, payload] {
            // A length first, so that no two lists of parts are one text; none differs from an empty one.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash.update(length.to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        CaseId(first)
    }

    /// From its digits.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = well_formed.then(|| u128::from_str_radix(text, 16).ok())??;
        Some(CaseId(number.to_be_bytes()))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[(&str, &str)]) -> DeadLetter {
        DeadLetter {
            partition: 1,
            offset: 9,
            timestamp_ms: None,
            key: Some(b"k".to_vec()),
            payload: Some(b"x".to_vec()),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
        }
    }

    const FIRST: [(&str, &str); 3] = [
        (dlq::TOPIC, "p.inbox"),
        (dlq::PARTITION, "1"),
        (dlq::OFFSET, "4"),
    ];

    #[test]
    fn a_record_that_was_sent_back_and_failed_again_is_the_same_case() {
        let first = letter(&FIRST);
        let again = letter(&[
            (dlq::ORIGIN_HEADER, "p.inbox-1-4"),
            (dlq::TOPIC, "p.inbox"),
            (dlq::PARTITION, "1"),
            (dlq::OFFSET, "7"),
        ]);
        assert_eq!(first.case("p.inbox.dlq"), again.case("p.inbox.dlq"));
        assert_eq!(again.target("p.inbox.dlq"), ("p.inbox".to_owned(), 1));
    }

    #[test]
    fn other_bytes_under_a_copied_origin_are_another_case() {
        let one = letter(&FIRST);
        let mut other = one.clone();
        other.payload = Some(b"y".to_vec());
        assert_ne!(one.case("t"), other.case("t"));
        other.payload = None;
        assert_ne!(one.case("t"), other.case("t"));
        assert_ne!(
            CaseId::of("ab", Some(b"c"), None),
            CaseId::of("a", Some(b"bc"), None)
        );
        assert_ne!(
            CaseId::of("a", None, None),
            CaseId::of("a", Some(b""), None)
        );
    }

    #[test]
    fn a_letter_of_nobodys_goes_to_the_topic_that_its_own_is_named_after() {
        let foreign = letter(&[]);
        assert_eq!(foreign.target("p.inbox.dlq"), ("p.inbox".to_owned(), 1));
        assert_eq!(foreign.origin(), None);
        let mut next = foreign.clone();
        next.offset += 1;
        assert_ne!(foreign.case("t"), next.case("t"), "each is its own case");
    }

    #[test]
    fn a_case_is_read_back_from_its_digits() {
        let case = CaseId::of("p.inbox-1-4", None, Some(b"x"));
        assert_eq!(CaseId::parse(&case.to_string()), Some(case));
        for wrong in ["", "x", "+0000000000000000000000000000000", &"0".repeat(33)] {
            assert_eq!(CaseId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_place_that_is_none_takes_no_more_room_than_one() {
        let long = "é".repeat(PLACE_BYTES_MAX);
        let place = letter(&[(dlq::ORIGIN_HEADER, &long)]).place();
        assert!(place.len() <= PLACE_BYTES_MAX && long.starts_with(&place));
    }
}
