//! Features from a record's values: the one place that computes them, for training and the stream.
//!
//! A value that is missing, or that arithmetic cannot give (the logarithm of 0, a division by 0,
//! an overflow), is NaN: a feature is finite or NaN, never infinite.

use quadrille_proto::{Field, FieldType};

use crate::spec::{FeatureKind, FeatureSpec, FieldKind, RecordSpec, element_names};

/// One feature, its fields resolved to positions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Feature {
    /// The value itself; of a category its index. Of a vector all values.
    Pass { at: usize, width: usize },
    /// 1 where the value is missing, else 0; never NaN.
    Missing { at: usize },
    /// One output a category, 1 for the value's; all 0 where the value is missing.
    OneHot { at: usize, categories: usize },
    /// How many edges the value reaches: 0 below the first, 1 from the first on, ….
    Bucket { at: usize, edges: Vec<f64> },
    /// The value, or the limit it exceeds.
    Clip { at: usize, min: f64, max: f64 },
    /// The natural logarithm; NaN for 0 and below.
    Log { at: usize },
    /// The value less the other.
    Difference { at: usize, minus: usize },
    /// The value divided by the other; NaN where that is 0.
    Ratio { at: usize, over: usize },
}

impl Feature {
    pub(crate) fn new(spec: &FeatureSpec, record: &RecordSpec) -> Self {
        // The names were checked; a position beyond the values reads as missing.
        let at = |name: &String| record.find(name).map_or(usize::MAX, |(_, at)| at);
        match &spec.kind {
            FeatureKind::Pass { field } => Feature::Pass {
                at: at(field),
                width: record.find(field).map_or(1, |(field, _)| field.width()),
            },
            FeatureKind::Missing { field } => Feature::Missing { at: at(field) },
            FeatureKind::OneHot { field } => Feature::OneHot {
                at: at(field),
                categories: categories(record, field).len(),
            },
            FeatureKind::Bucket { field, edges } => Feature::Bucket {
                at: at(field),
                edges: edges.clone(),
            },
            FeatureKind::Clip { field, min, max } => Feature::Clip {
                at: at(field),
                min: min.unwrap_or(f64::NEG_INFINITY),
                max: max.unwrap_or(f64::INFINITY),
            },
            FeatureKind::Log { field } => Feature::Log { at: at(field) },
            FeatureKind::Difference { field, minus } => Feature::Difference {
                at: at(field),
                minus: at(minus),
            },
            FeatureKind::Ratio { field, over } => Feature::Ratio {
                at: at(field),
                over: at(over),
            },
        }
    }

    /// Appends this feature's outputs.
    pub(crate) fn compute(&self, values: &[f64], out: &mut Vec<f64>) {
        let value = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
        let feature = match self {
            Feature::Pass { at, width: 1 } => value(*at),
            Feature::Pass { at, width } => {
                out.extend((*at..*at + *width).map(value));
                return;
            }
            Feature::Missing { at } => f64::from(!value(*at).is_finite()),
            Feature::OneHot { at, categories } => {
                let value = value(*at);
                out.extend((0..*categories).map(|index| f64::from(value == index as f64)));
                return;
            }
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
        };
        out.push(if feature.is_finite() {
            feature
        } else {
            f64::NAN
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(feature: Feature, values: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        feature.compute(values, &mut out);
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
                at: 0,
                edges: vec![1.0],
            },
            Feature::Clip {
                at: 0,
                min: 0.0,
                max: 1.0,
            },
            Feature::Log { at: 0 },
            Feature::Difference { at: 0, minus: 1 },
            Feature::Difference { at: 1, minus: 0 },
            Feature::Ratio { at: 0, over: 1 },
            Feature::Ratio { at: 1, over: 0 },
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
        assert_eq!(one(Feature::Missing { at: 0 }, &[f64::NAN]), [1.0]);
        assert_eq!(one(Feature::Missing { at: 0 }, &[0.0]), [0.0]);
        assert_eq!(one(Feature::Missing { at: 0 }, &[]), [1.0]);
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
                    at: 0,
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
                    at: 0,
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
            assert!(is_nan(Feature::Log { at: 0 }, &values));
            assert!(is_nan(Feature::Ratio { at: 0, over: 1 }, &values));
        }
        assert!(is_nan(
            Feature::Difference { at: 0, minus: 1 },
            &[f64::MAX, f64::MIN]
        ));
        assert!(is_nan(
            Feature::Ratio { at: 0, over: 1 },
            &[1.0, f64::MIN_POSITIVE / 1e10]
        ));
        assert!(is_nan(Feature::Pass { at: 0, width: 1 }, &[f64::INFINITY]));
        assert_eq!(one(Feature::Log { at: 0 }, &[1.0]), [0.0]);
        assert_eq!(
            one(Feature::Difference { at: 0, minus: 1 }, &[3.0, 1.0]),
            [2.0]
        );
        assert_eq!(one(Feature::Ratio { at: 0, over: 1 }, &[3.0, 2.0]), [1.5]);
    }
}
