//! What goes wrong with a store.

use std::{io, path::PathBuf};

use crate::{Name, ROW_KEY_BYTES_MAX, ROW_KEY_BYTES_MIN, VALUE_BYTES_MAX};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("folder {} of keyed state is in use by another process; give each process a folder of its own", folder.display())]
    InUse { folder: PathBuf },
    #[error("cannot use folder {} of keyed state", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("keyed state of {store} is open already")]
    AlreadyOpen { store: Name },
    #[error("keyed state of {store} was closed or discarded")]
    Closed { store: Name },
    /// Nothing that this store holds can be relied on.
    #[error(
        "keyed state of {store} is damaged ({why}); discard it and read its changelog from the beginning"
    )]
    Damaged { store: Name, why: String },
    /// A full disk, most often. What could not be written stays in memory, and nothing that was read or kept is wrong.
    #[error("cannot read or write keyed state of {store}")]
    Io { store: Name, source: io::Error },
    #[error("a row's key has {bytes} bytes, not {ROW_KEY_BYTES_MIN} to {ROW_KEY_BYTES_MAX}")]
    Key { bytes: usize },
    #[error("a row's value has {bytes} bytes, more than {VALUE_BYTES_MAX}")]
    Value { bytes: usize },
    #[error(
        "keyed state of {store} stands for offset {stands_for} and cannot go back to {next_offset}"
    )]
    Offset {
        store: Name,
        stands_for: i64,
        next_offset: i64,
    },
}
