//! What the stage remembers by key: the state of each partition that a lane holds, restored from the changelog
//! `<p>.feature-state` and changed in the transaction of the features.

mod cache;
mod changed;
mod disk;
mod layout;
mod life;
mod meter;
mod partition;
mod past;
mod pending;
mod rows;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quadrille_choreography::{ChangelogReader, Delivered, LaneId, Restore, changelog, handler};
use quadrille_pipeline::Pipeline;
use quadrille_telemetry::metrics::{FeatureMetrics, PipelineStateMetrics, StateUsage};

use self::meter::Meter;
pub(crate) use self::pending::Pending;
use self::rows::Rows;
pub(crate) use self::{
    layout::KEY_LEN_MAX,
    life::{Life, Moment},
    partition::{NoEpoch, Partition, Unusable},
    past::{Past, Unread},
    rows::Opener,
    shared::{Holder, Shared},
};

/// The output that is the changelog.
pub(crate) const CHANGELOG: &str = "feature-state";

const TO_BE_RESTORED: &str = "the partition's state is to be restored from its changelog";

/// The lanes, of this replica and of others, that say that they hold a partition.
pub(crate) type Claimants = Arc<dyn Fn(i32) -> Vec<LaneId> + Send + Sync>;

/// What the lanes of a pipeline's stage have in common.
#[derive(Clone)]
pub(crate) struct Options {
    pub pipeline: Arc<Pipeline>,
    pub opener: Opener,
    /// What is committed, for requests.
    pub shared: Shared,
    pub claimants: Claimants,
    /// After how long without a sign of life a lane's partitions are another's.
    pub session: Duration,
    /// Of histories in memory, for each lane.
    pub cache_bytes: usize,
    pub metrics: PipelineStateMetrics,
    /// Where histories begin empty.
    pub lost: FeatureMetrics,
}

/// The states of one lane.
pub(crate) struct States {
    options: Options,
    definition: [u8; 8],
    reader: ChangelogReader,
    partitions: BTreeMap<i32, Partition>,
    restoring: BTreeMap<i32, Restoring>,
    /// Those whose rows were all read from the changelog when they were last restored.
    read_whole: BTreeSet<i32>,
    holder: Holder,
    meter: Meter,
}

struct Restoring {
    rows: Box<dyn Rows>,
    /// From the changelog's beginning.
    is_whole: bool,
    changes: Pending,
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
            options,
            definition,
            reader,
            partitions: BTreeMap::new(),
            restoring: BTreeMap::new(),
            read_whole: BTreeSet::new(),
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
            usage += restoring.rows.usage();
        }
        self.meter.show(usage);
    }

    pub fn begin(&mut self) {
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
        for (number, partition) in &mut self.partitions {
            if let Err(error) = partition.apply(delivered.next(CHANGELOG, *number)) {
                // The next record whose history is not in memory has it restored.
                tracing::warn!(partition = number, %error, "{TO_BE_RESTORED}");
            }
        }
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        let mut given_up = Vec::new();
        for number in partitions {
            self.reader.forget(*number);
            self.restoring.remove(number);
            if let Some(mut partition) = self.partitions.remove(number) {
                self.options.shared.remove(*number, partition.committed());
                self.meter.count(partition.take_counts());
                given_up.push(partition);
            }
        }
        // That may take a while, in which another replica may answer for any of them already.
        given_up.into_iter().for_each(Partition::close);
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
        let Some(restoring) = restored else {
            return Ok(progress);
        };
        match restoring.is_whole {
            true => self.read_whole.insert(number),
            false => self.read_whole.remove(&number),
        };
        let partition = match Partition::new(restoring.rows, self.definition, input_next) {
            Ok(partition) => partition,
            Err(NoEpoch::Rows(fault)) => return Err(self.unusable(number, &fault.into())),
            Err(error @ NoEpoch::Marker { .. }) => {
                let message = format!("{}, partition {number}: {error}", self.reader.topic());
                return Err(handler::Error::fatal("state", message));
            }
        };
        if partition.begins_anew() {
            let pipeline = self.options.pipeline.name();
            self.options.lost.begun_anew(pipeline);
        }
        self.tick();
        let shared = &self.options.shared;
        shared.insert(number, partition.committed(), &self.holder);
        self.partitions.insert(number, partition);
        self.share_memory();
        Ok(Restore::Done)
    }

    /// One step; with the rows, once they stand for the end of the changelog.
    fn read_on(&mut self, number: i32) -> Result<(Restore, Option<Restoring>), handler::Error> {
        if !self.restoring.contains_key(&number) {
            let rows = self.options.opener.open(number).map_err(unopened)?;
            let restoring = Restoring {
                is_whole: rows.next_offset().is_none(),
                rows,
                changes: Pending::default(),
            };
            self.restoring.insert(number, restoring);
        }
        let Some(restoring) = self.restoring.get_mut(&number) else {
            return Ok((Restore::Done, None));
        };
        let Restoring { rows, changes, .. } = restoring;
        changes.clear();
        let mut next = None;
        let from = rows.next_offset();
        let read = self.reader.read(number, from, |change| {
            changes.push(change.key, change.payload);
            next = Some(change.offset + 1);
        });
        if let Err(error) = &read
            && error.begins_anew()
        {
            return Err(self.discard(number, error));
        }
        if let Ok(changelog::Progress::Done { next: end }) = read {
            next = Some(end);
        }
        // Also what came before an error: it does not come again.
        if let Some(next) = next
            && let Err(error) = rows.apply(changes, next)
        {
            return Err(self.discard(number, &error));
        }
        let progress = read?;
        let restored = match progress {
            changelog::Progress::Done { .. } => {
                rows.caught_up();
                self.restoring.remove(&number)
            }
            changelog::Progress::Pending { .. } => None,
        };
        Ok((progress.into(), restored))
    }

    /// Gives up a store that cannot be used; the next step begins anew.
    fn discard(&mut self, number: i32, error: &dyn std::error::Error) -> handler::Error {
        tracing::warn!(partition = number, %error, "the state is restored from the beginning of its changelog");
        self.reader.forget(number);
        self.restoring.remove(&number);
        match self.options.opener.discard(number) {
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
        if matches!(why, Unusable::Corrupt(_)) && self.read_whole.contains(&number) {
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
        let mut kept = self.options.opener.open(number).unwrap();
        let mut changes = Pending::default();
        let marker = layout::Marker {
            definition: self.definition,
            epoch: 1,
        };
        changes.push(&layout::MARKER, Some(&marker.write()));
        for (key, row) in rows {
            changes.push(key, Some(row));
        }
        kept.apply(&changes, 1).unwrap();
        let partition = Partition::new(kept, self.definition, None).unwrap();
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
        for (number, partition) in &self.partitions {
            self.options.shared.remove(*number, partition.committed());
        }
    }
}

fn unopened(error: rows::OpenError) -> handler::Error {
    match error.may_pass() {
        // A lane of this process that has lost the partition may not have noticed yet: it was frozen, as this one may have been.
        true => handler::Error::retry("state", error.to_string()),
        false => handler::Error::fatal("state", error.to_string()),
    }
}
