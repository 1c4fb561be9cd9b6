//! Dead letters: the original record unchanged, plus headers that say what went wrong.

use rdkafka::message::{Header, OwnedHeaders};

use crate::{Cause, Headers, Incoming, place_name};

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
/// On a redriven record: `topic-partition-offset` of its first place, from which ids are made.
pub const ORIGIN_HEADER: &str = "quadrille.origin";

/// Bytes of an error message kept in a header; bounds what a dead letter adds to its source.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// What the error headers may add: a dead-letter topic's limit is its source's plus this.
pub(crate) const HEADROOM_BYTES: usize = 64 << 10;

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
pub(crate) struct Place<'a> {
    pub group: &'a str,
    pub task: &'a str,
    pub service: &'a str,
    pub handler: &'a str,
    /// The pipeline's; above 0 the letter names its first place, which topic, partition and offset alone do not.
    pub generation: u64,
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
    place: &Place<'_>,
) -> OwnedHeaders {
    let total = attempts_before(incoming.headers)
        .saturating_add(attempts)
        .to_string();
    let message = truncate(&cause.message);
    let class = format!("quadrille.{}", cause.class);
    // No stack is walked for a record that is merely wrong: the trace names stage and cause.
    let trace = format!("{class}: {message}\n\tat {} ({})", place.handler, at.name());
    let (partition, offset) = (incoming.partition.to_string(), incoming.offset.to_string());
    let mut headers = match incoming.headers.0 {
        Some(original) => original.detach(),
        None => OwnedHeaders::new_with_capacity(12),
    };
    for (key, value) in [
        (TOPIC, incoming.topic),
        (PARTITION, &partition),
        (OFFSET, &offset),
        ("__connect.errors.connector.name", place.group),
        ("__connect.errors.task.id", place.task),
        ("__connect.errors.stage", at.name()),
        ("__connect.errors.class.name", place.handler),
        (CLASS, &class),
        (MESSAGE, message),
        ("__connect.errors.exception.stacktrace", &trace),
        (ATTEMPTS_HEADER, &total),
        (SERVICE, place.service),
    ] {
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    if place.generation > 0 && incoming.headers.last(ORIGIN_HEADER).is_none() {
        let Incoming {
            topic,
            partition,
            offset,
            ..
        } = *incoming;
        let origin = place_name(topic, partition, offset, place.generation);
        headers = headers.insert(Header {
            key: ORIGIN_HEADER,
            value: Some(&origin),
        });
    }
    headers
}

fn truncate(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
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

    #[test]
    fn a_dead_letter_says_where_it_was_and_why() {
        let incoming = Incoming {
            topic: "p.inbox",
            partition: 3,
            offset: 42,
            key: None,
            payload: Some(b"x"),
            timestamp_ms: None,
            headers: Headers::default(),
            polled_at: Instant::now(),
        };
        let cause = Cause {
            class: "not_json",
            message: "é".repeat(MESSAGE_BYTES_MAX),
        };
        let place = Place {
            group: "g",
            task: "0",
            service: "ingest",
            handler: "h",
            generation: 0,
        };
        let later = Place {
            generation: 2,
            ..place
        };
        let later = headers(&incoming, &cause, FailedAt::Decode, 1, &later);
        let origin = later.iter().find(|it| it.key == ORIGIN_HEADER).unwrap();
        assert_eq!(origin.value, Some(&b"p.inbox@2-3-42"[..]));
        let headers = headers(&incoming, &cause, FailedAt::Decode, 1, &place);
        let get = |name: &str| {
            let found = headers.iter().find(|header| header.key == name);
            String::from_utf8(found.unwrap().value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(get(TOPIC), "p.inbox");
        assert_eq!((get(PARTITION), get(OFFSET)), ("3".into(), "42".into()));
        assert_eq!(get(CLASS), "quadrille.not_json");
        assert_eq!(get(ATTEMPTS_HEADER), "1");
        assert!(get(MESSAGE).len() <= MESSAGE_BYTES_MAX);
        let names = |headers: &OwnedHeaders| headers.iter().any(|it| it.key == ORIGIN_HEADER);
        assert!(!names(&headers));
    }
}
