//! The rows of a CSV file in the order in which their turn comes, each with its features: one reader for training and for batches.

use std::borrow::Cow;
use std::io::Read;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Trim};

use super::arrived::{self, Arrived, Turns};
use super::quotes::{Quotes, Watched};
use super::remark::{Breaks, Identities, Remark};
use super::{Error, Options, Order, Past};
use crate::csv_lines::CsvLines;
use crate::csv_row::{CsvColumns, Use, names};
use crate::invalid::{Invalid, InvalidKind};
use crate::pipeline::Pipeline;
use crate::quote::{quote, suggest};
use crate::record::{Reading, check_id};
use crate::replay::Replay;
use crate::state::{Arrival, Taken};
use crate::time::{Bounds, rfc3339};

/// A row that has a feature vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'r> {
    /// In the file; the header is line 1.
    pub line: u64,
    /// As the file has it, or else the number of the row.
    pub id: &'r str,
    /// The entity's; empty where the file has none.
    pub key: &'r str,
    /// Milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// The label's cell; empty where no label is read.
    pub truth: &'r str,
}

/// Whoever wants the rows.
pub(super) trait Sink {
    fn vector(&mut self, row: &Row<'_>, features: &[f64]);
    /// A row that cannot be used, with the label's cell where the row is whole.
    fn refused(&mut self, line: u64, truth: Option<&str>, invalid: Invalid);
}

/// What is to be said of all rows.
pub(super) struct Summary {
    pub remarks: Vec<Remark>,
    pub past: Option<Past>,
}

/// Reads all rows. `label` finds the label's column.
pub(super) fn read(
    pipeline: &Pipeline,
    reader: impl Read,
    options: &Options,
    label: impl FnOnce(&StringRecord) -> Result<Option<usize>, Error>,
    sink: &mut impl Sink,
) -> Result<Summary, Error> {
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
    let mut file = Rows {
        pipeline,
        columns: pipeline.training_columns(&header).map_err(Error::Header)?,
        label: label(&header)?,
        own: Own::find(pipeline, &header, options)?,
        identities: Identities::new(pipeline, &header, options.now_ms),
        breaks: Breaks::default(),
        header,
        reading: Reading::default(),
        id: String::new(),
        replay: Replay::new(pipeline),
        waiting: Waiting::default(),
        state_only: 0,
    };
    let (mut bytes, mut number) = (ByteRecord::new(), 0);
    while csv.read_byte_record(&mut bytes)? {
        number += 1;
        let line = CsvLines::of(&mut csv, bytes.position());
        match text(&bytes) {
            Ok(row) => file.row(Place { line, number }, &row, sink),
            Err(invalid) => sink.refused(line, None, invalid),
        }
    }
    closed()?;
    Ok(file.end(options, sink))
}

#[derive(Debug, Clone, Copy)]
struct Place {
    line: u64,
    /// Among the rows, from 1.
    number: u64,
}

struct Rows<'a> {
    pipeline: &'a Pipeline,
    header: StringRecord,
    columns: CsvColumns,
    label: Option<usize>,
    own: Own,
    identities: Identities<'a>,
    breaks: Breaks,
    reading: Reading,
    id: String,
    replay: Replay,
    waiting: Waiting,
    state_only: u64,
}

/// The columns that say which record a row is, and when its turn comes.
struct Own {
    id: Option<usize>,
    key: Option<usize>,
    time: Option<usize>,
    arrived: Option<(usize, String)>,
    /// Without a key and a time a row has no place in a history.
    is_strict: bool,
    /// Of the clock, where its times are to be believed.
    now_ms: Option<i64>,
}

impl Own {
    fn find(pipeline: &Pipeline, header: &StringRecord, options: &Options) -> Result<Self, Error> {
        let at = |field: &str| names(header).position(|name| name == field);
        let columns: Vec<&str> = names(header).collect();
        let arrived = options.arrived.as_ref().map(|column| match at(column) {
            Some(at) => Ok((at, column.clone())),
            None => Err(Error::NoArrivedColumn {
                column: quote(column),
                fix: suggest(column, "the columns are", columns.iter().copied()),
            }),
        });
        let own = Own {
            id: pipeline.id_field().and_then(at),
            key: at(pipeline.key_field()),
            time: pipeline.event_time_field().and_then(at),
            arrived: arrived.transpose()?,
            is_strict: pipeline.state().is_some(),
            now_ms: options.now_ms,
        };
        let needed = [
            (Some(pipeline.key_field()), own.key),
            (pipeline.event_time_field(), own.time),
        ];
        match needed.into_iter().find(|(_, at)| at.is_none()) {
            Some((Some(field), _)) if own.is_strict => Err(Error::NoPlace {
                column: quote(field),
                pipeline: pipeline.name().to_owned(),
            }),
            _ => Ok(own),
        }
    }
}

/// What a row is called and when it was.
struct Identity<'r> {
    key: &'r str,
    time_ms: Option<i64>,
    /// None where the row has its turn at once.
    arrived: Option<Arrived>,
}

impl Rows<'_> {
    fn row(&mut self, place: Place, row: &StringRecord, sink: &mut impl Sink) {
        let cell = |at: Option<usize>| at.and_then(|at| row.get(at)).unwrap_or_default().trim();
        let truth = cell(self.label);
        let is_whole = row.len() == self.header.len();
        let whole_truth = is_whole.then_some(truth);
        let time_ms = match is_whole && !self.own.is_strict {
            true => self.identities.of(place.line, row),
            false => None,
        };
        let draft = self.pipeline.draft(0, &mut self.reading);
        let read = self.columns.read(row, draft, Use::Training);
        let identity = read.and_then(|()| self.own.identity(self.pipeline, row, time_ms));
        let identity = match identity {
            Ok(identity) => identity,
            Err(invalid) => return sink.refused(place.line, whole_truth, invalid),
        };
        if self.own.is_strict {
            // Its time has been judged.
            self.identities.named(place.line, row);
        }
        self.breaks.of(place.line, row, &self.header);
        self.id.clear();
        self.id += &match (cell(self.own.id), self.own.id) {
            ("", None) => Cow::Owned(place.number.to_string()),
            ("", Some(_)) => Cow::Owned(format!("row-{}", place.number)),
            (id, _) => Cow::Borrowed(id),
        };
        let row = Row {
            line: place.line,
            id: &self.id,
            key: identity.key,
            time_ms: identity.time_ms,
            truth,
        };
        let values = &self.reading.values;
        match identity.arrived {
            Some(arrived) => self.waiting.push(&row, arrived, values),
            None => {
                self.state_only += turn(&mut self.replay, self.pipeline, &row, values, sink);
            }
        }
    }

    fn end(mut self, options: &Options, sink: &mut impl Sink) -> Summary {
        let order = match (&options.arrived, self.own.is_strict) {
            (Some(column), _) => Order::Column(column.clone()),
            (None, true) => Order::EventTime,
            (None, false) => Order::File,
        };
        let turns = self.waiting.turns();
        for at in turns.order {
            let (row, values) = self.waiting.row(at);
            self.state_only += turn(&mut self.replay, self.pipeline, &row, values, sink);
        }
        let mut remarks = self.identities.remarks();
        remarks.extend(self.breaks.remarks());
        let past = Past {
            order,
            newest_first: turns.newest_first,
            keys: self.replay.keys(),
            state_only: self.state_only,
        };
        Summary {
            remarks,
            past: self.own.is_strict.then_some(past),
        }
    }
}

/// Takes a row in its turn; 1 if it only updates state.
fn turn(
    replay: &mut Replay,
    pipeline: &Pipeline,
    row: &Row<'_>,
    values: &[f64],
    sink: &mut impl Sink,
) -> u64 {
    let taken = replay.taken(&Arrival {
        id: row.id,
        key: row.key,
        time_ms: row.time_ms.unwrap_or_default(),
        values,
    });
    match pipeline.refusal(taken, row.id) {
        Some(invalid) => sink.refused(row.line, Some(row.truth), invalid),
        None if taken == Taken::StateOnly => return 1,
        None => sink.vector(row, replay.features()),
    }
    0
}

impl Own {
    /// What a row is called, and when it was; a row without a place in its key's history is refused as the stream refuses it.
    fn identity<'r>(
        &self,
        pipeline: &Pipeline,
        row: &'r StringRecord,
        time_ms: Option<i64>,
    ) -> Result<Identity<'r>, Invalid> {
        let cell = |at: Option<usize>| at.and_then(|at| row.get(at)).unwrap_or_default().trim();
        let (key, time) = (cell(self.key), cell(self.time));
        let field = pipeline.event_time_field().unwrap_or_default();
        let arrived = match &self.arrived {
            Some((at, column)) => Some(arrived::read(column, cell(Some(*at)))?),
            None => None,
        };
        let came_ms = arrived.and_then(|it| it.came_ms);
        let arrived = arrived.map(|it| it.place);
        if !self.is_strict {
            return Ok(Identity {
                key,
                time_ms,
                arrived,
            });
        }
        check_id(pipeline.key_field(), key)?;
        if let (Some(id), Some(name)) = (self.id, pipeline.id_field())
            && !cell(Some(id)).is_empty()
        {
            check_id(name, cell(Some(id)))?;
        }
        if time.is_empty() {
            let fix = "fill it in: records have their place by the time of the event, and the stream would take the time of arrival";
            return Err(Invalid::new(
                InvalidKind::MissingField,
                field,
                "is empty",
                fix,
            ));
        }
        let (time_ms, at) = match time.parse() {
            Ok(number) => (number, Arrived::at_ms(number)),
            Err(_) => {
                let time = rfc3339(field, time)?;
                (time.as_millisecond(), Arrived::at(time))
            }
        };
        let bounds = match self.now_ms {
            // What the stream would not believe has no place in a history either: seconds taken for milliseconds, placeholders. Its clock
            // was that of the arrival.
            Some(now_ms) => {
                let bounds = pipeline.record_spec().time_bounds(now_ms);
                match came_ms.filter(|came_ms| *came_ms < now_ms) {
                    None => bounds,
                    Some(came_ms) => Bounds {
                        now_ms: came_ms,
                        clock: "its arrival",
                        ..bounds
                    },
                }
            }
            None => Bounds {
                now_ms: time_ms,
                clock: "itself",
                future_ms_max: 0,
                past_ms_max: 0,
            },
        };
        let time_ms = Some(bounds.check(field, time_ms)?);
        Ok(Identity {
            key,
            time_ms,
            arrived: arrived.or(Some(at)),
        })
    }
}

/// Rows whose turn comes when all are read.
#[derive(Default)]
struct Waiting {
    rows: Vec<WaitingRow>,
    width: usize,
    values: Vec<f64>,
}

struct WaitingRow {
    line: u64,
    id: Box<str>,
    key: Box<str>,
    time_ms: Option<i64>,
    arrived: Arrived,
    truth: Box<str>,
}

impl Waiting {
    fn push(&mut self, row: &Row<'_>, arrived: Arrived, values: &[f64]) {
        self.width = values.len();
        self.values.extend_from_slice(values);
        self.rows.push(WaitingRow {
            line: row.line,
            id: row.id.into(),
            key: row.key.into(),
            time_ms: row.time_ms,
            arrived,
            truth: row.truth.into(),
        });
    }

    fn turns(&self) -> Turns {
        let rows = self.rows.iter().map(|it| (&*it.key, it.arrived));
        Turns::of(&rows.collect::<Vec<_>>())
    }

    fn row(&self, at: usize) -> (Row<'_>, &[f64]) {
        let row = &self.rows[at];
        let values = &self.values[at * self.width..(at + 1) * self.width];
        let row = Row {
            line: row.line,
            id: &row.id,
            key: &row.key,
            time_ms: row.time_ms,
            truth: &row.truth,
        };
        (row, values)
    }
}

fn text(bytes: &ByteRecord) -> Result<StringRecord, Invalid> {
    StringRecord::from_byte_record(bytes.clone()).map_err(|error| {
        let reason = format!("cell {} is not UTF-8", error.utf8_error().field() + 1);
        Invalid::new(InvalidKind::NotUtf8, "", reason, "save the file as UTF-8")
    })
}
