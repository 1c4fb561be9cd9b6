//! `quadrille predict`: one question to the inference service.

mod record;

use std::{io::stdin, path::Path};

use prost_types::Struct;
use quadrille_proto::{
    Service,
    oip::{ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    v1::{PredictRequest, PredictResponse, predict_service_client::PredictServiceClient},
};
use quadrille_service::Error;
use serde_json::json;
use tonic::transport::Channel;

use self::record::Given;
use crate::{
    files,
    grpc::{self, AddressArg},
    kafka::blocking,
    output::{self, Output, OutputArg, hex},
    pipelines,
    preview::cell,
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

The fields are those of the pipeline file; id, key and time may be left out, and so may fields that are not required. null, or nothing \
behind the =, is a missing value. Truths are true or false. The answer is the decision of the pipeline's threshold, and the probability of the positive \
class. Nothing is stored.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The record, field by field, a field with spaces in quotes. Numbers, true, false and null are that, nothing is null, other values are texts.
    #[arg(value_name = "FIELD=VALUE", required_unless_present = "json")]
    fields: Vec<String>,

    /// The record as a JSON object: the text itself, a file, or - for standard input.
    #[arg(long, value_name = "JSON|FILE|-", conflicts_with = "fields")]
    json: Option<String>,

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
        Some(given) => Given::from(blocking(move || read(&given)).await?),
        None => record::from_pairs(&args.fields)?,
    };
    let channel = args.address.connect(Service::Inference).await?;
    let metadata = GrpcInferenceServiceClient::new(channel.clone());
    let request = PredictRequest {
        pipeline,
        record: Some(given.record.clone()),
        ..PredictRequest::default()
    };
    let answer = PredictServiceClient::new(channel).predict(request).await;
    let answer = answer.map_err(|status| {
        let refused = grpc::refused("inference", &status);
        match given.hint(status.message()) {
            Some(hint) => Error::Failed(format!("{refused} ({hint})")),
            None => refused,
        }
    })?;
    let answer = answer.into_inner();
    for note in passed_over(metadata, &answer.pipeline, &given).await {
        output::note(note);
    }
    let _ = output::print(show(&answer, args.output.get()))?;
    Ok(())
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

fn show(answer: &PredictResponse, output: Output) -> String {
    if output == Output::Json {
        return json!({
            "pipeline": answer.pipeline,
            "probability": answer.probability,
            "decision": answer.decision,
            "model": answer.model,
            "version": answer.version,
            "variant": answer.variant,
            "config_hash": hex(&answer.config_hash),
        })
        .to_string();
    }
    format!(
        "{}, probability {:.4}\n\npipeline  {}\nmodel     {} {} as {}\nconfig    {}",
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
        assert!(show(&answer, Output::Text).starts_with("diabetic, probability 0.7312\n"));
        let json: serde_json::Value = show(&answer, Output::Json).parse().unwrap();
        assert_eq!(json["config_hash"], "ab");
    }
}
