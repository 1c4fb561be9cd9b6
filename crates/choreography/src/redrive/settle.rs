//! Letters settled, batch by batch: what is sent back and what the ledger says of it are one transaction.
//!
//! One settler a topic: a second one ends the transaction of the first, which then gives up. Where it is not known how a
//! transaction ended, or it came to nothing, the producer is not used again; a new one ends it for certain, and the
//! ledger says what had been done.

use std::{collections::HashMap, time::Duration};

use quadrille_proto::Topics;
use rdkafka::{
    Message,
    message::{BorrowedMessage, OwnedMessage},
};

use super::{
    Action, DeadLetter, Error, Progress, Resolution, SettleRequest, Settlement, Summary, Unsent,
    ledger::{Entry, Ledger, SelectedLetters},
    letter::CaseId,
    outgoing::{self, Pending},
    scan::{ANSWER_WITHIN, Scan, consumer},
    settler::{Settler, TxnError, Write},
    survey::{DlqTopic, LedgerView, READER, Survey, now_ms, offsets_of, read_ledger, settler},
};
use crate::{
    Admin, Backoff, Cluster,
    producer::{LaneProducer, TRANSACTION_TIMEOUT},
};

/// Letters in one transaction.
const BATCH_RECORDS_MAX: usize = 500;
/// Bytes of letters in one transaction, unless one has more.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Settlements that are taken off the ledger, or made up for, in one transaction.
const MAINTENANCE_RECORDS_MAX: usize = 5_000;
/// How often a new producer is made in vain before a run gives up.
const SESSIONS_MAX: u32 = 6;
/// Letters that could not be sent back and are named; the others are only counted.
const UNSENT_NAMED_MAX: usize = 20;
/// The slowest line to Kafka that is reckoned with.
const BYTES_PER_SECOND_MIN: usize = 1 << 20;
/// One run over a topic: a survey, and as many sessions as it takes.
pub(super) struct Run<'a> {
    cluster: &'a Cluster,
    topic: &'a str,
    request: &'a SettleRequest<'a>,
    progress: &'a mut dyn FnMut(Progress),
    admin: Admin,
    /// Partitions of the topics letters go back to.
    targets: HashMap<String, Option<i32>>,
    found: DlqTopic,
    selected: SelectedLetters,
    bytes_max: usize,
    /// So many of the next letters go one by one: one of them cannot be sent.
    alone: usize,
    /// Letters of a transaction that may have been committed.
    in_doubt: u64,
    total: u64,
    summary: Summary,
}

impl<'a> Run<'a> {
    pub fn prepare(
        cluster: &'a Cluster,
        topic: &'a str,
        request: &'a SettleRequest<'a>,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let survey = Survey::make(cluster, topic, request.select, progress)?;
        Ok(Run {
            cluster,
            topic,
            request,
            progress,
            admin: Admin::connect(cluster)?,
            targets: HashMap::new(),
            found: survey.found,
            total: survey.selected.values().map(|it| it.len() as u64).sum(),
            selected: survey.selected,
            bytes_max: survey.bytes_max,
            alone: 0,
            in_doubt: 0,
            summary: Summary::default(),
        })
    }

    pub fn settle(mut self) -> Result<Summary, Error> {
        let new = || Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let (mut backoff, mut before) = (new(), 0);
        loop {
            let reason = match self.session()? {
                Ok(()) => return Ok(self.summary),
                Err(TxnError::Unusable) => continue,
                Err(TxnError::TakenOver) => {
                    return Err(Error::TakenOver {
                        topic: self.topic.to_owned(),
                        done: self.summary.count,
                    });
                }
                Err(TxnError::Restart(reason) | TxnError::Letter(reason)) => reason,
            };
            // Only what comes to nothing again and again is given up.
            if std::mem::replace(&mut before, self.summary.count) < self.summary.count {
                backoff = new();
            }
            let wait = backoff.next_wait();
            if backoff.attempts() >= SESSIONS_MAX {
                return Err(Error::Unsettled {
                    topic: self.topic.to_owned(),
                    done: self.summary.count,
                    reason,
                });
            }
            tracing::warn!(
                topic = self.topic,
                reason,
                "transaction not committed; trying again with a new producer"
            );
            std::thread::sleep(wait);
        }
    }

    /// From one producer to the next. The inner error is a transaction's.
    fn session(&mut self) -> Result<Result<(), TxnError>, Error> {
        let timeout = TRANSACTION_TIMEOUT
            + Duration::from_secs((self.bytes_max / BYTES_PER_SECOND_MIN) as u64);
        let settler = Settler {
            producer: self.connect(timeout)?,
            timeout,
            discards: matches!(self.request.action, Action::Discard),
        };
        // Ends the transaction of whoever was here before: what it did is known from here on.
        if let Err(error) = settler.producer.init_transactions(ANSWER_WITHIN) {
            return Ok(Err(settler.error_of(&error)));
        }
        let ledger = read_ledger(self.cluster, self.topic, &self.found, LedgerView::Complete)?;
        let ledger = ledger.ok_or(Error::NoLedger)?;
        self.drop_settled(&ledger);
        for records in self.maintenance(&ledger).chunks(MAINTENANCE_RECORDS_MAX) {
            if let Err(fault) = settler.transact(&[], records) {
                return Ok(Err(fault));
            }
            if settler.producer.is_unusable() {
                return Ok(Err(TxnError::Unusable));
            }
        }
        self.batches(&settler, &ledger)
    }

    /// All that is wanted, batch by batch.
    fn batches(
        &mut self,
        settler: &Settler,
        ledger: &Ledger,
    ) -> Result<Result<(), TxnError>, Error> {
        let reader = consumer(self.cluster, READER, "read_committed")?;
        let mut scan = Scan::of(reader, self.topic, offsets_of(&self.selected))?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(message) = scan.next()? {
            let letters = self.selected.get(&message.partition());
            let Some(case) = letters.and_then(|letters| letters.get(&message.offset())) else {
                continue;
            };
            let size = message.payload_len() + message.key_len();
            let records_max = if self.alone > 0 { 1 } else { BATCH_RECORDS_MAX };
            let full = batch.len() >= records_max || bytes + size > BATCH_BYTES_MAX;
            let case = *case;
            if full && !batch.is_empty() {
                self.alone = self.alone.saturating_sub(1);
                if let Err(fault) = self.batch(settler, ledger, std::mem::take(&mut batch)) {
                    return Ok(Err(fault));
                }
                bytes = 0;
            }
            if let Some(pending) = self.pending(&message, case)? {
                bytes += size;
                batch.push(pending);
            }
        }
        Ok(match batch.is_empty() {
            true => Ok(()),
            false => self.batch(settler, ledger, batch),
        })
    }

    /// Settles a batch; where one letter cannot be sent, the others alone.
    fn batch(
        &mut self,
        settler: &Settler,
        ledger: &Ledger,
        batch: Vec<Pending>,
    ) -> Result<(), TxnError> {
        match self.transact(settler, ledger, &batch) {
            Err(TxnError::Letter(reason)) => {
                match batch.as_slice() {
                    [alone] => self.refuse(&alone.message, reason),
                    // Which others cannot be sent is found out one by one.
                    all => self.alone = all.len(),
                }
                match settler.producer.is_unusable() {
                    true => Err(TxnError::Unusable),
                    false => Ok(()),
                }
            }
            other => other,
        }
    }

    fn transact(
        &mut self,
        settler: &Settler,
        ledger: &Ledger,
        batch: &[Pending],
    ) -> Result<(), TxnError> {
        let entries: Vec<Write> = batch.iter().map(|it| self.entry(ledger, it)).collect();
        let count = batch.len() as u64;
        self.in_doubt = count;
        let result = settler.transact(batch, &entries);
        if let Err(TxnError::Letter(_)) = &result {
            self.in_doubt = 0;
        }
        result?;
        self.in_doubt = 0;
        for pending in batch {
            self.forget(&pending.message);
        }
        self.summary.count += count;
        (self.progress)(Progress::Settling {
            done: self.summary.count,
            total: self.total,
        });
        match settler.producer.is_unusable() {
            true => Err(TxnError::Unusable),
            false => Ok(()),
        }
    }

    fn forget(&mut self, message: &OwnedMessage) {
        if let Some(letters) = self.selected.get_mut(&message.partition()) {
            letters.remove(&message.offset());
        }
    }

    /// What somebody settled since the survey is not wanted any more; what was in doubt turns out to be done, or not.
    fn drop_settled(&mut self, ledger: &Ledger) {
        let before: usize = self.selected.values().map(|letters| letters.len()).sum();
        for (partition, letters) in &mut self.selected {
            letters.retain(|offset, case| ledger.settlement(*partition, *case, *offset).is_none());
        }
        self.selected.retain(|_, letters| !letters.is_empty());
        let after: usize = self.selected.values().map(|letters| letters.len()).sum();
        let gone = (before - after) as u64;
        let done = gone.min(std::mem::take(&mut self.in_doubt));
        self.summary.count += done;
        self.total -= gone - done;
    }

    /// What the ledger lacks from the time before it, and what it need not keep.
    fn maintenance(&self, ledger: &Ledger) -> Vec<Write> {
        let floors = self.found.floors(self.request.by);
        let lacking = floors.filter(|(partition, it)| !ledger.covers(*partition, it.through));
        let floors = lacking.map(|(partition, settlement)| {
            let entry = Entry {
                partition,
                case: None,
                origin: String::new(),
                class: String::new(),
                settlement: &settlement,
            };
            let (key, value) = ledger.encode(&entry);
            (key, Some(value))
        });
        let first = |partition| Some(self.found.offsets.get(&partition)?.0);
        let expired = ledger.expired(first).into_iter().map(|key| (key, None));
        floors.chain(expired).collect()
    }

    fn entry(&self, ledger: &Ledger, pending: &Pending) -> Write {
        let resolution = match self.request.action {
            Action::Discard => Resolution::Discarded,
            Action::SendBack => Resolution::SentBack {
                topic: pending.target.0.clone(),
                partition: pending.target.1,
                attempts: pending.attempts,
            },
        };
        let settlement = Settlement {
            resolution,
            by: self.request.by.to_owned(),
            at_ms: now_ms(),
            reason: self.request.reason.to_owned(),
            through: pending.message.offset(),
        };
        let (key, value) = ledger.encode(&Entry {
            partition: pending.message.partition(),
            case: Some(pending.case),
            origin: pending.origin.clone(),
            class: pending.class.clone(),
            settlement: &settlement,
        });
        (key, Some(value))
    }

    /// A letter for a batch; None where it cannot be sent back, which stays open.
    fn pending(
        &mut self,
        message: &BorrowedMessage<'_>,
        case: CaseId,
    ) -> Result<Option<Pending>, Error> {
        let letter = DeadLetter::read(message);
        let pending = Pending {
            case,
            origin: letter.place(),
            class: letter.class().unwrap_or_default().to_owned(),
            attempts: letter
                .attempts()
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            target: letter.target(self.topic),
            message: message.detach(),
        };
        if matches!(self.request.action, Action::Discard) {
            return Ok(Some(pending));
        }
        let refusal = match letter.is_truncated() {
            true => Some("it does not hold the original's bytes".to_owned()),
            false => self.missing_target(&pending.target)?,
        };
        Ok(match refusal {
            None => Some(pending),
            Some(reason) => {
                self.refuse(&pending.message, reason);
                None
            }
        })
    }

    fn missing_target(
        &mut self,
        (topic, partition): &(String, i32),
    ) -> Result<Option<String>, Error> {
        let partitions = match self.targets.get(topic) {
            Some(known) => *known,
            None => {
                let found = self.admin.partitions(topic)?;
                self.targets.insert(topic.clone(), found);
                found
            }
        };
        Ok(match partitions {
            None => Some(format!("there is no topic {topic}")),
            Some(count) if !(0..count).contains(partition) => {
                Some(format!("{topic} has no partition {partition}"))
            }
            Some(_) => None,
        })
    }

    fn refuse(&mut self, message: &OwnedMessage, reason: String) {
        self.summary.refused += 1;
        if self.summary.named.len() < UNSENT_NAMED_MAX {
            self.summary.named.push(Unsent {
                partition: message.partition(),
                offset: message.offset(),
                reason,
            });
        }
        // Not tried again in this run.
        self.forget(message);
    }

    fn connect(&self, timeout: Duration) -> Result<LaneProducer, Error> {
        let limits = [Topics::DEAD_LETTERS, source(self.topic)].map(|topic| {
            match self.admin.partitions(topic)? {
                Some(_) => self.admin.message_bytes_max(topic),
                None => Ok(usize::MAX),
            }
        });
        let [ledger, source] = limits;
        let batch_bytes_max = ledger?.min(source?);
        let settings =
            outgoing::settings(self.cluster, &settler(self.topic), timeout, batch_bytes_max);
        Ok(LaneProducer::start(&settings, "redrive")?)
    }
}

fn source(topic: &str) -> &str {
    topic
        .strip_suffix(quadrille_proto::DLQ_SUFFIX)
        .unwrap_or(topic)
}
