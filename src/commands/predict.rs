//! `quadrille predict`: one question to the inference service; about a key, with the features that the feature service has of it.

mod key;
mod record;

use std::{io::stdin, path::Path};

use jiff::Timestamp;
use prost_types::Struct;
use quadrille_proto::{
    Service,
    oip::{ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    v1::{PredictRequest, PredictResponse, predict_service_client::PredictServiceClient},
};
use quadrille_service::Error;
use serde_json::json;
use tonic::{Status, transport::Channel};

use self::{key::Keyed, record::Given};
use crate::{
    files,
    grpc::{self, AddressArg},
    kafka::blocking,
    output::{self, Output, OutputArg, hex},
    pipelines,
    preview::cell,
    time,
};

/// gRPC's usual limit of a message.
const RECORD_BYTES_MAX: u64 = 4 << 20;

const EXAMPLES: &str = "\
Examples:
  quadrille predict pregnant=6 glucose=148 pressure=72 triceps=35 insulin=0 mass=33.6 \\
      pedigree=0.627 age=50
  quadrille predict \"Amount (EUR)=259.5\" online=true category=travel distance=null
  quadrille predict --json '{\"pregnant\": 6, \"glucose\": 148, …}' --output json
  quadrille predict --pipeline diabetes --json record.json --address http://inference:7003
  quadrille predict --pipeline cards --key c083
  quadrille predict --pipeline cards --key c083 time=2025-11-11T20:00:00Z amount=120 merchant=hotel place=Oslo

The fields are those of the pipeline file; id, key and time may be left out, and so may fields that are not required. null, or nothing \
behind the =, is a missing value. Truths are true or false. The answer is the decision of the pipeline's threshold, and the probability of the positive \
class. Nothing is stored.

With --key the features come from the feature service, whose pipeline remembers the records of the key: with a record, as of its \
time, or as of now where it has none, when all that is old has left the windows; without one, those of the key alone, where what depends on a record is missing. Both services are asked, so that \
--address names a host alone, or something that leads to both.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The record, field by field, a field with spaces in quotes. Numbers, true, false and null are that, nothing is null, other values are texts.
    #[arg(value_name = "FIELD=VALUE", required_unless_present_any = ["json", "key"])]
    fields: Vec<String>,

    /// The record as a JSON object: the text itself, a file, or - for standard input.
    #[arg(long, value_name = "JSON|FILE|-", conflicts_with = "fields")]
    json: Option<String>,

    /// The entity whose history the pipeline looks back on.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// As of this event time, RFC 3339 or a day [default: the record's, or now where it has none; without a record that of the key's newest event].
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "key")]
    at: Option<Timestamp>,

    /// The pipeline's name [default: the only one the server runs].
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,

    #[command(flatten)]
    address: AddressArg,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// The record cannot be one, nobody answers, or the service refuses.
pub async fn run(args: Args) -> Result<(), Error> {
    let pipeline = match args.pipeline.as_deref() {
        Some(given) => pipelines::name(Some(given))?,
        None => String::new(),
    };
    let given = match args.json {
        Some(given) => Some(Given::from(blocking(move || read(&given)).await?)),
        None if args.fields.is_empty() => None,
        None => Some(record::from_pairs(&args.fields)?),
    };
    let keyed = match args.key {
        Some(key) => {
            let asked = key::Asked {
                pipeline: pipeline.clone(),
                key,
                record: given.as_ref().map(|given| given.record.clone()),
                at_ms: args.at.map(Timestamp::as_millisecond),
            };
            let answer = asked.features(&args.address).await;
            Some(answer.map_err(|refused| hinted(refused, given.as_ref()))?)
        }
        None => None,
    };
    let request = match &keyed {
        Some(keyed) => PredictRequest {
            pipeline,
            features: keyed.features.clone(),
            key: keyed.key.clone(),
            ..PredictRequest::default()
        },
        None => PredictRequest {
            pipeline,
            record: given.as_ref().map(|given| given.record.clone()),
            ..PredictRequest::default()
        },
    };
    let channel = args.address.connect(Service::Inference).await?;
    let metadata = GrpcInferenceServiceClient::new(channel.clone());
    let answer = PredictServiceClient::new(channel).predict(request).await;
    let answer = answer.map_err(|status| {
        let refused = Refused::by("inference", &status);
        hinted(refused, given.as_ref())
    })?;
    let answer = answer.into_inner();
    if let Some(given) = &given {
        for note in passed_over(metadata, &answer.pipeline, given).await {
            output::note(note);
        }
    }
    let _ = output::print(show(&answer, keyed.as_ref(), args.output.get()))?;
    Ok(())
}

/// A service's refusal, in its own words and in ours.
struct Refused {
    message: String,
    error: Error,
}

impl Refused {
    fn by(service: &str, status: &Status) -> Self {
        Refused {
            message: status.message().to_owned(),
            error: grpc::refused(service, status),
        }
    }
}

/// With what may have been meant, where a doubtful field was refused.
fn hinted(refused: Refused, given: Option<&Given>) -> Error {
    let Refused { message, error } = refused;
    match given.and_then(|given| given.hint(&message)) {
        Some(hint) => Error::Failed(format!("{error} ({hint})")),
        None => error,
    }
}

/// A pipeline may keep fields that it does not name (`unknown_fields = "keep"`): a misspelt one is passed over then, and what it was
/// meant for is missing. Without an answer to the question for the fields, of which older services may not know, nothing is said.
async fn passed_over(
    mut metadata: GrpcInferenceServiceClient<Channel>,
    pipeline: &str,
    given: &Given,
) -> Vec<String> {
    let request = ModelMetadataRequest {
        name: pipeline.to_owned(),
        version: String::new(),
    };
    match metadata.model_metadata(request).await {
        Ok(found) => {
            let inputs = found.into_inner().inputs.into_iter();
            given.misspelt(&inputs.map(|input| input.name).collect::<Vec<String>>())
        }
        Err(_) => Vec::new(),
    }
}

fn read(given: &str) -> Result<Struct, Error> {
    if given.trim_start().starts_with('{') {
        return record::from_json(given);
    }
    let bytes = match given {
        "-" => files::all(stdin(), RECORD_BYTES_MAX),
        path => files::bounded(Path::new(path), RECORD_BYTES_MAX),
    };
    let wrong = |error: &dyn std::fmt::Display| Error::Config(format!("--json {given}: {error}"));
    let bytes = bytes.map_err(|error| wrong(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(&error))?;
    record::from_json(&text)
}

fn show(answer: &PredictResponse, keyed: Option<&Keyed>, output: Output) -> String {
    if output == Output::Json {
        let mut value = json!({
            "pipeline": answer.pipeline,
            "probability": answer.probability,
            "decision": answer.decision,
            "model": answer.model,
            "version": answer.version,
            "variant": answer.variant,
            "config_hash": hex(&answer.config_hash),
        });
        if let Some(keyed) = keyed {
            value["features"] = keyed.features_json();
            value["as_of"] = keyed.as_of_json();
        }
        return value.to_string();
    }
    let as_of = keyed.map_or_else(String::new, |keyed| {
        format!("\nas of     {}", keyed.as_of())
    });
    format!(
        "{}, probability {:.4}\n\npipeline  {}\nmodel     {} {} as {}\nconfig    {}{as_of}",
        cell(&answer.decision),
        answer.probability,
        cell(&answer.pipeline),
        cell(&answer.model),
        cell(&answer.version),
        cell(&answer.variant),
        hex(&answer.config_hash)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_as_text_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record.json");
        std::fs::write(&file, "\u{feff}{\"age\": 50}\n").unwrap();
        let of_file = read(file.to_str().unwrap()).unwrap();
        assert_eq!(of_file, read(" {\"age\": 50}").unwrap());
        assert!(matches!(read("no/such/file"), Err(Error::Config(_))));
    }

    #[test]
    fn an_answer_is_read_by_people_and_by_machines() {
        let answer = PredictResponse {
            probability: 0.73125,
            decision: "diabetic".into(),
            model: "m".into(),
            version: "1".into(),
            pipeline: "diabetes".into(),
            config_hash: vec![0xab],
            variant: "canary".into(),
        };
        assert!(show(&answer, None, Output::Text).starts_with("diabetic, probability 0.7312\n"));
        let json: serde_json::Value = show(&answer, None, Output::Json).parse().unwrap();
        assert_eq!(json["config_hash"], "ab");
    }
}
