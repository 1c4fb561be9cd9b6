//! Who is in a consumer group.

use std::{
    ffi::{CStr, CString},
    time::Duration,
};

use rdkafka::{ClientContext, bindings as ffi, client::Client, error::RDKafkaErrorCode};

use super::Queue;

/// The `client.id` of a group's members. Not to be asked of a client that fetches: on its connections each request waits for the
/// answer to a fetch, and there are three of them (2.12.1, `rd_kafka_DescribeConsumerGroups`).
///
/// # Errors
/// There was no answer within the time, or the broker refuses one.
pub(crate) fn group_members<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    within: Duration,
) -> Result<Vec<String>, RDKafkaErrorCode> {
    let group = CString::new(group).map_err(|_| RDKafkaErrorCode::InvalidGroupId)?;
    let queue = Queue::new(client);
    let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: client, name and queue outlive the calls, which copy the name; options and the event are destroyed once, after
    // their last use.
    unsafe {
        let operation = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = ffi::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
        let mut groups = [group.as_ptr()];
        let (groups, count) = (groups.as_mut_ptr(), groups.len());
        ffi::rd_kafka_DescribeConsumerGroups(client.native_ptr(), groups, count, options, queue.0);
        let event = ffi::rd_kafka_queue_poll(queue.0, timeout_ms);
        let members = match event.is_null() {
            true => Err(RDKafkaErrorCode::OperationTimedOut),
            false => members(event),
        };
        if !event.is_null() {
            ffi::rd_kafka_event_destroy(event);
        }
        ffi::rd_kafka_AdminOptions_destroy(options);
        members
    }
}

/// SAFETY: `event` is a live event of librdkafka.
unsafe fn members(event: *mut ffi::rd_kafka_event_t) -> Result<Vec<String>, RDKafkaErrorCode> {
    const OK: ffi::rd_kafka_resp_err_t = ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: as the function's contract; results and their texts belong to the event and are copied.
    unsafe {
        let code = ffi::rd_kafka_event_error(event);
        if code != OK {
            return Err(code.into());
        }
        let result = ffi::rd_kafka_event_DescribeConsumerGroups_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let groups = ffi::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        // One was asked for.
        let group = *groups;
        let error = ffi::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            let code = ffi::rd_kafka_error_code(error);
            if code != OK {
                return Err(code.into());
            }
        }
        let client_id = |index| {
            let member = ffi::rd_kafka_ConsumerGroupDescription_member(group, index);
            let id = ffi::rd_kafka_MemberDescription_client_id(member);
            (!id.is_null()).then(|| CStr::from_ptr(id).to_string_lossy().into_owned())
        };
        let members = ffi::rd_kafka_ConsumerGroupDescription_member_count(group);
        Ok((0..members).filter_map(client_id).collect())
    }
}
