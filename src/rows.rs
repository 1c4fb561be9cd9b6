//! Files as records: CSV rows become JSON objects, lines of JSON are checked; each with its entity's key.

use std::{
    collections::HashSet,
    io::{BufRead, Read},
};

use csv::{ByteRecord, ReaderBuilder, StringRecord};
use quadrille_pipeline::{CsvLines, InvalidKind, Pipeline};
use quadrille_proto::{Field, FieldType};
use quadrille_service::Error;
use serde_json::{Map, Number, Value};

/// Longest line of JSON: more than any topic takes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A record for a pipeline's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The entity's key; None where the record has none.
    pub key: Option<String>,
    /// A JSON object.
    pub payload: Vec<u8>,
}

/// What comes out of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Row(Row),
    /// A line that is no record, and why.
    Refused {
        line: u64,
        reason: String,
    },
}

/// What records are called that bring no id or key of their own.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// Generated ids and keys are `<stem>-<row>`.
    pub stem: &'a str,
    /// Which time the file is read, from 1: later ones get other ids, the entities stay.
    pub pass: u64,
    /// The field that holds the entity's key; None: the pipeline's.
    pub key_field: Option<&'a str>,
}

/// How a column's cells become JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Number,
    Boolean,
    Text,
    /// Not a field of the pipeline: a number where it is one, else a text.
    Guess,
    /// Does not travel.
    Dropped,
}

#[derive(Debug)]
struct Column {
    /// `"name":`
    label: String,
    how: How,
}

/// Where the entity's key comes from.
#[derive(Debug)]
enum KeyFrom {
    Column(usize),
    Generated,
}

/// The rows of a CSV file.
pub struct CsvRows<R> {
    csv: csv::Reader<CsvLines<R>>,
    columns: Vec<Column>,
    key: KeyFrom,
    /// `"name":` of fields that are added to each record.
    added_key: Option<String>,
    added_id: Option<String>,
    stem: String,
    pass: u64,
    row: u64,
    bytes: ByteRecord,
    notes: Vec<String>,
}

impl<R: Read> CsvRows<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Its records could not be the pipeline's; the message says which column is wrong.
    pub fn new(pipeline: &Pipeline, reader: R, naming: &Naming<'_>) -> Result<Self, Error> {
        let reader = CsvLines::new(reader);
        let mut csv = ReaderBuilder::new().flexible(true).from_reader(reader);
        let header = csv.byte_headers().map_err(unreadable)?.clone();
        let names = names(&StringRecord::from_byte_record_lossy(header))?;
        let mut rows = CsvRows {
            csv,
            columns: names.iter().map(|name| column(pipeline, name)).collect(),
            key: KeyFrom::Generated,
            added_key: None,
            added_id: None,
            stem: naming.stem.to_owned(),
            pass: naming.pass,
            row: 0,
            bytes: ByteRecord::new(),
            notes: Vec::new(),
        };
        rows.find_key(pipeline, &names, naming)?;
        rows.find_id(pipeline, &names);
        rows.check(pipeline, &names)?;
        Ok(rows)
    }

    /// What was added and dropped, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn find_key(
        &mut self,
        pipeline: &Pipeline,
        names: &[String],
        naming: &Naming<'_>,
    ) -> Result<(), Error> {
        let own = pipeline.key_field();
        let wanted = naming.key_field.unwrap_or(own);
        let at = names.iter().position(|name| name == wanted);
        match (at, naming.key_field) {
            (Some(at), _) => {
                self.key = KeyFrom::Column(at);
                self.columns[at].how = How::Text;
            }
            (None, Some(wanted)) => {
                let columns = names.join(", ");
                return Err(Error::Config(format!(
                    "--key-field: there is no column {wanted:?}; the columns are {columns}"
                )));
            }
            (None, None) => {
                let stem = &self.stem;
                self.notes.push(format!(
                    "no column {own}: added as {stem}-<row>, each row an entity"
                ));
            }
        }
        if !names.iter().any(|name| name == own) {
            self.added_key = Some(label(own));
        }
        Ok(())
    }

    fn find_id(&mut self, pipeline: &Pipeline, names: &[String]) {
        let Some(id) = pipeline.id_field() else {
            return;
        };
        match names.iter().position(|name| name == id) {
            Some(at) => self.columns[at].how = How::Text,
            None => {
                self.added_id = Some(label(id));
                let stem = &self.stem;
                let note = format!(
                    "no column {id}: added as {stem}-<row>; sent again, they are the same records"
                );
                self.notes.push(note);
            }
        }
    }

    /// Refuses a header whose records would all be dead letters.
    fn check(&mut self, pipeline: &Pipeline, names: &[String]) -> Result<(), Error> {
        let mut header = StringRecord::new();
        for (name, column) in names.iter().zip(&self.columns) {
            match column.how {
                How::Dropped if !name.is_empty() => {
                    self.notes
                        .push(format!("column {name}, the truth, is left out"));
                }
                How::Dropped => {}
                _ => header.push_field(name),
            }
        }
        let added = [self.added_id.is_some(), self.added_key.is_some()];
        let fields = [pipeline.id_field(), Some(pipeline.key_field())];
        for (field, _) in fields.into_iter().zip(added).filter(|(_, added)| *added) {
            header.push_field(field.unwrap_or_default());
        }
        match pipeline.csv_reader(&header) {
            Ok(_) => Ok(()),
            Err(invalid) => Err(Error::Config(format!(
                "the CSV header does not fit pipeline {:?}: {invalid}",
                pipeline.name()
            ))),
        }
    }

    fn convert(&self, row: &StringRecord) -> Result<Row, String> {
        if row.len() != self.columns.len() {
            return Err(format!(
                "the row has {} cells, the header {}; quote cells with commas",
                row.len(),
                self.columns.len()
            ));
        }
        let generated = format!("{}-{}", self.stem, self.row);
        let key = match self.key {
            KeyFrom::Generated => Some(generated.as_str()),
            KeyFrom::Column(at) => row.get(at).map(str::trim).filter(|key| !key.is_empty()),
        };
        let mut json = Object::new();
        if let Some(label) = &self.added_id {
            let id = match self.pass {
                1 => generated.clone(),
                pass => format!("{generated}-{pass}"),
            };
            json.field(label, &quoted(&id));
        }
        if let (Some(label), Some(key)) = (&self.added_key, key) {
            json.field(label, &quoted(key));
        }
        for (column, cell) in self.columns.iter().zip(row) {
            if let Some(value) = column.how.value(cell) {
                json.field(&column.label, &value);
            }
        }
        Ok(Row {
            key: key.map(str::to_owned),
            payload: json.end(),
        })
    }
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.csv.read_byte_record(&mut self.bytes) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(unreadable(error))),
        }
        self.row += 1;
        let line = CsvLines::of(&mut self.csv, self.bytes.position());
        let text = StringRecord::from_byte_record(self.bytes.clone())
            .map_err(|error| format!("cell {} is not UTF-8", error.utf8_error().field() + 1));
        Some(Ok(match text.and_then(|row| self.convert(&row)) {
            Ok(row) => Item::Row(row),
            Err(reason) => Item::Refused { line, reason },
        }))
    }
}

/// The names of a header: no byte order mark, no spaces around them, none twice.
fn names(header: &StringRecord) -> Result<Vec<String>, Error> {
    let clean = |name: &str| name.trim_start_matches('\u{feff}').trim().to_owned();
    let names: Vec<String> = header.iter().map(clean).collect();
    if names.iter().all(String::is_empty) {
        let message = "the CSV file has no header; its first line must name the columns";
        return Err(Error::Config(message.to_owned()));
    }
    let mut seen = HashSet::new();
    let named = names.iter().filter(|name| !name.is_empty());
    for name in named {
        if !seen.insert(name) {
            return Err(Error::Config(format!(
                "the CSV header has column {name:?} twice"
            )));
        }
    }
    Ok(names)
}

fn column(pipeline: &Pipeline, name: &str) -> Column {
    let fields = &pipeline.record_schema().fields;
    let how = match fields.iter().find(|field| field.name == name) {
        Some(Field { field_type, .. }) => match field_type {
            FieldType::Number | FieldType::Integer => How::Number,
            FieldType::Boolean => How::Boolean,
            FieldType::Category(_) => How::Text,
        },
        // R and pandas write an index column without a name.
        None if name.is_empty() => How::Dropped,
        None if pipeline
            .label()
            .is_some_and(|label| label.field.trim() == name) =>
        {
            How::Dropped
        }
        None => How::Guess,
    };
    Column {
        label: label(name),
        how,
    }
}

impl How {
    /// The cell as JSON; None where it is empty or does not travel.
    fn value(self, cell: &str) -> Option<String> {
        let text = cell.trim();
        if text.is_empty() || self == How::Dropped {
            return None;
        }
        let number = || {
            serde_json::from_str::<Number>(text)
                .ok()
                .map(|_| text.to_owned())
        };
        Some(match self {
            // What is no number travels as it is: ingest says what is wrong with it.
            How::Number => number()
                .or_else(|| loose_number(text))
                .unwrap_or_else(|| quoted(text)),
            How::Guess => number().unwrap_or_else(|| quoted(cell)),
            How::Boolean if text == "1" || text.eq_ignore_ascii_case("true") => "true".to_owned(),
            How::Boolean if text == "0" || text.eq_ignore_ascii_case("false") => "false".to_owned(),
            // Ingest takes 1 and 0, and so a data frame's 1.0.
            How::Boolean => number().unwrap_or_else(|| quoted(text)),
            How::Text | How::Dropped => quoted(text),
        })
    }
}

/// A number as CSV has it and JSON has not: `.5`, `+1`, `007`.
fn loose_number(text: &str) -> Option<String> {
    let number: f64 = text.parse().ok()?;
    Number::from_f64(number).map(|number| number.to_string())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn label(name: &str) -> String {
    format!("{}:", quoted(name))
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("the file cannot be read: {error}"))
}

/// A JSON object being written, its fields in the order they come.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Object(b"{".to_vec())
    }

    fn field(&mut self, label: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(label.as_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// The lines of a file of JSON objects.
pub struct JsonRows<R> {
    reader: R,
    pipeline: Pipeline,
    key_field: String,
    label: Option<String>,
    line: u64,
    found: u64,
}

impl<R: BufRead> JsonRows<R> {
    pub fn new(pipeline: &Pipeline, reader: R, naming: &Naming<'_>) -> Self {
        let known = |name: &str| {
            pipeline
                .record_schema()
                .fields
                .iter()
                .any(|it| it.name == name)
        };
        let label = pipeline.label().map(|label| label.field.trim().to_owned());
        JsonRows {
            reader,
            pipeline: pipeline.clone(),
            key_field: naming.key_field.unwrap_or(pipeline.key_field()).to_owned(),
            label: label.filter(|name| !known(name)),
            line: 0,
            found: 0,
        }
    }

    /// The next line that is not blank, without its end.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let mut line = Vec::new();
            let mut reader = self.reader.by_ref().take(LINE_BYTES_MAX + 1);
            reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            if line.is_empty() {
                return Ok(None);
            }
            self.line += 1;
            if line.len() as u64 > LINE_BYTES_MAX {
                let (line, max) = (self.line, LINE_BYTES_MAX >> 20);
                return Err(unreadable(format!("line {line} is longer than {max} MiB")));
            }
            if self.line == 1 && line.starts_with("\u{feff}".as_bytes()) {
                line.drain(..3);
            }
            let trimmed = line.trim_ascii();
            if !trimmed.is_empty() {
                return Ok(Some(trimmed.to_vec()));
            }
        }
    }

    fn row(&self, payload: Vec<u8>) -> Result<Row, String> {
        let mut object: Map<String, Value> =
            serde_json::from_slice(&payload).map_err(|error| self.no_object(&payload, &error))?;
        let key = match object.get(&self.key_field) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let truth = self.label.as_ref().and_then(|label| object.remove(label));
        let payload = match truth {
            Some(_) => Value::Object(object).to_string().into_bytes(),
            None => payload,
        };
        Ok(Row { key, payload })
    }
}

impl<R: BufRead> JsonRows<R> {
    /// Why a line is no object, in ingest's words where ingest would say it.
    #[cold]
    fn no_object(&self, payload: &[u8], error: &serde_json::Error) -> String {
        match self.pipeline.read_json(payload, 0) {
            Err(invalid) if invalid.kind == InvalidKind::NotJson => invalid.to_string(),
            _ => format!("not a JSON object on one line: {error}"),
        }
    }
}

impl<R: BufRead> Iterator for JsonRows<R> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let payload = match self.line() {
            Ok(Some(payload)) => payload,
            Ok(None) => return None,
            Err(error) => return Some(Err(error)),
        };
        self.found += 1;
        let line = self.line;
        Some(match self.row(payload) {
            Ok(row) => Ok(Item::Row(row)),
            // A file that begins so is of another kind.
            Err(reason) if self.found == 1 => Err(Error::Config(format!(
                "line {line}: {reason}; give one JSON object a line (`jq -c '.[]'` makes them of a list), or --format csv"
            ))),
            Err(reason) => Ok(Item::Refused { line, reason }),
        })
    }
}

#[cfg(test)]
mod tests;
