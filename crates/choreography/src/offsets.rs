//! Sends a group's offsets into a producer's transaction, within a time.
//!
//! librdkafka (2.12.1) looks for the group's coordinator without end when it has gone, as when Kafka is stopped: the time
//! given with the call is kept and not looked at. So the call is made on a thread of its own, which the lane gives up.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use crate::native;

/// What the client has beyond its own time to say that it is up.
const GRACE: Duration = Duration::from_millis(500);

/// Offsets, and the member that commits them.
pub(crate) struct Offsets {
    pub list: TopicPartitionList,
    pub group: ConsumerGroupMetadata,
}

impl Offsets {
    /// These offsets in the name of the member that the consumer is now; None where it is none. Kafka compares a
    /// transaction's offsets with the group only if they name a member or a generation: those of nobody (no member id,
    /// generation -1) it takes, whoever holds the partitions. A client that was removed from its group becomes nobody
    /// before the lane hears of it, which is in its next poll.
    pub fn of<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        list: TopicPartitionList,
    ) -> Option<Self> {
        let group = consumer.group_metadata()?;
        // Asked after it: a member that was removed joins again only once its partitions were given up, in a poll.
        (native::generation(consumer.client()) >= 0).then_some(Offsets { list, group })
    }
}

/// A thread that waits for offsets to send. It ends when this is dropped, or once the call it is in has ended.
pub(crate) struct OffsetSender {
    orders: SyncSender<Arc<Offsets>>,
    answers: Receiver<KafkaResult<()>>,
    within: Duration,
}

impl OffsetSender {
    /// `send` should take no longer than `within`, and may.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(
        name: &str,
        within: Duration,
        send: impl Fn(&Offsets) -> KafkaResult<()> + Send + 'static,
    ) -> KafkaResult<Self> {
        let (orders, ordered) = mpsc::sync_channel::<Arc<Offsets>>(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || {
            for offsets in ordered {
                if answer.send(send(&offsets)).is_err() {
                    return;
                }
            }
        });
        started.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(OffsetSender {
            orders,
            answers,
            within,
        })
    }

    /// After an error that the time was up it is of no more use: an answer may still come.
    ///
    /// # Errors
    /// Those of the client, or a time-out.
    pub fn send(&self, offsets: &Arc<Offsets>) -> KafkaResult<()> {
        let late = KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut);
        if self.orders.try_send(Arc::clone(offsets)).is_err() {
            return Err(late);
        }
        let answer = self.answers.recv_timeout(self.within + GRACE);
        answer.unwrap_or(Err(late))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    fn offsets() -> Arc<Offsets> {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("group.id", "g")
            .create()
            .unwrap();
        Arc::new(Offsets {
            list: TopicPartitionList::new(),
            group: consumer.group_metadata().unwrap(),
        })
    }

    #[test]
    fn answers_are_passed_on() {
        let refused = || KafkaError::ConsumerCommit(RDKafkaErrorCode::Fenced);
        let sender =
            OffsetSender::start("offsets", Duration::from_secs(60), move |_| Err(refused()));
        let sender = sender.unwrap();
        let offsets = offsets();
        for _ in 0..3 {
            assert_eq!(sender.send(&offsets), Err(refused()));
        }
    }

    #[test]
    fn a_call_that_does_not_end_is_given_up_and_stays_so() {
        let (end, ended) = mpsc::channel::<()>();
        let sender = OffsetSender::start("offsets", Duration::ZERO, move |_| {
            let _ = ended.recv();
            Ok(())
        });
        let sender = sender.unwrap();
        let offsets = offsets();
        let late = Err(KafkaError::ConsumerCommit(
            RDKafkaErrorCode::OperationTimedOut,
        ));
        assert_eq!(sender.send(&offsets), late);
        // The thread is in the first call; the second order waits, and for a third there is no room.
        assert_eq!(sender.send(&offsets), late);
        assert_eq!(sender.send(&offsets), late);
        drop(end);
    }

    #[test]
    fn offsets_are_sent_in_the_name_of_a_member_alone_and_not_of_one_that_was_thrown_out() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", 1, 1).unwrap();
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("group.id", "g")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("heartbeat.interval.ms", "100")
            .create()
            .unwrap();
        let is_member = || Offsets::of(&consumer, TopicPartitionList::new()).is_some();
        assert!(!is_member(), "it has not joined");
        consumer.subscribe(&["t"]).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let held = || consumer.assignment().unwrap().count();
        while held() == 0 {
            assert!(Instant::now() < deadline, "it joins");
            consumer.poll(Duration::from_millis(10));
        }
        assert!(is_member());
        let thrown_out = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION];
        broker.request_errors(RDKafkaApiKey::Heartbeat, &thrown_out);
        while is_member() {
            assert!(Instant::now() < deadline, "it is thrown out");
            thread::yield_now();
        }
        // A lane hears of it in its next poll.
        assert_eq!(held(), 1);
        while held() == 1 {
            assert!(Instant::now() < deadline, "its partition is taken away");
            consumer.poll(Duration::from_millis(10));
        }
    }
}
