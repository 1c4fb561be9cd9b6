//! What the feature service has of a key: its features, and what they take into account.

use std::time::{Duration, Instant};

use prost_types::Struct;
use quadrille_proto::{
    RETRY_PUSHBACK_MS, Service,
    v1::{
        AsOf, Feature, FeaturesSource, GetFeaturesRequest, GetFeaturesResponse,
        feature_service_client::FeatureServiceClient,
    },
};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::Refused;
use crate::{grpc::AddressArg, preview::cell, time};

const SERVICE: &str = "feature";

/// A partition that moves is somewhere again by then.
const ASKED_AGAIN_FOR: Duration = Duration::from_secs(15);
/// Whatever a service says.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A question about a key.
pub struct Asked {
    pub pipeline: String,
    pub key: String,
    pub record: Option<Struct>,
    pub at_ms: Option<i64>,
}

/// What is known of a key.
#[derive(Debug)]
pub struct Keyed {
    pub key: String,
    pub features: Vec<Feature>,
    as_of: AsOf,
}

impl Asked {
    /// Asks again while the key's history is on its way from one replica to another.
    pub async fn features(self, address: &AddressArg) -> Result<Keyed, Refused> {
        let connected = address.connect(Service::Feature).await;
        let channel = connected.map_err(|error| Refused {
            message: String::new(),
            error,
        })?;
        let mut client = FeatureServiceClient::new(channel);
        let begun = Instant::now();
        let Asked {
            pipeline,
            key,
            record,
            at_ms,
        } = self;
        let request = GetFeaturesRequest {
            pipeline,
            key: key.clone(),
            record,
            at_ms,
            ..GetFeaturesRequest::default()
        };
        loop {
            let status = match client.get_features(request.clone()).await {
                Ok(answer) => return Ok(Keyed::of(key, answer.into_inner())),
                Err(status) => status,
            };
            match pause(&status) {
                Some(pause) if begun.elapsed() + pause < ASKED_AGAIN_FOR => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(Refused::by(SERVICE, &status)),
            }
        }
    }
}

/// How long to wait before asking again, where the service says that it is worth it.
fn pause(status: &Status) -> Option<Duration> {
    if status.code() != Code::Unavailable {
        return None;
    }
    let ms = status.metadata().get(RETRY_PUSHBACK_MS)?.to_str().ok()?;
    Some(Duration::from_millis(ms.parse().ok()?).min(PAUSE_MAX))
}

impl Keyed {
    fn of(key: String, answer: GetFeaturesResponse) -> Self {
        Keyed {
            key,
            features: answer.features,
            as_of: answer.as_of.unwrap_or_default(),
        }
    }

    /// By name; null is missing.
    pub fn features_json(&self) -> Value {
        let features = self.features.iter();
        let features = features.map(|it| (it.name.clone(), json!(it.value)));
        Value::Object(features.collect::<Map<_, _>>())
    }

    pub fn as_of_json(&self) -> Value {
        let as_of = &self.as_of;
        json!({
            "source": source(as_of.source()),
            "instance": as_of.instance,
            "partition": as_of.partition,
            "records_offset": as_of.records_offset,
            "newest_event_time": as_of.newest_event_time_ms.and_then(time::millis),
            "event_time": time::millis(as_of.event_time_ms),
        })
    }

    pub fn as_of(&self) -> String {
        let as_of = &self.as_of;
        let at = time::millis(as_of.event_time_ms).unwrap_or_default();
        let instance = cell(&as_of.instance);
        if as_of.source() == FeaturesSource::Computed {
            return format!("{at}, the record alone (feature {instance})");
        }
        let offset = match as_of.records_offset {
            Some(offset) => format!(
                "the records before offset {offset} of partition {}",
                as_of.partition
            ),
            None => format!("no record of partition {} yet", as_of.partition),
        };
        format!("{at}, {offset} ({} {instance})", source(as_of.source()))
    }
}

fn source(source: FeaturesSource) -> &'static str {
    match source {
        FeaturesSource::Owner => "owner",
        FeaturesSource::Standby => "standby",
        FeaturesSource::Computed => "computed",
        FeaturesSource::Stored => "stored",
        FeaturesSource::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    fn keyed() -> Keyed {
        let feature = |name: &str, value| Feature {
            name: name.to_owned(),
            value,
        };
        let as_of = AsOf {
            source: FeaturesSource::Owner.into(),
            instance: "a:7002".to_owned(),
            partition: 3,
            records_offset: Some(17),
            newest_event_time_ms: None,
            event_time_ms: 1_000,
        };
        let answer = GetFeaturesResponse {
            features: vec![feature("spent", Some(2.5)), feature("usual", None)],
            as_of: Some(as_of),
        };
        Keyed::of("k".to_owned(), answer)
    }

    #[test]
    fn what_an_answer_takes_into_account_is_said_to_people_and_machines() {
        let keyed = keyed();
        assert_eq!(
            keyed.as_of(),
            "1970-01-01T00:00:01.000Z, the records before offset 17 of partition 3 (owner a:7002)"
        );
        assert_eq!(keyed.features_json(), json!({"spent": 2.5, "usual": null}));
        let json = keyed.as_of_json();
        assert_eq!(
            (&json["records_offset"], &json["newest_event_time"]),
            (&json!(17), &Value::Null)
        );
    }

    #[test]
    fn only_what_a_service_promises_to_answer_later_is_asked_again() {
        let with = |code, hint: Option<&'static str>| {
            let mut metadata = MetadataMap::new();
            if let Some(hint) = hint {
                metadata.insert(RETRY_PUSHBACK_MS, hint.parse().unwrap());
            }
            pause(&Status::with_metadata(code, "", metadata))
        };
        let ms = Duration::from_millis;
        assert_eq!(with(Code::Unavailable, Some("250")), Some(ms(250)));
        assert_eq!(with(Code::Unavailable, Some("86400000")), Some(PAUSE_MAX));
        assert_eq!(with(Code::Unavailable, Some("soon")), None);
        assert_eq!(with(Code::Unavailable, None), None);
        assert_eq!(with(Code::NotFound, Some("250")), None);
    }
}
