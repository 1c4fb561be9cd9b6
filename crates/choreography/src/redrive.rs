//! Dead letters read back: listed, sent once more to the topic they came from, or given up.
//!
//! A record that failed is one *case* of its dead-letter topic, however often it was sent back and failed again. What
//! became of each case is on `quadrille.dead-letters`, the ledger, written in the transaction that sends it back
//! (`ledger.rs` says which letters are open by it). A letter that is settled stays where it is until its topic's
//! retention takes it; its settlement goes with the next redrive after that.

mod ledger;
mod letter;
mod outgoing;
mod scan;
mod settle;
mod settler;
mod survey;

use std::{collections::BTreeMap, ops::ControlFlow};

use quadrille_proto::{DLQ_SUFFIX, Topics};
use rdkafka::error::KafkaError;

pub use ledger::{Resolution, Settlement};
pub use letter::DeadLetter;

use crate::{Cluster, admin};
use scan::{ANSWER_WITHIN, Scan, consumer, watermarks};
use survey::{READER, Survey, offsets_of};

/// Why dead letters could not be read or settled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error("there is no topic {0}; a dead-letter topic is named <topic>{DLQ_SUFFIX}")]
    NoTopic(String),
    #[error("{0} is not a dead-letter topic: its name does not end in {DLQ_SUFFIX}")]
    NotDeadLetters(String),
    #[error(
        "there is no topic {}, which records what was done with dead letters; create it with `quadrille topics create`",
        Topics::DEAD_LETTERS
    )]
    NoLedger,
    #[error(
        "an open transaction hides part of {}; wait until the redrive that opened it ends or times out, then run this again",
        Topics::DEAD_LETTERS
    )]
    LedgerHeld,
    #[error(
        "another redrive or discard of {topic} has started and took over; this one had settled {done} letters"
    )]
    TakenOver { topic: String, done: u64 },
    #[error(
        "{topic}: {reason}; {done} letters were settled before that: run it again, it continues where it stopped"
    )]
    Unsettled {
        topic: String,
        done: u64,
        reason: String,
    },
    #[error("{topic} returned no records for {} s, with the offsets {left:?} still to be read{why}", ANSWER_WITHIN.as_secs())]
    Stalled {
        topic: String,
        left: BTreeMap<i32, (i64, i64)>,
        why: String,
    },
    #[error("{refused} dead letters of {topic} could not be sent back, among them {first:?}")]
    Unsent {
        topic: String,
        refused: u64,
        first: Option<Unsent>,
    },
}

/// Reads all dead letters of a topic, settled ones too, partition by partition as they come, until its present end.
///
/// # Errors
/// There is no such topic, or it cannot be read.
pub fn list_dead_letters(
    cluster: &Cluster,
    topic: &str,
    mut each: impl FnMut(DeadLetter) -> ControlFlow<()>,
) -> Result<(), Error> {
    let reader = consumer(cluster, READER, "read_committed")?;
    let offsets = watermarks(&reader, topic)?;
    let offsets = offsets.ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
    let mut scan = Scan::of(reader, topic, offsets)?;
    while let Some(message) = scan.next()? {
        if each(DeadLetter::read(&message)).is_break() {
            break;
        }
    }
    Ok(())
}

/// What is to be done with letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To the topic they came from, original bytes, key, time and headers.
    SendBack,
    /// Nothing is sent; they are not open any more.
    Discard,
}

/// What to do, with which letters, and for whom.
pub struct SettleRequest<'a> {
    pub action: Action,
    /// Asked of each open letter; of a case's several letters the newest one's answer counts.
    pub select: &'a dyn Fn(&DeadLetter) -> bool,
    pub by: &'a str,
    pub reason: &'a str,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Looking for what is open.
    Reading { letters: u64 },
    /// Committed so far, of all that was chosen.
    Settling { done: u64, total: u64 },
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases sent back, or discarded.
    pub count: u64,
    /// Cases that could not be sent back, and are open still.
    pub refused: u64,
    /// The first of those.
    pub named: Vec<Unsent>,
}

/// A letter that could not be sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
}

/// What has become of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterState {
    Open,
    /// Open, but a later letter stands for the same case.
    Repeated,
    Settled(Settlement),
}

/// Which letters are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The newest letter of each open case.
    Open,
    All,
}

/// A dead-letter topic and the ledger's part of it.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetters<'a> {
    pub cluster: &'a Cluster,
    pub topic: &'a str,
}

impl DeadLetters<'_> {
    /// Calls back with letters, each partition's in the order of their offsets. Changes nothing and needs no ledger.
    ///
    /// # Errors
    /// The topic is not one of dead letters, or cannot be read.
    pub fn list(
        &self,
        scope: Scope,
        select: &dyn Fn(&DeadLetter) -> bool,
        progress: &mut dyn FnMut(Progress),
        mut each: impl FnMut(DeadLetter, LetterState) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.check()?;
        let survey = Survey::make(self.cluster, self.topic, select, progress)?;
        let offsets = match scope {
            Scope::Open => offsets_of(&survey.selected),
            Scope::All => survey.found.offsets.clone(),
        };
        let reader = consumer(self.cluster, READER, "read_committed")?;
        let mut scan = Scan::of(reader, self.topic, offsets)?;
        while let Some(message) = scan.next()? {
            let letter = DeadLetter::read(&message);
            let (partition, offset) = (letter.partition, letter.offset);
            let of_partition = survey.selected.get(&partition);
            let state = match of_partition.is_some_and(|letters| letters.contains_key(&offset)) {
                true => LetterState::Open,
                false if scope == Scope::Open || !select(&letter) => continue,
                false => {
                    let case = letter.case(self.topic);
                    match survey.ledger.settlement(partition, case, offset) {
                        Some(settlement) => LetterState::Settled(settlement.clone()),
                        None => LetterState::Repeated,
                    }
                }
            };
            if each(letter, state).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Sends letters back, or gives them up, each case once: what is sent and what the ledger says of it are one
    /// transaction. Cut short, it goes on where it ended when it is run again; a second run at the same time ends the
    /// first.
    ///
    /// # Errors
    /// Nothing of the transaction at fault is visible; what was reported to `progress` is done.
    pub fn settle(
        &self,
        request: &SettleRequest<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Summary, Error> {
        self.check()?;
        settle::Run::prepare(self.cluster, self.topic, request, progress)?.settle()
    }

    fn check(&self) -> Result<(), Error> {
        match self.topic.ends_with(DLQ_SUFFIX) {
            true => Ok(()),
            false => Err(Error::NotDeadLetters(self.topic.to_owned())),
        }
    }
}

/// Sends everything that is open back where it came from.
pub struct Redrive<'a> {
    pub cluster: &'a Cluster,
    pub topic: &'a str,
}

impl Redrive<'_> {
    /// Runs to the current end; calls `progress` with the count of committed cases so far. Returns their number.
    ///
    /// # Errors
    /// As [`DeadLetters::settle`]; or letters could not be sent back.
    pub fn run(&self, mut progress: impl FnMut(u64)) -> Result<u64, Error> {
        let letters = DeadLetters {
            cluster: self.cluster,
            topic: self.topic,
        };
        let request = SettleRequest {
            action: Action::SendBack,
            select: &|_| true,
            by: "",
            reason: "",
        };
        let settled = letters.settle(&request, &mut |it| {
            if let Progress::Settling { done, .. } = it {
                progress(done);
            }
        })?;
        match settled.refused {
            0 => Ok(settled.count),
            refused => Err(Error::Unsent {
                topic: self.topic.to_owned(),
                refused,
                first: settled.named.into_iter().next(),
            }),
        }
    }
}
