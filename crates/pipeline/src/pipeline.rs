//! A pipeline, ready for work: its file's settings, its schemas, and what they compute.

use std::sync::Arc;

use csv::StringRecord;
use quadrille_history::definition;
use quadrille_proto::{Field, FieldType, Kind, Schema, SchemaId};
use sha2::{Digest, Sha256};

use crate::check::{self, Checked};
use crate::csv_row::{CsvColumns, Use};
use crate::error::Error;
use crate::feature::{Feature, Of, compute, compute_without_record, outputs, resolve};
use crate::invalid::Invalid;
use crate::json;
use crate::record::{Draft, Found, NeedKey, Reading, Slots};
use crate::spec::{
    Decision, FeatureSpec, FieldKind, Label, Operate, RecordSpec, Spec, StateSpec, element_names,
};
use crate::state::{NeedsHistory, State};
use crate::table::Source;
use crate::value::Scalar;

/// One pipeline. Cheap to clone.
///
/// ```
/// use quadrille_pipeline::Pipeline;
///
/// let file = r#"
/// name = "churn"
///
/// [record]
/// key = "customer"
///
/// [[record.fields]]
/// name = "seats"
/// type = "integer"
/// min = 1
///
/// [[record.fields]]
/// name = "logins"
/// type = "number"
/// required = false
///
/// [[features]]
/// name = "logins_per_seat"
/// kind = "ratio"
/// field = "logins"
/// over = "seats"
///
/// [model]
/// inputs = ["logins_per_seat"]
///
/// [decision]
/// threshold = 0.3
/// positive = "leaves"
/// negative = "stays"
/// "#;
/// let churn = Pipeline::parse("churn.toml", file)?;
///
/// let now_ms = 1_769_860_800_000;
/// let record = churn.read_json(br#"{"customer": "c-1", "seats": 4, "logins": 10}"#, now_ms)?;
/// assert_eq!((record.key.as_str(), &record.values[..]), ("c-1", &[4.0, 10.0][..]));
///
/// let (mut features, mut inputs) = (Vec::new(), Vec::new());
/// churn.features(&record.values, &mut features)?;
/// churn.model_inputs(&features, &mut inputs);
/// assert_eq!(inputs, [2.5]);
/// // Of what the model answers follows a decision.
/// assert_eq!(churn.decide(&[0.4]), "leaves");
///
/// let refused = churn.read_json(br#"{"customer": "c-1", "seats": 0}"#, now_ms).unwrap_err();
/// assert_eq!((refused.class(), refused.field.as_str()), ("out_of_range", "seats"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: Spec,
    operate: Operate,
    warnings: Vec<Error>,
    text: String,
    slots: Slots,
    features: Arc<[Feature]>,
    state: Option<State>,
    /// Where each model input stands among the features.
    inputs: Vec<usize>,
    record: (Schema, SchemaId),
    feature: (Schema, SchemaId),
    prediction: (Schema, SchemaId),
    hash: [u8; 32],
}

/// What a file means.
impl Pipeline {
    /// Reads a pipeline file's text; `file_name` is for messages.
    ///
    /// # Errors
    /// Anything wrong with the file, with its line and what to do.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Error> {
        let mut checked = check::file(Source {
            file: file_name,
            text,
        })?;
        let places = std::mem::take(&mut checked.places);
        Self::new(checked, text).map_err(|fault| {
            (places.error(&fault))
                .unwrap_or_else(|| Error::of_file(file_name, fault.to_string(), ""))
        })
    }

    fn new(checked: Checked<'_>, text: &str) -> Result<Self, definition::Error> {
        let Checked {
            spec,
            operate,
            warnings,
            ..
        } = checked;
        let schema = |kind, fields| {
            let schema = Schema {
                kind,
                pipeline: spec.name.clone(),
                fields,
            };
            let id = schema.id();
            (schema, id)
        };
        let fields = spec
            .record
            .fields
            .iter()
            .flat_map(|field| field.to_proto())
            .collect();
        let computed: Vec<Field> = spec
            .features
            .iter()
            .flat_map(|feature| outputs(feature, &spec.record))
            .collect();
        let at = |name: &String| {
            // The names were checked; a position beyond the features reads as missing.
            computed
                .iter()
                .position(|field| field.name == *name)
                .unwrap_or(usize::MAX)
        };
        let answers = spec.decision.outputs().into_iter().map(|name| Field {
            name,
            field_type: FieldType::Number,
        });
        let features: Arc<[Feature]> = resolve(&spec.features, &spec.record).into();
        let inner = Inner {
            state: State::new(&spec, Arc::clone(&features))?,
            slots: Slots::new(&spec.record, spec.label.as_ref()),
            features,
            inputs: spec.model.inputs.iter().map(at).collect(),
            record: schema(Kind::Record, fields),
            feature: schema(Kind::Features, computed),
            prediction: schema(Kind::Prediction, answers.collect()),
            hash: Sha256::digest(canonical(&spec)).into(),
            spec,
            operate,
            warnings,
            text: text.to_owned(),
        };
        Ok(Pipeline {
            inner: Arc::new(inner),
        })
    }

    /// The pipeline's name, which begins the names of its topics.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// The positions of a record's values. Id, key and event time travel beside them.
    pub fn record_schema(&self) -> &Schema {
        &self.inner.record.0
    }

    /// What a record's payload begins with.
    pub fn record_schema_id(&self) -> SchemaId {
        self.inner.record.1
    }

    /// The positions of a feature vector's values.
    pub fn feature_schema(&self) -> &Schema {
        &self.inner.feature.0
    }

    /// What a feature vector's payload begins with.
    pub fn feature_schema_id(&self) -> SchemaId {
        self.inner.feature.1
    }

    /// The positions of a prediction's outputs: `probability`, or the decision's classes or values.
    pub fn prediction_schema(&self) -> &Schema {
        &self.inner.prediction.0
    }

    /// What a prediction's payload begins with.
    pub fn prediction_schema_id(&self) -> SchemaId {
        self.inner.prediction.1
    }

    /// The file as it was read.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// What is allowed in the file but hardly meant, in the words of an error.
    pub fn warnings(&self) -> &[Error] {
        &self.inner.warnings
    }

    /// What defines a prediction, as compact JSON with every default, whatever the file's layout, comments and key order.
    /// How the pipeline is operated is not in it.
    pub fn canonical(&self) -> String {
        canonical(&self.inner.spec)
    }

    /// The SHA-256 of the canonical form.
    pub fn hash(&self) -> [u8; 32] {
        self.inner.hash
    }

    /// What a prediction names as its configuration: the SHA-256 of the canonical form followed by the hash of the model's package.
    pub fn config_hash(&self, package: &[u8; 32]) -> [u8; 32] {
        let hash = Sha256::new().chain_update(self.canonical());
        hash.chain_update(package).finalize().into()
    }

    /// From a record's Kafka timestamp to the end of a stage, in ms: what takes longer is traced.
    pub fn latency_objective_ms(&self) -> Option<i64> {
        self.inner.operate.latency_objective_ms
    }

    /// The field of the outside record that holds the entity's key.
    pub fn key_field(&self) -> &str {
        &self.inner.spec.record.key
    }

    pub(crate) fn record_spec(&self) -> &RecordSpec {
        &self.inner.spec.record
    }

    pub(crate) fn state_spec(&self) -> Option<&StateSpec> {
        self.inner.spec.state.as_ref()
    }

    pub(crate) fn feature_specs(&self) -> &[FeatureSpec] {
        &self.inner.spec.features
    }

    /// The field of the outside record that holds the event's time, if it has one.
    pub fn event_time_field(&self) -> Option<&str> {
        self.inner.spec.record.event_time.as_deref()
    }

    /// The field of the outside record that holds its id, if it has one.
    pub fn id_field(&self) -> Option<&str> {
        self.inner.spec.record.id.as_deref()
    }

    /// The probability (0 to 1) from which on, inclusive, the decision is positive; None if the decision has no threshold.
    pub fn threshold(&self) -> Option<f64> {
        match &self.inner.spec.decision {
            Decision::Threshold(it) => Some(it.threshold),
            Decision::Argmax(_) | Decision::Value(_) => None,
        }
    }

    /// What follows from the model's outputs.
    pub fn decision(&self) -> &Decision {
        &self.inner.spec.decision
    }

    /// The decision for one row of the model's outputs, in the prediction schema's order; empty if there is none, as for NaN.
    pub fn decide(&self, outputs: &[f64]) -> &str {
        self.inner.spec.decision.of(outputs)
    }

    /// The one number that stands for a row of the model's outputs: the probability of the positive class, that of the class decided
    /// for, or the first value.
    pub fn headline(&self, outputs: &[f64]) -> f64 {
        self.inner.spec.decision.headline(outputs)
    }

    /// Where training data holds the truth, if the file says so.
    pub fn label(&self) -> Option<&Label> {
        self.inner.spec.label.as_ref()
    }
}

fn canonical(spec: &Spec) -> String {
    // Strings, finite numbers and lists: there is nothing JSON could not hold.
    serde_json::to_string(spec).unwrap_or_default()
}

/// Records from outside.
impl Pipeline {
    /// Checks that a text can be a record's id, as one a client brings beside the record.
    ///
    /// # Errors
    /// It is empty, too long or has control characters.
    pub fn check_id(&self, id: &str) -> Result<(), Invalid> {
        crate::record::check_id(self.id_field().unwrap_or("id"), id)
    }

    /// Whether a record may have a field of this name: its id, key or event time, a field, or one value of a vector
    /// (`pixels[3]`).
    pub fn has_field(&self, name: &str) -> bool {
        self.inner.slots.get(name).is_some()
    }

    /// The record's only field beside id, key and event time; None if there are several.
    pub fn only_field(&self) -> Option<&str> {
        match &self.inner.spec.record.fields[..] {
            [field] => Some(&field.name),
            _ => None,
        }
    }

    /// The names of a vector's single values in a record, in order; None if the field is not a vector.
    pub fn elements(&self, field: &str) -> Option<Vec<String>> {
        let mut fields = self.inner.spec.record.fields.iter();
        match &fields.find(|it| it.name == field)?.kind {
            FieldKind::Vector { length, .. } => Some(element_names(field, *length).collect()),
            _ => None,
        }
    }

    /// Reads one JSON object. `now_ms`, in milliseconds since the Unix epoch, bounds the event time: its limits are relative to it.
    ///
    /// # Errors
    /// Anything wrong with the record, with the field and what to do.
    pub fn read_json(&self, bytes: &[u8], now_ms: i64) -> Result<Reading, Invalid> {
        let mut reading = Reading::default();
        self.read_json_into(bytes, now_ms, &mut reading)?;
        Ok(reading)
    }

    /// Reads one JSON object into buffers that are used again. After an error the reading is
    /// no record.
    ///
    /// # Errors
    /// As [`Pipeline::read_json`].
    pub fn read_json_into(
        &self,
        bytes: &[u8],
        now_ms: i64,
        reading: &mut Reading,
    ) -> Result<(), Invalid> {
        json::read(bytes, self.draft(now_ms, reading))
    }

    /// Reads a list of fields, as gRPC brings them. Of a question ([`NeedKey::Optional`]) what the pipeline does not name is
    /// neither kept nor compared.
    ///
    /// # Errors
    /// As [`Pipeline::read_json`].
    pub fn read_fields<'f>(
        &self,
        fields: impl Iterator<Item = (&'f str, Scalar<'f>)>,
        now_ms: i64,
        need_key: NeedKey,
    ) -> Result<Reading, Invalid> {
        let mut reading = Reading::default();
        let mut draft = self.draft(now_ms, &mut reading);
        let mut unknown = std::collections::HashSet::new();
        let mut passed_over = Vec::new();
        for (name, value) in fields {
            match draft.find(name)? {
                Found::Label => {}
                Found::Slot(slot) => match value {
                    Scalar::Json(list) if draft.is_vector(slot) => {
                        json::read_vector(list, &mut draft, slot)?;
                    }
                    value => draft.put(slot, value.into())?,
                },
                Found::Unknown => {
                    crate::record::check_unknown_name(name)?;
                    if need_key == NeedKey::Optional {
                        json::check_scalar(name, value)?;
                        passed_over.push(name);
                    } else if unknown.insert(name) {
                        json::keep_scalar(&mut draft.reading.extra, name, value)?;
                    } else {
                        return Err(crate::record::duplicate(name));
                    }
                }
            }
        }
        json::close(&mut draft.reading.extra);
        draft
            .finish(need_key)
            .map_err(|invalid| invalid.or_misspelt(&passed_over))?;
        Ok(reading)
    }

    /// Maps the columns of a CSV file of records.
    ///
    /// # Errors
    /// A required column is missing, one is there twice, or is unknown and such are refused.
    pub fn csv_reader(&self, header: &StringRecord) -> Result<CsvColumns, Invalid> {
        CsvColumns::new(
            &self.inner.spec.record,
            &self.inner.slots,
            header,
            Use::Records,
        )
    }

    /// Reads a row of a CSV file. An empty cell is a missing value.
    ///
    /// # Errors
    /// As [`Pipeline::read_json`].
    pub fn read_csv_row(
        &self,
        columns: &CsvColumns,
        row: &StringRecord,
        now_ms: i64,
    ) -> Result<Reading, Invalid> {
        let mut reading = Reading::default();
        columns.read(row, self.draft(now_ms, &mut reading), Use::Records)?;
        Ok(reading)
    }

    pub(crate) fn training_columns(&self, header: &StringRecord) -> Result<CsvColumns, Invalid> {
        CsvColumns::new(
            &self.inner.spec.record,
            &self.inner.slots,
            header,
            Use::Training,
        )
    }

    pub(crate) fn draft<'a>(&'a self, now_ms: i64, reading: &'a mut Reading) -> Draft<'a> {
        Draft::new(&self.inner.spec.record, &self.inner.slots, now_ms, reading)
    }
}

/// Features.
impl Pipeline {
    /// Computes a record's features into `out`, which is cleared; it allocates only while `out`
    /// grows to its size. Values that are not there are missing.
    ///
    /// # Errors
    /// A feature looks back: of a record alone it is not known, which is not the same as missing.
    pub fn features(&self, values: &[f64], out: &mut Vec<f64>) -> Result<(), NeedsHistory> {
        if self.state().is_some() {
            return Err(NeedsHistory::of(self));
        }
        self.features_of(values, &[], out);
        Ok(())
    }

    /// As [`Pipeline::features`], of a pipeline that looks back: `aggregates` is what a look at the record's place in its key's
    /// history gave.
    pub fn features_of(&self, values: &[f64], aggregates: &[f64], out: &mut Vec<f64>) {
        compute(&self.inner.features, Of { values, aggregates }, out);
    }

    /// The timestamp that Kafka has of a record without an event time. Where records have a place in a history by it, it has to be as
    /// believable as event times are.
    ///
    /// # Errors
    /// It is not.
    pub fn check_timestamp(&self, timestamp_ms: i64, now_ms: i64) -> Result<i64, Invalid> {
        match self.keeps_state() {
            true => {
                let bounds = self.record_spec().time_bounds(now_ms);
                bounds.check("timestamp of the Kafka record", timestamp_ms)
            }
            false => Ok(timestamp_ms),
        }
    }

    /// Whether it keeps state by key.
    pub fn keeps_state(&self) -> bool {
        self.inner.state.is_some()
    }

    /// As [`Pipeline::features_of`], of a key without a record in hand: what depends on one is missing.
    pub fn features_without_record(&self, aggregates: &[f64], out: &mut Vec<f64>) {
        compute_without_record(&self.inner.features, aggregates, out);
    }

    /// What is kept of a key's records; None where no feature looks back.
    pub fn state(&self) -> Option<&State> {
        self.inner.state.as_ref()
    }

    /// The names of the model's inputs, in its order.
    pub fn inputs(&self) -> &[String] {
        &self.inner.spec.model.inputs
    }

    /// Appends the model's inputs of one feature vector.
    pub fn model_inputs(&self, features: &[f64], out: &mut Vec<f64>) {
        let input = |at: &usize| features.get(*at).copied().unwrap_or(f64::NAN);
        out.extend(self.inner.inputs.iter().map(input));
    }
}
