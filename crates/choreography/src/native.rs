//! The few calls into librdkafka that the client crate does not offer, or offers with a panic on
//! foreign bytes (header names that are not UTF-8). All of this crate's unsafe code is here.
#![allow(unsafe_code, reason = "thin wrappers of C functions")]

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_char, c_void},
    ptr, slice,
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as ffi,
    client::Client,
    message::{BorrowedHeaders, OwnedHeaders},
};

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
    pub fn take<C: ClientContext>(&self, client: &Client<C>, topic: &CStr, partition: i32) {
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
    pub fn keep(&self) {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { ffi::rd_kafka_queue_forward(self.0, ptr::null_mut()) };
    }

    /// What has gathered goes on to be polled, in its order, and what comes after it.
    pub fn pass_on<C: ClientContext>(&self, client: &Client<C>) {
        // SAFETY: `client` and the queue outlive the calls; the consumer's queue is a reference of ours.
        unsafe {
            let polled = ffi::rd_kafka_queue_get_consumer(client.native_ptr());
            if !polled.is_null() {
                ffi::rd_kafka_queue_forward(self.0, polled);
                ffi::rd_kafka_queue_destroy(polled);
            }
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { ffi::rd_kafka_queue_length(self.0) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A queue that is destroyed empties the one it leads to, rebalances that were not served among it.
        self.keep();
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
pub(crate) fn known_end<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    partition: i32,
) -> Option<i64> {
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
    (code == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// The topic's id, in base64; None where the broker does not tell.
pub(crate) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Option<String> {
    let name = CString::new(topic).ok()?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: `rk` outlives the call; every object made here is destroyed here, after its last use;
    // librdkafka copies the names; the id's text lives as long as its uuid, which is copied first.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let queue = ffi::rd_kafka_queue_new(rk);
        let operation = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = ffi::rd_kafka_AdminOptions_new(rk, operation);
        ffi::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let event = ffi::rd_kafka_queue_poll(queue, timeout_ms);
        let id = (!event.is_null()).then(|| described_id(event)).flatten();
        if !event.is_null() {
            ffi::rd_kafka_event_destroy(event);
        }
        ffi::rd_kafka_AdminOptions_destroy(options);
        ffi::rd_kafka_TopicCollection_destroy(topics);
        ffi::rd_kafka_queue_destroy(queue);
        id
    }
}

/// SAFETY: `event` is a live event of librdkafka.
unsafe fn described_id(event: *mut ffi::rd_kafka_event_t) -> Option<String> {
    // SAFETY: as the function's contract; results belong to the event.
    unsafe {
        let result = ffi::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let descriptions = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 || descriptions.is_null() {
            return None;
        }
        let description = *descriptions;
        let error = ffi::rd_kafka_TopicDescription_error(description);
        if !error.is_null()
            && ffi::rd_kafka_error_code(error)
                != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let uuid = ffi::rd_kafka_TopicDescription_topic_id(description);
        let text = (!uuid.is_null()).then(|| ffi::rd_kafka_Uuid_base64str(uuid))?;
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
