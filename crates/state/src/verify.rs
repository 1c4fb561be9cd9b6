//! What lsm-tree reads at its start, and believes: checked before.
//!
//! It names the list of tables that counts in a file `current`, with a checksum that it does not check. A table's list of
//! parts has one that it checks after it has made room for as many entries as the list says: a flipped bit would ask for
//! gigabytes. Both formats are those of lsm-tree 3.1 (sfa 1.0); what is not understood here is damage, and begins anew.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::xxh3_128;

use crate::disk::{Failure, io_failure};

/// Version, checksum, kind of checksum.
const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 8 + 16 + 1;
pub(crate) const TABLES: &str = "tables";
/// Magic, version, kind of checksum; checksum, position and length of the list.
const TRAILER_BYTES: u64 = 4 + 2 + 16 + 8 + 8;
const TRAILER_START: &[u8] = b"SFA!\x01\x00";
/// A table has ten parts or so.
const LIST_BYTES_MAX: u64 = 64 << 10;

/// Whether tables can be listed: else the folder is new, or damaged.
pub(crate) fn has_list(folder: &Path) -> io::Result<bool> {
    folder.join(CURRENT).try_exists()
}

/// Whether there are tables, listed or not.
pub(crate) fn has_tables(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder.join(TABLES)) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what a kill left behind, and tables whose end is damaged: if one of them is listed, it is missed at once.
pub(crate) fn folder(folder: &Path) -> Result<(), Failure> {
    if !has_list(folder).map_err(Failure::Io)? {
        return Ok(());
    }
    current(folder)?;
    for entry in fs::read_dir(folder).map_err(io_failure)? {
        let entry = entry.map_err(io_failure)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
            fs::remove_file(entry.path()).map_err(io_failure)?;
        }
    }
    for entry in fs::read_dir(folder.join(TABLES)).map_err(io_failure)? {
        let path = entry.map_err(io_failure)?.path();
        if !table(&path).map_err(io_failure)? {
            fs::remove_file(&path).map_err(io_failure)?;
        }
    }
    Ok(())
}

fn current(folder: &Path) -> Result<(), Failure> {
    let damaged = |what: &str| Failure::Damaged(format!("the list of tables: {what}"));
    let current = fs::read(folder.join(CURRENT)).map_err(io_failure)?;
    let current: [u8; CURRENT_BYTES] = current.try_into().map_err(|_| damaged("its name"))?;
    let (version, rest) = current.split_at(8);
    let (checksum, kind) = rest.split_at(16);
    let version = u64::from_le_bytes(version.try_into().map_err(|_| damaged("its name"))?);
    let list = fs::read(folder.join(format!("v{version}"))).map_err(io_failure)?;
    if kind == [0] && xxh3_128(&list).to_le_bytes() == checksum {
        Ok(())
    } else {
        Err(damaged("its checksum"))
    }
}

/// Whether a table's list of parts is whole.
fn table(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(list_end) = length.checked_sub(TRAILER_BYTES) else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(list_end))?;
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_exact(&mut trailer)?;
    let (start, rest) = trailer.split_at(TRAILER_START.len());
    let (checksum, position) = rest.split_at(16);
    let number = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
    let (list_start, list_bytes) = (number(&position[..8]), number(&position[8..]));
    let whole = list_start.checked_add(list_bytes) == Some(list_end);
    if start != TRAILER_START || !whole || list_bytes > LIST_BYTES_MAX {
        return Ok(false);
    }
    let mut list = vec![0; list_bytes as usize];
    file.seek(SeekFrom::Start(list_start))?;
    file.read_exact(&mut list)?;
    Ok(xxh3_128(&list).to_le_bytes() == checksum)
}
