//! Pipeline files as they were: kept on `quadrille.pipelines` by those who predict with them, so that a prediction can be made
//! again after the file was edited.

use std::{collections::BTreeMap, ops::ControlFlow};

use prost::Message;
use quadrille_proto::{Topics, v1};

use super::{error::Error, keys, log::READ_WITHIN};
use crate::{Cluster, TableEvent, TableWrite, read_table, write_table};

/// A larger file is not kept: with its key it must fit a record of the topic, whose limit is Kafka's default of 1 MiB.
const TEXT_BYTES_MAX: usize = 900 << 10;

/// A pipeline's file as it was when somebody began to predict with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    pub pipeline: String,
    /// Of the canonical form of what defines a prediction. Of several texts with one hash, which predict the same, one is
    /// kept: the first, or of replicas that start at once the last that wrote.
    pub sha256: [u8; 32],
    pub text: String,
    /// The instance that wrote it.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl PipelineFile {
    fn encode(&self) -> Vec<u8> {
        v1::PipelineFile {
            pipeline: self.pipeline.clone(),
            sha256: self.sha256.to_vec(),
            text: self.text.clone(),
            by: self.by.clone(),
            at_ms: self.at_ms,
        }
        .encode_to_vec()
    }

    /// None where the record is no file, or its key is another's.
    fn decode(key: &str, value: &[u8]) -> Option<Self> {
        let message = v1::PipelineFile::decode(value).ok()?;
        let file = PipelineFile {
            sha256: message.sha256.try_into().ok()?,
            pipeline: message.pipeline,
            text: message.text,
            by: message.by,
            at_ms: message.at_ms,
        };
        (keys::of_file(&file.pipeline, &file.sha256) == key).then_some(file)
    }
}

/// The files of a pipeline that were kept, the oldest first. Blocks.
///
/// # Errors
/// The topic is missing, or cannot be read.
pub fn pipeline_files(cluster: &Cluster, pipeline: &str) -> Result<Vec<PipelineFile>, Error> {
    let mut files: BTreeMap<String, PipelineFile> = BTreeMap::new();
    read_table(cluster, Topics::PIPELINES, READ_WITHIN, |event| {
        match event {
            TableEvent::Restarted => files.clear(),
            TableEvent::Record(record) => take(&mut files, pipeline, record.key, record.value),
        }
        ControlFlow::Continue(())
    })?;
    let mut files: Vec<PipelineFile> = files.into_values().collect();
    files.sort_by_key(|file| file.at_ms);
    Ok(files)
}

fn take(
    files: &mut BTreeMap<String, PipelineFile>,
    pipeline: &str,
    key: &[u8],
    value: Option<&[u8]>,
) {
    let Ok(key) = std::str::from_utf8(key) else {
        return;
    };
    match value.and_then(|value| PipelineFile::decode(key, value)) {
        Some(file) if file.pipeline == pipeline => files.insert(key.to_owned(), file),
        _ => files.remove(key),
    };
}

/// Writes a file down. It is of use to people only, so a failure is a warning.
pub(super) fn keep(cluster: &Cluster, file: &PipelineFile) {
    let (pipeline, bytes) = (&file.pipeline, file.text.len());
    if bytes > TEXT_BYTES_MAX {
        let limit = TEXT_BYTES_MAX;
        return tracing::warn!(
            pipeline,
            bytes,
            limit,
            "the pipeline file is too large to be kept"
        );
    }
    let value = file.encode();
    let write = TableWrite {
        key: keys::of_file(pipeline, &file.sha256),
        value: Some(&value),
    };
    match write_table(cluster, Topics::PIPELINES, &[write]) {
        Ok(()) => tracing::info!(pipeline, bytes, "the pipeline file is kept"),
        Err(error) => {
            let advice = "let this service write quadrille.pipelines; until then an edited file keeps `quadrille explain` from \
                          older predictions";
            tracing::warn!(pipeline, %error, advice, "the pipeline file is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pipeline: &str, hash: u8) -> PipelineFile {
        PipelineFile {
            pipeline: pipeline.to_owned(),
            sha256: [hash; 32],
            text: format!("name = {pipeline:?}"),
            by: "inference-1".to_owned(),
            at_ms: i64::from(hash),
        }
    }

    #[test]
    fn files_of_one_pipeline_come_back_as_they_were_kept_oldest_first() {
        let broker = crate::EmbeddedBroker::start().unwrap();
        broker.create(&crate::TopicSpec::shared()).unwrap();
        let cluster = broker.cluster().unwrap();
        for kept in [file("p", 2), file("q", 1), file("p", 1)] {
            keep(&cluster, &kept);
        }
        let found = pipeline_files(&cluster, "p").unwrap();
        assert_eq!(found, [file("p", 1), file("p", 2)]);
        assert_eq!(pipeline_files(&cluster, "r").unwrap(), []);
    }

    #[test]
    fn a_file_under_anothers_key_and_one_that_was_deleted_count_for_nothing() {
        let mut files = BTreeMap::new();
        let (one, two) = (file("p", 1), file("p", 2));
        let (key_one, key_two) = (
            keys::of_file("p", &one.sha256),
            keys::of_file("p", &two.sha256),
        );
        take(&mut files, "p", key_two.as_bytes(), Some(&one.encode()));
        assert!(files.is_empty());
        take(&mut files, "p", key_one.as_bytes(), Some(&one.encode()));
        take(&mut files, "p", key_two.as_bytes(), Some(b"garbage"));
        assert_eq!(files.len(), 1);
        take(&mut files, "p", key_one.as_bytes(), None);
        assert!(files.is_empty());
        assert!(keys::is_of_file(&key_one));
        assert!(!keys::is_of_file("p/0/file") && !keys::is_of_file("file"));
    }
}
