//! Training data: a CSV file's rows as the model's inputs, by the code the stream uses.

mod arrived;
mod labels;
mod quotes;
mod remark;
mod rows;

use std::collections::HashMap;
use std::io::Read;

use csv::StringRecord;

pub use labels::{LABEL_VALUES_MAX, LabelValues};
pub use remark::{LINES_MAX, Remark};
pub use rows::Row;

use crate::csv_row::names;
use crate::invalid::{Invalid, InvalidKind};
use crate::pipeline::Pipeline;
use crate::quote::{list, quote, suggest};
use crate::spec::{Label, Truth};
use rows::Sink;

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
    #[error("the data has no column {column}, which says in which order the rows came; {fix}")]
    NoArrivedColumn { column: String, fix: String },
    #[error(
        "the data has no column {column}, and features of pipeline {pipeline:?} look back: without key and event time a row has no \
         place among the others; add the column"
    )]
    NoPlace { column: String, pipeline: String },
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

/// How a file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Event times that the services would not believe at this moment are remarked on.
    pub now_ms: Option<i64>,
    /// The column that says in which order the rows came, by times or numbers. Without it, rows of features that look back come
    /// in the order of their event times, others as the file has them. Equal ones come as the file has them, or from its end where
    /// it has the newest rows first.
    pub arrived: Option<String>,
}

/// The order in which rows were replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    File,
    EventTime,
    /// That of a column.
    Column(String),
}

/// How rows were replayed for features that look back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub order: Order,
    /// In the file the times of a key never rise: rows of equal ones were replayed from its end.
    pub newest_first: bool,
    /// Keys that the rows are of.
    pub keys: usize,
    /// Rows that have no vector and are only looked back on.
    pub state_only: u64,
}

/// What became of a file whose features were computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Rows that have a vector.
    pub vectors: u64,
    /// Rows that cannot be used: the line in the file, and why. The header is line 1.
    pub skipped: Vec<(u64, Invalid)>,
    /// What the services would make of ids, keys and times.
    pub remarks: Vec<Remark>,
    /// None where no feature looks back.
    pub past: Option<Past>,
}

/// Rows a model can be trained on.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// None where no feature looks back.
    pub past: Option<Past>,
}

impl Pipeline {
    /// Reads a CSV file of records with their truth. Key and event time say which rows belong together; their columns
    /// may be absent, unless a feature looks back, and others do not matter.
    ///
    /// # Errors
    /// The file as a whole cannot be used; single rows that cannot are skipped and listed.
    pub fn read_training(&self, reader: impl Read) -> Result<Training, Error> {
        self.read_training_with(reader, &Options::default())
    }

    /// As [`Pipeline::read_training`], and remarks on the event times that the services would not believe at present.
    ///
    /// # Errors
    /// As [`Pipeline::read_training`].
    pub fn read_training_at(&self, reader: impl Read, now_ms: i64) -> Result<Training, Error> {
        let options = Options {
            now_ms: Some(now_ms),
            arrived: None,
        };
        self.read_training_with(reader, &options)
    }

    /// As [`Pipeline::read_training`]. If a feature looks back, the rows are replayed: each has the features that the stream
    /// would have computed in its turn, of what had come by then.
    ///
    /// # Errors
    /// As [`Pipeline::read_training`].
    pub fn read_training_with(
        &self,
        reader: impl Read,
        options: &Options,
    ) -> Result<Training, Error> {
        let label = self.label().ok_or_else(|| Error::NoLabel {
            pipeline: self.name().to_owned(),
        })?;
        let mut rows = TrainingRows {
            pipeline: self,
            label,
            entities: Entities::default(),
            training: Training {
                inputs: self.inputs().to_vec(),
                ..Training::default()
            },
        };
        let column = |header: &StringRecord| label_column(header, label).map(Some);
        let summary = rows::read(self, reader, options, column, &mut rows)?;
        let mut training = rows.training;
        training.remarks = summary.remarks;
        training.past = summary.past;
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

    /// Computes the features of a CSV file's records, as the stream would have, for one row after the other. No label is needed.
    ///
    /// # Errors
    /// The file as a whole cannot be used; single rows that cannot are skipped and listed.
    pub fn read_features(
        &self,
        reader: impl Read,
        options: &Options,
        each: &mut dyn FnMut(&Row<'_>, &[f64]),
    ) -> Result<Batch, Error> {
        let mut rows = BatchRows {
            each,
            vectors: 0,
            skipped: Vec::new(),
        };
        let summary = rows::read(self, reader, options, |_| Ok(None), &mut rows)?;
        Ok(Batch {
            vectors: rows.vectors,
            skipped: rows.skipped,
            remarks: summary.remarks,
            past: summary.past,
        })
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

/// Rows on their way to training.
struct TrainingRows<'a> {
    pipeline: &'a Pipeline,
    label: &'a Label,
    entities: Entities,
    training: Training,
}

impl Sink for TrainingRows<'_> {
    fn vector(&mut self, row: &Row<'_>, features: &[f64]) {
        let training = &mut self.training;
        training.label_values.count(row.truth);
        match truth(self.label, row.truth) {
            Ok(truth) => {
                self.pipeline.model_inputs(features, &mut training.rows);
                training.labels.push(truth);
                training.entities.push(self.entities.number(row.key));
                training.times_ms.push(row.time_ms);
            }
            Err(invalid) => training.skipped.push((row.line, invalid)),
        }
    }

    fn refused(&mut self, line: u64, truth: Option<&str>, invalid: Invalid) {
        if let Some(truth) = truth {
            self.training.label_values.count(truth);
        }
        self.training.skipped.push((line, invalid));
    }
}

/// Rows on their way to whoever wants their features.
struct BatchRows<'a> {
    each: &'a mut dyn FnMut(&Row<'_>, &[f64]),
    vectors: u64,
    skipped: Vec<(u64, Invalid)>,
}

impl Sink for BatchRows<'_> {
    fn vector(&mut self, row: &Row<'_>, features: &[f64]) {
        self.vectors += 1;
        (self.each)(row, features);
    }

    fn refused(&mut self, line: u64, _truth: Option<&str>, invalid: Invalid) {
        self.skipped.push((line, invalid));
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
    fn number(&mut self, key: &str) -> usize {
        let next = self.count;
        let number = match key {
            "" => next,
            key => match self.known.get(key) {
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
