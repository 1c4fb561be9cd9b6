//! What resolution of dead letters: the records of the ledger, and which letters are open by them. Pure.
//!
//! A letter is settled when its case was settled at its offset or a later one, or when it lies below its partition's
//! floor. Everything else is open: an entry can be missing, and a letter is sent twice; it is never passed over.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;
use quadrille_proto::v1::{
    DeadLetterSettlement, LetterDiscarded, LetterSentBack, LettersSentBackBefore,
    dead_letter_settlement,
};

use super::letter::CaseId;

/// What was done with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Sent back to a topic's partition, handled so often before.
    SentBack {
        topic: String,
        partition: i32,
        attempts: u32,
    },
    Discarded,
    /// Sent back before there was a ledger.
    SentBackBefore,
    /// Settled in a way that only newer versions know.
    Unknown,
}

/// How a letter was settled, by whom and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub resolution: Resolution,
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub reason: String,
    /// The last letter of the case that it settles.
    pub(super) through: i64,
}

/// One settlement on its way to the ledger.
pub(super) struct Entry<'a> {
    pub partition: i32,
    /// None: all letters of the partition.
    pub case: Option<CaseId>,
    pub origin: String,
    pub class: String,
    pub settlement: &'a Settlement,
}

/// The ledger of one dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    topic: String,
    topic_id: Option<String>,
    /// Letters before these offsets are settled.
    floors: HashMap<i32, Settlement>,
    cases: HashMap<(i32, CaseId), Settlement>,
    /// Keys of settlements of an earlier topic of this name.
    void: HashSet<String>,
}

impl Ledger {
    pub fn new(topic: &str, topic_id: Option<String>) -> Self {
        Ledger {
            topic: topic.to_owned(),
            topic_id,
            floors: HashMap::new(),
            cases: HashMap::new(),
            void: HashSet::new(),
        }
    }

    /// Takes the next record of the ledger's topic. The last one of a key counts, as compaction keeps it.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some((text, partition, case)) = self.own_key(key) else {
            return;
        };
        let entry = value.map(DeadLetterSettlement::decode);
        self.void.remove(&text);
        match case {
            Some(case) => self.cases.remove(&(partition, case)),
            None => self.floors.remove(&partition),
        };
        let entry = match entry {
            None => return,
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                // Its letters are open, as if it were not there.
                tracing::warn!(key = text, %error, "ignored a settlement on quadrille.dead-letters that does not decode; its letters count as open");
                return;
            }
        };
        if self.is_of_another(&entry.topic_id) {
            self.void.insert(text);
            return;
        }
        let settlement = from_wire(entry);
        match case {
            Some(case) => self.cases.insert((partition, case), settlement),
            None => self.floors.insert(partition, settlement),
        };
    }

    /// Parts of a key of this topic's.
    fn own_key(&self, key: &[u8]) -> Option<(String, i32, Option<CaseId>)> {
        let text = std::str::from_utf8(key).ok()?;
        let rest = text.strip_prefix(&self.topic)?.strip_prefix('/')?;
        let (partition, case) = match rest.split_once('/') {
            Some((partition, case)) => (partition, Some(CaseId::parse(case)?)),
            None => (rest, None),
        };
        Some((text.to_owned(), partition.parse().ok()?, case))
    }

    fn is_of_another(&self, topic_id: &str) -> bool {
        let own = self.topic_id.as_deref();
        !topic_id.is_empty() && own.is_some_and(|own| own != topic_id)
    }

    /// What settled this letter; None: it is open.
    pub fn settlement(&self, partition: i32, case: CaseId, offset: i64) -> Option<&Settlement> {
        let settled = |it: &&Settlement| offset <= it.through;
        let of_case = self.cases.get(&(partition, case)).filter(settled);
        of_case.or_else(|| self.floors.get(&partition).filter(settled))
    }

    /// Whether all letters up to `through` are known to be settled already.
    pub fn covers(&self, partition: i32, through: i64) -> bool {
        let floor = self.floors.get(&partition);
        floor.is_some_and(|floor| floor.through >= through)
    }

    /// All letters of a partition up to this offset were sent back before there was a ledger.
    pub fn raise_floor(&mut self, partition: i32, settlement: Settlement) {
        self.floors.insert(partition, settlement);
    }

    /// Keys that say nothing any more: of an earlier topic, or of letters before a partition's first.
    pub fn expired(&self, first: impl Fn(i32) -> Option<i64>) -> Vec<String> {
        let gone = |(partition, _): &&(i32, CaseId), it: &Settlement| {
            first(*partition).is_some_and(|first| it.through < first)
        };
        let cases = self.cases.iter().filter(|(key, it)| gone(key, it));
        let cases = cases.map(|((partition, case), _)| key(&self.topic, *partition, Some(*case)));
        self.void.iter().cloned().chain(cases).collect()
    }

    /// Key and value of a settlement.
    pub fn encode(&self, entry: &Entry<'_>) -> (String, Vec<u8>) {
        let Settlement {
            resolution,
            by,
            at_ms,
            reason,
            through,
        } = entry.settlement;
        let message = DeadLetterSettlement {
            topic: self.topic.clone(),
            topic_id: self.topic_id.clone().unwrap_or_default(),
            partition: entry.partition,
            through_offset: *through,
            origin: entry.origin.clone(),
            class: entry.class.clone(),
            outcome: to_wire(resolution),
            by: by.clone(),
            at_ms: *at_ms,
            reason: reason.clone(),
        };
        let key = key(&self.topic, entry.partition, entry.case);
        (key, message.encode_to_vec())
    }
}

fn key(topic: &str, partition: i32, case: Option<CaseId>) -> String {
    match case {
        Some(case) => format!("{topic}/{partition}/{case}"),
        None => format!("{topic}/{partition}"),
    }
}

fn to_wire(resolution: &Resolution) -> Option<dead_letter_settlement::Outcome> {
    use dead_letter_settlement::Outcome;
    match resolution {
        Resolution::SentBack {
            topic,
            partition,
            attempts,
        } => Some(Outcome::SentBack(LetterSentBack {
            topic: topic.clone(),
            partition: *partition,
            attempts: *attempts,
        })),
        Resolution::Discarded => Some(Outcome::Discarded(LetterDiscarded {})),
        Resolution::SentBackBefore => Some(Outcome::SentBackBefore(LettersSentBackBefore {})),
        Resolution::Unknown => None,
    }
}

fn from_wire(entry: DeadLetterSettlement) -> Settlement {
    use dead_letter_settlement::Outcome;
    let resolution = match entry.outcome {
        Some(Outcome::SentBack(sent)) => Resolution::SentBack {
            topic: sent.topic,
            partition: sent.partition,
            attempts: sent.attempts,
        },
        Some(Outcome::Discarded(_)) => Resolution::Discarded,
        Some(Outcome::SentBackBefore(_)) => Resolution::SentBackBefore,
        None => Resolution::Unknown,
    };
    Settlement {
        resolution,
        by: entry.by,
        at_ms: entry.at_ms,
        reason: entry.reason,
        through: entry.through_offset,
    }
}

/// Letters to settle: by partition and offset, the newest of each case.
pub(super) type SelectedLetters = BTreeMap<i32, BTreeMap<i64, CaseId>>;

/// The open cases of a dead-letter topic, letter by letter.
#[derive(Debug, Default)]
pub(super) struct OpenCases(HashMap<(i32, CaseId), Newest>);

#[derive(Debug)]
struct Newest {
    offset: i64,
    chosen: bool,
}

impl OpenCases {
    /// Takes a letter that is open. Of several the newest stands for the case: whether it is `chosen` decides.
    pub fn add(&mut self, partition: i32, case: CaseId, offset: i64, chosen: bool) {
        let newest = Newest { offset, chosen };
        let known = self.0.entry((partition, case));
        known
            .and_modify(|known| {
                if known.offset < offset {
                    *known = Newest { offset, chosen };
                }
            })
            .or_insert(newest);
    }

    /// The newest letter of each case that was chosen.
    pub fn into_selected(self) -> SelectedLetters {
        let mut selected = SelectedLetters::new();
        for ((partition, case), newest) in self.0 {
            if newest.chosen {
                let letters = selected.entry(partition).or_default();
                letters.insert(newest.offset, case);
            }
        }
        selected
    }
}

#[cfg(test)]
mod tests;
