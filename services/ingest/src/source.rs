//! A way in: the frames of a protocol become records, and each frame is answered once Kafka has confirmed its record.
//!
//! What a protocol's frames come over is its own: routes and calls of the service's port, as [`crate::http`] and [`crate::grpc`]
//! have them; a port of its own ([`quadrille_service::Context::listen`]) or a connection that it makes, in a
//! [`quadrille_service::Task`] that ends before the stages do.

#[cfg(test)]
mod lines;

use std::sync::Arc;

use futures_util::{Stream, StreamExt, future::Either};

use crate::intake::{Accepted, Intake, Rejection, Sender};

/// A protocol by which records come in.
///
/// Records are sent in the order of their frames, so that those of one key stay in order. An acknowledgement that says
/// [`Accepted`] is made only after Kafka has confirmed the record: what was sent and never acknowledged may be sent again.
pub(crate) trait Source: Send + Sync + 'static {
    /// What is answered by one acknowledgement: a line of a body, a message of a stream.
    type Frame: Send;
    /// What is kept of a frame to answer it by: the number of its line, its sequence.
    type Tag: Send;
    /// What the sender gets.
    type Ack: Send;

    /// Frames that wait for Kafka; beyond it no further one is taken, so that the sender is held up.
    const IN_FLIGHT_MAX: usize;
    const ORDER: Order;
    const WHEN_FULL: WhenFull;

    /// The record in a frame.
    fn read(&self, frame: Self::Frame) -> (Self::Tag, Result<Push<'_>, Rejection>);

    fn acknowledge(&self, tag: Self::Tag, outcome: Result<Accepted, Rejection>) -> Self::Ack;
}

/// In which order frames are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they came: the answer does not say which frame it is for.
    OfFrames,
    /// As Kafka confirms them.
    OfConfirmations,
}

/// What becomes of a record for which the producer's queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It waits, and so do those behind it.
    Wait,
    /// It is refused, and the sender is to try again.
    Refuse,
}

/// A record that is ready to be sent on.
pub(crate) struct Push<'a> {
    pub intake: &'a Intake,
    pub reading: quadrille_pipeline::Reading,
    pub sender: Sender,
}

impl Push<'_> {
    /// The outer future is ready when the record is sent, or refused; the inner one when it is confirmed.
    async fn send(
        self,
        when_full: WhenFull,
    ) -> impl Future<Output = Result<Accepted, Rejection>> + Send + use<> {
        let Push {
            intake,
            reading,
            sender,
        } = self;
        match when_full {
            WhenFull::Wait => Either::Left(intake.send_waiting(reading, &sender).await),
            WhenFull::Refuse => Either::Right(intake.send(reading, &sender)),
        }
    }
}

/// The acknowledgements of frames: each is read, sent on in its turn, and answered when Kafka has confirmed it.
pub(crate) fn acknowledgements<'a, S: Source>(
    source: Arc<S>,
    frames: impl Stream<Item = S::Frame> + Send + 'a,
) -> impl Stream<Item = S::Ack> + Send + 'a {
    let send = move |frame| send(Arc::clone(&source), frame);
    answered(frames, send, S::IN_FLIGHT_MAX, S::ORDER)
}

/// The outer future is ready when the frame's record is sent, or refused; the inner one when it can be answered.
async fn send<S: Source>(
    source: Arc<S>,
    frame: S::Frame,
) -> impl Future<Output = S::Ack> + Send + use<S> {
    let (tag, push) = source.read(frame);
    let sent = match push {
        Ok(push) => Ok(push.send(S::WHEN_FULL).await),
        Err(rejection) => Err(rejection),
    };
    async move {
        let outcome = match sent {
            Ok(confirmation) => confirmation.await,
            Err(rejection) => Err(rejection),
        };
        source.acknowledge(tag, outcome)
    }
}

/// Sends frames one after another, and answers each as soon as its order allows.
fn answered<'a, F, S, C>(
    frames: impl Stream<Item = F> + Send + 'a,
    send: impl FnMut(F) -> S + Send + 'a,
    in_flight_max: usize,
    order: Order,
) -> impl Stream<Item = C::Output> + Send + 'a
where
    F: Send + 'a,
    S: Future<Output = C> + Send + 'a,
    C: Future<Output: Send> + Send + 'a,
{
    let sent = frames.then(send);
    match order {
        Order::OfFrames => sent.buffered(in_flight_max).left_stream(),
        Order::OfConfirmations => sent.buffer_unordered(in_flight_max).right_stream(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::sync::watch;

    use super::*;

    /// The order of answers to 1, 2, 3 where 1 is confirmed after 2.
    async fn order_of_answers(order: Order) -> Vec<u32> {
        let (last, _) = watch::channel(0);
        let send = |frame: u32| {
            let last = last.clone();
            std::future::ready(async move {
                if frame == 1 {
                    let _ = last.subscribe().wait_for(|last| *last == 2).await;
                }
                last.send_replace(frame.min(2));
                frame
            })
        };
        answered(stream::iter([1, 2, 3]), send, 8, order)
            .collect()
            .await
    }

    #[tokio::test]
    async fn frames_are_answered_in_their_order_or_as_they_are_confirmed() {
        assert_eq!(order_of_answers(Order::OfFrames).await, [1, 2, 3]);
        let answers = order_of_answers(Order::OfConfirmations).await;
        assert_eq!(answers[0], 2, "{answers:?}");
    }

    #[tokio::test]
    async fn no_more_frames_are_taken_than_may_wait() {
        let (confirm, _) = watch::channel(0);
        let mut taken = 0;
        {
            let send = |frame: u32| {
                taken = frame;
                let mut confirmed = confirm.subscribe();
                std::future::ready(async move {
                    let _ = confirmed.wait_for(|confirmed| *confirmed >= frame).await;
                })
            };
            let mut answers = std::pin::pin!(answered(
                stream::iter(1..=100),
                send,
                3,
                Order::OfConfirmations
            ));
            assert!(futures_util::poll!(answers.next()).is_pending());
            confirm.send_replace(1);
            assert!(futures_util::poll!(answers.next()).is_ready());
            assert!(futures_util::poll!(answers.next()).is_pending());
        }
        assert_eq!(taken, 4);
    }
}
