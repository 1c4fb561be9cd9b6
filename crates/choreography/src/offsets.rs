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
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

/// What the client has beyond its own time to say that it is up.
const GRACE: Duration = Duration::from_millis(500);

/// Offsets, and the member that commits them.
pub(crate) struct Offsets {
    pub list: TopicPartitionList,
    pub group: ConsumerGroupMetadata,
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
    use rdkafka::consumer::{BaseConsumer, Consumer};

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
}
