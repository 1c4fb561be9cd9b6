//! Where partitions begin and end, asked without waiting for the answer; and where a consumer stands.

use std::{
    ffi::{CStr, CString},
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as ffi,
    client::Client,
    error::{KafkaResult, RDKafkaErrorCode},
    {Offset, TopicPartitionList},
};

use super::Queue;

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Of the first record there is.
    Begin,
    /// The high watermark: behind all records, those of open transactions included.
    End,
    /// Of the first record of this time or later, in ms; -1 where there is none.
    Since(i64),
}

impl Bound {
    fn spec(self) -> i64 {
        match self {
            Bound::Begin => ffi::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            Bound::End => ffi::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
            Bound::Since(ms) => ms.max(0),
        }
    }
}

/// Of each partition the offset, or why there is none.
pub(crate) type Bounds = Vec<(i32, Result<i64, RDKafkaErrorCode>)>;

/// A question for offsets on its way. To be dropped before its client.
pub(crate) struct BoundsQuery(Queue);

impl BoundsQuery {
    /// Asks the partitions' leaders; an answer, or that there is none, comes within this time.
    ///
    /// # Errors
    /// The name cannot be a topic's.
    pub fn send<C: ClientContext>(
        client: &Client<C>,
        topic: &str,
        partitions: &[i32],
        bound: Bound,
        within: Duration,
    ) -> KafkaResult<Self> {
        CString::new(topic)?;
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(topic, *partition);
        }
        let queue = Queue::new(client);
        let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: client, list and queue outlive the calls, which copy the list; its elements are an array of `cnt`; options
        // and an error are destroyed once, after their last use.
        unsafe {
            let elements = list.ptr();
            for index in 0..usize::try_from((*elements).cnt).unwrap_or(0) {
                (*(*elements).elems.add(index)).offset = bound.spec();
            }
            let operation = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
            let options = ffi::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
            let mut why = [0; 128];
            ffi::rd_kafka_AdminOptions_set_request_timeout(
                options,
                timeout_ms,
                why.as_mut_ptr(),
                why.len(),
            );
            let all = ffi::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
            let error = ffi::rd_kafka_AdminOptions_set_isolation_level(options, all);
            if !error.is_null() {
                ffi::rd_kafka_error_destroy(error);
            }
            ffi::rd_kafka_ListOffsets(client.native_ptr(), elements, options, queue.0);
            ffi::rd_kafka_AdminOptions_destroy(options);
        }
        Ok(BoundsQuery(queue))
    }

    /// The answer, once; None while there is none yet.
    pub fn answer(&self) -> Option<Result<Bounds, RDKafkaErrorCode>> {
        // SAFETY: the queue is ours; what belongs to the event is copied before it is destroyed.
        unsafe {
            let event = ffi::rd_kafka_queue_poll(self.0.0, 0);
            if event.is_null() {
                return None;
            }
            let found = read(event);
            ffi::rd_kafka_event_destroy(event);
            Some(found)
        }
    }
}

/// SAFETY: `event` is a live event of librdkafka.
unsafe fn read(event: *mut ffi::rd_kafka_event_t) -> Result<Bounds, RDKafkaErrorCode> {
    const OK: ffi::rd_kafka_resp_err_t = ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: as the function's contract; results belong to the event and are copied.
    unsafe {
        let code = ffi::rd_kafka_event_error(event);
        if code != OK {
            return Err(code.into());
        }
        let result = ffi::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let infos = ffi::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let one = |index| {
            let found = ffi::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let offset = match (*found).err {
                OK => Ok((*found).offset),
                code => Err(code.into()),
            };
            ((*found).partition, offset)
        };
        Ok((0..count).map(one).collect())
    }
}

/// The offset behind what a consumer has polled of a partition, transaction markers included; None where nothing was
/// polled since it was assigned.
pub(crate) fn position<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    partition: i32,
) -> Option<i64> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic.to_str().ok()?, partition);
    // SAFETY: client and list outlive the call.
    unsafe { ffi::rd_kafka_position(client.native_ptr(), list.ptr()) };
    match list.elements().first()?.offset() {
        Offset::Offset(next) => Some(next),
        _ => None,
    }
}
