//! A key's history as requests see it: what is committed, and up to which record.

use quadrille_history::History;
use quadrille_pipeline::State;

use super::{
    committed::{Committed, SharedCommitted, Unusable, lock},
    layout::{self, Marker},
    rows::Fault,
};

/// A history, and what it takes into account.
pub(crate) struct Past {
    pub history: History,
    /// The offset of the input behind the last record that was applied; None: none was.
    pub input_next: Option<i64>,
}

/// Why a history is not to be had here now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("this replica does not hold the partition")]
    NotHeld,
    #[error("this replica was silent for too long to know whether it still holds the partition")]
    Silent,
    #[error("the partition's state is being restored")]
    Restoring,
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// # Errors
/// The rows cannot be read, or stand for nothing.
pub(super) fn read(committed: &SharedCommitted, state: &State, key: &[u8]) -> Result<Past, Unread> {
    let past = look(committed, state, key);
    note_damage(committed, &past);
    past
}

fn note_damage(committed: &SharedCommitted, past: &Result<Past, Unread>) {
    let why = match past {
        Err(Unread::Unusable(why)) if why.is_damage() => why,
        _ => return,
    };
    let mut committed = lock(committed);
    match why {
        // It would be read again, and found again; all other keys can be answered for.
        Unusable::Corrupt(_) if committed.is_whole => {
            committed.unreadable.get_or_insert(why.to_string());
        }
        // The lane has them restored with its next batch, or the standby begins anew.
        _ => {
            let fault = Fault::Damaged(why.to_string());
            committed.fault.get_or_insert(fault);
        }
    }
}

fn look(committed: &SharedCommitted, state: &State, key: &[u8]) -> Result<Past, Unread> {
    let (rows, input_next) = {
        let committed = lock(committed);
        if !stand_for_something(&committed) {
            return Err(Unread::Restoring);
        }
        let rows = match committed.marker {
            Some(marker) if marker.definition == state.fingerprint() => {
                rows_of(&committed, marker, key)?
            }
            // Nothing is committed yet under this definition.
            Some(_) | None => Vec::new(),
        };
        (rows, committed.input_next)
    };
    Ok(Past {
        history: load(state, &rows)?,
        input_next,
    })
}

/// Not those that were found damaged and are being replaced, nor those that have not been read yet.
fn stand_for_something(committed: &Committed) -> bool {
    committed.fault.is_none() && committed.rows.next_offset().is_some()
}

/// Of rows that a standby keeps up with: where they are not those of one moment, or not of this definition, they say nothing.
///
/// # Errors
/// As [`read`].
pub(super) fn read_standing(
    committed: &SharedCommitted,
    state: &State,
    key: &[u8],
) -> Result<Past, Unread> {
    let past = look_standing(committed, state, key);
    note_damage(committed, &past);
    past
}

fn look_standing(committed: &SharedCommitted, state: &State, key: &[u8]) -> Result<Past, Unread> {
    let (rows, input_next) = {
        let committed = lock(committed);
        if !stand_for_something(&committed) {
            return Err(Unread::Restoring);
        }
        let marker = committed.marker;
        let marker = marker.filter(|it| it.definition == state.fingerprint());
        let (Some(marker), Some(input_next)) = (marker, committed.input_next) else {
            return Err(Unread::Restoring);
        };
        (rows_of(&committed, marker, key)?, input_next)
    };
    Ok(Past {
        history: load(state, &rows)?,
        input_next: Some(input_next),
    })
}

type KeyRows = Vec<(u32, Vec<u8>)>;

fn rows_of(committed: &Committed, marker: Marker, key: &[u8]) -> Result<KeyRows, Unusable> {
    let (mut rows, mut prefix) = (KeyRows::new(), Vec::new());
    layout::prefix_into(marker.epoch, key, &mut prefix);
    let mut add = |row: &[u8], value: &[u8]| {
        let bucket = layout::bucket(row, prefix.len());
        rows.extend(bucket.map(|bucket| (bucket, value.to_vec())));
    };
    committed.rows.scan(&prefix, &mut add)?;
    Ok(rows)
}

fn load(state: &State, rows: &[(u32, Vec<u8>)]) -> Result<History, Unusable> {
    let rows = rows.iter().map(|(bucket, row)| (*bucket, &row[..]));
    Ok(History::load(state.definition(), rows)?)
}
