//! A topic of a producer with settings of its own.

use std::{
    ffi::{CStr, CString},
    ptr,
};

use rdkafka::{ClientContext, bindings as ffi, client::Client};

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
                let code = ffi::rd_kafka_last_error();
                return Err(CStr::from_ptr(ffi::rd_kafka_err2str(code))
                    .to_string_lossy()
                    .into_owned());
            }
            Ok(TopicSettings(topic))
        }
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
