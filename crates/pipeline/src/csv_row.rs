//! CSV rows, their columns mapped by the header once.

use std::collections::HashSet;

use csv::StringRecord;

use crate::invalid::{Invalid, InvalidKind};
use crate::json::{close, keep_scalar};
use crate::record::{Draft, NeedKey, Role, Slots, check_unknown_name, duplicate, missing};
use crate::spec::{RecordSpec, UnknownFields};
use crate::value::Scalar;

/// Columns of a CSV file, at most: a header of nothing but commas would become many times its size.
const COLUMNS_MAX: usize = 65_536;

/// What each column of a CSV file is to a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvColumns {
    columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Slot(usize),
    /// A field the pipeline keeps without knowing it.
    Kept(String),
    Ignored,
}

/// What the columns are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Records like any other.
    Records,
    /// Only the fields; other columns of training data do not matter.
    Training,
}

/// The names of a header: no byte order mark, no spaces around them.
pub(crate) fn names(header: &StringRecord) -> impl Iterator<Item = &str> {
    header
        .iter()
        .enumerate()
        .map(|(column, name)| match column {
            0 => name.strip_prefix('\u{feff}').unwrap_or(name).trim(),
            _ => name.trim(),
        })
}

impl CsvColumns {
    pub(crate) fn new(
        spec: &RecordSpec,
        slots: &Slots,
        header: &StringRecord,
        used: Use,
    ) -> Result<Self, Invalid> {
        if header.len() > COLUMNS_MAX {
            let reason = format!("the header has {} columns", header.len());
            let fix = format!("send at most {COLUMNS_MAX}");
            return Err(Invalid::new(InvalidKind::RowLength, "", reason, fix));
        }
        let mut columns = Vec::new();
        let mut seen = HashSet::new();
        for name in names(header) {
            // Two names of one value are the same column twice.
            let known = slots.get(name).map_or(name, |slot| slots.name(slot));
            if !name.is_empty() && !seen.insert(known) {
                return Err(duplicate(name));
            }
            columns.push(match slots.get(name) {
                Some(slot) if used == Use::Records => Column::Slot(slot),
                Some(slot)
                    if matches!(slots.role(slot), Role::Field { .. } | Role::Element { .. }) =>
                {
                    Column::Slot(slot)
                }
                _ if used == Use::Training => Column::Ignored,
                // R and pandas write an index column without a name.
                None if name.is_empty() => Column::Ignored,
                None if slots.is_label(name) => Column::Ignored,
                None if spec.unknown_fields == UnknownFields::Refuse => {
                    return Err(slots.unknown(name));
                }
                _ => {
                    check_unknown_name(name)?;
                    Column::Kept(name.to_owned())
                }
            });
        }
        let required = spec.fields.iter().filter(|field| field.required);
        let key = (used == Use::Records).then_some(spec.key.as_str());
        let names = required
            .flat_map(|field| field.to_proto())
            .map(|field| field.name);
        let needed = key.map(str::to_owned).into_iter().chain(names);
        let lacking: Vec<String> = needed
            .filter(|name| !seen.contains(name.as_str()))
            .collect();
        match &lacking[..] {
            [] => Ok(CsvColumns { columns }),
            [first, others @ ..] => {
                let others = others.iter().map(String::as_str);
                Err(no_column(missing(first, others, spec)))
            }
        }
    }

    /// Bytes that a row's record comes of: its cells, and the names of those that are kept beside it.
    pub fn record_bytes(&self, row: &StringRecord) -> usize {
        let kept = |(column, cell): (&Column, &str)| match column {
            Column::Kept(name) if !cell.is_empty() => name.len(),
            _ => 0,
        };
        let names: usize = self.columns.iter().zip(row).map(kept).sum();
        row.as_slice().len() + names
    }

    /// Reads a row; of training data nothing but the fields.
    pub(crate) fn read(
        &self,
        row: &StringRecord,
        mut draft: Draft<'_>,
        used: Use,
    ) -> Result<(), Invalid> {
        if row.len() != self.columns.len() {
            let reason = format!(
                "the row has {} cells, the header {}",
                row.len(),
                self.columns.len()
            );
            let fix = "give every row as many cells as the header; quote cells with commas";
            return Err(Invalid::new(InvalidKind::RowLength, "", reason, fix));
        }
        for (column, cell) in self.columns.iter().zip(row) {
            match column {
                Column::Slot(slot) => draft.put_cell(*slot, cell)?,
                Column::Kept(name) if !cell.is_empty() => {
                    keep_scalar(&mut draft.reading.extra, name, Scalar::Text(cell))?;
                }
                Column::Kept(_) | Column::Ignored => {}
            }
        }
        close(&mut draft.reading.extra);
        match used {
            Use::Records => draft.finish(NeedKey::Required),
            Use::Training => draft.finish(NeedKey::Optional),
        }
    }
}

fn no_column(invalid: Invalid) -> Invalid {
    let reason = "the header has no such column".to_owned();
    Invalid {
        reason,
        fix: invalid.fix.replacen("add it", "add the column", 1),
        ..invalid
    }
}
