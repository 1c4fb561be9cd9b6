//! What a consumer's queue brings, errors with the place they belong to: the client crate leaves that out.

use std::{
    ffi::{CStr, c_int},
    time::Duration,
};

use rdkafka::{ClientContext, bindings as ffi, client::Client, error::RDKafkaErrorCode};

/// An event of a consumer's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A record of this offset.
    Record(i64),
    Failed {
        code: RDKafkaErrorCode,
        /// Partition and offset, where it is a partition's.
        place: Option<(i32, i64)>,
        why: String,
    },
    Other,
}

/// The next event of a consumer that is polled by this alone; None when none came in time. The record itself is dropped.
pub(crate) fn next_event<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Option<Event> {
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: `client` outlives the calls; the queue is a reference of ours, given back after one use.
    unsafe {
        let queue = ffi::rd_kafka_queue_get_consumer(client.native_ptr());
        if queue.is_null() {
            return None;
        }
        let event = poll(queue, timeout_ms);
        ffi::rd_kafka_queue_destroy(queue);
        event
    }
}

/// SAFETY: `queue` is a live queue of librdkafka.
pub(super) unsafe fn poll(queue: *mut ffi::rd_kafka_queue_t, timeout_ms: c_int) -> Option<Event> {
    // SAFETY: as the function's contract; the event is destroyed after what belongs to it was copied.
    unsafe {
        let event = ffi::rd_kafka_queue_poll(queue, timeout_ms);
        if event.is_null() {
            return None;
        }
        let found = read(event);
        ffi::rd_kafka_event_destroy(event);
        Some(found)
    }
}

/// SAFETY: `event` is a live event of librdkafka.
unsafe fn read(event: *mut ffi::rd_kafka_event_t) -> Event {
    // SAFETY: as the function's contract; the message and the text belong to the event, the place is ours to destroy.
    unsafe {
        match ffi::rd_kafka_event_type(event) {
            ffi::RD_KAFKA_EVENT_FETCH => {
                let message = ffi::rd_kafka_event_message_next(event);
                match message.is_null() {
                    true => Event::Other,
                    false => Event::Record((*message).offset),
                }
            }
            ffi::RD_KAFKA_EVENT_ERROR => {
                let found = ffi::rd_kafka_event_topic_partition(event);
                let place = (!found.is_null()).then(|| {
                    let place = ((*found).partition, (*found).offset);
                    ffi::rd_kafka_topic_partition_destroy(found);
                    place
                });
                let why = ffi::rd_kafka_event_error_string(event);
                Event::Failed {
                    code: ffi::rd_kafka_event_error(event).into(),
                    place,
                    why: match why.is_null() {
                        true => String::new(),
                        false => CStr::from_ptr(why).to_string_lossy().into_owned(),
                    },
                }
            }
            _ => Event::Other,
        }
    }
}
