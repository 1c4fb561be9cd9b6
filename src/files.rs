//! Files that a person names, read whole into memory up to a bound.

use std::{fs::File, io::Read, path::Path};

/// A file's bytes, unless there are more.
///
/// # Errors
/// The file's name, and why it cannot be read.
pub fn bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    all(file, bytes_max).map_err(wrong)
}

/// Everything that comes, unless it is more.
///
/// # Errors
/// Why it cannot be read.
pub fn all(from: impl Read, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = from.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    match bytes.len() as u64 > bytes_max {
        true => Err(format!("larger than {} MiB", bytes_max >> 20)),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_a_larger_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        assert_eq!(bounded(&path, 1 << 20).unwrap().len(), 1 << 20);
        std::fs::write(&path, vec![7; (1 << 20) + 1]).unwrap();
        let refused = bounded(&path, 1 << 20).unwrap_err();
        assert!(refused.ends_with("a: larger than 1 MiB"), "{refused}");
        assert!(bounded(&folder.path().join("b"), 1).is_err());
    }
}
