//! Dead letters: the original record unchanged, plus headers that say what went wrong.

use rdkafka::message::{Header, OwnedHeaders};

use crate::{Cause, Headers, Incoming, StageConfig, position_id};

/// Kafka Connect's error headers, which triage tools read.
pub(crate) const CONNECT_PREFIX: &str = "__connect.errors.";
pub(crate) const TOPIC: &str = "__connect.errors.topic";
pub(crate) const PARTITION: &str = "__connect.errors.partition";
pub(crate) const OFFSET: &str = "__connect.errors.offset";
pub(crate) const CLASS: &str = "__connect.errors.exception.class.name";
pub(crate) const MESSAGE: &str = "__connect.errors.exception.message";
/// How often the record was handled in all, redrives included. The last header of this name counts.
pub const ATTEMPTS_HEADER: &str = "quadrille.errors.attempts";
const SERVICE: &str = "quadrille.errors.service";
pub(crate) const SERVICE_PREFIX: &str = "quadrille.errors.";
/// On a letter that only names its original, whose bytes no dead letter could hold: why they are left out.
pub(crate) const TRUNCATED: &str = "quadrille.errors.truncated";
/// On a letter for a whole batch that cannot be read: the offset of its last record.
const LAST_OFFSET: &str = "quadrille.errors.offset.last";
/// On a redriven record: `topic-partition-offset` of its first place, from which ids are made.
pub const ORIGIN_HEADER: &str = "quadrille.origin";

/// Bytes of an error message kept in a header; bounds what a dead letter adds to its source.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// The same in a letter that only names its original: it has to fit where nothing else does.
const SHORT_MESSAGE_BYTES_MAX: usize = 512;
/// The largest key such a letter keeps.
const SHORT_KEY_BYTES_MAX: usize = 1 << 10;
/// What the error headers may add: a dead-letter topic's limit is at least its source's plus this.
pub(crate) const HEADROOM_BYTES: usize = 64 << 10;
/// The largest record whose bytes a dead letter keeps. What came compressed may be any size: a record is counted three
/// times while its letter is sent (as fetched, as queued, as compressed), and this bounds that. It is what the client
/// takes of zstd by itself (`receive.message.max.bytes`), so that all codecs are treated alike.
pub(crate) const LETTER_BYTES_MAX: usize = 100_000_000;
/// `message.max.bytes` of a producer of dead letters: the client compares it with the record before it is compressed.
pub(crate) const LETTER_WIRE_BYTES_MAX: usize = LETTER_BYTES_MAX + HEADROOM_BYTES;

/// `max.message.bytes` of a dead-letter topic as it is created, given its source's. Brokers compare it with the
/// compressed batch: a record that its sender compressed better than we do (zstd at a high level, or together with
/// others like it) has a larger letter.
pub(crate) const fn bytes_max(source_bytes_max: usize) -> usize {
    source_bytes_max * 2 + HEADROOM_BYTES
}

/// The least `max.message.bytes` a dead-letter topic must have, given its source's: that of every record that came
/// uncompressed, with the headers of its errors.
pub const fn dead_letter_bytes_min(source_bytes_max: usize) -> usize {
    source_bytes_max + HEADROOM_BYTES
}

/// Where in Kafka Connect's terms a record failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailedAt {
    Decode,
    Handle,
    Send,
}

impl FailedAt {
    const fn name(self) -> &'static str {
        match self {
            FailedAt::Decode => "VALUE_CONVERTER",
            FailedAt::Handle => "TRANSFORMATION",
            FailedAt::Send => "TASK_PUT",
        }
    }
}

/// Who dead-letters.
#[derive(Clone, Copy)]
pub(crate) struct Reporter<'a> {
    pub group: &'a str,
    pub task: &'a str,
    pub service: &'a str,
    pub handler: &'a str,
    /// The pipeline's; above 0 the letter names its first place, which topic, partition and offset alone do not.
    pub generation: u64,
}

impl<'a> Reporter<'a> {
    /// Of the lane that is this task of a stage, with handlers of the type `H`.
    pub fn of<H>(config: &'a StageConfig, task: &'a str, generation: u64) -> Self {
        Reporter {
            group: &config.group,
            task,
            service: config.service,
            handler: std::any::type_name::<H>(),
            generation,
        }
    }
}

/// What failed, for the headers.
pub(crate) struct Failed<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub cause: &'a Cause,
    pub at: FailedAt,
    /// How often it was handled in all.
    pub attempts: u32,
}

impl<'a> Failed<'a> {
    /// `attempts`: since it was read; those before a redrive are on the record.
    fn of(incoming: &'a Incoming<'_>, cause: &'a Cause, at: FailedAt, attempts: u32) -> Self {
        Failed {
            topic: incoming.topic,
            partition: incoming.partition,
            offset: incoming.offset,
            cause,
            at,
            attempts: attempts_before(incoming.headers).saturating_add(attempts),
        }
    }
}

/// How often the record was handled before it came in again.
pub(crate) fn attempts_before(headers: Headers<'_>) -> u32 {
    headers
        .last_text(ATTEMPTS_HEADER)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The original headers, then the error's.
pub(crate) fn headers(
    incoming: &Incoming<'_>,
    cause: &Cause,
    at: FailedAt,
    attempts: u32,
    reporter: &Reporter<'_>,
) -> OwnedHeaders {
    let original = match incoming.headers.0 {
        Some(original) => original.detach(),
        None => OwnedHeaders::new_with_capacity(12),
    };
    let failed = Failed::of(incoming, cause, at, attempts);
    let headers = add(original, &failed, MESSAGE_BYTES_MAX, reporter);
    with_origin(headers, incoming, reporter)
}

/// Names the first place of a record that does not say it itself, where topic, partition and offset alone do not.
fn with_origin(
    headers: OwnedHeaders,
    incoming: &Incoming<'_>,
    reporter: &Reporter<'_>,
) -> OwnedHeaders {
    if reporter.generation == 0 || incoming.headers.last(ORIGIN_HEADER).is_some() {
        return headers;
    }
    let Incoming {
        topic,
        partition,
        offset,
        ..
    } = *incoming;
    let origin = position_id(topic, partition, offset, reporter.generation);
    with(headers, ORIGIN_HEADER, &origin)
}

/// The headers of a letter that keeps nothing of a record but what names it, with the reason why. Of the record's own
/// headers those stay by which a redriven one is known.
pub(crate) fn short_headers(
    incoming: &Incoming<'_>,
    cause: &Cause,
    at: FailedAt,
    attempts: u32,
    why: &str,
    reporter: &Reporter<'_>,
) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(14);
    let origin = incoming.headers.last_text(ORIGIN_HEADER);
    if let Some(origin) = origin.filter(|origin| origin.len() <= SHORT_KEY_BYTES_MAX) {
        headers = with(headers, ORIGIN_HEADER, origin);
    }
    let failed = Failed::of(incoming, cause, at, attempts);
    let headers = add(headers, &failed, SHORT_MESSAGE_BYTES_MAX, reporter);
    with(with_origin(headers, incoming, reporter), TRUNCATED, why)
}

/// The key of such a letter.
pub(crate) fn short_key(key: Option<&[u8]>) -> Option<&[u8]> {
    key.filter(|key| key.len() <= SHORT_KEY_BYTES_MAX)
}

/// The headers of the letter for a batch that cannot be read, from the offset that failed to its last.
pub(crate) fn unreadable_headers(
    failed: &Failed<'_>,
    last: i64,
    reporter: &Reporter<'_>,
) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(14);
    let headers = add(headers, failed, SHORT_MESSAGE_BYTES_MAX, reporter);
    let headers = with(headers, LAST_OFFSET, &last.to_string());
    with(headers, TRUNCATED, failed.cause.class)
}

fn add(
    mut headers: OwnedHeaders,
    failed: &Failed<'_>,
    message_bytes_max: usize,
    reporter: &Reporter<'_>,
) -> OwnedHeaders {
    let message = truncate(&failed.cause.message, message_bytes_max);
    let class = format!("quadrille.{}", failed.cause.class);
    // No stack is walked for a record that is merely wrong: the trace names stage and cause.
    let at = failed.at.name();
    let trace = format!("{class}: {message}\n\tat {} ({at})", reporter.handler);
    let (partition, offset) = (failed.partition.to_string(), failed.offset.to_string());
    let attempts = failed.attempts.to_string();
    for (key, value) in [
        (TOPIC, failed.topic),
        (PARTITION, &partition),
        (OFFSET, &offset),
        ("__connect.errors.connector.name", reporter.group),
        ("__connect.errors.task.id", reporter.task),
        ("__connect.errors.stage", at),
        ("__connect.errors.class.name", reporter.handler),
        (CLASS, &class),
        (MESSAGE, message),
        ("__connect.errors.exception.stacktrace", &trace),
        (ATTEMPTS_HEADER, &attempts),
        (SERVICE, reporter.service),
    ] {
        headers = with(headers, key, value);
    }
    headers
}

fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

fn truncate(message: &str, bytes_max: usize) -> &str {
    let mut end = message.len().min(bytes_max);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::message::Headers as _;

    use super::*;

    const REPORTER: Reporter<'_> = Reporter {
        group: "g",
        task: "0",
        service: "ingest",
        handler: "h",
        generation: 0,
    };

    fn incoming() -> Incoming<'static> {
        Incoming {
            topic: "p.inbox",
            partition: 3,
            offset: 42,
            key: None,
            payload: Some(b"x"),
            timestamp_ms: None,
            headers: Headers::default(),
            polled_at: Instant::now(),
        }
    }

    fn cause() -> Cause {
        Cause {
            class: "not_json",
            message: "é".repeat(MESSAGE_BYTES_MAX),
        }
    }

    fn get(headers: &OwnedHeaders, name: &str) -> String {
        let found = headers.iter().find(|header| header.key == name);
        String::from_utf8(found.unwrap().value.unwrap().to_vec()).unwrap()
    }

    fn bytes(headers: &OwnedHeaders) -> usize {
        let size = |name: &str, value: Option<&[u8]>| name.len() + value.map_or(0, <[u8]>::len);
        headers.iter().map(|it| size(it.key, it.value)).sum()
    }

    #[test]
    fn a_short_letter_names_its_original_and_stays_small() {
        let headers = short_headers(
            &incoming(),
            &cause(),
            FailedAt::Send,
            2,
            "too_large",
            &REPORTER,
        );
        assert_eq!(get(&headers, TRUNCATED), "too_large");
        assert_eq!(get(&headers, TOPIC), "p.inbox");
        let place = (get(&headers, PARTITION), get(&headers, OFFSET));
        assert_eq!(place, ("3".into(), "42".into()));
        assert!(bytes(&headers) < 3 << 10, "{}", bytes(&headers));
        let large = vec![0; SHORT_KEY_BYTES_MAX + 1];
        assert_eq!(short_key(Some(&large)), None);
        assert_eq!(short_key(Some(b"k")), Some(&b"k"[..]));
    }

    #[test]
    fn a_letter_for_a_batch_that_cannot_be_read_names_its_offsets() {
        let failed = Failed {
            topic: "p.inbox",
            partition: 3,
            offset: 42,
            cause: &cause(),
            at: FailedAt::Decode,
            attempts: 1,
        };
        let headers = unreadable_headers(&failed, 61, &REPORTER);
        assert_eq!(get(&headers, OFFSET), "42");
        assert_eq!(get(&headers, LAST_OFFSET), "61");
        assert_eq!(get(&headers, TRUNCATED), "not_json");
        assert!(bytes(&headers) < 3 << 10, "{}", bytes(&headers));
    }

    #[test]
    fn a_dead_letter_says_where_it_was_and_why() {
        let later = Reporter {
            generation: 2,
            ..REPORTER
        };
        let later = headers(&incoming(), &cause(), FailedAt::Decode, 1, &later);
        assert_eq!(get(&later, ORIGIN_HEADER), "p.inbox@2-3-42");
        let headers = headers(&incoming(), &cause(), FailedAt::Decode, 1, &REPORTER);
        let get = |name: &str| get(&headers, name);
        assert_eq!(get(TOPIC), "p.inbox");
        assert_eq!((get(PARTITION), get(OFFSET)), ("3".into(), "42".into()));
        assert_eq!(get(CLASS), "quadrille.not_json");
        assert_eq!(get(ATTEMPTS_HEADER), "1");
        assert!(get(MESSAGE).len() <= MESSAGE_BYTES_MAX);
        let names = |headers: &OwnedHeaders| headers.iter().any(|it| it.key == ORIGIN_HEADER);
        assert!(!names(&headers));
    }
}
