//! What is open in a dead-letter topic: its letters and the ledger read together.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quadrille_proto::{DLQ_SUFFIX, Topics};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    DeadLetter, Error, Progress, Resolution, Settlement,
    ledger::{Ledger, OpenCases, SelectedLetters},
    scan::{ANSWER_WITHIN, Offsets, Scan, consumer, watermarks},
};
use crate::{Cluster, client::LoggingContext, table};

/// The group that readers give as theirs; it commits nothing.
pub(super) const READER: &str = "quadrille.dlq.reader";
/// How long another redrive's open transaction may hold up this one's look at the ledger: longer than one of a process
/// that was killed stays open with the broker's defaults.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How often to check whether that transaction has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much of the ledger is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LedgerView {
    /// What readers of committed records see. An open transaction of another topic's redrive hides what came after it.
    Visible,
    /// All that was committed when the question was asked.
    Complete,
}

/// The name of those who settle letters of this topic, one at a time; once also the group that kept their place.
pub(super) fn settler(topic: &str) -> String {
    let source = topic.strip_suffix(DLQ_SUFFIX).unwrap_or(topic);
    format!("quadrille.redrive.{source}")
}

/// A dead-letter topic as it was found.
pub(super) struct DlqTopic {
    pub topic_id: Option<String>,
    /// First and next offset of each partition.
    pub offsets: Offsets,
    /// Letters before these were sent back by versions that had no ledger.
    pub sent_before: BTreeMap<i32, i64>,
}

impl DlqTopic {
    pub fn look(cluster: &Cluster, topic: &str) -> Result<Self, Error> {
        let reader = consumer(cluster, &settler(topic), "read_committed")?;
        let offsets = watermarks(&reader, topic)?;
        let offsets = offsets.ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
        let sent_before = sent_before(&reader, topic, &offsets)?;
        Ok(DlqTopic {
            topic_id: table::topic_id(cluster, &reader, topic),
            offsets,
            sent_before,
        })
    }

    /// Settlements that make up for the ledger's absence at that time.
    pub fn floors(&self, by: &str) -> impl Iterator<Item = (i32, Settlement)> {
        let by = by.to_owned();
        let at_ms = now_ms();
        let sent_before = self.sent_before.iter();
        sent_before.map(move |(partition, next)| {
            let settlement = Settlement {
                resolution: Resolution::SentBackBefore,
                by: by.clone(),
                at_ms,
                reason: String::new(),
                through: next - 1,
            };
            (*partition, settlement)
        })
    }
}

/// Where the group stands that kept a redrive's place before there was a ledger.
fn sent_before(
    reader: &BaseConsumer<LoggingContext>,
    topic: &str,
    offsets: &Offsets,
) -> Result<BTreeMap<i32, i64>, Error> {
    let mut list = TopicPartitionList::new();
    for partition in offsets.keys() {
        list.add_partition(topic, *partition);
    }
    let committed = match committed(reader, &list) {
        Ok(committed) => committed,
        Err(error)
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) =>
        {
            let group = settler(topic);
            tracing::warn!(
                group,
                "not authorised to read this group's offsets: letters that an earlier version sent back count as open"
            );
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error.into()),
    };
    let place = |(partition, (first, _)): (&i32, &(i64, i64))| match committed
        .find_partition(topic, *partition)?
        .offset()
    {
        Offset::Offset(next) if next > *first => Some((*partition, next)),
        _ => None,
    };
    Ok(offsets.iter().filter_map(place).collect())
}

/// As the client asks for committed offsets, and again while the group's coordinator is looked for.
fn committed(
    reader: &BaseConsumer<LoggingContext>,
    list: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        let error = match reader.committed_offsets(list.clone(), ANSWER_WITHIN) {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        let passes = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
                    | RDKafkaErrorCode::WaitingForCoordinator
            )
        );
        if !passes || Instant::now() > deadline {
            return Err(error);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The ledger of a topic; None where there is no such thing.
pub(super) fn read_ledger(
    cluster: &Cluster,
    topic: &str,
    found: &DlqTopic,
    knowledge: LedgerView,
) -> Result<Option<Ledger>, Error> {
    let reader = consumer(cluster, READER, "read_committed")?;
    if knowledge == LedgerView::Complete {
        wait_settled(cluster, &reader)?;
    }
    let Some(offsets) = watermarks(&reader, Topics::DEAD_LETTERS)? else {
        return Ok(None);
    };
    let mut ledger = Ledger::new(topic, found.topic_id.clone());
    let mut scan = Scan::of(reader, Topics::DEAD_LETTERS, offsets)?;
    while let Some(message) = scan.next()? {
        ledger.apply(message.key().unwrap_or_default(), message.payload());
    }
    Ok(Some(ledger))
}

/// Waits until everything that was written to the ledger by now is committed or aborted. A transaction of another
/// topic's redrive that began before ours hides ours from readers until it ends.
fn wait_settled(cluster: &Cluster, reader: &BaseConsumer<LoggingContext>) -> Result<(), Error> {
    let all = consumer(cluster, READER, "read_uncommitted")?;
    let Some(written) = watermarks(&all, Topics::DEAD_LETTERS)? else {
        return Ok(());
    };
    let deadline = Instant::now() + SETTLED_WITHIN;
    for (partition, (_, end)) in written {
        loop {
            let topic = Topics::DEAD_LETTERS;
            // To a client that reads committed records the end is the last stable offset.
            let (_, stable) = reader.fetch_watermarks(topic, partition, ANSWER_WITHIN)?;
            if stable >= end {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::LedgerHeld);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ok(())
}

/// What is open, and how large the largest chosen letter is.
pub(super) struct Survey {
    pub found: DlqTopic,
    pub ledger: Ledger,
    pub selected: SelectedLetters,
    pub bytes_max: usize,
}

impl Survey {
    /// Reads all letters; changes nothing.
    pub fn make(
        cluster: &Cluster,
        topic: &str,
        select: &dyn Fn(&DeadLetter) -> bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let found = DlqTopic::look(cluster, topic)?;
        let ledger = read_ledger(cluster, topic, &found, LedgerView::Visible)?;
        let mut ledger = ledger.unwrap_or_else(|| Ledger::new(topic, found.topic_id.clone()));
        for (partition, floor) in found.floors("") {
            if !ledger.covers(partition, floor.through) {
                ledger.raise_floor(partition, floor);
            }
        }
        let reader = consumer(cluster, READER, "read_committed")?;
        let mut scan = Scan::of(reader, topic, found.offsets.clone())?;
        let (mut open, mut bytes_max, mut letters) = (OpenCases::default(), 0, 0);
        while let Some(message) = scan.next()? {
            letters += 1;
            progress(Progress::Reading { letters });
            let letter = DeadLetter::read(&message);
            let (partition, offset, case) = (letter.partition, letter.offset, letter.case(topic));
            if ledger.settlement(partition, case, offset).is_none() {
                let chosen = select(&letter);
                if chosen {
                    bytes_max = bytes_max.max(letter.payload.map_or(0, |payload| payload.len()));
                }
                open.add(partition, case, offset, chosen);
            }
        }
        Ok(Survey {
            found,
            ledger,
            selected: open.into_selected(),
            bytes_max,
        })
    }
}

/// The offsets between the first and the last letter that is wanted.
pub(super) fn offsets_of(selected: &SelectedLetters) -> Offsets {
    let ends = selected.iter().filter_map(|(partition, letters)| {
        let (first, _) = letters.first_key_value()?;
        let (last, _) = letters.last_key_value()?;
        Some((*partition, (*first, last + 1)))
    });
    ends.collect()
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
