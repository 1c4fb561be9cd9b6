//! Open dead letters settled: sent back, or discarded.

use std::{collections::BTreeMap, ops::ControlFlow};

use quadrille_choreography::{
    DeadLetter, DeadLetters,
    redrive::{Action, Scope, SettleRequest, Summary},
};
use quadrille_proto::DLQ_SUFFIX;
use quadrille_service::Error;
use serde_json::json;

use super::{Which, explain};
use crate::{
    kafka,
    meter::Letters,
    output::{self, Output, OutputArg},
    preview, registry,
};

/// Characters of a note: it goes with every record's entry in the ledger.
const NOTE_CHARS_MAX: usize = 500;

/// Flags of everything that settles.
#[derive(Debug, clap::Args)]
pub struct Settling {
    #[command(flatten)]
    pub which: Which,

    /// Only count them, by reason; nothing is changed.
    #[arg(long)]
    dry_run: bool,

    /// Who makes the change [default: user@host].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    output: OutputArg,
}

/// A note as it is typed.
///
/// # Errors
/// It is too long.
pub fn note(text: &str) -> Result<String, String> {
    match text.chars().count() <= NOTE_CHARS_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("at most {NOTE_CHARS_MAX} characters")),
    }
}

/// # Errors
/// The topic cannot be one, Kafka does not answer, or letters could not be sent back.
pub fn settle(args: &Settling, action: Action, note: &str) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    kafka::reach(&cluster)?;
    let by = registry::author(args.by.as_deref());
    let mut refused = 0;
    for topic in &args.which.topics()? {
        let letters = DeadLetters {
            cluster: &cluster,
            topic,
        };
        let select = |letter: &DeadLetter| args.which.matches(topic, letter);
        if args.dry_run {
            rehearse(&letters, &select, action, args.output.get())?;
            continue;
        }
        let request = SettleRequest {
            action,
            select: &select,
            by: &by,
            reason: note,
        };
        let done = match action {
            Action::SendBack => "sent back",
            Action::Discard => "discarded",
        };
        let mut meter = Letters::new(topic, done);
        let settled = letters.settle(&request, &mut |it| meter.show(it));
        let settled = settled.map_err(|error| explain(error, &cluster))?;
        report(topic, action, &settled, args.output.get())?;
        refused += settled.refused;
    }
    match refused {
        0 => Ok(()),
        count => Err(Error::Failed(format!(
            "{count} dead letters could not be sent back and are open still; discard them with `quadrille dlq discard`, or mend what is said of them"
        ))),
    }
}

fn report(topic: &str, action: Action, settled: &Summary, output: Output) -> Result<(), Error> {
    for letter in &settled.named {
        let reason = preview::text(&letter.reason, preview::MESSAGE_CHARS_MAX);
        let (partition, offset) = (letter.partition, letter.offset);
        output::note(format_args!("{topic}-{partition}-{offset}: {reason}"));
    }
    let more = settled.refused - settled.named.len() as u64;
    if more > 0 {
        output::note(format_args!("and {more} more"));
    }
    let (count, source) = (settled.count, source(topic));
    if output == Output::Json {
        let _ = output::print(json!({
            "topic": topic,
            "action": name(action),
            "count": count,
            "refused": settled.refused,
        }))?;
        return Ok(());
    }
    let _ = output::print(match action {
        Action::SendBack => format!("{count} sent back from {topic} to {source}"),
        Action::Discard => format!("{count} of {topic} discarded"),
    })?;
    Ok(())
}

/// Says what would be done.
fn rehearse(
    letters: &DeadLetters<'_>,
    select: &dyn Fn(&DeadLetter) -> bool,
    action: Action,
    output: Output,
) -> Result<(), Error> {
    let topic = letters.topic;
    let mut meter = Letters::new(topic, "read");
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let listed = letters.list(
        Scope::Open,
        select,
        &mut |it| meter.show(it),
        |letter, _| {
            let class = letter.class().unwrap_or("no class").to_owned();
            *reasons.entry(class).or_default() += 1;
            ControlFlow::Continue(())
        },
    );
    listed.map_err(|error| explain(error, letters.cluster))?;
    let count: u64 = reasons.values().sum();
    if output == Output::Json {
        let _ = output::print(json!({
            "topic": topic,
            "action": name(action),
            "dry_run": true,
            "count": count,
            "by_class": reasons,
        }))?;
        return Ok(());
    }
    let (source, reasons) = (source(topic), by_reason(&reasons));
    let _ = output::print(match action {
        Action::SendBack => format!("{count} would be sent back from {topic} to {source}{reasons}"),
        Action::Discard => format!("{count} of {topic} would be discarded{reasons}"),
    })?;
    Ok(())
}

fn name(action: Action) -> &'static str {
    match action {
        Action::SendBack => "redrive",
        Action::Discard => "discard",
    }
}

/// `: 12 quadrille.out_of_range, 3 quadrille.bad_time`.
fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = reasons
        .iter()
        .map(|(class, count)| format!("{count} {}", preview::cell(class)))
        .collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(": {}", each.join(", ")),
    }
}

fn source(topic: &str) -> &str {
    topic.strip_suffix(DLQ_SUFFIX).unwrap_or(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsal_counts_by_reason() {
        let reasons = [
            ("quadrille.bad_time".to_owned(), 3),
            ("x\x1b".to_owned(), 1),
        ];
        assert_eq!(
            by_reason(&reasons.into()),
            ": 3 quadrille.bad_time, 1 x\\u{1b}"
        );
        assert_eq!(by_reason(&BTreeMap::new()), "");
    }

    #[test]
    fn a_note_is_bounded() {
        assert!(note(&"é".repeat(NOTE_CHARS_MAX)).is_ok());
        assert!(note(&"é".repeat(NOTE_CHARS_MAX + 1)).is_err());
    }
}
