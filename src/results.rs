//! `quadrille results`: what was predicted, as stored.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use quadrille_proto::v1::{
    CountPredictionsRequest, GetPredictionRequest, ListPredictionsRequest, StoredPrediction,
    results_service_client::ResultsServiceClient,
};
use quadrille_service::Error;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    grpc,
    output::{self, Output, Table, hex},
    pipelines, preview,
};

const SERVICE: &str = "results";

const EXAMPLES: &str = "\
Examples:
  quadrille results list --limit 10
  quadrille results list --key p-17 --from 2026-01-01 --decision diabetic --output json
  quadrille results get pima-1
  quadrille results count";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List predictions, newest first.
    List(ListArgs),
    /// Show one prediction by its record's id.
    Get(GetArgs),
    /// Count predictions.
    Count(CountArgs),
}

#[derive(Debug, clap::Args)]
struct Server {
    /// The pipeline's name [default: the one of QUADRILLE_PIPELINE, or in ./pipelines].
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,

    /// Where the results service listens.
    #[arg(long, default_value = "http://127.0.0.1:7004", value_name = "URL")]
    address: String,

    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,

    /// Only of this entity.
    #[arg(long)]
    key: Option<String>,

    /// Only from this event time on: RFC 3339, or a day (UTC).
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,

    /// Only before this event time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,

    /// Only of this decision.
    #[arg(long)]
    decision: Option<String>,

    /// What shadows predicted, and that alone.
    #[arg(long)]
    shadow: bool,

    /// Predictions in one answer.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,

    /// Go on after an earlier answer; the filters must be the same.
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The record's id.
    id: String,

    /// What the shadow of this name predicted, not what was answered.
    #[arg(long, value_name = "VARIANT")]
    shadow: Option<String>,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
pub struct CountArgs {
    #[command(flatten)]
    server: Server,
}

/// A time as flags take it.
///
/// # Errors
/// How it is written.
pub fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let day = text
        .parse::<Date>()
        .and_then(|day| day.to_zoned(TimeZone::UTC));
    match day {
        Ok(day) => Ok(day.timestamp()),
        Err(_) => Err("write 2026-01-31T12:00:00Z, or 2026-01-31".to_owned()),
    }
}

/// # Errors
/// Nobody answers, or the service refuses.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List(args) => list(args).await,
        Command::Get(args) => get(args).await,
        Command::Count(args) => count(args).await,
    }
}

impl Server {
    async fn connect(&self) -> Result<(String, ResultsServiceClient<Channel>), Error> {
        let pipeline = pipelines::name(self.pipeline.as_deref())?;
        let channel = grpc::connect(SERVICE, &self.address).await?;
        Ok((pipeline, ResultsServiceClient::new(channel)))
    }
}

async fn list(args: ListArgs) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let request = ListPredictionsRequest {
        pipeline,
        key: args.key.unwrap_or_default(),
        from: args.from.map(to_proto),
        to: args.to.map(to_proto),
        decision: args.decision.unwrap_or_default(),
        limit: args.limit,
        page_token: args.page_token.unwrap_or_default(),
        shadow: args.shadow,
    };
    let answer = client.list_predictions(request).await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    let token = Some(answer.next_page_token).filter(|token| !token.is_empty());
    match args.server.output {
        Output::Json => {
            let predictions: Vec<Value> = answer.predictions.iter().map(to_json).collect();
            let page = json!({"predictions": predictions, "next_page_token": token});
            let _ = output::print(page)?;
        }
        Output::Table => {
            let _ = output::print(table(&answer.predictions))?;
            if let Some(token) = token {
                output::note(format_args!("there are more: --page-token {token}"));
            }
        }
    }
    Ok(())
}

async fn get(args: GetArgs) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let request = GetPredictionRequest {
        pipeline,
        id: args.id,
        shadow_variant: args.shadow.unwrap_or_default(),
    };
    let answer = client.get_prediction(request).await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    let _ = match args.server.output {
        Output::Json => output::print(to_json(&answer))?,
        Output::Table => output::print(page(&answer))?,
    };
    Ok(())
}

async fn count(args: CountArgs) -> Result<(), Error> {
    let (pipeline, mut client) = args.server.connect().await?;
    let answer = client
        .count_predictions(CountPredictionsRequest { pipeline })
        .await;
    let answer = answer
        .map_err(|status| grpc::refused(SERVICE, &status))?
        .into_inner();
    let (count, duplicates) = (answer.count, answer.duplicates);
    let _ = match args.server.output {
        Output::Json => output::print(json!({"count": count, "duplicates": duplicates}))?,
        Output::Table if duplicates == 0 => output::print(count)?,
        Output::Table => output::print(format_args!(
            "{count} ({duplicates} later ones of the same id ignored)"
        ))?,
    };
    Ok(())
}

fn to_proto(time: Timestamp) -> prost_types::Timestamp {
    // Protobuf counts nanoseconds forward from the second, jiff away from zero.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    match nanos < 0 {
        true => prost_types::Timestamp {
            seconds: seconds - 1,
            nanos: nanos + 1_000_000_000,
        },
        false => prost_types::Timestamp { seconds, nanos },
    }
}

/// RFC 3339 in milliseconds; empty where there is no time, or none that can be one.
pub fn rfc3339(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or(String::new(), |time| format!("{time:.3}"))
}

fn to_json(it: &StoredPrediction) -> Value {
    json!({
        "id": it.id,
        "key": it.key,
        "probability": it.probability,
        "outputs": it.outputs,
        "decision": it.decision,
        "model": it.model,
        "version": it.version,
        "variant": it.variant,
        "event_time": rfc3339(it.event_time.as_ref()),
        "predicted_at": rfc3339(it.predicted_at.as_ref()),
        "config_hash": hex(&it.config_hash),
        "input_topic": it.input_topic,
        "input_partition": it.input_partition,
        "input_offset": it.input_offset,
    })
}

fn cell(text: &str) -> String {
    preview::text(text, preview::CELL_CHARS_MAX)
}

fn table(predictions: &[StoredPrediction]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "KEY",
        "DECISION",
        "PROBABILITY",
        "EVENT TIME",
        "MODEL",
        "VERSION",
    ]);
    for it in predictions {
        table.row(vec![
            cell(&it.id),
            cell(&it.key),
            cell(&it.decision),
            format!("{:.4}", it.probability),
            rfc3339(it.event_time.as_ref()),
            cell(&it.model),
            cell(&it.version),
        ]);
    }
    table
}

fn page(it: &StoredPrediction) -> Table {
    let mut table = Table::new(&["id", &cell(&it.id)]);
    let place = format!(
        "{}-{}-{}",
        it.input_topic, it.input_partition, it.input_offset
    );
    for (name, value) in [
        ("key", cell(&it.key)),
        ("decision", cell(&it.decision)),
        ("probability", format!("{:.4}", it.probability)),
        ("model", cell(&format!("{} {}", it.model, it.version))),
        ("variant", cell(&it.variant)),
        ("event time", rfc3339(it.event_time.as_ref())),
        ("predicted at", rfc3339(it.predicted_at.as_ref())),
        ("config", hex(&it.config_hash)),
        (
            "scored from",
            preview::text(&place, preview::MESSAGE_CHARS_MAX),
        ),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_a_day() {
        let noon = time("2026-01-31T13:00:00+01:00").unwrap();
        assert_eq!(noon.to_string(), "2026-01-31T12:00:00Z");
        assert_eq!(
            time("2026-01-31").unwrap().to_string(),
            "2026-01-31T00:00:00Z"
        );
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn a_time_before_1970_survives_protobuf() {
        let time = time("1969-12-31T23:59:59.250Z").unwrap();
        let proto = to_proto(time);
        assert_eq!((proto.seconds, proto.nanos), (-1, 250_000_000));
        assert_eq!(rfc3339(Some(&proto)), "1969-12-31T23:59:59.250Z");
        assert_eq!(rfc3339(None), "");
    }

    #[test]
    fn foreign_text_cannot_act_on_the_terminal() {
        let prediction = StoredPrediction {
            id: "a\x1b[2J".into(),
            ..StoredPrediction::default()
        };
        assert!(!table(&[prediction]).to_string().contains('\x1b'));
    }
}
