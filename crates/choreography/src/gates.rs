//! What a lane's consumer has fetched and the lane must not see yet.
//!
//! Between the queues of the partitions and the one that is polled stand two more:
//!
//! - the **open queue**, which every open partition's queue is forwarded to. While a batch is retried it is held: records
//!   gather in it, in order, and polls return events only.
//! - the **closed queue** of the partitions whose gate is closed, since it is not known yet where they go on. They
//!   share it, and so its bound in bytes (`queued.max.messages.kbytes`): the client fetches no more for any of them once
//!   it is full. A gate is opened by a seek, so what has gathered there is never handled; it is discarded.
//!
//! Pausing the partitions would do the same, if its call always came back: it waits for an answer of the client's main
//! thread, and the answer is discarded where that thread gave the partition a new version meanwhile, as it does at
//! any rebalance (librdkafka 2.12.1, `rd_kafka_toppars_pause_resume`): a loop of assign, pause, resume and unassign over 60
//! partitions stands still within 500 rounds. And a partition that is revoked while it is paused stays paused: assigned
//! again, it is never fetched, without a word.

use std::{collections::BTreeMap, ffi::CString};

use rdkafka::{ClientContext, client::Client};

use crate::native::Queue;

/// A partition that was assigned and whose gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClosedGate {
    pub partition: i32,
    /// Counts assignments: what was found out for an earlier one says nothing of this one.
    pub assignment: u64,
}

/// The gates of one consumer. To be dropped before its client.
pub(crate) struct Gates {
    topic: CString,
    open_queue: Queue,
    closed_queue: Queue,
    closed: BTreeMap<i32, u64>,
    assignments: u64,
}

impl Gates {
    pub fn new<C: ClientContext>(client: &Client<C>, topic: CString) -> Self {
        let open_queue = Queue::new(client);
        open_queue.forward_to_consumer(client);
        Gates {
            topic,
            open_queue,
            closed_queue: Queue::new(client),
            closed: BTreeMap::new(),
            assignments: 0,
        }
    }

    /// A partition is being assigned, and nothing of it may pass yet.
    pub fn close<C: ClientContext>(&mut self, client: &Client<C>, partition: i32) {
        self.assignments += 1;
        self.closed.insert(partition, self.assignments);
        self.route(client, partition);
    }

    /// A partition was given up.
    pub fn forget(&mut self, partition: i32) {
        self.closed.remove(&partition);
    }

    pub fn is_closed(&self, partition: i32) -> bool {
        self.closed.contains_key(&partition)
    }

    pub fn closed(&self) -> impl Iterator<Item = ClosedGate> {
        let closed = self.closed.iter();
        closed.map(|(&partition, &assignment)| ClosedGate {
            partition,
            assignment,
        })
    }

    /// Opens a gate by `seek`; where that fails it stays closed. False where the partition was given up meanwhile.
    ///
    /// The way is opened first: what comes after the seek must not go to the closed queue. What was fetched before it
    /// is outdated then, which the client drops.
    pub fn open<C: ClientContext, E>(
        &mut self,
        client: &Client<C>,
        gate: ClosedGate,
        seek: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        if self.closed.get(&gate.partition) != Some(&gate.assignment) {
            return Ok(false);
        }
        self.open_queue
            .forward_from(client, &self.topic, gate.partition);
        if let Err(error) = seek() {
            self.closed_queue
                .forward_from(client, &self.topic, gate.partition);
            return Err(error);
        }
        self.closed.remove(&gate.partition);
        self.discard_closed_queue(client);
        Ok(true)
    }

    /// Discards what waits: those that are still closed are to be sought as well.
    fn discard_closed_queue<C: ClientContext>(&mut self, client: &Client<C>) {
        let full = std::mem::replace(&mut self.closed_queue, Queue::new(client));
        for partition in self.closed.keys() {
            self.closed_queue
                .forward_from(client, &self.topic, *partition);
        }
        drop(full);
    }

    /// Leads a partition through its gate, or again: the client forgets that when it stops one, and could do so late.
    pub fn route<C: ClientContext>(&self, client: &Client<C>, partition: i32) {
        let queue = match self.is_closed(partition) {
            true => &self.closed_queue,
            false => &self.open_queue,
        };
        queue.forward_from(client, &self.topic, partition);
    }

    /// Keeps back what is fetched from now on.
    pub fn hold(&self) {
        self.open_queue.stop_forwarding();
    }

    /// Lets through what was kept back.
    pub fn release<C: ClientContext>(&self, client: &Client<C>) {
        self.open_queue.forward_to_consumer(client);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rdkafka::{
        ClientConfig, Message, Offset, TopicPartitionList,
        consumer::{BaseConsumer, Consumer, DefaultConsumerContext},
        error::KafkaError,
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
    };

    use super::*;
    use crate::native::queue_length;

    const PATIENCE: Duration = Duration::from_secs(60);
    const PARTITIONS: i32 = 16;
    const RECORDS: usize = 20;

    struct World {
        // Before its client.
        gates: Gates,
        consumer: BaseConsumer,
        all: TopicPartitionList,
        _broker: MockCluster<'static, DefaultProducerContext>,
    }

    /// A topic with [`RECORDS`] in each partition, and gates before it.
    fn world() -> World {
        world_of(ClientConfig::new(), RECORDS, 1)
    }

    fn world_of(mut settings: ClientConfig, records: usize, bytes: usize) -> World {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", PARTITIONS, 1).unwrap();
        let servers = broker.bootstrap_servers();
        let mut producing = ClientConfig::new();
        producing
            .set("bootstrap.servers", &servers)
            // A fetch brings at least a batch of each partition.
            .set("batch.num.messages", RECORDS.to_string());
        let producer: BaseProducer = producing.create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            for n in 0..records {
                let payload = format!("{n:0bytes$}");
                let record = BaseRecord::<(), _>::to("t").partition(partition);
                producer.send(record.payload(&payload)).unwrap();
            }
            all.add_partition_offset("t", partition, Offset::Offset(0))
                .unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        settings.set("bootstrap.servers", &servers);
        let consumer: BaseConsumer<DefaultConsumerContext> =
            settings.set("group.id", "g").create().unwrap();
        World {
            gates: Gates::new(consumer.client(), c"t".to_owned()),
            consumer,
            all,
            _broker: broker,
        }
    }

    impl World {
        fn route(&self) {
            for partition in 0..PARTITIONS {
                self.gates.route(self.consumer.client(), partition);
            }
        }

        fn assign(&mut self) {
            self.route();
            self.consumer.assign(&self.all).unwrap();
        }

        fn assign_closed(&mut self) {
            for partition in 0..PARTITIONS {
                self.gates.close(self.consumer.client(), partition);
            }
            self.consumer.assign(&self.all).unwrap();
        }

        /// Waits until so many records have come to a queue, while nothing is polled.
        fn gather(&self, records: usize, queue: impl Fn(&Gates) -> &Queue) {
            let deadline = Instant::now() + PATIENCE;
            while queue(&self.gates).len() < records {
                let came = queue(&self.gates).len();
                assert!(Instant::now() < deadline, "{came} came");
                self.nothing_comes(Duration::from_millis(1));
                // What was given up just now was perhaps still being stopped.
                self.route();
            }
        }

        fn nothing_comes(&self, wait: Duration) {
            assert!(self.consumer.poll(wait).is_none(), "it is closed");
        }

        /// Polls all records of these partitions from an offset on; each partition's in order.
        fn read(&self, partitions: std::ops::Range<i32>, from: i64) {
            let mut next = vec![from; PARTITIONS as usize];
            for _ in 0..partitions.len() * (RECORDS - from as usize) {
                let message = self.consumer.poll(PATIENCE).unwrap().unwrap();
                assert!(partitions.contains(&message.partition()));
                let next = &mut next[message.partition() as usize];
                assert_eq!(message.offset(), *next);
                *next += 1;
            }
        }

        fn gate(&self, partition: i32) -> ClosedGate {
            let mut closed = self.gates.closed();
            closed.find(|it| it.partition == partition).unwrap()
        }

        fn open(&mut self, partition: i32, at: i64) -> Result<bool, KafkaError> {
            let gate = self.gate(partition);
            let (consumer, at) = (&self.consumer, Offset::Offset(at));
            let seek = || consumer.seek("t", partition, at, PATIENCE);
            self.gates.open(consumer.client(), gate, seek)
        }
    }

    #[test]
    fn a_held_passage_lets_nothing_pass_and_a_released_one_all_in_order() {
        let mut world = world();
        world.assign();
        world.read(0..PARTITIONS, 0);
        world.consumer.unassign().unwrap();
        world.gates.hold();
        world.assign();
        world.gather(PARTITIONS as usize * RECORDS, |gates| &gates.open_queue);
        world.gates.release(world.consumer.client());
        world.read(0..PARTITIONS, 0);
    }

    /// Rebalances wait there, too: one that is not served keeps its client from ever being closed.
    #[test]
    fn gates_that_go_leave_what_has_passed_them() {
        let mut world = world();
        world.assign();
        let passed = |world: &World| queue_length(world.consumer.client());
        let deadline = Instant::now() + PATIENCE;
        while passed(&world) < PARTITIONS as usize * RECORDS {
            assert!(Instant::now() < deadline, "{} came", passed(&world));
            std::thread::yield_now();
        }
        world.gates = Gates::new(world.consumer.client(), c"t".to_owned());
        world.read(0..PARTITIONS, 0);
    }

    /// A call that pauses partitions here does not come back, once in some hundred rounds.
    #[test]
    fn a_passage_is_held_while_the_client_starts_its_partitions() {
        let mut world = world();
        for _ in 0..1_000 {
            world.assign();
            world.gates.hold();
            world.consumer.unassign().unwrap();
            world.gates.release(world.consumer.client());
        }
        world.gates.hold();
        world.assign();
        world.gather(PARTITIONS as usize * RECORDS, |gates| &gates.open_queue);
        world.gates.release(world.consumer.client());
        world.read(0..PARTITIONS, 0);
    }

    #[test]
    fn a_gate_opens_alone_and_at_the_offset_it_is_sent_to() {
        let mut world = world();
        world.assign_closed();
        world.gather(PARTITIONS as usize * RECORDS, |gates| &gates.closed_queue);
        assert!(world.open(3, 5).unwrap());
        world.read(3..4, 5);
        world.nothing_comes(Duration::from_millis(50));
        // Before the offset that was fetched to, and after it.
        for partition in (0..PARTITIONS).filter(|it| *it != 3) {
            assert!(world.open(partition, 7).unwrap());
        }
        assert_eq!(world.gates.closed().count(), 0);
        assert_eq!(
            world.gates.closed_queue.len(),
            0,
            "what waited is thrown away"
        );
        let mut next = [7; PARTITIONS as usize];
        for _ in 0..(PARTITIONS as usize - 1) * (RECORDS - 7) {
            let message = world.consumer.poll(PATIENCE).unwrap().unwrap();
            let next = &mut next[message.partition() as usize];
            assert_eq!(message.offset(), *next);
            *next += 1;
        }
    }

    #[test]
    fn a_gate_stays_closed_where_its_seek_fails_or_its_assignment_is_over() {
        let mut world = world();
        world.assign_closed();
        let gate = world.gate(0);
        let client = world.consumer.client();
        assert_eq!(world.gates.open(client, gate, || Err("no")), Err("no"));
        assert!(world.gates.is_closed(0));
        world.gates.forget(0);
        let never = || -> Result<(), ()> { panic!("there is nothing to seek") };
        assert_eq!(world.gates.open(client, gate, never), Ok(false));
        world.gates.close(client, 0);
        assert_eq!(world.gates.open(client, gate, never), Ok(false));
        assert!(world.gates.is_closed(0) && world.gate(0) != gate);
    }

    #[test]
    fn all_closed_gates_share_one_bound_in_bytes() {
        let (bound_kib, bytes) = (64, 1_000);
        let bound = bound_kib * 1024 / bytes;
        let mut settings = ClientConfig::new();
        settings
            .set("queued.max.messages.kbytes", bound_kib.to_string())
            .set("fetch.message.max.bytes", bytes.to_string())
            .set("fetch.queue.backoff.ms", "2");
        let mut world = world_of(settings, 3 * bound, bytes);
        world.assign_closed();
        world.gather(bound, |gates| &gates.closed_queue);
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline {
            world.nothing_comes(Duration::from_millis(10));
        }
        // The fetch under way may pass it by a batch of each.
        let came = world.gates.closed_queue.len();
        let each = PARTITIONS as usize * bound;
        assert!(
            came < each,
            "{came} came; with a bound for each, {each} would"
        );
    }
}
