//! What is wrong with a pipeline file, where, and how to put it right.

use std::fmt;

/// One fault of a pipeline file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, as it was named to us; a folder where the fault is the folder's.
    pub file: String,
    /// Counted from 1; absent where the fault has no place in the text.
    pub line: Option<usize>,
    /// In characters of the line, counted from 1; absent where there is no line.
    pub column: Option<u32>,
    /// The setting at fault, as in `features.mass_log.field`; may be empty.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; may be empty.
    pub fix: String,
}

impl Error {
    /// A fault of the file as a whole.
    pub(crate) fn of_file(
        file: impl fmt::Display,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (file, field) = (file.to_string(), String::new());
        Error {
            file,
            line: None,
            column: None,
            field,
            reason: reason.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
