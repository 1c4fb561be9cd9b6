//! A key's history as requests see it: what is committed, and up to which record.

use quadrille_history::History;
use quadrille_pipeline::State;

use super::{
    layout,
    partition::{SharedCommitted, Unusable, lock},
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
    if let Err(Unread::Unusable(why)) = &past
        && why.is_damage()
    {
        // The lane has them restored with its next batch.
        let mut committed = lock(committed);
        committed
            .fault
            .get_or_insert(Fault::Damaged(why.to_string()));
    }
    past
}

fn look(committed: &SharedCommitted, state: &State, key: &[u8]) -> Result<Past, Unread> {
    let mut rows: Vec<(u32, Vec<u8>)> = Vec::new();
    let input_next = {
        let committed = lock(committed);
        // They were found damaged, and are being replaced.
        if committed.fault.is_some() || committed.rows.next_offset().is_none() {
            return Err(Unread::Restoring);
        }
        match committed.marker {
            Some(marker) if marker.definition == state.fingerprint() => {
                let mut prefix = Vec::new();
                layout::prefix_into(marker.epoch, key, &mut prefix);
                let mut add = |row: &[u8], value: &[u8]| {
                    let bucket = layout::bucket(row, prefix.len());
                    rows.extend(bucket.map(|bucket| (bucket, value.to_vec())));
                };
                let scanned = committed.rows.scan(&prefix, &mut add);
                scanned.map_err(Unusable::from)?;
            }
            // Nothing is committed yet under this definition.
            Some(_) | None => {}
        }
        committed.input_next
    };
    let rows = rows.iter().map(|(bucket, row)| (*bucket, &row[..]));
    let history = History::load(state.definition(), rows).map_err(Unusable::from)?;
    Ok(Past {
        history,
        input_next,
    })
}
