//! What becomes of batches that the client cannot read: each ends as one dead letter that names its offsets, and the lane
//! continues behind it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{Offset, consumer::Consumer, error::KafkaError, producer::BaseRecord};

use super::{
    Lane,
    commit::{CommitError, begin, confirmed},
    session::SessionEnd,
};
use crate::{
    Backoff, Cause, CommitMode, Handler, OffsetRange,
    consumer::LaneConsumer,
    dlq::{self, Failed, FailedAt},
    producer::{self, LaneProducer, Undelivered},
    unreadable::{Search, Unreadable},
};

/// Between searches that find nothing.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(30);
const SKIPPED: &str = "skipped an unreadable batch; a dead letter names its offsets";

/// An error, and of each partition the next offset when it came, where that is known.
struct PendingError {
    error: String,
    partitions: Vec<(i32, Option<i64>)>,
}

/// What a lane knows of batches that it cannot read.
pub(super) struct ReadErrors {
    /// The last error, while it is to be found out what it was about.
    raised: Option<PendingError>,
    /// Of each partition that was sent behind such a batch, where to: until something is polled there it has no position.
    skipped: BTreeMap<i32, i64>,
    /// Of each partition the first and the last offset of a batch whose letter is confirmed and which was not stepped past
    /// yet: its store does not answer, and with each try the letter would be sent again.
    confirmed: BTreeMap<i32, (i64, i64)>,
    /// Partitions whose records the lane forgot since the error, as they went, or are read from elsewhere.
    forgotten: Vec<i32>,
    backoff: Backoff,
    again_at: Instant,
}

impl Default for ReadErrors {
    fn default() -> Self {
        ReadErrors {
            raised: None,
            skipped: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            forgotten: Vec::new(),
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            again_at: Instant::now(),
        }
    }
}

impl ReadErrors {
    /// Notes partitions whose records the lane forgot.
    pub fn note_forgotten(&mut self, partitions: &mut Vec<i32>) {
        for partition in &*partitions {
            self.confirmed.remove(partition);
        }
        match self.raised {
            Some(_) => self.forgotten.append(partitions),
            None => partitions.clear(),
        }
    }

    /// Notes an error, and where partitions were when it came. The client's position of one whose gate is closed is from
    /// before what the lane gave back when it closed it.
    fn raise(
        &mut self,
        error: String,
        positions: impl Iterator<Item = (i32, Offset)>,
        is_closed: impl Fn(i32) -> bool,
    ) {
        let next = |(partition, offset)| match offset {
            Offset::Offset(next) if !is_closed(partition) => (partition, Some(next)),
            _ => (partition, None),
        };
        let partitions = positions.map(next).collect();
        self.forgotten.clear();
        self.raised = Some(PendingError { error, partitions });
    }

    /// The error, with the positions that hold: of what the lane gave back since then nothing is handled, and it may come
    /// back, so that to go on behind its position would leave records out. Where a closed gate will be opened is not
    /// known; what cannot be read behind it is reported again then.
    fn take(&mut self, is_closed: impl Fn(i32) -> bool) -> Option<PendingError> {
        let mut raised = self.raised.take()?;
        let partitions = &mut raised.partitions;
        partitions.retain(|(partition, _)| !is_closed(*partition));
        for (partition, next) in partitions {
            if self.forgotten.contains(partition) {
                *next = None;
            }
        }
        self.forgotten.clear();
        Some(raised)
    }

    /// Notes that the letter of a batch is confirmed.
    fn confirm(&mut self, unreadable: &Unreadable) {
        let range = (unreadable.first, unreadable.last);
        self.confirmed.insert(unreadable.partition, range);
    }

    fn is_confirmed(&self, unreadable: &Unreadable) -> bool {
        let range = (unreadable.first, unreadable.last);
        self.confirmed.get(&unreadable.partition) == Some(&range)
    }

    /// Whether a search is due.
    pub fn is_due(&self) -> bool {
        self.raised.is_some() && Instant::now() >= self.again_at
    }
}

impl<H: Handler> Lane<H> {
    /// Notes an error that may be about a batch, and where all partitions were when it came: what is polled later may lie
    /// behind that batch.
    pub(super) fn note_read_error(
        &mut self,
        consumer: &LaneConsumer,
        error: &KafkaError,
    ) -> Result<(), SessionEnd> {
        if self.read_errors.raised.is_none() {
            let positions = consumer.client.position().map_err(SessionEnd::restart)?;
            let elements = positions.elements();
            let positions = elements.iter().map(|it| (it.partition(), it.offset()));
            let is_closed = |partition| consumer.is_closed(partition);
            self.read_errors
                .raise(error.to_string(), positions, is_closed);
        }
        Ok(())
    }

    /// Finds the batches that cannot be read, if there are any, and steps past each. To be called between batches.
    /// Answers with a wait where a letter could not be sent.
    pub(super) fn skip_unreadable(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
    ) -> Result<Option<Duration>, SessionEnd> {
        let is_closed = |partition| consumer.is_closed(partition);
        let Some(PendingError {
            error,
            mut partitions,
        }) = self.read_errors.take(is_closed)
        else {
            return Ok(None);
        };
        for (partition, next) in &mut partitions {
            let stored = || self.handler.store()?.next(*partition);
            *next = next.or_else(stored);
        }
        let wait = self.read_errors.backoff.next_wait();
        self.read_errors.again_at = Instant::now() + wait;
        let (mut found, mut open) = (Vec::new(), Vec::new());
        let progress = || self.status.progress();
        let search = Search::new(&self.config, &progress);
        for (partition, next) in &partitions {
            match self.search(&search, consumer, *partition, *next) {
                Ok(unreadable) => found.extend(unreadable),
                // The client may keep the same error to itself for a while when it comes again.
                Err(error) => {
                    open.push((*partition, *next));
                    tracing::warn!(lane = self.task, partition, %error, "could not find out whether the partition has an unreadable batch; trying again later");
                }
            }
        }
        if !open.is_empty() {
            self.read_errors.raised = Some(PendingError {
                error: error.clone(),
                partitions: open,
            });
        }
        if found.is_empty() {
            tracing::warn!(
                lane = self.task,
                error,
                wait_ms = wait.as_millis() as u64,
                "a fetch failed, but no unreadable batch was found; trying again later if it fails again"
            );
            return Ok(None);
        }
        if self.read_errors.raised.is_none() {
            self.read_errors.backoff.reset();
        }
        let mut left = found.as_slice();
        while let Some((unreadable, others)) = left.split_first() {
            match self.skip(producer, consumer, unreadable) {
                Ok(()) => left = others,
                Err(CommitError::End(end)) => return Err(end),
                Err(
                    CommitError::Aborted(reason)
                    | CommitError::InDoubt(reason)
                    | CommitError::TimedOut(reason),
                ) => {
                    // Those that are left are looked for again.
                    let again = left.iter().map(|it| (it.partition, Some(it.first)));
                    let raised = self.read_errors.raised.take();
                    let mut partitions = raised.map_or_else(Vec::new, |it| it.partitions);
                    partitions.extend(again);
                    self.read_errors.raised = Some(PendingError { error, partitions });
                    return match self.retry_later(reason)? {
                        super::process::BatchResult::Retry(wait) => Ok(Some(wait)),
                        super::process::BatchResult::Committed => Ok(None),
                    };
                }
            }
        }
        Ok(None)
    }

    fn search(
        &self,
        search: &Search<'_>,
        consumer: &LaneConsumer,
        partition: i32,
        next: Option<i64>,
    ) -> Result<Option<Unreadable>, KafkaError> {
        let assignment = consumer.client.assignment()?;
        if assignment
            .find_partition(&self.config.input, partition)
            .is_none()
        {
            return Ok(None);
        }
        let first = match next {
            Some(_) => next,
            // Its store was not asked yet.
            None if self.config.commit == CommitMode::Store => return Ok(None),
            // Another may have gone on from there before the partition came back.
            None => consumer
                .committed_offset_of(partition)?
                .max(self.read_errors.skipped.get(&partition).copied()),
        };
        search.at(partition, first)
    }

    /// Sends the letter, and with it the offset behind the batch; then the consumer goes there.
    fn skip(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        unreadable: &Unreadable,
    ) -> Result<(), CommitError> {
        let Unreadable {
            partition,
            first,
            last,
            ref why,
        } = *unreadable;
        // Nothing of it was handled, so what a handler keeps is to be empty.
        self.decisions
            .decide(&mut self.handler, &[], self.known.failures())
            .map_err(|undecided| CommitError::End(undecided.into()))?;
        let next = last + 1;
        let polled = consumer.position_of(partition).map_err(restart)?;
        // What lies behind it was polled and committed already: there is no way back.
        let behind = polled.is_some_and(|polled| polled > next);
        let offsets = match behind {
            true => Vec::new(),
            false => vec![(partition, next)],
        };
        let offsets = consumer.offset_list(&offsets).map_err(restart)?;
        self.replace_producer(producer).map_err(CommitError::End)?;
        if self.config.commit.is_transactional() {
            begin(producer)?;
            if let Err(undelivered) = self.send_unreadable_letter(producer, unreadable) {
                let reason = producer.failed().unwrap_or(undelivered.reason);
                return Err(self.abort(producer, reason));
            }
            match behind {
                true => self.commit_transaction(producer, consumer, &offsets)?,
                false => self.commit_or_resolve(producer, consumer, &offsets)?,
            }
        } else {
            if !self.read_errors.is_confirmed(unreadable) {
                self.send_unreadable_letter(producer, unreadable)
                    .map_err(|undelivered| CommitError::Aborted(undelivered.reason))?;
                self.read_errors.confirm(unreadable);
            }
            if !behind {
                let ranges = [OffsetRange {
                    partition,
                    first,
                    next,
                }];
                self.commit_ranges(&ranges)?;
                self.store_offsets(consumer, &offsets);
            }
        }
        self.read_errors.confirmed.remove(&partition);
        self.metrics.letters_truncated.inc();
        self.metrics.dead_letters("unreadable", 1);
        let topic = self.config.input.as_str();
        tracing::error!(topic, partition, offset = first, last, why, "{SKIPPED}");
        if !behind {
            self.read_errors.skipped.insert(partition, next);
            consumer.seek_to(partition, next).map_err(restart)?;
        }
        Ok(())
    }

    fn send_unreadable_letter(
        &self,
        producer: &LaneProducer,
        unreadable: &Unreadable,
    ) -> Result<(), Undelivered> {
        let cause = Cause {
            class: "unreadable",
            message: format!("the client cannot read it: {}", unreadable.why),
        };
        let failed = Failed {
            topic: &self.config.input,
            partition: unreadable.partition,
            offset: unreadable.first,
            cause: &cause,
            at: FailedAt::Decode,
            attempts: 1,
        };
        let reporter = dlq::Reporter::of::<H>(&self.config, &self.task, self.topics.generation());
        let headers = dlq::unreadable_headers(&failed, unreadable.last, &reporter);
        let letter = BaseRecord::<'_, [u8], [u8], usize>::with_opaque_to(&self.dlq_topic, 0)
            .partition(unreadable.partition)
            .headers(headers);
        producer.send(letter).map_err(|error| match error {
            producer::Error::TooLarge => {
                "not even a short dead letter can be sent".to_owned().into()
            }
            producer::Error::Failed(undelivered) => undelivered,
        })?;
        confirmed(producer)
    }
}

fn restart(error: KafkaError) -> CommitError {
    CommitError::End(SessionEnd::restart(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_before_records_that_were_given_back_is_none() {
        let mut read_errors = ReadErrors::default();
        // Before the error it is nobody's concern.
        read_errors.note_forgotten(&mut vec![1]);
        read_errors.raised = Some(PendingError {
            error: "e".to_owned(),
            partitions: vec![(0, Some(5)), (1, Some(7)), (2, None)],
        });
        read_errors.note_forgotten(&mut vec![0]);
        let raised = read_errors.take(|_| false).expect("raised");
        assert_eq!(raised.partitions, [(0, None), (1, Some(7)), (2, None)]);
        assert!(read_errors.take(|_| false).is_none());
    }

    #[test]
    fn a_partition_has_no_position_while_its_gate_is_closed_and_is_not_looked_at() {
        let at = |closed: i32| {
            let positions = [5, 7]
                .map(Offset::Offset)
                .into_iter()
                .chain([Offset::Invalid]);
            let mut read_errors = ReadErrors::default();
            read_errors.raise("e".to_owned(), (0..).zip(positions), |it| it == closed);
            read_errors
        };
        // Closed when the error came, and open since.
        let raised = at(0).take(|_| false).expect("raised");
        assert_eq!(raised.partitions, [(0, None), (1, Some(7)), (2, None)]);
        // Still closed, or closed since.
        let raised = at(0).take(|it| it < 2).expect("raised");
        assert_eq!(raised.partitions, [(2, None)]);
    }

    #[test]
    fn a_confirmed_letter_is_known_until_its_partition_was_given_back() {
        let batch = |partition, last| Unreadable {
            partition,
            first: 5,
            last,
            why: "w".to_owned(),
        };
        let mut read_errors = ReadErrors::default();
        read_errors.confirm(&batch(0, 9));
        read_errors.confirm(&batch(1, 9));
        let known = |read_errors: &ReadErrors| {
            [batch(0, 9), batch(1, 9), batch(1, 8)].map(|it| read_errors.is_confirmed(&it))
        };
        assert_eq!(known(&read_errors), [true, true, false]);
        // Whether or not something is to be looked for.
        read_errors.note_forgotten(&mut vec![0]);
        assert_eq!(known(&read_errors), [false, true, false]);
    }
}
