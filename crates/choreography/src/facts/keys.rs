//! Keys of `quadrille.pipelines`: a record for each generation of a pipeline, and one for each file that is kept.

/// Of a generation's facts. `unique` is nobody else's, so that a compaction drops nothing.
pub(super) fn of_facts(pipeline: &str, generation: u64, unique: &str) -> String {
    format!("{pipeline}/{generation}/{unique}")
}

pub(super) fn of_file(pipeline: &str, sha256: &[u8; 32]) -> String {
    let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{pipeline}/file/{hex}")
}

/// Whether a key is a file's. No pipeline's name has a `/`, and a generation is a number.
pub(super) fn is_of_file(key: &str) -> bool {
    key.split('/').nth(1) == Some("file")
}
