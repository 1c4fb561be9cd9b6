//! Features from a record's values: the one place that computes them, for training and the stream.
//!
//! A value that is missing, or that arithmetic cannot give (the logarithm of 0, a division by 0,
//! an overflow), is NaN: a feature is finite or NaN, never infinite.

use quadrille_proto::{Field, FieldType};

use crate::spec::{
    FeatureKind, FeatureSpec, FieldKind, Function, LookBack, RecordSpec, element_names,
};

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Input {
    /// A position of the record.
    Value(usize),
    /// A position among the features before.
    Feature(usize),
}

/// What features are computed of.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub values: &'a [f64],
    /// Of features that look back, one each.
    pub aggregates: &'a [f64],
}

/// One feature, its fields resolved to positions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Feature {
    /// The value itself; of a category its index. Of a vector all values.
    Pass { at: usize, width: usize },
    /// 1 where the value is missing, else 0; never NaN.
    Missing { at: Input },
    /// One output a category, 1 for the value's; all 0 where the value is missing.
    OneHot { at: usize, categories: usize },
    /// How many edges the value reaches: 0 below the first, 1 from the first on, ….
    Bucket { at: Input, edges: Vec<f64> },
    /// The value, or the limit it exceeds.
    Clip { at: Input, min: f64, max: f64 },
    /// The natural logarithm; NaN for 0 and below.
    Log { at: Input },
    /// The value less the other.
    Difference { at: Input, minus: Input },
    /// The value divided by the other; NaN where that is 0.
    Ratio { at: Input, over: Input },
    /// What is seen of the records before.
    Aggregate { at: usize },
}

/// Computes all features, in the pipeline's order, into `out`, which is cleared.
pub(crate) fn compute(features: &[Feature], of: Of<'_>, out: &mut Vec<f64>) {
    out.clear();
    out.reserve(features.len());
    for feature in features {
        feature.compute(of, out);
    }
}

/// As [`compute`], without a record: what depends on one is NaN, also where its being missing would be a value of its own.
pub(crate) fn compute_without_record(features: &[Feature], aggregates: &[f64], out: &mut Vec<f64>) {
    out.clear();
    let values = &[];
    // Of each output so far.
    let mut of_record = Vec::new();
    for feature in features {
        let first = out.len();
        feature.compute(Of { values, aggregates }, out);
        let reads_record = feature.reads_record(&of_record);
        of_record.resize(out.len(), reads_record);
        if reads_record {
            out[first..].fill(f64::NAN);
        }
    }
}

/// The features of a pipeline, in its order.
pub(crate) fn resolve(specs: &[FeatureSpec], record: &RecordSpec) -> Vec<Feature> {
    let mut resolver = Resolver {
        record,
        outputs: Vec::new(),
        aggregates: 0,
    };
    specs.iter().map(|spec| resolver.feature(spec)).collect()
}

struct Resolver<'a> {
    record: &'a RecordSpec,
    /// The names of the outputs so far.
    outputs: Vec<String>,
    aggregates: usize,
}

impl Resolver<'_> {
    fn feature(&mut self, spec: &FeatureSpec) -> Feature {
        // The names were checked; a position beyond the values reads as missing.
        let at = |name: &String| self.record.find(name).map_or(usize::MAX, |(_, at)| at);
        let feature = match &spec.kind {
            FeatureKind::Pass { field } => Feature::Pass {
                at: at(field),
                width: self
                    .record
                    .find(field)
                    .map_or(1, |(field, _)| field.width()),
            },
            FeatureKind::Missing { field } => Feature::Missing {
                at: self.input(field),
            },
            FeatureKind::OneHot { field } => Feature::OneHot {
                at: at(field),
                categories: categories(self.record, field).len(),
            },
            FeatureKind::Bucket { field, edges } => Feature::Bucket {
                at: self.input(field),
                edges: edges.clone(),
            },
            FeatureKind::Clip { field, min, max } => Feature::Clip {
                at: self.input(field),
                min: min.unwrap_or(f64::NEG_INFINITY),
                max: max.unwrap_or(f64::INFINITY),
            },
            FeatureKind::Log { field } => Feature::Log {
                at: self.input(field),
            },
            FeatureKind::Difference { field, minus } => Feature::Difference {
                at: self.input(field),
                minus: self.input(minus),
            },
            FeatureKind::Ratio { field, over } => Feature::Ratio {
                at: self.input(field),
                over: self.input(over),
            },
            FeatureKind::LookBack(_) => {
                self.aggregates += 1;
                Feature::Aggregate {
                    at: self.aggregates - 1,
                }
            }
        };
        self.outputs.extend(output_names(spec, self.record));
        feature
    }

    /// A field of the record, or else a feature before.
    fn input(&self, name: &String) -> Input {
        let feature = || self.outputs.iter().position(|output| output == name);
        match self.record.find(name) {
            Some((_, at)) => Input::Value(at),
            None => Input::Feature(feature().unwrap_or(usize::MAX)),
        }
    }
}

impl Feature {
    /// Appends this feature's outputs; `out` begins with those of the features before.
    pub(crate) fn compute(&self, of: Of<'_>, out: &mut Vec<f64>) {
        let value = |at: usize| of.values.get(at).copied().unwrap_or(f64::NAN);
        let feature = match self {
            Feature::Pass { at, width: 1 } => value(*at),
            Feature::Pass { at, width } => {
                out.extend((*at..*at + *width).map(value));
                return;
            }
            Feature::OneHot { at, categories } => {
                let value = value(*at);
                out.extend((0..*categories).map(|index| f64::from(value == index as f64)));
                return;
            }
            Feature::Aggregate { at } => of.aggregates.get(*at).copied().unwrap_or(f64::NAN),
            computed => computed.one(|input| match input {
                Input::Value(at) => value(at),
                Input::Feature(at) => out.get(at).copied().unwrap_or(f64::NAN),
            }),
        };
        out.push(if feature.is_finite() {
            feature
        } else {
            f64::NAN
        });
    }

    /// Whether it depends on the record in hand; `of_record` says it of the outputs before.
    fn reads_record(&self, of_record: &[bool]) -> bool {
        let reads = |input: &Input| match input {
            Input::Value(_) => true,
            Input::Feature(at) => of_record.get(*at).copied().unwrap_or(true),
        };
        match self {
            Feature::Pass { .. } | Feature::OneHot { .. } => true,
            Feature::Aggregate { .. } => false,
            Feature::Missing { at }
            | Feature::Bucket { at, .. }
            | Feature::Clip { at, .. }
            | Feature::Log { at } => reads(at),
            Feature::Difference { at, minus: other } | Feature::Ratio { at, over: other } => {
                reads(at) || reads(other)
            }
        }
    }

    /// The one output of a feature that is arithmetic alone.
    fn one(&self, value: impl Fn(Input) -> f64) -> f64 {
        match self {
            Feature::Missing { at } => f64::from(!value(*at).is_finite()),
            Feature::Bucket { at, edges } => match value(*at) {
                value if value.is_finite() => edges.partition_point(|edge| *edge <= value) as f64,
                _ => f64::NAN,
            },
            Feature::Clip { at, min, max } => match value(*at) {
                value if value.is_finite() => value.max(*min).min(*max),
                _ => f64::NAN,
            },
            Feature::Log { at } => value(*at).ln(),
            Feature::Difference { at, minus } => value(*at) - value(*minus),
            Feature::Ratio { at, over } => value(*at) / value(*over),
            Feature::Pass { .. } | Feature::OneHot { .. } | Feature::Aggregate { .. } => f64::NAN,
        }
    }
}

fn categories<'a>(record: &'a RecordSpec, name: &str) -> &'a [String] {
    match record.find(name).map(|(field, _)| &field.kind) {
        Some(FieldKind::Category { categories, .. }) => categories,
        _ => &[],
    }
}

/// What a feature's outputs are called: its name, or `name=category` for each category.
pub(crate) fn output_names(spec: &FeatureSpec, record: &RecordSpec) -> Vec<String> {
    match &spec.kind {
        FeatureKind::OneHot { field } => {
            let name = |category| format!("{}={category}", spec.name);
            categories(record, field).iter().map(name).collect()
        }
        FeatureKind::Pass { field } => match record.find(field).map(|(field, _)| &field.kind) {
            Some(FieldKind::Vector { length, .. }) => element_names(&spec.name, *length).collect(),
            _ => vec![spec.name.clone()],
        },
        _ => vec![spec.name.clone()],
    }
}

/// The outputs of a feature as positions of the feature schema.
pub(crate) fn outputs(spec: &FeatureSpec, record: &RecordSpec) -> Vec<Field> {
    let field_type = match &spec.kind {
        FeatureKind::Pass { field } => {
            let found = record.find(field);
            found.map_or(FieldType::Number, |(field, _)| field.field_type())
        }
        FeatureKind::Missing { .. } | FeatureKind::OneHot { .. } => FieldType::Boolean,
        FeatureKind::Bucket { .. } => FieldType::Integer,
        FeatureKind::LookBack(it) => look_back_type(it, record),
        _ => FieldType::Number,
    };
    let names = output_names(spec, record).into_iter();
    names
        .map(|name| Field {
            name,
            field_type: field_type.clone(),
        })
        .collect()
}

fn look_back_type(spec: &LookBack, record: &RecordSpec) -> FieldType {
    let field = spec.field.as_ref().and_then(|name| record.find(name));
    match spec.function {
        Function::Count | Function::Distinct => FieldType::Integer,
        Function::Last | Function::Lag { .. } => {
            field.map_or(FieldType::Number, |(field, _)| field.field_type())
        }
        _ => FieldType::Number,
    }
}

#[cfg(test)]
mod tests {
    use super::Input::{Feature as Before, Value};
    use super::*;

    fn one(feature: Feature, values: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        let aggregates = &[];
        feature.compute(Of { values, aggregates }, &mut out);
        out
    }

    fn is_nan(feature: Feature, values: &[f64]) -> bool {
        matches!(one(feature, values)[..], [value] if value.is_nan())
    }

    #[test]
    fn a_missing_value_makes_a_missing_feature() {
        let nan = [f64::NAN, 1.0];
        for feature in [
            Feature::Pass { at: 0, width: 1 },
            Feature::Bucket {
                at: Value(0),
                edges: vec![1.0],
            },
            Feature::Clip {
                at: Value(0),
                min: 0.0,
                max: 1.0,
            },
            Feature::Log { at: Value(0) },
            Feature::Difference {
                at: Value(0),
                minus: Value(1),
            },
            Feature::Difference {
                at: Value(1),
                minus: Value(0),
            },
            Feature::Ratio {
                at: Value(0),
                over: Value(1),
            },
            Feature::Ratio {
                at: Value(1),
                over: Value(0),
            },
        ] {
            assert!(is_nan(feature.clone(), &nan), "{feature:?}");
            assert!(is_nan(feature.clone(), &[]), "{feature:?}");
        }
    }

    #[test]
    fn a_vector_passes_value_by_value() {
        let feature = Feature::Pass { at: 1, width: 2 };
        assert_eq!(one(feature.clone(), &[9.0, 1.0, 2.0, 9.0]), [1.0, 2.0]);
        let short = one(feature, &[9.0, 1.0]);
        assert!(short[0] == 1.0 && short[1].is_nan() && short.len() == 2);
    }

    #[test]
    fn missing_is_one_where_there_is_no_value() {
        assert_eq!(one(Feature::Missing { at: Value(0) }, &[f64::NAN]), [1.0]);
        assert_eq!(one(Feature::Missing { at: Value(0) }, &[0.0]), [0.0]);
        assert_eq!(one(Feature::Missing { at: Value(0) }, &[]), [1.0]);
    }

    #[test]
    fn one_hot_of_a_missing_category_is_all_zeros() {
        let feature = Feature::OneHot {
            at: 0,
            categories: 3,
        };
        assert_eq!(one(feature.clone(), &[1.0]), [0.0, 1.0, 0.0]);
        assert_eq!(one(feature.clone(), &[f64::NAN]), [0.0, 0.0, 0.0]);
        assert_eq!(one(feature, &[7.0]), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_bucket_counts_the_edges_a_value_reaches() {
        let bucket = |value| {
            one(
                Feature::Bucket {
                    at: Value(0),
                    edges: vec![10.0, 20.0],
                },
                &[value],
            )[0]
        };
        assert_eq!(
            [9.9, 10.0, 19.9, 20.0, 99.0].map(bucket),
            [0.0, 1.0, 1.0, 2.0, 2.0]
        );
    }

    #[test]
    fn clip_keeps_a_value_between_its_limits() {
        let clip = |value| {
            one(
                Feature::Clip {
                    at: Value(0),
                    min: -1.0,
                    max: f64::INFINITY,
                },
                &[value],
            )[0]
        };
        assert_eq!([-5.0, 0.0, 1e300].map(clip), [-1.0, 0.0, 1e300]);
    }

    #[test]
    fn what_arithmetic_cannot_give_is_missing() {
        for values in [[0.0, 0.0], [-1.0, 0.0], [f64::NAN, 0.0]] {
            assert!(is_nan(Feature::Log { at: Value(0) }, &values));
            assert!(is_nan(
                Feature::Ratio {
                    at: Value(0),
                    over: Value(1)
                },
                &values
            ));
        }
        assert!(is_nan(
            Feature::Difference {
                at: Value(0),
                minus: Value(1)
            },
            &[f64::MAX, f64::MIN]
        ));
        assert!(is_nan(
            Feature::Ratio {
                at: Value(0),
                over: Value(1)
            },
            &[1.0, f64::MIN_POSITIVE / 1e10]
        ));
        assert!(is_nan(Feature::Pass { at: 0, width: 1 }, &[f64::INFINITY]));
        assert_eq!(one(Feature::Log { at: Value(0) }, &[1.0]), [0.0]);
        assert_eq!(
            one(
                Feature::Difference {
                    at: Value(0),
                    minus: Value(1)
                },
                &[3.0, 1.0]
            ),
            [2.0]
        );
        assert_eq!(
            one(
                Feature::Ratio {
                    at: Value(0),
                    over: Value(1)
                },
                &[3.0, 2.0]
            ),
            [1.5]
        );
    }

    #[test]
    fn a_feature_may_be_computed_of_those_before_it() {
        let mut out = vec![8.0, f64::NAN];
        let of = Of {
            values: &[2.0],
            aggregates: &[5.0, f64::INFINITY],
        };
        for feature in [
            Feature::Aggregate { at: 0 },
            Feature::Aggregate { at: 1 },
            Feature::Ratio {
                at: Before(0),
                over: Value(0),
            },
            Feature::Difference {
                at: Before(4),
                minus: Before(2),
            },
            Feature::Missing { at: Before(1) },
        ] {
            feature.compute(of, &mut out);
        }
        assert_eq!((out[2], out[4], out[5], out[6]), (5.0, 4.0, -1.0, 1.0));
        assert!(out[3].is_nan(), "a feature is never infinite");
    }
}
