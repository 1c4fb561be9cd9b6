//! A lane's commits: each batch is one unit of work, which moves the offsets that this lane claimed.

use std::{collections::HashMap, time::Duration};

use quadrille_choreography::{
    Cancelled, ClaimedOffsets, OffsetRange, OffsetStore, StoreSpan, handler,
};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::store::{
    Advance, AnyStore, Error, Position, Positions, TopicIdentity, UnitOfWork, WriteStore,
};

/// How often a lane that waits for the database checks whether it is to give up.
const GIVE_UP_CHECK_EVERY: Duration = Duration::from_millis(50);

/// The store, as the lanes of one topic use it: from their own threads, which are not the runtime's.
#[derive(Clone)]
pub(crate) struct TopicStore {
    store: AnyStore,
    runtime: Handle,
    topic: TopicIdentity,
}

impl TopicStore {
    /// Called inside the runtime whose thread pool serves the database.
    pub fn new(store: AnyStore, topic: TopicIdentity) -> Self {
        TopicStore {
            store,
            runtime: Handle::current(),
            topic,
        }
    }

    /// Waits for the database, until it is to be given up. Not to be called on a runtime's thread.
    fn wait<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
        cancelled: Cancelled<'_>,
    ) -> Result<T, Error> {
        let given_up = async {
            while !cancelled() {
                tokio::time::sleep(GIVE_UP_CHECK_EVERY).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                result = work => result,
                () = given_up => Err(Error::Stopping),
            }
        })
    }
}

/// The database is asked where partitions go on; its answer is on the way.
struct Claim {
    partitions: Vec<i32>,
    answer: JoinHandle<Result<Positions, Error>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// Where one lane is in its topic, and what it is about to commit.
pub(super) struct Commits {
    shared: TopicStore,
    /// What the batch brings; kept until the next one begins, for it may have to be written again.
    pub unit: UnitOfWork,
    /// As this lane claimed or wrote them itself. Not shared: a lane that stood still while its partition moved must not
    /// go on from what its successor has claimed.
    positions: HashMap<i32, Option<Position>>,
    claim: Option<Claim>,
    /// After a write whose outcome is not known.
    uncertain: bool,
}

impl Commits {
    pub fn new(pipeline: &str, shared: TopicStore) -> Self {
        let unit = UnitOfWork::new(pipeline, shared.topic.clone());
        Commits {
            shared,
            unit,
            positions: HashMap::new(),
            claim: None,
            uncertain: false,
        }
    }

    fn position(&self, partition: i32) -> Option<Position> {
        self.positions.get(&partition).copied().flatten()
    }

    /// How this batch moves the partitions.
    fn advances(&self, ranges: &[OffsetRange]) -> Result<Vec<Advance>, handler::Error> {
        let advance = |range: &OffsetRange| {
            let old = self.position(range.partition);
            match old {
                Some(old) if range.first < old.next => Err(fenced(format!(
                    "partition {}: the batch begins at {}, before the position of this lane, {}",
                    range.partition, range.first, old.next
                ))),
                _ => Ok(Advance {
                    partition: range.partition,
                    old,
                    new: range.next,
                }),
            }
        };
        ranges.iter().map(advance).collect()
    }

    /// Whether the write before, whose outcome was unknown, did happen.
    fn is_committed(
        &mut self,
        ranges: &[OffsetRange],
        cancelled: Cancelled<'_>,
    ) -> Result<bool, handler::Error> {
        if !std::mem::take(&mut self.uncertain) {
            return Ok(false);
        }
        let partitions: Vec<i32> = ranges.iter().map(|range| range.partition).collect();
        let TopicStore { store, topic, .. } = &self.shared;
        let claimed = self.shared.wait(store.claim(topic, &partitions), cancelled);
        let stored = claimed.map_err(|error| {
            self.uncertain = true;
            failure(&error)
        })?;
        let all = |test: &dyn Fn(&OffsetRange, Option<Position>) -> bool| {
            ranges
                .iter()
                .zip(&stored)
                .all(|(range, (_, position))| test(range, *position))
        };
        if all(&|range, position| {
            position == Some(moved(self.position(range.partition), range.next))
        }) {
            return Ok(true);
        }
        if all(&|range, position| position == self.position(range.partition)) {
            return Ok(false);
        }
        Err(fenced("another replica holds a partition of this batch"))
    }
}

/// A position further on in its generation.
fn moved(old: Option<Position>, next: i64) -> Position {
    Position {
        next,
        ..old.unwrap_or(Position::at(0))
    }
}

fn fenced(message: impl Into<String>) -> handler::Error {
    handler::Error::dead_letter("fenced", message)
}

fn failure(error: &Error) -> handler::Error {
    match error {
        Error::Fenced { .. } => fenced(error.to_string()),
        error if error.is_retriable() => handler::Error::retry("database", error.to_string()),
        error => handler::Error::fatal("database", error.to_string()),
    }
}

impl OffsetStore for Commits {
    fn claim(&mut self, partitions: &[i32]) -> Option<Result<ClaimedOffsets, handler::Error>> {
        let asked = self.claim.take();
        let Some(mut claim) = asked.filter(|claim| claim.partitions == partitions) else {
            let (shared, partitions) = (self.shared.clone(), partitions.to_vec());
            let answer = self.shared.runtime.spawn({
                let partitions = partitions.clone();
                async move { shared.store.claim(&shared.topic, &partitions).await }
            });
            self.claim = Some(Claim { partitions, answer });
            return None;
        };
        if !claim.answer.is_finished() {
            self.claim = Some(claim);
            return None;
        }
        let claimed = match self.shared.runtime.block_on(&mut claim.answer) {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => return Some(Err(failure(&error))),
            // It panicked, or the runtime ends.
            Err(error) => return Some(Err(handler::Error::retry("database", error.to_string()))),
        };
        self.positions.extend(claimed.iter().copied());
        let next = |(partition, position): &(i32, Option<Position>)| {
            (*partition, position.map(|it| it.next))
        };
        Some(Ok(claimed.iter().map(next).collect()))
    }

    fn next(&self, partition: i32) -> Option<i64> {
        Some(self.position(partition)?.next)
    }

    fn commit(
        &mut self,
        ranges: &[OffsetRange],
        cancelled: Cancelled<'_>,
    ) -> Result<(), handler::Error> {
        let uncertain = self.uncertain;
        if !self.is_committed(ranges, cancelled)? {
            self.unit.advances = self.advances(ranges)?;
            let writing = self.shared.store.write(&self.unit);
            match self.shared.wait(writing, cancelled) {
                Ok(written) if written.duplicates > 0 => {
                    tracing::debug!(
                        pipeline = self.unit.pipeline,
                        duplicates = written.duplicates,
                        "ids that were stored before are not stored again"
                    );
                }
                Ok(_) => {}
                // The write before this one may have happened after the claim that looked for it.
                Err(error @ Error::Fenced { .. }) if uncertain => {
                    self.uncertain = true;
                    return Err(handler::Error::retry("database", error.to_string()));
                }
                Err(error) => {
                    self.uncertain = error.is_retriable();
                    return Err(failure(&error));
                }
            }
        }
        for range in ranges {
            let position = moved(self.position(range.partition), range.next);
            self.positions.insert(range.partition, Some(position));
        }
        Ok(())
    }

    fn truncated(
        &mut self,
        partition: i32,
        next: i64,
        cancelled: Cancelled<'_>,
    ) -> Result<(), handler::Error> {
        let Some(old) = self.position(partition) else {
            return Ok(());
        };
        let TopicStore { store, topic, .. } = &self.shared;
        let position = self
            .shared
            .wait(store.truncated(topic, partition, old, next), cancelled);
        let position = position.map_err(|error| failure(&error))?;
        self.positions.insert(partition, Some(position));
        Ok(())
    }

    fn describe(&self) -> Option<StoreSpan> {
        Some(StoreSpan {
            name: "INSERT predictions",
            attributes: vec![
                ("db.system.name", self.shared.store.system()),
                ("db.operation.name", "INSERT"),
                ("db.collection.name", "predictions"),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the lanes of one process share: a database, a runtime, a topic.
    struct World {
        runtime: tokio::runtime::Runtime,
        store: TopicStore,
        _folder: tempfile::TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let url = format!("sqlite:{}/results.db", folder.path().display());
        let store = runtime.block_on(async {
            let topic = TopicIdentity {
                cluster_id: "c".to_owned(),
                topic: "diabetes.predictions".to_owned(),
                topic_id: None,
            };
            TopicStore::new(AnyStore::open(&url).await.expect("a store"), topic)
        });
        World {
            runtime,
            store,
            _folder: folder,
        }
    }

    impl World {
        fn lane(&self) -> Commits {
            Commits::new("diabetes", self.store.clone())
        }

        fn stored(&self) -> Option<i64> {
            let TopicStore { store, topic, .. } = &self.store;
            let positions = self.runtime.block_on(store.claim(topic, &[0]));
            positions.expect("a claim")[0]
                .1
                .map(|position| position.next)
        }
    }

    fn claim(lane: &mut Commits) -> Option<i64> {
        loop {
            if let Some(claimed) = lane.claim(&[0]) {
                return claimed.expect("claimed")[0].1;
            }
            std::thread::yield_now();
        }
    }

    fn commit(lane: &mut Commits, first: i64, next: i64) -> Result<(), handler::Error> {
        let range = OffsetRange {
            partition: 0,
            first,
            next,
        };
        lane.commit(&[range], &|| false)
    }

    fn is_fenced(result: &Result<(), handler::Error>) -> bool {
        matches!(result, Err(handler::Error::DeadLetter(cause)) if cause.class == "fenced")
    }

    #[test]
    fn a_lane_that_stood_still_cannot_commit_with_what_its_successor_claimed() {
        let world = world();
        let (mut frozen, mut successor) = (world.lane(), world.lane());
        assert_eq!(claim(&mut frozen), None);
        commit(&mut frozen, 0, 3).expect("committed");
        // It has polled 3 to 5 when it stops, and its partition goes to another lane of this process.
        assert_eq!(claim(&mut successor), Some(3));
        commit(&mut successor, 3, 5).expect("committed");
        commit(&mut successor, 5, 9).expect("committed");
        let late = commit(&mut frozen, 3, 5);
        assert!(is_fenced(&late), "{late:?}");
        assert_eq!(world.stored(), Some(9));
        commit(&mut successor, 9, 10).expect("its own position is untouched");
    }

    #[test]
    fn a_batch_that_begins_before_what_a_lane_claimed_is_not_written() {
        let world = world();
        let (mut first, mut second) = (world.lane(), world.lane());
        claim(&mut first);
        commit(&mut first, 0, 5).expect("committed");
        assert_eq!(claim(&mut second), Some(5));
        for next in [3, 5, 7] {
            let early = commit(&mut second, 2, next);
            assert!(is_fenced(&early), "{early:?}");
        }
        assert_eq!(world.stored(), Some(5));
        // Markers of transactions may lie between.
        commit(&mut second, 6, 7).expect("committed");
        assert_eq!((second.next(0), world.stored()), (Some(7), Some(7)));
    }

    #[test]
    fn a_log_that_was_cut_off_goes_on_in_its_next_generation() {
        let world = world();
        let (mut lane, mut other) = (world.lane(), world.lane());
        claim(&mut lane);
        commit(&mut lane, 0, 5).expect("committed");
        claim(&mut other);
        lane.truncated(0, 2, &|| false).expect("stored");
        assert_eq!((lane.next(0), world.stored()), (Some(2), Some(2)));
        let late = commit(&mut other, 5, 6);
        assert!(is_fenced(&late), "{late:?}");
        commit(&mut lane, 2, 5).expect("committed");
        // At the same offset, but of the log as it was.
        let late = commit(&mut other, 5, 6);
        assert!(is_fenced(&late), "{late:?}");
        assert_eq!(claim(&mut other), Some(5));
        commit(&mut other, 5, 6).expect("committed");
    }

    #[test]
    fn a_lane_waits_for_a_database_no_longer_than_it_is_to() {
        let world = world();
        let never = std::future::pending::<Result<(), Error>>();
        let result = world.store.wait(never, &|| true);
        assert!(matches!(result, Err(Error::Stopping)), "{result:?}");
        // What is there is taken all the same.
        let there = std::future::ready(Ok(1));
        assert_eq!(world.store.wait(there, &|| true).expect("an answer"), 1);
    }
}
