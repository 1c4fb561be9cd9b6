//! A letter on its way back: the original's bytes, key, time and headers.

use std::{ffi::CString, time::Duration};

use quadrille_telemetry::traces::FORCE_HEADER;
use rdkafka::{
    ClientConfig, Message,
    message::{Header, OwnedHeaders, OwnedMessage},
    producer::BaseRecord,
};

use super::letter::CaseId;
use crate::{Cluster, Headers, dlq, native, transaction};

/// The largest letter the client takes: the broker alone knows what a topic takes, once it is compressed.
const LETTER_BYTES_MAX: usize = 1_000_000_000;
/// Bounds what was handed over and is not confirmed: one batch, or one large letter.
const QUEUE_KIB_MAX: usize = 1 << 20;

/// A letter in a batch.
pub(super) struct Pending {
    pub message: OwnedMessage,
    pub case: CaseId,
    pub origin: String,
    pub class: String,
    pub attempts: u32,
    /// Topic and partition.
    pub target: (String, i32),
}

/// `batch_bytes_max`: the smallest limit of the topics that are written.
pub(super) fn settings(
    cluster: &Cluster,
    name: &str,
    timeout: Duration,
    batch_bytes_max: usize,
) -> ClientConfig {
    let mut settings = cluster.client_config();
    transaction::settings(&mut settings, name, timeout);
    settings
        .set("client.id", name)
        .set("linger.ms", "0")
        // Whoever produced the original may have compressed it too: the topic took it only so.
        .set("compression.type", "zstd")
        // A batch must fit the topics' limits; a larger record travels alone.
        .set(
            "batch.size",
            batch_bytes_max.clamp(1, 1_000_000).to_string(),
        )
        .set("message.max.bytes", LETTER_BYTES_MAX.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
    settings
}

/// The record that is sent back.
pub(super) fn record(pending: &Pending, index: usize) -> BaseRecord<'_, [u8], [u8], usize> {
    let (topic, partition) = &pending.target;
    let message = &pending.message;
    let mut record =
        BaseRecord::<'_, [u8], [u8], usize>::with_opaque_to(topic, index).partition(*partition);
    record.payload = message.payload();
    record.key = message.key();
    record.timestamp = message.timestamp().to_millis();
    record.headers = Some(headers(message, pending.attempts));
    record
}

/// The original headers; the errors' headers go, the attempts stay. It is traced from here on.
fn headers(message: &OwnedMessage, attempts: u32) -> OwnedHeaders {
    let letter = Headers(message.headers().map(OwnedHeaders::as_borrowed));
    let origin = letter
        .last_text(dlq::ORIGIN_HEADER)
        .map(str::to_owned)
        .or_else(|| {
            let place =
                [dlq::TOPIC, dlq::PARTITION, dlq::OFFSET].map(|name| letter.last_text(name));
            let [topic, partition, offset] = place;
            Some(format!("{}-{}-{}", topic?, partition?, offset?))
        });
    let mut back = match letter.0 {
        Some(original) => original.detach(),
        None => OwnedHeaders::new(),
    };
    for (name, _) in letter.iter() {
        let ours = name.starts_with(dlq::CONNECT_PREFIX)
            || name.starts_with(dlq::SERVICE_PREFIX)
            || name == dlq::ORIGIN_HEADER
            || name == FORCE_HEADER;
        if ours && let Ok(name) = CString::new(name.as_bytes()) {
            native::remove_header(&mut back, &name);
        }
    }
    let attempts = attempts.to_string();
    // Whoever sends a record back wants to see what becomes of it.
    let added = [
        (dlq::ATTEMPTS_HEADER, Some(attempts.as_str())),
        (FORCE_HEADER, Some("1")),
        (dlq::ORIGIN_HEADER, origin.as_deref()),
    ];
    for (key, value) in added {
        if let Some(value) = value {
            let value = Some(value);
            back = back.insert(Header { key, value });
        }
    }
    back
}
