//! Which dead letters a command is about.

use jiff::Timestamp;
use prost::Message as _;
use quadrille_choreography::DeadLetter;
use quadrille_proto::v1::Record;
use serde_json::Value;

use crate::time;

/// What classes are written with.
const CLASS_PREFIX: &str = "quadrille.";

/// A letter must match each kind of filter that is given, and one of its values.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only with this error class, as in out_of_range; several may be given.
    #[arg(long, help_heading = "Filters", value_name = "CLASS")]
    reason: Vec<String>,

    /// Only records from this time on, by their Kafka timestamp: RFC 3339, or a day (UTC).
    #[arg(long, help_heading = "Filters", value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,

    /// Only records before this time.
    #[arg(long, help_heading = "Filters", value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,

    /// Only the record of this id; several may be given.
    #[arg(long, help_heading = "Filters", value_name = "ID")]
    id: Vec<String>,

    /// Only the record of this place: where it lay first, where it failed, or where its dead letter lies; several may
    /// be given.
    #[arg(long, help_heading = "Filters", value_name = "TOPIC-PARTITION-OFFSET")]
    place: Vec<String>,
}

impl Filter {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        let Filter {
            reason,
            from,
            to,
            id,
            place,
        } = self;
        reason.is_empty() && from.is_none() && to.is_none() && id.is_empty() && place.is_empty()
    }

    /// `topic`: the dead-letter topic. `id_field`: where JSON records have their id.
    pub fn matches(&self, topic: &str, id_field: &str, letter: &DeadLetter) -> bool {
        self.reason_matches(letter)
            && self.time_matches(letter)
            && (self.place.is_empty() || places(topic, letter).any(|it| self.place.contains(&it)))
            && (self.id.is_empty() || ids(id_field, letter).any(|it| self.id.contains(&it)))
    }

    fn reason_matches(&self, letter: &DeadLetter) -> bool {
        let class = letter.class().unwrap_or_default();
        let bare = class.strip_prefix(CLASS_PREFIX).unwrap_or(class);
        let same = |wanted: &String| wanted == class || wanted == bare;
        self.reason.is_empty() || self.reason.iter().any(same)
    }

    fn time_matches(&self, letter: &DeadLetter) -> bool {
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        // A record without a time is in no period.
        let time = letter.timestamp_ms;
        let Some(time) = time.and_then(|ms| Timestamp::from_millisecond(ms).ok()) else {
            return false;
        };
        self.from.is_none_or(|from| from <= time) && self.to.is_none_or(|to| time < to)
    }
}

fn places(topic: &str, letter: &DeadLetter) -> impl Iterator<Item = String> {
    let own = format!("{topic}-{}-{}", letter.partition, letter.offset);
    [Some(own), letter.origin(), letter.failed_at()]
        .into_iter()
        .flatten()
}

/// The ids a record may have: in its JSON, in the message of an inner topic, or, without one, its first place.
fn ids(id_field: &str, letter: &DeadLetter) -> impl Iterator<Item = String> {
    let payload = letter.payload.as_deref().unwrap_or_default();
    let json = serde_json::from_slice::<Value>(payload)
        .ok()
        .and_then(|it| match it.get(id_field)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
    let inner = || {
        // The id is the first field of all three messages.
        let (_, message) = quadrille_proto::open(payload).ok()?;
        Record::decode(message).ok().map(|record| record.id)
    };
    [json.or_else(inner), letter.origin()].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use quadrille_proto::{SchemaId, seal};

    use super::*;

    fn letter() -> DeadLetter {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        DeadLetter {
            partition: 3,
            offset: 17,
            timestamp_ms: Some(1_700_000_000_000),
            key: None,
            payload: Some(br#"{"id": "r-1", "ref": 7}"#.to_vec()),
            headers: vec![
                header("quadrille.origin", "p.inbox-1-2"),
                header("__connect.errors.topic", "p.inbox"),
                header("__connect.errors.partition", "3"),
                header("__connect.errors.offset", "4"),
                header(
                    "__connect.errors.exception.class.name",
                    "quadrille.wrong_type",
                ),
            ],
        }
    }

    #[track_caller]
    fn check(expected: bool, filter: &Filter) {
        let found = filter.matches("p.inbox.dlq", "id", &letter());
        assert_eq!(found, expected, "{filter:?}");
        assert!(!filter.is_empty(), "{filter:?}");
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn without_filters_every_letter_passes() {
        assert!(Filter::default().is_empty());
        assert!(Filter::default().matches("p.inbox.dlq", "id", &letter()));
    }

    #[test]
    fn a_reason_is_a_class_with_or_without_its_prefix() {
        for (reason, expected) in [
            (&["wrong_type"][..], true),
            (&["quadrille.wrong_type"], true),
            (&["bad_time", "wrong_type"], true),
            (&["wrong"], false),
        ] {
            let reason = texts(reason);
            check(
                expected,
                &Filter {
                    reason,
                    ..Filter::default()
                },
            );
        }
    }

    #[test]
    fn a_place_is_where_it_lay_first_where_it_failed_or_where_its_letter_lies() {
        for (place, expected) in [
            ("p.inbox-1-2", true),
            ("p.inbox-3-4", true),
            ("p.inbox.dlq-3-17", true),
            ("p.inbox-3-5", false),
        ] {
            let place = texts(&[place]);
            check(
                expected,
                &Filter {
                    place,
                    ..Filter::default()
                },
            );
        }
    }

    #[test]
    fn an_id_is_in_the_json_in_the_message_or_the_first_place() {
        for (id, expected) in [("r-1", true), ("p.inbox-1-2", true), ("7", false)] {
            let id = texts(&[id]);
            check(
                expected,
                &Filter {
                    id,
                    ..Filter::default()
                },
            );
        }
        let filter = Filter {
            id: texts(&["7"]),
            ..Filter::default()
        };
        assert!(filter.matches("p.inbox.dlq", "ref", &letter()));
        let mut inner = letter();
        let record = Record {
            id: "r-2".to_owned(),
            values: vec![1.0],
            ..Record::default()
        };
        let mut payload = Vec::new();
        seal(SchemaId(1), &record, &mut payload);
        inner.payload = Some(payload);
        let filter = Filter {
            id: texts(&["r-2"]),
            ..Filter::default()
        };
        assert!(filter.matches("p.records.dlq", "id", &inner));
    }

    #[test]
    fn a_period_has_its_beginning_and_not_its_end() {
        let at = |text: &str| Some(time::parse(text).unwrap());
        let (record, next) = (at("2023-11-14T22:13:20Z"), at("2023-11-14T22:13:21Z"));
        for (from, to, expected) in [
            (record, None, true),
            (next, None, false),
            (None, record, false),
            (at("2023-11-14"), at("2023-11-15"), true),
        ] {
            check(
                expected,
                &Filter {
                    from,
                    to,
                    ..Filter::default()
                },
            );
        }
        let mut timeless = letter();
        timeless.timestamp_ms = None;
        let filter = Filter {
            from: record,
            ..Filter::default()
        };
        assert!(!filter.matches("p.inbox.dlq", "id", &timeless));
    }

    #[test]
    fn all_kinds_of_filters_must_match() {
        let filter = Filter {
            reason: texts(&["wrong_type"]),
            id: texts(&["other"]),
            ..Filter::default()
        };
        check(false, &filter);
    }
}
