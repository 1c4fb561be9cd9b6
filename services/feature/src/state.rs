//! What the stage remembers by key: the state of each partition that a lane holds, restored from the changelog
//! `<p>.feature-state` and changed in the transaction of the features.

mod cache;
mod changed;
mod committed;
mod disk;
mod follow;
mod following;
mod layout;
mod life;
mod meter;
mod partition;
mod past;
mod pending;
mod rows;
mod shared;
mod standby;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use quadrille_choreography::{ChangelogReader, Delivered, LaneId, Restore, changelog, handler};
use quadrille_pipeline::Pipeline;
use quadrille_telemetry::metrics::{PipelineStateMetrics, StateUsage};

pub use self::standby::Standby;
#[cfg(test)]
pub(crate) use self::{committed::SharedCommitted, pending::Pending};
pub(crate) use self::{
    committed::Unusable,
    following::Following,
    layout::KEY_LEN_MAX,
    life::{Life, Moment},
    partition::{NoEpoch, Partition},
    past::{Past, Unread},
    rows::Opener,
    shared::{Holder, Shared},
    standby::Standbys,
};
use self::{
    committed::lock,
    meter::Meter,
    partition::CountedBeyond,
    rows::Fault,
    standby::{LaneToken, NotTaken, Standing},
};

const COUNTED_TWICE: &str = "the group's offset was reset or lost, but the state was kept: records between these offsets count twice";

/// The output that is the changelog.
pub(crate) const CHANGELOG: &str = "feature-state";

const TO_BE_RESTORED: &str = "the partition's state is to be restored from its changelog";

/// The lanes, of this replica and of others, that say that they hold a partition.
pub(crate) type Claimants = Arc<dyn Fn(i32) -> Vec<LaneId> + Send + Sync>;

/// What the lanes of a pipeline's stage have in common.
#[derive(Clone)]
pub(crate) struct Options {
    pub pipeline: Arc<Pipeline>,
    /// Where rows come from, and go to.
    pub standbys: Standbys,
    pub claimants: Claimants,
    /// After how long without a sign of life a lane's partitions are another's.
    pub session: Duration,
    /// Of histories in memory, for each lane.
    pub cache_bytes: usize,
    pub metrics: PipelineStateMetrics,
}

/// The states of one lane.
pub(crate) struct States {
    options: Options,
    definition: [u8; 8],
    reader: ChangelogReader,
    partitions: BTreeMap<i32, Partition>,
    restoring: BTreeMap<i32, Standing>,
    holder: Holder,
    meter: Meter,
    lane: LaneToken,
    /// When the batch in hand began.
    begun: Moment,
}

impl States {
    /// Those of a lane, of a pipeline that looks back; None for any other.
    pub fn new(options: Options, lane: usize, reader: ChangelogReader) -> Option<Self> {
        let definition = options.pipeline.state()?.fingerprint();
        let life = Life::new(options.session, Moment::now());
        Some(States {
            holder: Holder {
                lane: u32::try_from(lane).unwrap_or(u32::MAX),
                life: Arc::new(life),
            },
            meter: Meter::new(options.metrics.clone()),
            lane: options.standbys.lane(),
            options,
            definition,
            reader,
            partitions: BTreeMap::new(),
            restoring: BTreeMap::new(),
            begun: Moment::now(),
        })
    }

    /// The state of a partition that is restored.
    ///
    /// # Errors
    /// It is not: a bug, since records wait until it is.
    pub fn of(&mut self, partition: i32) -> Result<&mut Partition, handler::Error> {
        self.partitions.get_mut(&partition).ok_or_else(|| {
            let message =
                format!("the state of partition {partition} is not restored; this is a bug");
            handler::Error::fatal("state", message)
        })
    }

    /// The states of all partitions that are restored.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.partitions.values_mut()
    }

    /// The lane is at work.
    pub fn tick(&mut self) {
        self.holder.life.beat(Moment::now());
        if self.meter.is_due() {
            self.tend();
            self.measure();
        }
    }

    fn tend(&mut self) {
        for (number, partition) in &mut self.partitions {
            if let Err(error) = partition.tend() {
                tracing::warn!(partition = number, %error, "{TO_BE_RESTORED}");
            }
        }
    }

    fn measure(&mut self) {
        let mut usage = StateUsage::default();
        for partition in self.partitions.values_mut() {
            usage += partition.usage();
            self.meter.count(partition.take_counts());
        }
        for restoring in self.restoring.values() {
            usage += lock(&restoring.committed).rows.usage();
        }
        self.meter.show(usage);
    }

    pub fn begin(&mut self) {
        self.begun = Moment::now();
        // So that a silence before it is noticed before it proves anything.
        self.holder.life.beat(self.begun);
        self.partitions.values_mut().for_each(Partition::begin);
    }

    pub fn save(&mut self) {
        self.partitions.values_mut().for_each(Partition::save);
    }

    pub fn panicked(&mut self) {
        self.partitions.values_mut().for_each(Partition::panicked);
    }

    pub fn aborted(&mut self) {
        self.partitions.values_mut().for_each(Partition::aborted);
    }

    pub fn committed(&mut self, delivered: &Delivered) {
        self.holder.life.proved(&self.begun);
        for (number, partition) in &mut self.partitions {
            if let Err(error) = partition.apply(delivered.next(CHANGELOG, *number)) {
                // The next record whose history is not in memory has it restored.
                tracing::warn!(partition = number, %error, "{TO_BE_RESTORED}");
            }
        }
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        let (standbys, lane) = (&self.options.standbys, self.lane);
        let (mut given_up, mut unrestored) = (Vec::new(), Vec::new());
        for number in partitions {
            self.reader.forget(*number);
            if let Some(standing) = self.restoring.remove(number) {
                unrestored.push((*number, standing));
            }
            if let Some(mut partition) = self.partitions.remove(number) {
                standbys.shared().release(*number, partition.committed());
                self.meter.count(partition.take_counts());
                given_up.push((*number, partition.into_committed()));
            }
        }
        // That may take a while, in which another replica may answer for any of them already.
        for (number, committed) in given_up {
            standbys.give_back(number, lane, committed);
        }
        for (number, standing) in unrestored {
            standbys.give_back_unrestored(number, lane, standing);
        }
        for number in partitions {
            standbys.free(*number, lane);
        }
        self.share_memory();
    }

    /// As [`quadrille_choreography::Handler::claimants`].
    pub fn claimants(&self, number: i32) -> Vec<LaneId> {
        (self.options.claimants)(number)
    }

    /// Reads on in the changelog of a partition that was assigned.
    ///
    /// # Errors
    /// As [`quadrille_choreography::Handler::restore`].
    pub fn restore(
        &mut self,
        number: i32,
        input_next: Option<i64>,
    ) -> Result<Restore, handler::Error> {
        let (progress, restored) = self.read_on(number)?;
        let Some(restored) = restored else {
            return Ok(progress);
        };
        let committed = Arc::clone(&restored.committed);
        let partition = match Partition::new(committed, self.definition, input_next) {
            Ok(partition) => partition,
            Err(NoEpoch::Rows(fault)) => {
                self.restoring.insert(number, restored);
                return Err(self.unusable(number, &fault.into()));
            }
            Err(error @ NoEpoch::Marker { .. }) => {
                let message = format!("{}, partition {number}: {error}", self.reader.topic());
                return Err(handler::Error::fatal("state", message));
            }
        };
        if partition.begins_anew() {
            self.options.metrics.begun_anew();
        }
        self.warn_of_what_counts_twice(number, partition.counted_beyond());
        self.tick();
        let shared = self.options.standbys.shared();
        shared.insert(number, partition.committed(), &self.holder);
        self.partitions.insert(number, partition);
        self.share_memory();
        Ok(Restore::Done)
    }

    /// Where the records that come are in the state already: the group's offsets were reset, or lost.
    fn warn_of_what_counts_twice(&self, partition: i32, beyond: Option<CountedBeyond>) {
        let Some(CountedBeyond {
            committed,
            counted_to,
        }) = beyond
        else {
            return;
        };
        let changelog = self.reader.topic();
        let input = self.options.pipeline.name();
        let advice = format!(
            "stop all replicas; then set the group's offset to {counted_to}, to go on, or delete {changelog} and create it again, to \
             compute everything anew"
        );
        tracing::error!(
            topic = format!("{input}.records"),
            partition,
            committed,
            counted_to,
            advice,
            "{COUNTED_TWICE}"
        );
    }

    /// One step; with the rows, once they stand for the end of the changelog.
    fn read_on(&mut self, number: i32) -> Result<(Restore, Option<Standing>), handler::Error> {
        if !self.restoring.contains_key(&number) {
            let taken = self.options.standbys.take(number, self.lane);
            let standing = match taken {
                Ok(standing) => standing,
                Err(NotTaken::Open(error)) => return Err(unopened(error)),
                Err(NotTaken::Rows(fault)) => return Err(self.faulty(number, &fault)),
            };
            self.restoring.insert(number, standing);
        }
        let Some(Standing {
            committed, follow, ..
        }) = self.restoring.get_mut(&number)
        else {
            return Ok((Restore::Done, None));
        };
        let (from, fault) = {
            let committed = lock(committed);
            (committed.rows.next_offset(), committed.fault.clone())
        };
        if let Some(fault) = fault {
            // Whoever asked the standby has found it.
            return Err(self.discard(number, &fault));
        }
        let mut next = None;
        let read = self.reader.read(number, from, |change| {
            follow.push(change.offset, change.key, change.payload);
            next = Some(change.offset + 1);
        });
        if let Err(error) = &read
            && error.begins_anew()
        {
            return Err(self.discard(number, error));
        }
        // Also what came before an error: it does not come again.
        let applied = match read {
            Ok(changelog::Progress::Done { next }) => follow.finish(&mut lock(committed), next),
            _ if next.is_some() => follow.apply(&mut lock(committed), next),
            _ => Ok(()),
        };
        if let Err(fault) = applied {
            return Err(self.faulty(number, &fault));
        }
        let progress = read?;
        let restored = match progress {
            changelog::Progress::Done { .. } => {
                lock(committed).rows.caught_up();
                self.restoring.remove(&number)
            }
            changelog::Progress::Pending { .. } => None,
        };
        Ok((progress.into(), restored))
    }

    /// Rows that are damaged are given up; those that cannot be read now are tried again.
    fn faulty(&mut self, number: i32, fault: &Fault) -> handler::Error {
        match fault {
            Fault::Damaged(_) => self.discard(number, fault),
            Fault::Unread(why) => handler::Error::retry("state", why.clone()),
        }
    }

    /// Gives up a store that cannot be used; the next step begins anew.
    fn discard(&mut self, number: i32, error: &dyn std::error::Error) -> handler::Error {
        tracing::warn!(partition = number, %error, "the state is restored from the beginning of its changelog");
        self.reader.forget(number);
        let standbys = &self.options.standbys;
        if let Some(standing) = self.restoring.remove(&number) {
            standbys.shared().remove(number, &standing.committed);
        }
        match standbys.discard(number) {
            Ok(()) => handler::Error::retry("state", error.to_string()),
            Err(error) => unopened(error),
        }
    }

    /// What becomes of the batch in hand where a partition's rows cannot be had: the lane begins again, and with damaged rows their
    /// restore.
    pub fn unusable(&mut self, number: i32, why: &Unusable) -> handler::Error {
        if !why.is_damage() {
            return handler::Error::restart("state", why.to_string());
        }
        let partition = self.partitions.get(&number);
        let is_whole = partition.is_some_and(|it| lock(it.committed()).is_whole);
        if matches!(why, Unusable::Corrupt(_)) && is_whole {
            // It would be read again, and found again, for ever.
            let topic = self.reader.topic();
            let message = format!(
                "{topic}, partition {number}: {why}; it is so in the topic itself: a later version of Quadrille wrote it, or something else did. \
                 Run that version, or delete the topic to begin anew"
            );
            return handler::Error::fatal("state", message);
        }
        // What stands in the way of another store of this partition.
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.break_rows(why);
        }
        match self.discard(number, why) {
            handler::Error::Retry(cause) => handler::Error::Restart(cause),
            error => error,
        }
    }

    /// A partition of which these rows were restored.
    #[cfg(test)]
    pub fn hold(&mut self, number: i32, rows: &[(&[u8], &[u8])]) {
        let committed = self.options.standbys.open(number).unwrap().committed;
        let mut changes = pending::Pending::default();
        let marker = layout::Marker {
            definition: self.definition,
            epoch: 1,
        };
        changes.push(&layout::MARKER, Some(&marker.write()));
        for (key, row) in rows {
            changes.push(key, Some(row));
        }
        let mut kept = lock(&committed);
        kept.rows.apply(&changes, 1).unwrap();
        // As if they had been found on the disk.
        kept.is_whole = false;
        drop(kept);
        let partition = Partition::new(committed, self.definition, None).unwrap();
        self.partitions.insert(number, partition);
        self.share_memory();
    }

    fn share_memory(&mut self) {
        let each = self.options.cache_bytes / self.partitions.len().max(1);
        for partition in self.partitions.values_mut() {
            partition.set_cache_bytes(each);
        }
    }
}

impl Drop for States {
    /// A lane that ends holds nothing.
    fn drop(&mut self) {
        let standbys = &self.options.standbys;
        for (number, partition) in std::mem::take(&mut self.partitions) {
            standbys.shared().remove(number, partition.committed());
        }
        for (number, standing) in std::mem::take(&mut self.restoring) {
            standbys.shared().remove(number, &standing.committed);
        }
        standbys.release(self.lane);
    }
}

fn unopened(error: rows::OpenError) -> handler::Error {
    match error.may_pass() {
        // A lane of this process that has lost the partition may not have noticed yet: it was frozen, as this one may have been.
        true => handler::Error::retry("state", error.to_string()),
        false => handler::Error::fatal("state", error.to_string()),
    }
}
