//! The changelog of a stage's state, read back partition by partition: what [`crate::Handler::restore`] calls.
//!
//! One consumer reads one partition after another, so that the first of them opens early, and nothing is kept for those
//! that are not asked about. A partition that brings nothing for a while, because a dead lane's transaction is still open
//! there, makes way for the next. Nothing here waits for Kafka.

mod error;
mod follower;
mod session;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use self::session::{Polled, Session};
pub use self::{
    error::Error,
    follower::{ChangelogFollower, Place},
};
use crate::{Cluster, Restore};

/// How long one call reads, but for the record in hand: the lane polls between the calls.
const CALL_TAKES: Duration = Duration::from_millis(5);
/// How long the broker may wait for something to come. While an open transaction holds up a partition, it is asked so often.
/// Where one partition ends, a fetch of what may come there is under way already, and the first fetch of the next one waits for
/// its answer: by default half a second with each partition.
const FETCH_WAIT_MS_MAX: &str = "10";
/// Records between two looks at the clock.
const CLOCK_EVERY: u32 = 64;

/// For how long at least the broker keeps tombstones of a state's changelog, and so for how long a store may be out of date
/// before it must be read from the beginning: it would keep what was deleted meanwhile.
pub const TOMBSTONES_KEPT: Duration = Duration::from_hours(7 * 24);
/// Subtracted from it, for clocks that differ.
const CLOCKS_DIFFER: Duration = Duration::from_hours(24);

/// One record of a changelog.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub offset: i64,
    pub key: &'a [u8],
    /// None: the key is deleted.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// In offsets; a total of 0 is not known yet.
    Pending { done: u64, total: u64 },
    /// All is read that was committed when the reading began; `next` is what the store stands for now.
    Done { next: i64 },
}

impl From<Progress> for Restore {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Pending { done, total } => Restore::Pending { done, total },
            Progress::Done { .. } => Restore::Done,
        }
    }
}

/// Where a partition's reading begins and ends.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: i64,
    /// The high watermark at the beginning.
    end: i64,
}

impl Range {
    /// `kept`: from which offset on no tombstone can be missing, where that is asked.
    fn of(
        place: (&str, i32),
        from: Option<i64>,
        (begin, end): (i64, i64),
        kept: Option<i64>,
    ) -> Result<Self, Error> {
        let Some(from) = from else {
            return Ok(Range { start: begin, end });
        };
        let (topic, partition) = (place.0.to_owned(), place.1);
        match kept {
            _ if from > end => Err(Error::Ahead {
                topic,
                partition,
                from,
                end,
            }),
            _ if from < begin => Err(Error::Truncated {
                topic,
                partition,
                from,
                begin,
            }),
            Some(kept) if from < kept => Err(Error::Outdated {
                topic,
                partition,
                from,
                kept,
            }),
            _ => Ok(Range { start: from, end }),
        }
    }
}

/// A partition being read.
struct Reading {
    /// Tells it from an earlier one of the same partition, whose end it must not take for its own.
    number: u64,
    from: Option<i64>,
    range: Option<Result<Range, Error>>,
    /// The caller was told how much there is.
    is_known: bool,
    /// Nothing before it is still to be read.
    next: i64,
}

impl Reading {
    fn new(number: u64, from: Option<i64>) -> Self {
        Reading {
            number,
            from,
            range: None,
            is_known: false,
            next: 0,
        }
    }

    fn progress(&self, range: Range) -> Progress {
        match self.next >= range.end {
            true => Progress::Done { next: self.next },
            false => Progress::Pending {
                done: (self.next - range.start).unsigned_abs(),
                total: (range.end - range.start).unsigned_abs(),
            },
        }
    }
}

/// Reads partitions of a compacted changelog back to where they ended when the reading began. For one lane.
///
/// The end is the high watermark, asked for once when a partition is first read: [`crate::Handler::restore`] is called
/// when no commit of an earlier owner can come any more, and what such a one wrote lies before it. Records of aborted
/// transactions are not shown.
///
/// ```
/// use std::collections::HashMap;
///
/// use quadrille_choreography::{ChangelogReader, Restore, handler};
///
/// fn restore(
///     changelog: &mut ChangelogReader,
///     partition: i32,
///     rows: &mut HashMap<Vec<u8>, Vec<u8>>,
/// ) -> Result<Restore, handler::Error> {
///     let read = changelog.read(partition, None, |change| {
///         match change.payload {
///             Some(row) => rows.insert(change.key.to_vec(), row.to_vec()),
///             None => rows.remove(change.key),
///         };
///     });
///     if read.as_ref().is_err_and(|error| error.begins_anew()) {
///         rows.clear();
///     }
///     Ok(read?.into())
/// }
/// ```
pub struct ChangelogReader {
    cluster: Cluster,
    topic: String,
    /// While there is something to read.
    session: Option<Session>,
    readings: BTreeMap<i32, Reading>,
    begun: u64,
}

impl ChangelogReader {
    /// A reader that has not asked anything yet.
    pub fn new(cluster: &Cluster, topic: &str) -> Self {
        ChangelogReader {
            cluster: cluster.clone(),
            topic: topic.to_owned(),
            session: None,
            readings: BTreeMap::new(),
            begun: 0,
        }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Reads on in a partition, for some milliseconds at most, and hands over each change in the log's order. To be called
    /// until it is done, or the partition was given up ([`ChangelogReader::forget`]). `from` is what the store stands for,
    /// None if there is none; it counts in the first call.
    ///
    /// # Errors
    /// Where the log does not continue the store ([`Error::begins_anew`]), the store is to be dropped, and the next call
    /// with None begins anew. After any other error the next call reads on: what was handed over before it counts, and does not come
    /// again.
    pub fn read(
        &mut self,
        partition: i32,
        from: Option<i64>,
        mut each: impl FnMut(Change<'_>),
    ) -> Result<Progress, Error> {
        let result = self.read_on(partition, from, &mut each);
        let is_over = match &result {
            Ok(Progress::Done { .. }) => true,
            Ok(Progress::Pending { .. }) => false,
            Err(error) => error.begins_anew(),
        };
        if is_over {
            self.forget(partition);
        }
        result
    }

    /// The partition is not to be read any more: it was revoked. What is read of it later begins from the start.
    pub fn forget(&mut self, partition: i32) {
        self.readings.remove(&partition);
        if let Some(session) = &mut self.session {
            session.forget(partition);
        }
        if self.readings.is_empty()
            && let Some(session) = self.session.take()
        {
            session.close();
        }
    }

    fn read_on(
        &mut self,
        partition: i32,
        from: Option<i64>,
        each: &mut impl FnMut(Change<'_>),
    ) -> Result<Progress, Error> {
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let connected = Session::connect(&self.cluster, &self.topic, FETCH_WAIT_MS_MAX);
                let connected = connected.map_err(|e| error::kafka(&self.topic, partition, &e))?;
                self.session.insert(connected)
            }
        };
        let begun = &mut self.begun;
        self.readings.entry(partition).or_insert_with(|| {
            *begun += 1;
            Reading::new(*begun, from)
        });
        session.look_up(&mut self.readings, partition)?;
        let Some(reading) = self.readings.get_mut(&partition) else {
            return Ok(Progress::Pending { done: 0, total: 0 });
        };
        let Some(range) = reading.range.take() else {
            return Ok(Progress::Pending { done: 0, total: 0 });
        };
        // Where there is none it is asked for again by the next call.
        let range = range?;
        let is_known = std::mem::replace(&mut reading.is_known, true);
        reading.range = Some(Ok(range));
        if reading.next < range.end && session.take_turn(partition, reading.next)? {
            // Its total is told before anything is read.
            if is_known {
                read_some(session, partition, reading, range.end, each)?;
            }
        }
        Ok(reading.progress(range))
    }
}

impl Drop for ChangelogReader {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.close();
        }
    }
}

/// Reads until nothing more is there, the end is reached, or the time is up.
fn read_some(
    session: &mut Session,
    partition: i32,
    reading: &mut Reading,
    end: i64,
    each: &mut impl FnMut(Change<'_>),
) -> Result<(), Error> {
    let deadline = Instant::now() + CALL_TAKES;
    let mut count = 0_u32;
    while reading.next < end {
        match session.poll(partition, reading.next, &mut *each)? {
            Polled::Change { next } => reading.next = next,
            Polled::Nothing { position } => {
                reading.next = reading.next.max(position.unwrap_or_default());
                break;
            }
        }
        count += 1;
        if count.is_multiple_of(CLOCK_EVERY) && Instant::now() >= deadline {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: Option<i64>, kept: Option<i64>) -> Result<(i64, i64), Error> {
        let range = Range::of(("state", 3), from, (10, 20), kept);
        range.map(|range| (range.start, range.end))
    }

    #[test]
    fn a_store_is_continued_where_the_log_has_all_that_came_since() {
        assert_eq!(range(None, Some(15)), Ok((10, 20)));
        assert_eq!(range(Some(10), None), Ok((10, 20)));
        assert_eq!(range(Some(15), Some(15)), Ok((15, 20)));
        assert_eq!(range(Some(20), Some(20)), Ok((20, 20)));
    }

    #[test]
    fn a_store_that_the_log_does_not_continue_is_read_anew() {
        let refused = [
            (range(Some(9), None), "begins at offset 10"),
            (range(Some(21), None), "ends at offset 20"),
            (range(Some(14), Some(15)), "tombstones before offset 15"),
        ];
        for (range, told) in refused {
            let error = range.unwrap_err();
            assert!(error.begins_anew());
            let text = error.to_string();
            assert!(text.contains("state [3]") && text.contains(told), "{text}");
        }
    }
}
