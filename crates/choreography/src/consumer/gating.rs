//! The gates as the lane uses them: opened and closed partition by partition, or all held while a batch is retried.

use std::sync::atomic::Ordering;

use rdkafka::{Offset, consumer::Consumer, error::KafkaResult};

use super::{LaneConsumer, REBALANCE_SETTLES_WITHIN, callbacks::lock, offsets::SEEK_WAIT};
use crate::{
    batch::Batch,
    gates::{ClosedGate, Gates},
    native,
};

impl LaneConsumer {
    /// Leads every partition through its gate again: the client forgets that when it stops one, and could do so
    /// late. To be called now and then.
    pub fn reroute(&self) {
        let events = self.client.context();
        self.with_gates(|gates| {
            for partition in lock(&events.assigned).keys() {
                gates.route(self.client.client(), *partition);
            }
        });
    }

    /// Holds back what is fetched from now on; polling continues, so that the lane stays in its group.
    pub fn hold(&self) {
        if !self.is_holding.replace(true) {
            self.with_gates(|gates| gates.hold());
        }
    }

    /// Lets through what was kept back.
    pub fn release(&self) {
        if self.is_holding.replace(false) {
            self.with_gates(|gates| gates.release(self.client.client()));
        }
    }

    /// The partitions whose gates are closed: their start offsets are not known yet.
    pub fn closed(&self) -> Vec<ClosedGate> {
        self.with_gates(|gates| gates.closed().collect())
            .unwrap_or_default()
    }

    /// As [`LaneConsumer::closed`], but for those that rest and are sent on by themselves.
    pub fn closed_unclaimed(&self) -> Vec<ClosedGate> {
        let unchecked = lock(&self.client.context().unchecked);
        let cools_down = |gate: &ClosedGate| {
            let check = unchecked.get(&gate.partition);
            check.is_some_and(|check| check.cooldown.is_some())
        };
        let mut closed = self.closed();
        closed.retain(|gate| !cools_down(gate));
        closed
    }

    /// Takes from the batch what came while a gate was being opened that is closed still: a seek that is not answered in
    /// time lets records pass.
    pub fn forget_closed(&self, batch: &mut Batch<'_>) {
        let closed = self.closed();
        let in_batch = |partition: i32| batch.partitions().any(|it| it == partition);
        let closed: Vec<i32> = closed
            .iter()
            .map(|gate| gate.partition)
            .filter(|partition| in_batch(*partition))
            .collect();
        if !closed.is_empty() {
            batch.forget(&closed);
        }
    }

    /// To be called when no gate is closed: all that this member was given is open. Nothing is its share only once that has
    /// lasted: a member that joins is given partitions after others have given them up.
    pub fn report_restored(&self) {
        let events = self.client.context();
        let is_empty = lock(&events.assigned).is_empty();
        let is_settled =
            !is_empty || self.rebalanced_at.get().elapsed() >= REBALANCE_SETTLES_WITHIN;
        if events.restores && events.is_assigned.load(Ordering::Acquire) && is_settled {
            events.status.restored_all();
        }
    }

    pub fn is_closed(&self, partition: i32) -> bool {
        self.with_gates(|gates| gates.is_closed(partition)) == Some(true)
    }

    /// Opens a gate at an offset. False where the partition was given up meanwhile.
    pub fn open(&self, gate: ClosedGate, at: Offset, epoch: Option<i32>) -> KafkaResult<bool> {
        let client = self.client.client();
        // Waited for: the client drops a seek that a rebalance overtakes, and one of a partition it does not read yet.
        // With the epoch that was committed: the client finds out by it whether the log was cut and has grown again.
        let seek = || native::seek(client, &self.topic, (gate.partition, at), epoch, SEEK_WAIT);
        self.with_gates(|gates| gates.open(client, gate, seek))
            .unwrap_or(Ok(false))
    }

    /// Closes a partition's gate: it is to be opened anew.
    pub fn close(&self, partition: i32) {
        self.with_gates(|gates| gates.close(self.client.client(), partition));
    }

    pub(super) fn with_gates<T>(&self, then: impl FnOnce(&mut Gates) -> T) -> Option<T> {
        lock(&self.client.context().gates).as_mut().map(then)
    }
}
