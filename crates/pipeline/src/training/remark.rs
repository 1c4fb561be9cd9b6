//! What the services would make of the ids, keys and times of training data. None of it costs a row: a model can be trained
//! without them. But a stream of the same records would have dead letters, or fewer predictions than rows.

use std::collections::HashMap;
use std::fmt;

use csv::StringRecord;

use crate::csv_row::names;
use crate::invalid::Invalid;
use crate::pipeline::Pipeline;
use crate::quote::quote;
use crate::record::check_id;
use crate::time::parse_rfc3339;

/// Lines that a remark names.
pub const LINES_MAX: usize = 3;

/// Rows whose id, key or event time the services would refuse, or treat otherwise than one may expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// `no_column`, `no_id`, `duplicate_id`, `line_break`, or the class of an [`Invalid`]: `bad_id`, `bad_time`.
    pub class: &'static str,
    /// The column.
    pub field: String,
    pub rows: u64,
    /// The first [`LINES_MAX`] of their lines; the header is line 1.
    pub lines: Vec<u64>,
    /// What is so of the first of them, and what follows.
    pub reason: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: ", quote(&self.field))?;
        if !self.lines.is_empty() {
            write!(f, "{} (", counted(self.rows))?;
            write_lines(f, &self.lines, self.rows)?;
            write!(f, "): ")?;
        }
        f.write_str(&self.reason)
    }
}

fn counted(rows: u64) -> String {
    match rows {
        1 => "1 row".to_owned(),
        rows => format!("{rows} rows"),
    }
}

/// `line 3`, or `lines 3, 5, 8, …` where these are the first of more.
fn write_lines(f: &mut fmt::Formatter<'_>, lines: &[u64], of: u64) -> fmt::Result {
    f.write_str(if of == 1 { "line " } else { "lines " })?;
    for (at, line) in lines.iter().enumerate() {
        f.write_str(if at > 0 { ", " } else { "" })?;
        write!(f, "{line}")?;
    }
    f.write_str(if of > lines.len() as u64 { ", …" } else { "" })
}

/// The columns of id, key and event time, and what was found in them.
pub(super) struct Identities<'a> {
    pipeline: &'a Pipeline,
    id: Option<usize>,
    key: Option<usize>,
    time: Option<usize>,
    /// None: times are not compared with the present.
    now_ms: Option<i64>,
    /// The line of each id.
    ids: HashMap<String, u64>,
    remarks: Vec<Remark>,
}

impl<'a> Identities<'a> {
    pub fn new(pipeline: &'a Pipeline, header: &StringRecord, now_ms: Option<i64>) -> Self {
        let at = |field: &str| names(header).position(|name| name == field);
        let (id, time) = (pipeline.id_field(), pipeline.event_time_field());
        let mut identities = Identities {
            pipeline,
            id: id.and_then(at),
            key: at(pipeline.key_field()),
            time: time.and_then(at),
            now_ms,
            ids: HashMap::new(),
            remarks: Vec::new(),
        };
        if identities.id.is_none() {
            identities.no_column(
                id,
                "there is none; records without an id are named after their place",
            );
        }
        if identities.key.is_none() {
            let why = "there is none; each row counts as an entity of its own";
            identities.no_column(Some(pipeline.key_field()), why);
        }
        if identities.time.is_none() {
            identities.no_column(
                time,
                "there is none; records have the time of their arrival",
            );
        }
        identities
    }

    /// Remarks on what this row is called and on when it was, which is the answer; nothing is refused.
    pub fn of(&mut self, line: u64, row: &StringRecord) -> Option<i64> {
        self.named(line, row);
        let cell = |at: Option<usize>| row.get(at?).map(str::trim);
        let time = cell(self.time).filter(|cell| !cell.is_empty());
        time.and_then(|time| self.time(line, time))
    }

    /// As [`Identities::of`], but for the time.
    pub fn named(&mut self, line: u64, row: &StringRecord) {
        let cell = |at: Option<usize>| row.get(at?).map(str::trim);
        if let Some(id) = cell(self.id) {
            self.id(line, id);
        }
        let key = cell(self.key);
        if let Some(Err(invalid)) = key.map(|key| check_id(self.pipeline.key_field(), key)) {
            self.invalid(line, &invalid);
        }
    }

    pub fn remarks(self) -> Vec<Remark> {
        self.remarks
    }

    fn id(&mut self, line: u64, id: &str) {
        let field = self.pipeline.id_field().unwrap_or_default();
        if id.is_empty() {
            let reason = "the id is empty; such records are named after their place";
            return self.remark("no_id", field, line, reason);
        }
        if let Err(invalid) = check_id(field, id) {
            return self.invalid(line, &invalid);
        }
        match self.ids.get(id).copied() {
            None => drop(self.ids.insert(id.to_owned(), line)),
            Some(first) => {
                let reason = format!(
                    "the id {} is that of line {first} too; of equal ids only the first prediction is stored",
                    quote(id)
                );
                self.remark("duplicate_id", field, line, &reason);
            }
        }
    }

    /// A time that is none, or that the services would not believe.
    fn time(&mut self, line: u64, cell: &str) -> Option<i64> {
        let field = self.pipeline.event_time_field().unwrap_or_default();
        // Milliseconds, or RFC 3339: as records bring it.
        let time = match cell.parse() {
            Ok(number) => Ok(number),
            Err(_) => parse_rfc3339(field, cell),
        };
        let bounds = (self.now_ms).map(|now_ms| self.pipeline.record_spec().time_bounds(now_ms));
        let checked = time.clone().and_then(|time_ms| match bounds {
            Some(bounds) => bounds.check(field, time_ms),
            None => Ok(time_ms),
        });
        if let Err(invalid) = checked {
            self.invalid(line, &invalid);
        }
        time.ok()
    }

    fn no_column(&mut self, field: Option<&str>, reason: &str) {
        let Some(field) = field else { return };
        self.remarks.push(Remark {
            class: "no_column",
            field: field.to_owned(),
            rows: 0,
            lines: Vec::new(),
            reason: reason.to_owned(),
        });
    }

    fn invalid(&mut self, line: u64, invalid: &Invalid) {
        let reason = format!(
            "the services refuse it: {}; {}",
            invalid.reason, invalid.fix
        );
        self.remark(invalid.class(), &invalid.field, line, &reason);
    }

    fn remark(&mut self, class: &'static str, field: &str, line: u64, reason: &str) {
        add(&mut self.remarks, class, field, line, || reason.to_owned());
    }
}

/// Cells with line breaks. They may be meant; or a quote was forgotten, and the cell holds the rows down to the next one.
#[derive(Default)]
pub(super) struct Breaks {
    remarks: Vec<Remark>,
}

impl Breaks {
    /// Looks at a row that is used.
    pub fn of(&mut self, line: u64, row: &StringRecord, header: &StringRecord) {
        if !row.as_slice().contains('\n') {
            return;
        }
        for (cell, name) in row.iter().zip(names(header)) {
            let breaks = cell.matches('\n').count();
            if breaks > 0 {
                add(&mut self.remarks, "line_break", name, line, || {
                    format!(
                        "the cell has {} in quotes; if they are not meant, a quote is missing, and the rows in between are not used",
                        match breaks {
                            1 => "a line break".to_owned(),
                            breaks => format!("{breaks} line breaks"),
                        }
                    )
                });
            }
        }
    }

    pub fn remarks(self) -> Vec<Remark> {
        self.remarks
    }
}

/// Counts a row to the remark of this class and field; the first gives the reason.
fn add(
    remarks: &mut Vec<Remark>,
    class: &'static str,
    field: &str,
    line: u64,
    reason: impl FnOnce() -> String,
) {
    let same = |it: &&mut Remark| it.class == class && it.field == field;
    match remarks.iter_mut().find(same) {
        Some(remark) => {
            remark.rows += 1;
            if remark.lines.len() < LINES_MAX {
                remark.lines.push(line);
            }
        }
        None => remarks.push(Remark {
            class,
            field: field.to_owned(),
            rows: 1,
            lines: vec![line],
            reason: reason(),
        }),
    }
}
