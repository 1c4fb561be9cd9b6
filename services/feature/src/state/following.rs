//! The standby's thread: keeps up with the changelog of all partitions that no lane of this process has. Whatever goes wrong here, it
//! goes on later: the stream does not depend on it.

use std::{
    collections::BTreeMap,
    error::Error,
    mem,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use quadrille_choreography::{Backoff, ChangelogFollower, changelog::Place};
use quadrille_telemetry::metrics::{PipelineStateMetrics, StandbyMetrics, StateUsage};

use super::{
    committed::lock,
    meter::Meter,
    rows::Fault,
    standby::{NotTaken, Slot, Standbys, Standing},
};

/// How long it waits for news, and so how soon at the latest it notices what the lanes took or gave back.
const ROUND: Duration = Duration::from_millis(100);
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long it lets lanes restore what they own before it reads on beside them: a restore may also be held up.
const YIELDS_MAX: Duration = Duration::from_secs(30);
/// Once the disk had no room, how long until one partition tries whether it has again. The stream needs memory and disk more.
const NO_ROOM_FOR: Duration = Duration::from_secs(30);
/// Failures before the log calls it a trouble: the first ones are part of a rebalance.
const QUIET_FAILURES: u32 = 2;

const NOT_KEPT: &str = "standby not kept up to date; trying again";
const UNREADABLE: &str =
    "the standby does not answer for a key: a row of the topic itself cannot be read";

/// Keeps up with the partitions of one pipeline.
pub(crate) struct Following {
    standbys: Standbys,
    definition: [u8; 8],
    follower: ChangelogFollower,
    metrics: StandbyMetrics,
    meter: Meter,
    followed: BTreeMap<i32, Followed>,
    troubles: BTreeMap<i32, Trouble>,
    /// Of reading from Kafka.
    trouble: Option<Trouble>,
    /// Since when lanes come first.
    yields_since: Option<Instant>,
    no_room: Option<NoRoomUntil>,
}

/// The disk had no room.
struct NoRoomUntil {
    until: Instant,
    /// The partition that tries whether it has now.
    trial: Option<i32>,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no room on the disk, or it cannot be written")]
struct NoRoom;

/// What this thread knows of a partition.
struct Followed {
    generation: u64,
    /// Where it was in the changelog after the last round.
    next: i64,
    /// The farthest end of the changelog that a broker said.
    end: i64,
    /// Once all before it is applied, the store is as new as it was known to be needed.
    target: i64,
    /// It once was.
    has_caught_up: bool,
    is_shown: bool,
    /// The log says that rows of the topic itself cannot be read.
    is_told: bool,
}

struct Trouble {
    backoff: Backoff,
    again_at: Instant,
}

impl Trouble {
    fn new() -> Self {
        Trouble {
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            again_at: Instant::now(),
        }
    }

    fn note(&mut self, partition: Option<i32>, error: &dyn Error) {
        let wait = self.backoff.next_wait();
        self.again_at = Instant::now() + wait;
        let wait_ms = wait.as_millis() as u64;
        match self.backoff.attempts() {
            ..QUIET_FAILURES => tracing::debug!(partition, %error, wait_ms, "{NOT_KEPT}"),
            QUIET_FAILURES => tracing::warn!(partition, %error, wait_ms, "{NOT_KEPT}"),
            _ => tracing::debug!(partition, %error, wait_ms, "{NOT_KEPT}"),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.again_at
    }

    /// It went well for so long that the next failure is another trouble.
    fn is_past(&self) -> bool {
        Instant::now() >= self.again_at + AGAIN_MAX
    }
}

impl Following {
    pub fn new(
        standbys: Standbys,
        definition: [u8; 8],
        follower: ChangelogFollower,
        (metrics, state_metrics): (StandbyMetrics, PipelineStateMetrics),
    ) -> Self {
        Following {
            standbys,
            definition,
            follower,
            metrics,
            meter: Meter::new(state_metrics),
            followed: BTreeMap::new(),
            troubles: BTreeMap::new(),
            trouble: None,
            yields_since: None,
            no_room: None,
        }
    }

    /// Until the other end of `stop` is gone.
    pub fn run(mut self, stop: &Receiver<()>) {
        let mut wait = Duration::ZERO;
        while matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
            wait = self.round();
        }
        for partition in self.standbys.partitions() {
            if let Some(slot) = self.standbys.slot(partition)
                && let Slot::Standing(standing) = &*slot
            {
                lock(&standing.committed).rows.persist();
            }
        }
    }

    /// How long until the next one.
    fn round(&mut self) -> Duration {
        self.take_up();
        if self.meter.is_due() {
            self.tend();
        }
        let yields = self.yields();
        let now = Instant::now();
        if let Some(trouble) = self.trouble.as_ref().filter(|it| !it.is_over()) {
            return ROUND.min(trouble.again_at - now);
        }
        if self.follower.is_idle() || yields {
            return ROUND;
        }
        let (standbys, followed) = (&self.standbys, &self.followed);
        let read = self.follower.read(ROUND, |partition, change| {
            if let Some(mut slot) = standbys.slot(partition)
                && let Some(standing) = known(&mut slot, followed.get(&partition))
            {
                let follow = &mut standing.follow;
                follow.push(change.offset, change.key, change.payload);
            }
        });
        self.apply_all();
        match read {
            Ok(()) => self.trouble = None,
            Err(error) if error.begins_anew() => self.drop_rows(error.partition(), &error),
            Err(error) => {
                self.metrics.failed();
                let trouble = self.trouble.get_or_insert_with(Trouble::new);
                trouble.note(None, &error);
            }
        }
        Duration::ZERO
    }

    /// Whether it leaves disk, memory and CPU to lanes for now.
    fn yields(&mut self) -> bool {
        if !self.standbys.are_lanes_restoring() {
            self.yields_since = None;
            return false;
        }
        let since = self.yields_since.get_or_insert_with(Instant::now);
        since.elapsed() < YIELDS_MAX
    }

    /// Follows what no lane has, and forgets what one took.
    fn take_up(&mut self) {
        let mut waiting = 0;
        for partition in self.standbys.partitions() {
            let Some(mut slot) = self.standbys.slot(partition) else {
                continue;
            };
            if let Slot::Free = &*slot {
                if self
                    .troubles
                    .get(&partition)
                    .is_some_and(|it| !it.is_over())
                    || !has_room(&mut self.no_room, partition)
                {
                    drop(slot);
                    self.forget(partition);
                    waiting += 1;
                    continue;
                }
                match self.standbys.open(partition) {
                    Ok(standing) => *slot = Slot::Standing(Box::new(standing)),
                    Err(error) => {
                        drop(slot);
                        self.forget(partition);
                        self.not_opened(partition, &error);
                        waiting += 1;
                        continue;
                    }
                }
            }
            let Slot::Standing(standing) = &*slot else {
                drop(slot);
                self.forget(partition);
                continue;
            };
            let generation = standing.generation;
            let followed = self.followed.get(&partition);
            if followed.is_some_and(|it| it.generation == generation) {
                continue;
            }
            let from = lock(&standing.committed).rows.next_offset();
            drop(slot);
            self.follower.follow(partition, from);
            let followed = Followed {
                generation,
                next: from.unwrap_or_default(),
                end: 0,
                target: i64::MAX,
                has_caught_up: false,
                is_shown: false,
                is_told: false,
            };
            self.followed.insert(partition, followed);
        }
        let ready = self.followed.values().filter(|it| it.is_shown).count();
        let restoring = self.followed.len() - ready + waiting;
        self.metrics.partitions(ready, restoring);
    }

    fn forget(&mut self, partition: i32) {
        if self.followed.remove(&partition).is_some() {
            self.follower.forget(partition);
            self.metrics.lag_gone(partition);
        }
        if let Some(no_room) = &mut self.no_room
            && no_room.trial == Some(partition)
        {
            no_room.trial = None;
        }
    }

    fn not_opened(&mut self, partition: i32, error: &NotTaken) {
        self.note(partition, error);
        if let NotTaken::Rows(Fault::Damaged(_)) = error {
            self.discard(partition);
        }
    }

    fn note(&mut self, partition: i32, error: &dyn Error) {
        self.metrics.failed();
        let trouble = self.troubles.entry(partition);
        let trouble = trouble.or_insert_with(Trouble::new);
        trouble.note(Some(partition), error);
    }

    /// Whether changes come or not.
    fn tend(&mut self) {
        let mut usage = StateUsage::default();
        for partition in self.standbys.partitions() {
            if let Some(slot) = self.standbys.slot(partition)
                && let Slot::Standing(standing) = &*slot
            {
                let mut committed = lock(&standing.committed);
                // Where that fails, the rows are dropped with the next round.
                let _ = committed.tend();
                usage += committed.rows.usage();
            }
        }
        self.meter.show(usage);
    }

    fn apply_all(&mut self) {
        let (mut faults, mut full) = (Vec::new(), Vec::new());
        for (partition, followed) in &mut self.followed {
            let Some(mut slot) = self.standbys.slot(*partition) else {
                continue;
            };
            let Some(standing) = known(&mut slot, Some(&*followed)) else {
                continue;
            };
            let (fault, unreadable) = {
                let mut committed = lock(&standing.committed);
                (committed.fault.clone(), committed.unreadable.take())
            };
            if let Some(why) = unreadable {
                self.metrics.failed();
                if !mem::replace(&mut followed.is_told, true) {
                    tracing::error!(partition, why, "{UNREADABLE}");
                }
            }
            let place = self.follower.place(*partition);
            let applied = match (fault, place) {
                (Some(fault), _) => Err(fault),
                (None, Some(place)) => followed.apply(standing, place, self.definition),
                (None, None) => continue,
            };
            match applied {
                Ok(lag) => self.metrics.lag(*partition, lag),
                Err(fault) => {
                    faults.push((*partition, fault));
                    continue;
                }
            }
            if lock(&standing.committed).rows.usage().unwritten > 0 {
                full.push(*partition);
                continue;
            }
            // It has written all there is to write.
            if followed.has_caught_up
                && let Some(no_room) = &self.no_room
                && no_room.trial == Some(*partition)
            {
                self.no_room = None;
            }
            if self.troubles.get(partition).is_some_and(Trouble::is_past) {
                self.troubles.remove(partition);
            }
            let shared = self.standbys.shared();
            match followed.is_shown {
                true => shared.stand_by(*partition, &standing.committed),
                false => shared.remove(*partition, &standing.committed),
            }
        }
        for partition in full {
            self.no_room = Some(NoRoomUntil {
                until: Instant::now() + NO_ROOM_FOR,
                trial: None,
            });
            // What the disk has is right, and read on from later.
            self.let_go(partition, &NoRoom);
        }
        for (partition, fault) in faults {
            match &fault {
                Fault::Damaged(_) => self.drop_rows(partition, &fault),
                // They answer nothing until they can be read.
                Fault::Unread(_) => self.note(partition, &fault),
            }
        }
    }

    /// The rows of a partition are of no use; it begins anew.
    fn drop_rows(&mut self, partition: i32, error: &dyn Error) {
        if self.let_go(partition, error) {
            tracing::warn!(partition, %error, "the standby begins anew with its changelog");
            self.discard(partition);
        }
    }

    /// Whether it had them still. It goes on later with what is on the disk.
    fn let_go(&mut self, partition: i32, error: &dyn Error) -> bool {
        self.note(partition, error);
        let followed = self.followed.get(&partition);
        let Some(mut slot) = self.standbys.slot(partition) else {
            return false;
        };
        if known(&mut slot, followed).is_none() {
            return false;
        }
        if let Slot::Standing(standing) = mem::replace(&mut *slot, Slot::Free) {
            let shared = self.standbys.shared();
            shared.remove(partition, &standing.committed);
        }
        drop(slot);
        self.forget(partition);
        true
    }

    fn discard(&mut self, partition: i32) {
        // Unless a lane has it by now, which does so itself.
        if let Some(slot) = self.standbys.slot(partition)
            && let Slot::Free = &*slot
            && let Err(error) = self.standbys.discard(partition)
        {
            let trouble = self.troubles.entry(partition);
            let trouble = trouble.or_insert_with(Trouble::new);
            trouble.note(Some(partition), &error);
        }
    }
}

impl Followed {
    /// Applies what came; how far the rows are behind the end of the changelog.
    fn apply(
        &mut self,
        standing: &mut Standing,
        place: Place,
        definition: [u8; 8],
    ) -> Result<u64, Fault> {
        let Standing {
            committed, follow, ..
        } = standing;
        let end = place.end.map(|end| end.max(place.end_at_start));
        // A broker that leads since a moment ago may know of less than the one before.
        self.end = self.end.max(end.unwrap_or(place.end_at_start));
        follow.ends(self.end);
        if end.is_some() && place.next >= self.end {
            follow.caught_up();
        }
        let next = (place.next > self.next).then_some(place.next);
        let mut committed = lock(committed);
        follow.apply(&mut committed, next)?;
        self.next = place.next;
        let end = end.unwrap_or(place.end_at_start);
        if place.next >= self.target {
            committed.rows.caught_up();
            self.has_caught_up = true;
        }
        if place.next >= self.target || self.target == i64::MAX {
            self.target = end;
        }
        let marker = committed.marker.filter(|it| it.definition == definition);
        self.is_shown = marker.is_some() && committed.input_next.is_some();
        let applied = committed.rows.next_offset().unwrap_or_default();
        // Where all was read, markers of transactions alone are behind the last row.
        match place.next >= end {
            true => Ok(0),
            false => Ok(u64::try_from(end - applied).unwrap_or_default()),
        }
    }
}

/// Whether a partition's rows may be opened, as far as the disk is concerned: after it had no room, one first.
fn has_room(no_room: &mut Option<NoRoomUntil>, partition: i32) -> bool {
    match no_room {
        None => true,
        Some(NoRoomUntil { until, .. }) if Instant::now() < *until => false,
        Some(NoRoomUntil { trial, .. }) => *trial.get_or_insert(partition) == partition,
    }
}

/// What is followed of a partition, where it is that still.
fn known<'a>(slot: &'a mut Slot, followed: Option<&Followed>) -> Option<&'a mut Standing> {
    match slot {
        Slot::Standing(standing) if followed?.generation == standing.generation => {
            Some(&mut **standing)
        }
        _ => None,
    }
}
