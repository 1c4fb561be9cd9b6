//! What is committed of a partition: a lane's or a standby's, and read by requests.

use std::sync::{Arc, Mutex, MutexGuard};

use quadrille_history::Corrupt;

use super::{
    layout::Marker,
    rows::{Broken, Fault, Rows},
};

/// What is committed: the lane's, and read by requests.
pub(crate) struct Committed {
    pub rows: Box<dyn Rows>,
    pub marker: Option<Marker>,
    /// The offset of the input behind the last record that the rows know of.
    pub input_next: Option<i64>,
    /// Why the rows are to be restored, once somebody has found that they are.
    pub fault: Option<Fault>,
    /// All rows were read from the changelog, by this process: what is wrong with one of them is wrong there.
    pub is_whole: bool,
    /// What is, as a question to a standby has found.
    pub unreadable: Option<String>,
}

/// Shared with whoever answers requests; never locked for longer than one key's rows are read or a batch's are applied.
pub(crate) type SharedCommitted = Arc<Mutex<Committed>>;

impl Committed {
    /// Over rows of which nothing is known yet.
    pub fn over(rows: Box<dyn Rows>) -> SharedCommitted {
        Arc::new(Mutex::new(Committed {
            is_whole: rows.next_offset().is_none(),
            rows,
            marker: None,
            input_next: None,
            fault: None,
            unreadable: None,
        }))
    }

    /// To be called now and then.
    ///
    /// # Errors
    /// The rows are damaged.
    pub fn tend(&mut self) -> Result<(), Fault> {
        let tended = self.rows.tend();
        if let Err(error) = &tended {
            self.break_rows(error);
        }
        tended
    }

    /// They lack what is committed, and would be read all the same.
    pub fn break_rows(&mut self, fault: &Fault) {
        self.rows = Box::new(Broken(fault.clone()));
        self.fault = Some(fault.clone());
    }
}

pub(crate) fn lock(committed: &SharedCommitted) -> MutexGuard<'_, Committed> {
    // Whoever panicked was reading.
    committed
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Why a history cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Rows(#[from] Fault),
    #[error("a row of the state cannot be read: {0}")]
    Corrupt(#[from] Corrupt),
}

impl Unusable {
    /// Whether the rows are to be restored from the changelog.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Unusable::Rows(Fault::Unread(_)))
    }
}

/// The value of one row that is not a key's.
pub(super) fn value(rows: &dyn Rows, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let mut found = None;
    rows.scan(key, &mut |row, value| {
        if row == key {
            found = Some(value.to_vec());
        }
    })?;
    Ok(found)
}
