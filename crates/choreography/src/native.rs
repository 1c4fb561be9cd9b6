//! The few calls into librdkafka that the client crate does not offer, or offers with a panic on
//! foreign bytes (header names that are not UTF-8). All of this crate's unsafe code is here.
#![allow(unsafe_code, reason = "thin wrappers of C functions")]

mod bounds;
mod events;
mod members;
mod topic;

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_char, c_void},
    ptr, slice,
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as ffi,
    client::Client,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedHeaders, BorrowedMessage, OwnedHeaders},
    {Offset, TopicPartitionList},
};

use crate::topic_state::TopicState;
pub(crate) use bounds::{Bound, Bounds, BoundsQuery, position};
pub(crate) use events::{Event, next_event};
pub(crate) use members::group_members;
pub(crate) use topic::{OutputTopic, TopicSettings};

fn raw(headers: &BorrowedHeaders) -> *const ffi::rd_kafka_headers_t {
    ptr::from_ref(headers).cast()
}

/// SAFETY: `value` and `len` came from a successful header call on `headers`; librdkafka keeps the
/// bytes as long as the headers.
unsafe fn bytes<'a>(value: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as the function's contract.
    (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast(), len) })
}

/// The last value under `name`.
pub(crate) fn header_last<'a>(headers: &'a BorrowedHeaders, name: &CStr) -> Option<&'a [u8]> {
    let (mut value, mut len) = (ptr::null(), 0);
    // SAFETY: a BorrowedHeaders is a reference to librdkafka's header list; out-pointers are valid.
    unsafe {
        let code = ffi::rd_kafka_header_get_last(raw(headers), name.as_ptr(), &mut value, &mut len);
        (code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| bytes(value, len))?
    }
}

/// Name and value of the header at `index`.
pub(crate) fn header_at(
    headers: &BorrowedHeaders,
    index: usize,
) -> Option<(Cow<'_, str>, Option<&[u8]>)> {
    let mut name: *const c_char = ptr::null();
    let (mut value, mut len) = (ptr::null(), 0);
    // SAFETY: as in `header_last`; the name is NUL-terminated and lives as long as the headers.
    unsafe {
        let code =
            ffi::rd_kafka_header_get_all(raw(headers), index, &mut name, &mut value, &mut len);
        (code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR)
            .then(|| (CStr::from_ptr(name).to_string_lossy(), bytes(value, len)))
    }
}

/// Takes out every header of this name.
pub(crate) fn remove_header(headers: &mut OwnedHeaders, name: &CStr) {
    // SAFETY: `headers` is ours alone, so its list may be changed; the name outlives the call.
    unsafe {
        ffi::rd_kafka_header_remove(raw(headers.as_borrowed()).cast_mut(), name.as_ptr());
    }
}

/// A queue of ours, for what a consumer's partitions bring. To be dropped before its client.
pub(crate) struct Queue(*mut ffi::rd_kafka_queue_t);

// SAFETY: librdkafka's queues have their own lock and belong to no thread.
unsafe impl Send for Queue {}

impl Queue {
    pub fn new<C: ClientContext>(client: &Client<C>) -> Self {
        // SAFETY: `client` outlives the call, which makes a queue or ends the process.
        Queue(unsafe { ffi::rd_kafka_queue_new(client.native_ptr()) })
    }

    /// Leads here what will be fetched of a partition. The client forgets that while it stops reading a partition
    /// that was given up.
    pub fn forward_from<C: ClientContext>(&self, client: &Client<C>, topic: &CStr, partition: i32) {
        // SAFETY: `client`, `topic` and the queue outlive the calls; the partition's queue is a reference of ours,
        // given back after one use.
        unsafe {
            let fetched =
                ffi::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition);
            if !fetched.is_null() {
                ffi::rd_kafka_queue_forward(fetched, self.0);
                ffi::rd_kafka_queue_destroy(fetched);
            }
        }
    }

    /// What is here stays here, and what comes.
    pub fn stop_forwarding(&self) {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { ffi::rd_kafka_queue_forward(self.0, ptr::null_mut()) };
    }

    /// What has gathered goes on to be polled, in its order, and what comes after it.
    pub fn forward_to_consumer<C: ClientContext>(&self, client: &Client<C>) {
        // SAFETY: `client` and the queue outlive the calls; the consumer's queue is a reference of ours.
        unsafe {
            let polled = ffi::rd_kafka_queue_get_consumer(client.native_ptr());
            if !polled.is_null() {
                ffi::rd_kafka_queue_forward(self.0, polled);
                ffi::rd_kafka_queue_destroy(polled);
            }
        }
    }

    pub fn len(&self) -> usize {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { ffi::rd_kafka_queue_length(self.0) }
    }

    /// What waits here, if anything does.
    pub fn next_event(&self) -> Option<Event> {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { events::poll(self.0, 0) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A queue that is destroyed empties the one it leads to, rebalances that were not served among it.
        self.stop_forwarding();
        // SAFETY: ours, and its client is there still.
        unsafe { ffi::rd_kafka_queue_destroy(self.0) };
    }
}

/// The generation of the client's group, which counts its rebalances; below 0 where it is in none. Asks the client's main
/// thread, which by that looks after the group.
pub(crate) fn generation<C: ClientContext>(client: &Client<C>) -> i32 {
    // SAFETY: the client lives; what was made here is asked once and destroyed once.
    unsafe {
        let metadata = ffi::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = ffi::rd_kafka_consumer_group_metadata_generation_id(metadata);
        ffi::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// Entries of a consumer's queue: fetched records, and now and then an event.
pub(crate) fn queue_length<C: ClientContext>(client: &Client<C>) -> usize {
    // SAFETY: `client` outlives the calls; the queue is a reference of ours, given back after one use.
    unsafe {
        let queue = ffi::rd_kafka_queue_get_consumer(client.native_ptr());
        if queue.is_null() {
            return 0;
        }
        let length = ffi::rd_kafka_queue_length(queue);
        ffi::rd_kafka_queue_destroy(queue);
        length
    }
}

/// The end of a partition as the last fetch told it; None before the first.
pub(crate) fn cached_end<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    partition: i32,
) -> Option<i64> {
    cached_watermarks(client, topic, partition).map(|(_, end)| end)
}

/// Begin and end of a partition as the last fetch told them; None before the first.
pub(crate) fn cached_watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    partition: i32,
) -> Option<(i64, i64)> {
    let (mut low, mut high) = (0, 0);
    // SAFETY: `client` and `topic` outlive the call; out-pointers are valid.
    let code = unsafe {
        ffi::rd_kafka_get_watermark_offsets(
            client.native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0)
        .then_some((low, high))
}

/// Gives each element the leader epoch in which the client read what it polled last: committed beside an offset, it tells
/// whether the log before that offset is still the one that was read (KIP-320).
pub(crate) fn set_position_epochs<C: ClientContext>(
    client: &Client<C>,
    list: &mut TopicPartitionList,
) {
    let positions = list.clone();
    // SAFETY: client and lists live; the lists have the same elements, an array of `cnt` each.
    unsafe {
        let (list, positions) = (list.ptr(), positions.ptr());
        ffi::rd_kafka_position(client.native_ptr(), positions);
        for index in 0..usize::try_from((*list).cnt).unwrap_or(0) {
            let epoch =
                ffi::rd_kafka_topic_partition_get_leader_epoch((*positions).elems.add(index));
            ffi::rd_kafka_topic_partition_set_leader_epoch((*list).elems.add(index), epoch);
        }
    }
}

/// Gives each element the leader epoch that is known of its partition.
pub(crate) fn set_epochs_by(list: &mut TopicPartitionList, of: impl Fn(i32) -> Option<i32>) {
    // SAFETY: the list lives, an array of `cnt`.
    unsafe {
        let list = list.ptr();
        for index in 0..usize::try_from((*list).cnt).unwrap_or(0) {
            let element = (*list).elems.add(index);
            let epoch = of((*element).partition).unwrap_or(-1);
            ffi::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
        }
    }
}

/// Each element's leader epoch, in their order.
pub(crate) fn epochs(list: &TopicPartitionList) -> Vec<Option<i32>> {
    // SAFETY: the list lives, an array of `cnt`.
    unsafe {
        let list = list.ptr();
        (0..usize::try_from((*list).cnt).unwrap_or(0))
            .map(|index| {
                let element = (*list).elems.add(index);
                let epoch = ffi::rd_kafka_topic_partition_get_leader_epoch(element);
                (epoch >= 0).then_some(epoch)
            })
            .collect()
    }
}

/// The leader epoch and the metadata committed with an offset.
pub(crate) fn committed_with(
    list: &TopicPartitionList,
    topic: &CStr,
    partition: i32,
) -> (Option<i32>, Option<String>) {
    // SAFETY: the list lives, and what is found belongs to it; the metadata is copied, and foreign bytes are no panic.
    unsafe {
        let found = ffi::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if found.is_null() {
            return (None, None);
        }
        let epoch = ffi::rd_kafka_topic_partition_get_leader_epoch(found);
        let metadata = bytes((*found).metadata, (*found).metadata_size);
        let metadata = metadata.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        ((epoch >= 0).then_some(epoch), metadata)
    }
}

/// The leader epoch a record was written in.
pub(crate) fn epoch(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the message lives.
    let epoch = unsafe { ffi::rd_kafka_message_leader_epoch(message.ptr()) };
    (epoch >= 0).then_some(epoch)
}

/// Sends a partition somewhere else and waits until the client has begun to. With an epoch the client first asks whether
/// the log before the offset is still the one of that epoch, and goes to where it begins to differ if not.
///
/// # Errors
/// The client does not read the partition, or has dropped the seek: a rebalance overtook it.
pub(crate) fn seek<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    (partition, offset): (i32, Offset),
    epoch: Option<i32>,
    timeout: Duration,
) -> KafkaResult<()> {
    // Without a time to wait the client does not say what became of it.
    let timeout_ms = i32::try_from(timeout.as_millis())
        .unwrap_or(i32::MAX)
        .max(1);
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, offset)?;
    // SAFETY: client and list outlive the calls; the list has one element; an error is destroyed once.
    unsafe {
        let element = (*list.ptr()).elems;
        ffi::rd_kafka_topic_partition_set_leader_epoch(element, epoch.unwrap_or(-1));
        let error = ffi::rd_kafka_seek_partitions(client.native_ptr(), list.ptr(), timeout_ms);
        let code = match error.is_null() {
            // The call as a whole; what became of the partition is with the partition.
            true => (*element).err,
            false => ffi::rd_kafka_error_code(error),
        };
        if !error.is_null() {
            ffi::rd_kafka_error_destroy(error);
        }
        match code {
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(KafkaError::Seek(RDKafkaErrorCode::from(code).to_string())),
        }
    }
}

/// Ids of topics that have none, as brokers before 2.8 say it.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Describes topics: name, id in base64 where the broker has one, number of partitions. Those that are not there are left out.
///
/// # Errors
/// There was no answer within the time, or the broker refuses one.
pub(crate) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<TopicState>, RDKafkaErrorCode> {
    let owned: Result<Vec<CString>, _> = topics.iter().map(|name| CString::new(*name)).collect();
    let owned = owned.map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: `rk` outlives the call; every object made here is destroyed here, after its last use;
    // librdkafka copies the names.
    unsafe {
        let mut names: Vec<*const c_char> = owned.iter().map(|name| name.as_ptr()).collect();
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let queue = ffi::rd_kafka_queue_new(rk);
        let operation = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = ffi::rd_kafka_AdminOptions_new(rk, operation);
        ffi::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let event = ffi::rd_kafka_queue_poll(queue, timeout_ms);
        let described = match event.is_null() {
            true => Err(RDKafkaErrorCode::OperationTimedOut),
            false => described(event),
        };
        if !event.is_null() {
            ffi::rd_kafka_event_destroy(event);
        }
        ffi::rd_kafka_AdminOptions_destroy(options);
        ffi::rd_kafka_TopicCollection_destroy(topics);
        ffi::rd_kafka_queue_destroy(queue);
        described
    }
}

/// SAFETY: `event` is a live event of librdkafka.
unsafe fn described(
    event: *mut ffi::rd_kafka_event_t,
) -> Result<Vec<TopicState>, RDKafkaErrorCode> {
    const OK: ffi::rd_kafka_resp_err_t = ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    let unknown = [
        ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
    ];
    // SAFETY: as the function's contract; results and their texts belong to the event and are copied.
    unsafe {
        let code = ffi::rd_kafka_event_error(event);
        if code != OK {
            return Err(code.into());
        }
        let result = ffi::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let descriptions = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut topics = Vec::with_capacity(count);
        for index in 0..count {
            let description = *descriptions.add(index);
            let error = ffi::rd_kafka_TopicDescription_error(description);
            let code = match error.is_null() {
                true => OK,
                false => ffi::rd_kafka_error_code(error),
            };
            if unknown.contains(&code) {
                continue;
            }
            if code != OK {
                return Err(code.into());
            }
            let name = ffi::rd_kafka_TopicDescription_name(description);
            let uuid = ffi::rd_kafka_TopicDescription_topic_id(description);
            let id = match uuid.is_null() {
                true => ptr::null(),
                false => ffi::rd_kafka_Uuid_base64str(uuid),
            };
            let mut partitions = 0;
            ffi::rd_kafka_TopicDescription_partitions(description, &mut partitions);
            topics.push(TopicState {
                name: text(name).unwrap_or_default(),
                id: text(id).filter(|id| id != NO_ID),
                partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            });
        }
        Ok(topics)
    }
}

/// SAFETY: `text` is null or NUL-terminated, and lives as long as the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: as the function's contract.
    (!text.is_null()).then(|| {
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::{
        ClientConfig,
        consumer::{BaseConsumer, Consumer},
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer},
    };

    use super::*;

    /// What is not known is not "none": a check of identities would be off without a word.
    #[test]
    fn a_question_about_topics_that_nobody_answers_is_an_error() {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", 1, 1).unwrap();
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", broker.bootstrap_servers());
        let consumer: BaseConsumer = settings.create().unwrap();
        let asked = describe_topics(consumer.client(), &["t"], Duration::from_millis(200));
        assert!(asked.is_err(), "{asked:?}");
    }

    #[test]
    fn a_seek_that_the_client_does_not_begin_is_an_error() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", 2, 1).unwrap();
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("group.id", "g");
        let consumer: BaseConsumer = settings.create().unwrap();
        let sought = |partition| {
            seek(
                consumer.client(),
                "t",
                (partition, Offset::Offset(0)),
                None,
                PATIENCE,
            )
        };
        assert!(sought(0).is_err(), "nobody reads it");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(0))
            .unwrap();
        consumer.assign(&list).unwrap();
        // Which the client's main thread begins.
        let deadline = Instant::now() + PATIENCE;
        while sought(0).is_err() {
            assert!(Instant::now() < deadline, "it is read");
        }
        assert!(sought(1).is_err(), "nobody reads that one");
        consumer.unassign().unwrap();
        while sought(0).is_ok() {
            assert!(Instant::now() < deadline, "it was given up");
        }
    }

    /// By which a partition that was sent back is told from one that stands where its start is right.
    #[test]
    fn a_partition_has_no_position_after_a_seek_until_something_comes() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("t", 1, 1).unwrap();
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("group.id", "g");
        let producer: BaseProducer = settings.create().unwrap();
        producer
            .send(BaseRecord::<(), _>::to("t").payload("p"))
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        let consumer: BaseConsumer = settings.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(0))
            .unwrap();
        consumer.assign(&list).unwrap();
        let position = || {
            let positions = consumer.position().unwrap();
            positions.find_partition("t", 0).unwrap().offset()
        };
        consumer.poll(PATIENCE).unwrap().unwrap();
        assert_eq!(position(), Offset::Offset(1));
        let there = (0, Offset::Offset(1));
        seek(consumer.client(), "t", there, None, PATIENCE).unwrap();
        assert_eq!(position(), Offset::Invalid);
    }
}
