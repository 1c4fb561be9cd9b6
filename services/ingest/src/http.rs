//! `POST /v1/pipelines/{p}/records`: one JSON object, NDJSON or CSV, with an outcome for each record.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{StreamExt, stream};
use quadrille_choreography::publisher;
use quadrille_pipeline::{CsvLines, Invalid, Pipeline};
use quadrille_service::fields::now_ms;
use serde::Serialize;

use crate::{
    Bounds,
    intake::{Accepted, Intake, Intakes, Rejection, Sender},
    source::{Order, Push, Source, WhenFull, acknowledgements},
};

pub(crate) fn router(intakes: Intakes, bounds: Bounds) -> Router {
    Router::new()
        .route("/v1/pipelines/{pipeline}/records", post(push))
        .layer(DefaultBodyLimit::max(bounds.body_bytes_max))
        .with_state(intakes)
}

/// One record's outcome.
#[derive(Debug, Serialize)]
struct RecordOutcome {
    /// Of the body, from 1; a CSV header is line 1, and a blank line counts.
    line: u64,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip)]
    code: StatusCode,
}

#[derive(Debug, Serialize)]
struct Outcomes {
    accepted: usize,
    rejected: usize,
    records: Vec<RecordOutcome>,
}

impl RecordOutcome {
    fn of(line: u64, result: Result<Accepted, Rejection>) -> Self {
        match result {
            Ok(accepted) => RecordOutcome {
                line,
                status: "accepted",
                id: Some(accepted.id),
                topic: Some(accepted.topic.to_string()),
                partition: Some(accepted.place.partition),
                offset: Some(accepted.place.offset),
                error: None,
                field: None,
                code: StatusCode::OK,
            },
            Err(rejection) => RecordOutcome {
                line,
                status: "rejected",
                id: rejection.id().map(str::to_owned),
                topic: None,
                partition: None,
                offset: None,
                error: Some(rejection.to_string()),
                field: Some(rejection.field().to_owned()).filter(|field| !field.is_empty()),
                code: code(&rejection),
            },
        }
    }
}

fn code(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::UnknownPipeline { .. } => StatusCode::NOT_FOUND,
        Rejection::Invalid(_) => StatusCode::BAD_REQUEST,
        Rejection::TooLarge(_) | Rejection::Publish(publisher::Error::TooLarge) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Rejection::Publish(publisher::Error::Busy) => StatusCode::TOO_MANY_REQUESTS,
        Rejection::Unconfirmed { .. } | Rejection::Publish(publisher::Error::Unconfirmed(_)) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

fn error(code: StatusCode, message: impl Into<String>) -> Response {
    (code, Json(serde_json::json!({ "error": message.into() }))).into_response()
}

/// How the body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    NdJson,
    Csv,
}

const FORMATS: &str = "send application/json (one object), application/x-ndjson or text/csv (curl: -H 'Content-Type: application/json')";

fn format(headers: &HeaderMap) -> Result<Format, String> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = kind.map(|kind| {
        kind.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    match essence.as_deref() {
        Some("application/json") => Ok(Format::Json),
        Some(
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/jsonlines",
        ) => Ok(Format::NdJson),
        Some("text/csv" | "application/csv") => Ok(Format::Csv),
        // Any page in a browser may send a body without one, to any site.
        None => Err(format!("no Content-Type: {FORMATS}")),
        Some(other) => Err(format!("Content-Type {other}: {FORMATS}")),
    }
}

async fn push(
    State(intakes): State<Intakes>,
    Path(pipeline): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let intake = match intakes.find(&pipeline) {
        Ok(intake) => intake,
        Err(rejection) => return error(code(&rejection), rejection.to_string()),
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = intake.bounds.body_bytes_max;
            let message = format!(
                "the body is larger than {limit} bytes, uncompressed; send it in parts, or raise QUADRILLE_BODY_BYTES"
            );
            return error(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let sender = match Sender::of(&headers) {
        Ok(sender) => sender,
        Err(message) => return error(StatusCode::BAD_REQUEST, message),
    };
    let rows = match format(&headers) {
        Ok(Format::Json) => return one(intake, &body, &sender).await,
        Ok(Format::NdJson) => ndjson(intake, &body),
        Ok(Format::Csv) => match csv_rows(&intake.pipeline, intake.bounds, &body) {
            Ok(rows) => rows,
            Err(invalid) => {
                let field = invalid.field.clone();
                let body = serde_json::json!({ "error": invalid.to_string(), "field": field });
                return (StatusCode::BAD_REQUEST, Json(body)).into_response();
            }
        },
        Err(message) => return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message),
    };
    let source = Body {
        intakes: intakes.clone(),
        pipeline,
        sender,
    };
    let rows = stream::iter(bounded(rows, intake.bounds.batch_records_max));
    answer(acknowledgements(Arc::new(source), rows).collect().await)
}

async fn one(intake: &Intake, body: &[u8], sender: &Sender) -> Response {
    let result = match read(intake, body) {
        Ok(reading) => intake.send(reading, sender).await,
        Err(rejection) => Err(rejection),
    };
    let outcome = RecordOutcome::of(1, result);
    (outcome.code, Json(outcome)).into_response()
}

/// The records of one body, which are answered together.
struct Body {
    intakes: Intakes,
    pipeline: String,
    sender: Sender,
}

/// One record of a body.
struct Row {
    /// Of all records, from 0.
    index: usize,
    /// Of the body, from 1.
    line: u64,
    read: Read,
}

impl Source for Body {
    type Frame = Row;
    /// Its line.
    type Tag = u64;
    type Ack = RecordOutcome;

    /// A body is answered whole: [`Bounds::batch_records_max`] bounds it.
    const IN_FLIGHT_MAX: usize = usize::MAX;
    const ORDER: Order = Order::OfFrames;
    const WHEN_FULL: WhenFull = WhenFull::Refuse;

    fn read(&self, row: Row) -> (u64, Result<Push<'_>, Rejection>) {
        let key = self.sender.idempotency_key.as_ref();
        let sender = Sender {
            idempotency_key: key.map(|key| format!("{key}-{}", row.index)),
            headers: Arc::clone(&self.sender.headers),
        };
        let push = row.read.and_then(|reading| {
            Ok(Push {
                intake: self.intakes.find(&self.pipeline)?,
                reading,
                sender,
            })
        });
        (row.line, push)
    }

    fn acknowledge(&self, line: u64, outcome: Result<Accepted, Rejection>) -> RecordOutcome {
        RecordOutcome::of(line, outcome)
    }
}

/// The rows, and after so many of them one that says so: what is sent is sent.
fn bounded<'a>(
    rows: impl Iterator<Item = (u64, Read)> + Send + 'a,
    records_max: usize,
) -> impl Iterator<Item = Row> + Send + 'a {
    let rows = rows.enumerate().take(records_max.saturating_add(1));
    rows.map(move |(index, (line, read))| {
        let read = match index < records_max {
            true => read,
            false => Err(Rejection::TooLarge(format!(
                "more than {records_max} records in one body; send the rest in another"
            ))),
        };
        Row { index, line, read }
    })
}

type Read = Result<quadrille_pipeline::Reading, Rejection>;

fn read(intake: &Intake, json: &[u8]) -> Read {
    intake
        .bounds
        .check_record(json.len())
        .map_err(Rejection::TooLarge)?;
    Ok(intake.pipeline.read_json(json, now_ms())?)
}

/// Line number and record of each line that is not blank.
fn ndjson<'a>(
    intake: &'a Intake,
    body: &'a [u8],
) -> Box<dyn Iterator<Item = (u64, Read)> + Send + 'a> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    Box::new(
        lines
            .filter(|(_, line)| !line.trim_ascii().is_empty())
            .map(|(index, line)| (index as u64 + 1, read(intake, line.trim_ascii()))),
    )
}

fn csv_rows<'a>(
    pipeline: &'a Pipeline,
    bounds: Bounds,
    body: &'a [u8],
) -> Result<Box<dyn Iterator<Item = (u64, Read)> + Send + 'a>, Invalid> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(CsvLines::new(body));
    let columns = match reader.headers() {
        Ok(header) => pipeline.csv_reader(header)?,
        Err(_) => pipeline.csv_reader(&csv::StringRecord::new())?,
    };
    let mut row = csv::StringRecord::new();
    Ok(Box::new(std::iter::from_fn(move || {
        Some(match reader.read_record(&mut row) {
            Ok(false) => return None,
            Ok(true) => {
                let line = CsvLines::of(&mut reader, row.position());
                let fits = bounds.check_record(columns.record_bytes(&row));
                let read = || pipeline.read_csv_row(&columns, &row, now_ms());
                let read = fits.map_err(Rejection::TooLarge).and_then(|()| Ok(read()?));
                (line, read)
            }
            Err(error) => {
                let line = CsvLines::of(&mut reader, error.position());
                let rejection = Rejection::Invalid(Invalid {
                    kind: quadrille_pipeline::InvalidKind::NotUtf8,
                    field: String::new(),
                    reason: format!("the row cannot be read: {error}"),
                    fix: "send CSV in UTF-8".to_owned(),
                });
                (line, Err(rejection))
            }
        })
    })))
}

/// The answer of a body, record by record.
fn answer(records: Vec<RecordOutcome>) -> Response {
    if records.is_empty() {
        return error(StatusCode::BAD_REQUEST, "the body holds no record");
    }
    let accepted = records
        .iter()
        .filter(|record| record.code == StatusCode::OK)
        .count();
    let rejected = records.len() - accepted;
    // All alike: their code. Else the answer must be read record by record.
    let first = records[0].code;
    let code = match records.iter().all(|record| record.code == first) {
        true => first,
        false => StatusCode::MULTI_STATUS,
    };
    (
        code,
        Json(Outcomes {
            accepted,
            rejected,
            records,
        }),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_row_is_as_large_as_its_record_and_names_of_columns_are_short() {
        let pipeline = crate::toy::pipeline("unknown_fields = \"keep\"");
        let bounds = Bounds {
            record_bytes_max: 300,
            ..Bounds::default()
        };
        let name = "n".repeat(256);
        let large = "x".repeat(400);
        let body = format!(
            "k,a,{name}\n1,2,{large}\n1,2,{}\n1,2,3\n1,2,\n",
            "x".repeat(50)
        );
        let rows = csv_rows(&pipeline, bounds, body.as_bytes()).unwrap();
        let rows: Vec<_> = rows
            .map(|(_, row)| row.map(|row| row.extra.len()))
            .collect();
        assert!(matches!(rows[0], Err(Rejection::TooLarge(_))), "{rows:?}");
        assert!(
            matches!(rows[1], Err(Rejection::TooLarge(_))),
            "its column's name counts"
        );
        assert_eq!((&rows[2], &rows[3]), (&Ok(256 + 8), &Ok(0)));
        for header in [format!("k,a,{name}n"), format!("k,a{}", ",".repeat(70_000))] {
            let body = format!("{header}\n1,2,3\n");
            let refused = csv_rows(&pipeline, bounds, body.as_bytes()).err().unwrap();
            assert!(refused.to_string().len() < 600, "{refused}");
        }
    }

    #[test]
    fn lines_of_a_body_are_counted_from_its_first_however_they_end() {
        let pipeline = crate::toy::pipeline("");
        for end in ["\n", "\r\n"] {
            let body = "k,a\n1,2\n\n?,2\n1,x\n".replace('\n', end);
            // What is not UTF-8 has a line, too.
            let byte = |byte| if byte == b'?' { 0xff } else { byte };
            let body: Vec<u8> = body.bytes().map(byte).collect();
            let rows = csv_rows(&pipeline, Bounds::default(), &body).unwrap();
            let rows: Vec<_> = rows.map(|(line, row)| (line, row.is_ok())).collect();
            assert_eq!(rows, [(2, true), (4, false), (5, false)], "{end:?}");
        }
    }

    /// Whoever has no `Origin` gets as far as this: an old browser, or a page's form.
    #[test]
    fn a_body_that_does_not_say_what_it_is_is_not_taken_for_json() {
        let of = |kind: &'static str| {
            let kind = HeaderValue::from_static(kind);
            format(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]))
        };
        let json = of("application/json; charset=utf-8");
        assert_eq!(json, Ok(Format::Json));
        let untyped = format(&HeaderMap::new());
        for refused in [untyped, of(""), of("text/plain"), of("application/x-json")] {
            let why = refused.expect_err("it could be anything");
            assert!(why.contains("application/json"), "{why}");
        }
    }
}
