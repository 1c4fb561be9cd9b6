//! Files that a person names, read whole into memory up to a bound.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

/// A file's bytes.
///
/// # Errors
/// It cannot be read, or is larger ([`ErrorKind::FileTooLarge`]).
pub fn bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    all(File::open(path)?, bytes_max)
}

/// Everything that comes.
///
/// # Errors
/// As [`bounded`].
pub fn all(from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => {
            let reason = format!("larger than {} MiB", bytes_max >> 20);
            Err(io::Error::new(ErrorKind::FileTooLarge, reason))
        }
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
        assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        assert_eq!(refused.to_string(), "larger than 1 MiB");
        let missing = bounded(&folder.path().join("b"), 1).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
