//! Topics of a producer: with settings of their own, and to send to without a search for the name.

use std::{
    ffi::{CStr, CString, c_void},
    ptr,
};

use rdkafka::{
    ClientContext, bindings as ffi,
    bindings::rd_kafka_vtype_t as vtype,
    client::Client,
    error::{KafkaError, KafkaResult},
    message::OwnedHeaders,
    producer::BaseRecord,
};

/// A producer's own settings of one topic. While it lives the client uses them for whatever it sends there; to be
/// dropped before its client.
pub(crate) struct TopicSettings(*mut ffi::rd_kafka_topic_t);

// SAFETY: a topic of librdkafka has its own lock and belongs to no thread.
unsafe impl Send for TopicSettings {}
// SAFETY: as above; nothing is done with it but giving it back.
unsafe impl Sync for TopicSettings {}

impl TopicSettings {
    /// Sends to this topic are compressed with zstd. To be called before anything is sent there.
    ///
    /// # Errors
    /// The name cannot be a topic's, or this client was built without zstd.
    pub fn compressed<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Self, String> {
        let name = CString::new(topic).map_err(|error| error.to_string())?;
        let mut why = [0_u8; 256];
        // SAFETY: `client`, the names and the buffer outlive the calls. The settings are a copy of the client's own, given
        // away to `rd_kafka_topic_new` where that succeeds and destroyed here where anything fails.
        unsafe {
            let settings = ffi::rd_kafka_default_topic_conf_dup(client.native_ptr());
            let set = ffi::rd_kafka_topic_conf_set(
                settings,
                c"compression.codec".as_ptr(),
                c"zstd".as_ptr(),
                why.as_mut_ptr().cast(),
                why.len(),
            );
            if set != ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                ffi::rd_kafka_topic_conf_destroy(settings);
                return Err(text(&why));
            }
            let topic = ffi::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), settings);
            if ptr::eq(topic, ptr::null()) {
                ffi::rd_kafka_topic_conf_destroy(settings);
                return Err(last_error());
            }
            Ok(TopicSettings(topic))
        }
    }
}

/// A topic that is sent to again and again: the client's `send` copies the name and looks it up, under a lock, for every
/// record. To be dropped before its client.
pub(crate) struct OutputTopic {
    pub name: String,
    topic: *mut ffi::rd_kafka_topic_t,
}

// SAFETY: a topic of librdkafka has its own lock and belongs to no thread.
unsafe impl Send for OutputTopic {}
// SAFETY: as above.
unsafe impl Sync for OutputTopic {}

impl OutputTopic {
    /// With the settings that the client has for it.
    ///
    /// # Errors
    /// The name cannot be a topic's.
    pub fn new<C: ClientContext>(client: &Client<C>, name: &str) -> Result<Self, String> {
        let c_name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: `client` and the name outlive the call; no settings are given away.
        let topic = unsafe {
            ffi::rd_kafka_topic_new(client.native_ptr(), c_name.as_ptr(), ptr::null_mut())
        };
        match topic.is_null() {
            true => Err(last_error()),
            false => Ok(OutputTopic {
                name: name.to_owned(),
                topic,
            }),
        }
    }

    /// As the client's `send`; `client` is the topic's, and the record's own topic is this one. Once it is taken, the record has
    /// no headers any more.
    ///
    /// # Errors
    /// As `send`.
    pub fn send<C: ClientContext>(
        &self,
        client: &Client<C>,
        record: &mut BaseRecord<'_, [u8], [u8], usize>,
    ) -> KafkaResult<()> {
        let raw = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len()),
            None => (ptr::null_mut(), 0),
        };
        let (payload, payload_len) = raw(record.payload);
        let (key, key_len) = raw(record.key);
        let headers = record.headers.as_ref().map(OwnedHeaders::as_borrowed);
        let headers = headers.map_or(ptr::null_mut(), |it| super::raw(it).cast_mut());
        // SAFETY: client, topic, payload and key outlive the call, which copies the last two; each argument has the type that
        // stands before it, and the list is ended. The headers are the client's from here on where it took the record.
        let code = unsafe {
            ffi::rd_kafka_producev(
                client.native_ptr(),
                vtype::RD_KAFKA_VTYPE_RKT,
                self.topic,
                vtype::RD_KAFKA_VTYPE_PARTITION,
                record.partition.unwrap_or(-1),
                vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                ffi::RD_KAFKA_MSG_F_COPY,
                vtype::RD_KAFKA_VTYPE_VALUE,
                payload,
                payload_len,
                vtype::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                vtype::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(record.delivery_opaque),
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp.unwrap_or(0),
                vtype::RD_KAFKA_VTYPE_HEADERS,
                headers,
                vtype::RD_KAFKA_VTYPE_END,
            )
        };
        if code != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::MessageProduction(code.into()));
        }
        std::mem::forget(record.headers.take());
        Ok(())
    }
}

impl Drop for OutputTopic {
    fn drop(&mut self) {
        // SAFETY: ours, and its client is there still.
        unsafe { ffi::rd_kafka_topic_destroy(self.topic) };
    }
}

/// Of the call that failed just now on this thread.
fn last_error() -> String {
    // SAFETY: the text is a constant of the library's.
    unsafe {
        let code = ffi::rd_kafka_last_error();
        CStr::from_ptr(ffi::rd_kafka_err2str(code))
            .to_string_lossy()
            .into_owned()
    }
}

fn text(buffer: &[u8]) -> String {
    match CStr::from_bytes_until_nul(buffer) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::new(),
    }
}

impl Drop for TopicSettings {
    fn drop(&mut self) {
        // SAFETY: ours, and its client is there still.
        unsafe { ffi::rd_kafka_topic_destroy(self.0) };
    }
}
