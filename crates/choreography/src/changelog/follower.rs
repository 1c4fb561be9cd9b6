//! The changelog of a stage's state, followed: several partitions at once, to their ends and on, by one consumer.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{CLOCK_EVERY, Change, Error, Reading, error, session::Session};
use crate::{Cluster, table::is_out_of_range};

/// How long one call hands over, once something is there.
const CALL_TAKES: Duration = Duration::from_millis(50);
/// How long the broker may wait for something to come: ten idle fetches a second cost nothing to speak of.
const FETCH_WAIT_MS_MAX: &str = "100";

/// How far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// All committed records before it were handed over.
    pub next: i64,
    /// The log's end when the reading of it began, those of open transactions included.
    pub end_at_start: i64,
    /// As the broker said it with what was fetched last; None before the first.
    pub end: Option<i64>,
}

/// Follows partitions of a compacted changelog: for stores that are kept up to date, while others write it. Records of aborted
/// transactions are not shown. To be used by one thread, which it may make wait.
pub struct ChangelogFollower {
    cluster: Cluster,
    topic: String,
    session: Option<Session>,
    readings: BTreeMap<i32, Reading>,
    begun: u64,
    /// What the client reads is not what it should.
    is_stale: bool,
}

impl ChangelogFollower {
    /// One that has not asked anything yet.
    pub fn new(cluster: &Cluster, topic: &str) -> Self {
        ChangelogFollower {
            cluster: cluster.clone(),
            topic: topic.to_owned(),
            session: None,
            readings: BTreeMap::new(),
            begun: 0,
            is_stale: false,
        }
    }

    /// Reads a partition from now on, from what a store stands for; None: from its beginning.
    pub fn follow(&mut self, partition: i32, from: Option<i64>) {
        self.begun += 1;
        let reading = Reading::new(self.begun, from);
        self.is_stale |= self.readings.insert(partition, reading).is_some();
    }

    /// Reads it no longer.
    pub fn forget(&mut self, partition: i32) {
        self.is_stale |= self.readings.remove(&partition).is_some();
        if self.readings.is_empty()
            && let Some(session) = self.session.take()
        {
            session.close();
        }
    }

    pub fn is_idle(&self) -> bool {
        self.readings.is_empty()
    }

    /// How far a partition is read; None while it is not known where it begins.
    pub fn place(&self, partition: i32) -> Option<Place> {
        let reading = self.readings.get(&partition)?;
        let range = reading.range.as_ref()?.as_ref().ok()?;
        let session = self.session.as_ref()?;
        Some(Place {
            next: reading.next,
            end_at_start: range.end,
            end: session.end(partition).filter(|_| reading.is_known),
        })
    }

    /// Hands over what is there, in the order of each partition, for some tens of milliseconds at most; waits up to `wait` where
    /// nothing is.
    ///
    /// # Errors
    /// Where the log does not continue a store ([`Error::begins_anew`]), its partition ([`Error::partition`]) is not read any more:
    /// the store is to be dropped, and followed from None. After any other error the next call reads on.
    pub fn read(
        &mut self,
        wait: Duration,
        mut each: impl FnMut(i32, Change<'_>),
    ) -> Result<(), Error> {
        let Some(first) = self.readings.keys().next().copied() else {
            thread::sleep(wait);
            return Ok(());
        };
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let connected = Session::connect(&self.cluster, &self.topic, FETCH_WAIT_MS_MAX);
                let connected = connected.map_err(|e| error::kafka(&self.topic, first, &e))?;
                self.session.insert(connected)
            }
        };
        session.look_up(&mut self.readings, first)?;
        let unread = self.readings.iter_mut();
        let refused = unread.filter(|(_, it)| matches!(it.range, Some(Err(_))));
        let mut refused = refused;
        let refused =
            refused.find_map(|(partition, it)| Some((*partition, it.range.take()?.err()?)));
        if let Some((partition, error)) = refused {
            if error.begins_anew() {
                self.forget(partition);
            }
            return Err(error);
        }
        self.assign()?;
        let result = self.poll(wait, &mut each);
        self.note_positions();
        result
    }

    /// Has the client read all partitions whose bounds are known.
    fn assign(&mut self) -> Result<(), Error> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let known = self.readings.iter();
        let mut known = known.filter(|(_, it)| matches!(it.range, Some(Ok(_))));
        if !self.is_stale && known.clone().all(|(_, it)| it.is_known) {
            return Ok(());
        }
        let places: Vec<(i32, i64)> = known.by_ref().map(|(id, it)| (*id, it.next)).collect();
        session.assign(&places)?;
        self.is_stale = false;
        for reading in self.readings.values_mut() {
            reading.is_known = matches!(reading.range, Some(Ok(_)));
        }
        Ok(())
    }

    fn poll(
        &mut self,
        wait: Duration,
        each: &mut impl FnMut(i32, Change<'_>),
    ) -> Result<(), Error> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let (mut wait, mut deadline, mut count) = (wait, None, 0_u32);
        loop {
            let error = match session.next(wait) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    let reading = self.readings.get_mut(&message.partition);
                    if let Some(reading) = reading.filter(|it| it.next <= message.change().offset) {
                        reading.next = message.change().offset + 1;
                        each(message.partition, message.change());
                    }
                    count += 1;
                    if count.is_multiple_of(CLOCK_EVERY) {
                        let now = Instant::now();
                        if now >= *deadline.get_or_insert(now + CALL_TAKES) {
                            return Ok(());
                        }
                    }
                    continue;
                }
                Some(Err(error)) => error,
            };
            // The client may go on behind records that it could not read, and does not say of which partition it speaks.
            self.is_stale = true;
            if is_out_of_range(&error) {
                for reading in self.readings.values_mut() {
                    self.begun += 1;
                    if matches!(reading.range, Some(Ok(_))) {
                        *reading = Reading::new(self.begun, Some(reading.next));
                    }
                }
            }
            let first = self.readings.keys().next().copied();
            return Err(error::kafka(&self.topic, first.unwrap_or_default(), &error));
        }
    }

    /// Markers of transactions take offsets, too.
    fn note_positions(&mut self) {
        let Some(session) = &self.session else { return };
        for (partition, reading) in &mut self.readings {
            if reading.is_known
                && !self.is_stale
                && let Some(position) = session.position(*partition)
            {
                reading.next = reading.next.max(position);
            }
        }
    }
}

impl Drop for ChangelogFollower {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.close();
        }
    }
}
