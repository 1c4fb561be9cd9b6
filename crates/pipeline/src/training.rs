//! Training data: a CSV file's rows as the model's inputs, by the code the stream uses.

mod labels;
mod quotes;
mod remark;

use std::collections::HashMap;
use std::io::Read;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Trim};

pub use labels::{LABEL_VALUES_MAX, LabelValues};
pub use remark::{LINES_MAX, Remark};

use crate::csv_lines::CsvLines;
use crate::csv_row::{Use, names};
use crate::invalid::{Invalid, InvalidKind};
use crate::pipeline::Pipeline;
use crate::quote::{list, quote, suggest};
use crate::record::Reading;
use crate::spec::{Label, Truth};
use quotes::{Quotes, Watched};
use remark::{Breaks, Identities};

/// Why a file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "pipeline {pipeline:?} has no [label]; add one with `field`, `positive` and `negative`"
    )]
    NoLabel { pipeline: String },
    #[error("the training data has no header; its first line must name the columns")]
    NoHeader,
    #[error("the training data has no column {column}, the label; {fix}")]
    NoLabelColumn { column: String, fix: String },
    #[error("{0}")]
    LabelNowhere(String),
    #[error("the training data's header: {0}")]
    Header(Invalid),
    #[error("the training data cannot be read: {0}")]
    Read(#[from] csv::Error),
    #[error(
        "the training data ends inside the quote that opens a cell in line {line}: all that follows would be one cell; close the quote, or write it twice within quotes (\"\") where it belongs to the text"
    )]
    Unclosed { line: u64 },
    #[error("no row of the training data can be used{}", first(.skipped))]
    NoRows { skipped: Vec<(u64, Invalid)> },
}

fn first(skipped: &[(u64, Invalid)]) -> String {
    match skipped.first() {
        Some((line, invalid)) => format!("; line {line}: {invalid}"),
        None => "; it ends after the header".into(),
    }
}

/// Rows a model can be trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// The model's inputs: the columns of `rows`.
    pub inputs: Vec<String>,
    /// Row by row; NaN is missing.
    pub rows: Vec<f64>,
    /// 1 for positive, 0 for negative; of several classes their number, counted from 0; or the value itself. One a row.
    pub labels: Vec<f64>,
    /// The entity of each row, counted from 0 as they come. A row without a key, and any where the file has no column
    /// of it, is an entity of its own.
    pub entities: Vec<usize>,
    /// The event time of each row in milliseconds since 1970; None where the file has none that can be read.
    pub times_ms: Vec<Option<i64>>,
    /// Rows that cannot be used: the line in the file, and why. The header is line 1.
    pub skipped: Vec<(u64, Invalid)>,
    /// The values of the label's column, in all rows that have as many cells as the header.
    pub label_values: LabelValues,
    /// What the services would make of ids, keys and times.
    pub remarks: Vec<Remark>,
}

impl Pipeline {
    /// Reads a CSV file of records with their truth. Key and event time say which rows belong together; their columns
    /// may be absent, and others do not matter.
    ///
    /// # Errors
    /// The file as a whole cannot be used; single rows that cannot are skipped and listed.
    pub fn read_training(&self, reader: impl Read) -> Result<Training, Error> {
        self.read_training_csv(reader, None)
    }

    /// As [`Pipeline::read_training`], and remarks on the event times that the services would not believe at present.
    ///
    /// # Errors
    /// As [`Pipeline::read_training`].
    pub fn read_training_at(&self, reader: impl Read, now_ms: i64) -> Result<Training, Error> {
        self.read_training_csv(reader, Some(now_ms))
    }

    fn read_training_csv(&self, reader: impl Read, now_ms: Option<i64>) -> Result<Training, Error> {
        let label = self.label().ok_or_else(|| Error::NoLabel {
            pipeline: self.name().to_owned(),
        })?;
        let quotes = Quotes::new();
        let closed = || match quotes.get().unclosed() {
            Some(line) => Err(Error::Unclosed { line }),
            None => Ok(()),
        };
        let reader = Watched {
            inner: reader,
            quotes: &quotes,
        };
        let mut csv = ReaderBuilder::new()
            .flexible(true)
            .trim(Trim::None)
            .from_reader(CsvLines::new(reader));
        let header = StringRecord::from_byte_record_lossy(csv.byte_headers()?.clone());
        closed()?;
        if header.iter().all(|name| name.trim().is_empty()) {
            return Err(Error::NoHeader);
        }
        let columns = self.training_columns(&header).map_err(Error::Header)?;
        let label_at = label_column(&header, label)?;

        let mut training = Training {
            inputs: self.inputs().to_vec(),
            rows: Vec::new(),
            labels: Vec::new(),
            entities: Vec::new(),
            times_ms: Vec::new(),
            skipped: Vec::new(),
            label_values: LabelValues::default(),
            remarks: Vec::new(),
        };
        let mut identities = Identities::new(self, &header, now_ms);
        let mut breaks = Breaks::default();
        let mut entities = Entities::default();
        let (mut bytes, mut reading, mut features) =
            (ByteRecord::new(), Reading::default(), Vec::new());
        while csv.read_byte_record(&mut bytes)? {
            let line = CsvLines::of(&mut csv, bytes.position());
            let row = match text(&bytes) {
                Ok(row) => row,
                Err(invalid) => {
                    training.skipped.push((line, invalid));
                    continue;
                }
            };
            let truth_cell = row.get(label_at).unwrap_or_default().trim();
            let is_whole = row.len() == header.len();
            if is_whole {
                training.label_values.count(truth_cell);
            }
            let identity = is_whole.then(|| identities.of(line, &row));
            let read = columns.read(&row, self.draft(0, &mut reading), Use::Training);
            match read.and_then(|()| truth(label, truth_cell)) {
                Ok(truth) => {
                    breaks.of(line, &row, &header);
                    self.features(&reading.values, &mut features);
                    self.model_inputs(&features, &mut training.rows);
                    training.labels.push(truth);
                    let key = identity.as_ref().and_then(|it| it.key);
                    training.entities.push(entities.number(key));
                    training.times_ms.push(identity.and_then(|it| it.time_ms));
                }
                Err(invalid) => training.skipped.push((line, invalid)),
            }
        }
        closed()?;
        training.remarks = identities.remarks();
        training.remarks.extend(breaks.remarks());
        if training.labels.is_empty() {
            if let Some(nowhere) = training.label_values.lacking(label) {
                return Err(Error::LabelNowhere(nowhere));
            }
            return Err(Error::NoRows {
                skipped: training.skipped,
            });
        }
        Ok(training)
    }

    /// Checks that of two classes each is the truth of a row.
    ///
    /// # Errors
    /// [`Error::LabelNowhere`] with the values that there are.
    pub fn check_labels(&self, training: &Training) -> Result<(), Error> {
        let lacking = self
            .label()
            .and_then(|label| training.label_values.lacking(label));
        lacking.map_or(Ok(()), |nowhere| Err(Error::LabelNowhere(nowhere)))
    }
}

/// Numbers of entities, by their keys.
#[derive(Default)]
struct Entities {
    known: HashMap<String, usize>,
    count: usize,
}

impl Entities {
    /// Without a key a row is an entity of its own.
    fn number(&mut self, key: Option<&str>) -> usize {
        let next = self.count;
        let number = match key.filter(|key| !key.is_empty()) {
            None => next,
            Some(key) => match self.known.get(key) {
                Some(known) => return *known,
                None => *self.known.entry(key.to_owned()).or_insert(next),
            },
        };
        self.count += 1;
        number
    }
}

fn label_column(header: &StringRecord, label: &Label) -> Result<usize, Error> {
    let found = names(header).position(|name| name == label.field.trim());
    found.ok_or_else(|| {
        let columns: Vec<&str> = names(header).collect();
        let fix = suggest(&label.field, "the columns are", columns.into_iter());
        Error::NoLabelColumn {
            column: quote(&label.field),
            fix,
        }
    })
}

fn text(bytes: &ByteRecord) -> Result<StringRecord, Invalid> {
    StringRecord::from_byte_record(bytes.clone()).map_err(|error| {
        let reason = format!("cell {} is not UTF-8", error.utf8_error().field() + 1);
        Invalid::new(InvalidKind::NotUtf8, "", reason, "save the file as UTF-8")
    })
}

fn truth(label: &Label, cell: &str) -> Result<f64, Invalid> {
    let cell = cell.trim();
    let texts: Vec<&str> = match &label.truth {
        Truth::Two { positive, negative } => vec![negative, positive],
        Truth::Several { classes } => classes.iter().map(String::as_str).collect(),
        Truth::Number {} => return number(label, cell),
    };
    if let Some(at) = texts.iter().position(|text| cell == text.trim()) {
        return Ok(at as f64);
    }
    let shown = match &label.truth {
        Truth::Two { positive, negative } => {
            list([positive, negative].into_iter().map(String::as_str))
        }
        _ => list(texts.into_iter()),
    };
    let fix = format!("write {}", shown.replace(", ", " or "));
    Err(match cell.is_empty() {
        true => empty(label, fix),
        false => {
            let reason = format!("{} is no label", quote(cell));
            Invalid::new(InvalidKind::UnknownCategory, &label.field, reason, fix)
        }
    })
}

fn number(label: &Label, cell: &str) -> Result<f64, Invalid> {
    const FIX: &str = "write digits with a point, as in 1.5";
    match cell.parse() {
        Ok(number) if f64::is_finite(number) => Ok(number),
        _ if cell.is_empty() => Err(empty(label, FIX.to_owned())),
        _ => {
            let reason = format!("{} is not a number", quote(cell));
            Err(Invalid::new(
                InvalidKind::WrongType,
                &label.field,
                reason,
                FIX,
            ))
        }
    }
}

fn empty(label: &Label, fix: String) -> Invalid {
    Invalid::new(
        InvalidKind::MissingField,
        &label.field,
        "the label is empty",
        fix,
    )
}
