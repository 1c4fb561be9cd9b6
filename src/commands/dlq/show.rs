//! Dead letters on a terminal, and for machines.

use quadrille_choreography::{
    DeadLetter,
    redrive::{LetterState, Resolution},
};
use serde_json::{Value, json};

use crate::{
    output::hex,
    preview::{self, cell},
    time,
};

fn timestamp(letter: &DeadLetter) -> Option<String> {
    time::millis(letter.timestamp_ms?)
}

/// What a state is called.
fn name(state: &LetterState) -> &'static str {
    let LetterState::Settled(settlement) = state else {
        return match state {
            LetterState::Open => "open",
            _ => "repeated",
        };
    };
    match settlement.resolution {
        Resolution::SentBack { .. } | Resolution::SentBackBefore => "sent_back",
        Resolution::Discarded => "discarded",
        Resolution::Unknown => "settled",
    }
}

/// What became of a letter, as the end of a line; nothing of one that is open.
fn became(state: &LetterState) -> String {
    let settlement = match state {
        LetterState::Open => return String::new(),
        LetterState::Repeated => return "  (a later letter stands for it)".to_owned(),
        LetterState::Settled(settlement) => settlement,
    };
    let what = match &settlement.resolution {
        Resolution::SentBack { .. } => "sent back",
        Resolution::SentBackBefore => "sent back before there was a ledger",
        Resolution::Discarded => "discarded",
        Resolution::Unknown => "settled",
    };
    let mut text = format!("  ({what}");
    if settlement.resolution != Resolution::SentBackBefore {
        if let Some(at) = time::millis(settlement.at_ms) {
            text.push_str(&format!(" {at}"));
        }
        for (word, said) in [(" by ", &settlement.by), (": ", &settlement.reason)] {
            if !said.is_empty() {
                text.push_str(word);
                text.push_str(&cell(said));
            }
        }
    }
    text.push(')');
    text
}

/// For people.
pub fn paragraph(topic: &str, letter: &DeadLetter, state: &LetterState) -> String {
    let message = letter.message().unwrap_or("without a message");
    let payload = match &letter.payload {
        Some(payload) => preview::payload(payload, preview::PAYLOAD_CHARS_MAX),
        None => "no payload".to_owned(),
    };
    format!(
        "{topic} partition {} offset {}  {}  {}  attempts {}  origin {}{}\n  {}\n  {payload}",
        letter.partition,
        letter.offset,
        timestamp(letter).unwrap_or_else(|| "no time".to_owned()),
        cell(letter.class().unwrap_or("no class")),
        cell(letter.attempts().unwrap_or("unknown")),
        preview::text(
            &letter.origin().unwrap_or_else(|| "unknown".to_owned()),
            preview::PAYLOAD_CHARS_MAX
        ),
        became(state),
        preview::text(message, preview::MESSAGE_CHARS_MAX),
    )
}

/// For machines: the whole payload.
pub fn to_json(topic: &str, letter: &DeadLetter, state: &LetterState) -> Value {
    let mut value = json!({
        "topic": topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": timestamp(letter),
        "class": letter.class(),
        "message": letter.message(),
        "attempts": letter.attempts().and_then(|text| text.parse::<u64>().ok()),
        "origin": letter.origin(),
        "failed_at": letter.failed_at(),
        "state": name(state),
    });
    if let LetterState::Settled(settlement) = state {
        value["settled_at"] = json!(time::millis(settlement.at_ms));
        value["settled_by"] = json!(settlement.by);
        value["note"] = json!(settlement.reason);
    }
    for (name, bytes) in [("key", &letter.key), ("payload", &letter.payload)] {
        match bytes.as_deref().map(std::str::from_utf8) {
            None => value[name] = Value::Null,
            Some(Ok(text)) => value[name] = Value::from(text),
            Some(Err(_)) => {
                let digits = hex(bytes.as_deref().unwrap_or_default());
                value[format!("{name}_hex")] = Value::from(digits);
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        DeadLetter {
            partition: 3,
            offset: 17,
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(b"p-1".to_vec()),
            payload: Some(payload.to_vec()),
            headers: vec![
                header("__connect.errors.topic", "p.inbox"),
                header("__connect.errors.partition", "3"),
                header("__connect.errors.offset", "4"),
                header(
                    "__connect.errors.exception.class.name",
                    "quadrille.wrong_type",
                ),
                header(
                    "__connect.errors.exception.message",
                    "field \"x\": is\x1b[2J wrong",
                ),
                header("quadrille.errors.attempts", "1"),
            ],
        }
    }

    #[test]
    fn a_person_sees_what_is_wrong_and_nothing_acts_on_the_terminal() {
        let shown = paragraph(
            "p.inbox.dlq",
            &letter(b"{\"x\":\"tall\x07\"}"),
            &LetterState::Open,
        );
        assert_eq!(
            shown,
            "p.inbox.dlq partition 3 offset 17  2023-11-14T22:13:20.000Z  quadrille.wrong_type  attempts 1  \
             origin p.inbox-3-4\n  field \"x\": is\\u{1b}[2J wrong\n  {\"x\":\"tall\\u{7}\"}"
        );
    }

    #[test]
    fn a_machine_gets_the_whole_payload_as_text_or_as_digits() {
        let json = to_json("p.inbox.dlq", &letter(b"{}"), &LetterState::Open);
        assert_eq!(
            (&json["payload"], &json["attempts"]),
            (&"{}".into(), &1.into())
        );
        let json = to_json("p.inbox.dlq", &letter(b"\xff"), &LetterState::Open);
        assert_eq!(
            (&json["payload_hex"], &json["payload"]),
            (&"ff".into(), &Value::Null)
        );
    }

    #[test]
    fn the_origin_of_a_letter_that_was_sent_back_is_its_first_place() {
        let mut again = letter(b"{}");
        again
            .headers
            .push(("quadrille.origin".to_owned(), b"p.inbox-1-2".to_vec()));
        let json = to_json("p.inbox.dlq", &again, &LetterState::Repeated);
        assert_eq!(json["origin"], "p.inbox-1-2");
        assert_eq!(
            (&json["failed_at"], &json["state"]),
            (&"p.inbox-3-4".into(), &"repeated".into())
        );
    }
}
