//! What a request is about: a record, of which features are computed, or the features themselves. Pure, but for the clock by which
//! records without a time are read.

use std::collections::HashMap;

use quadrille_pipeline::{NeedKey, Pipeline, quote::quote};
use quadrille_proto::v1::{Feature, PredictRequest};
use quadrille_service::fields::read_struct;

use crate::scoring::Error;

/// A row's features, and the entity that they are of.
#[derive(Debug)]
pub(super) struct Asked {
    pub features: Vec<f64>,
    /// Decides the variant, where there is one.
    pub key: Option<String>,
}

impl Asked {
    /// # Errors
    /// What is wrong with it.
    pub fn read(pipeline: &Pipeline, request: PredictRequest) -> Result<Self, Error> {
        if request.features.is_empty() {
            return Asked::of_record(pipeline, request);
        }
        if request.record.is_some() {
            return Err(Error::invalid(
                "record and features are both there; send the record (its features are computed), or its features alone",
            ));
        }
        Ok(Asked {
            features: of_features(pipeline, &request.features)?,
            key: Some(request.key).filter(|key| !key.is_empty()),
        })
    }

    fn of_record(pipeline: &Pipeline, request: PredictRequest) -> Result<Self, Error> {
        let record = request.record.unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| Error::invalid(invalid.to_string()))?;
        let key = match (reading.key, request.key) {
            (of_record, given) if given.is_empty() => of_record,
            (of_record, given) if of_record.is_empty() || of_record == given => given,
            (of_record, given) => {
                let (of_record, given) = (quote(&of_record), quote(&given));
                return Err(Error::Invalid(format!(
                    "key: is {given}, and the record's is {of_record}; send one of them"
                )));
            }
        };
        let mut features = Vec::new();
        pipeline.features(&reading.values, &mut features)?;
        Ok(Asked {
            features,
            key: Some(key).filter(|key| !key.is_empty()),
        })
    }
}

/// In the pipeline's order. What the model does not read may be left out.
fn of_features(pipeline: &Pipeline, given: &[Feature]) -> Result<Vec<f64>, Error> {
    let fields = &pipeline.feature_schema().fields;
    let places = fields.iter().enumerate();
    let places: HashMap<&str, usize> = places.map(|(at, it)| (it.name.as_str(), at)).collect();
    let mut features: Vec<Option<f64>> = vec![None; fields.len()];
    for Feature { name, value } in given {
        let wrong = |why: &str| Err(Error::Invalid(format!("feature {}: {why}", quote(name))));
        let Some(place) = places
            .get(name.as_str())
            .and_then(|at| features.get_mut(*at))
        else {
            return wrong(
                "the pipeline has none of this name; GetFeatures answers with all of them",
            );
        };
        if place.is_some() {
            return wrong("is there twice; send it once");
        }
        if value.is_some_and(|value| !value.is_finite()) {
            return wrong("is not a finite number; leave the value out if it is missing");
        }
        *place = Some(value.unwrap_or(f64::NAN));
    }
    let is_given = |name: &&String| {
        let place = places.get(name.as_str()).and_then(|at| features.get(*at));
        place.is_some_and(Option::is_some)
    };
    if let Some(input) = pipeline.inputs().iter().find(|input| !is_given(input)) {
        return Err(Error::Invalid(format!(
            "feature {}: is not there, and the model reads it; send it, without a value if it is missing",
            quote(input)
        )));
    }
    let values = features.into_iter();
    Ok(values.map(|value| value.unwrap_or(f64::NAN)).collect())
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    const FILE: &str = r#"
name = "p"
[record]
key = "k"
[[record.fields]]
name = "a"
type = "number"
required = false
[[features]]
name = "first"
kind = "pass"
field = "a"
[[features]]
name = "unread"
kind = "missing"
field = "a"
[[features]]
name = "last"
kind = "log"
field = "a"
[model]
inputs = ["last", "first"]
"#;

    fn feature(name: &str, value: Option<f64>) -> Feature {
        Feature {
            name: name.to_owned(),
            value,
        }
    }

    fn read(request: PredictRequest) -> Result<Asked, String> {
        let pipeline = Pipeline::parse("p.toml", FILE).unwrap();
        Asked::read(&pipeline, request).map_err(|error| error.to_string())
    }

    fn of(features: Vec<Feature>) -> Result<Asked, String> {
        read(PredictRequest {
            features,
            key: "k1".to_owned(),
            ..PredictRequest::default()
        })
    }

    fn record(key: &str) -> Struct {
        let value = |kind| Value { kind: Some(kind) };
        let fields = [
            ("k".to_owned(), value(Kind::StringValue(key.to_owned()))),
            ("a".to_owned(), value(Kind::NumberValue(1.0))),
        ];
        Struct {
            fields: fields.into(),
        }
    }

    #[test]
    fn features_are_taken_by_name_in_any_order_and_missing_where_they_say_so() {
        let asked = of(vec![feature("last", Some(2.5)), feature("first", None)]).unwrap();
        assert!(asked.features[0].is_nan() && asked.features[1].is_nan());
        assert_eq!(asked.features[2], 2.5);
        assert_eq!(asked.key.as_deref(), Some("k1"));
    }

    #[test]
    fn what_is_wrong_with_features_is_said_by_name() {
        let first = || feature("first", Some(1.0));
        for (features, why) in [
            (vec![first()], "\"last\": is not there"),
            (vec![first(), first()], "\"first\": is there twice"),
            (
                vec![feature("frist", None)],
                "\"frist\": the pipeline has none",
            ),
            (
                vec![feature("last", Some(f64::NAN))],
                "\"last\": is not a finite",
            ),
        ] {
            let said = of(features).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let both = read(PredictRequest {
            record: Some(record("k1")),
            features: vec![first()],
            ..PredictRequest::default()
        });
        assert!(both.unwrap_err().contains("both"));
    }

    #[test]
    fn a_record_may_bring_its_key_itself_or_have_it_beside_it() {
        let key = |of_record: Option<&str>, given: &str| {
            let mut record = record(of_record.unwrap_or_default());
            if of_record.is_none() {
                record.fields.remove("k");
            }
            let asked = read(PredictRequest {
                record: Some(record),
                key: given.to_owned(),
                ..PredictRequest::default()
            });
            asked.map(|asked| asked.key)
        };
        assert_eq!(key(Some("a"), ""), Ok(Some("a".to_owned())));
        assert_eq!(key(None, "a"), Ok(Some("a".to_owned())));
        assert_eq!(key(Some("a"), "a"), Ok(Some("a".to_owned())));
        assert_eq!(key(None, ""), Ok(None));
        assert!(
            key(Some("a"), "b")
                .unwrap_err()
                .contains("send one of them")
        );
    }
}
