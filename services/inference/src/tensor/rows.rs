//! A request's tensors as a model's rows, or as a pipeline's records. Pure.

use std::{borrow::Cow, collections::HashSet};

use quadrille_pipeline::{Scalar, quote::quote};

use super::{Column, Error, Tensor, shown, wrong};

/// Rows of a model's inputs, one after another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub values: Vec<f64>,
    pub count: usize,
}

/// Whether this is one tensor with a column for each of `columns`; its sides but the first may be any whose product
/// that is, as those of an image.
pub(crate) fn is_matrix(tensors: &[Tensor<'_>], columns: &[String]) -> bool {
    let [tensor] = tensors else { return false };
    let named = || columns.iter().any(|column| column == tensor.name);
    match tensor.shape {
        [_] => columns.len() == 1 && !named(),
        [_, rest @ ..] => width(rest) == Some(columns.len()),
        [] => false,
    }
}

fn width(sides: &[i64]) -> Option<usize> {
    sides.iter().try_fold(1_usize, |width, side| {
        width.checked_mul(usize::try_from(*side).ok()?)
    })
}

/// Reads rows: one tensor [N, columns], or a tensor [N] or [N, 1] for each column by its name.
///
/// # Errors
/// What does not fit, by the input's name.
pub(crate) fn rows(tensors: &[Tensor<'_>], columns: &[String]) -> Result<Rows, Error> {
    let first = tensors.first().ok_or_else(|| no_inputs(columns))?;
    if is_matrix(tensors, columns) {
        let count = first.count()? / columns.len().max(1);
        check_rows(first, count)?;
        let mut values = vec![0.0; count * columns.len()];
        first.write(&mut values, 0, 1)?;
        return Ok(Rows { values, count });
    }
    let places = places(tensors, columns)?;
    let count = common_length(tensors.iter().map(|tensor| (tensor, 1)))?;
    let values_max = first.limits.values_max;
    if count.saturating_mul(columns.len()) > values_max {
        let most = values_max / columns.len().max(1);
        return Err(Error::TooLarge(format!(
            "{count} rows of {} inputs are too much for one request; send at most {most} rows",
            columns.len()
        )));
    }
    let mut values = vec![0.0; count * columns.len()];
    for (tensor, place) in tensors.iter().zip(places) {
        tensor.write(&mut values, place, columns.len())?;
    }
    Ok(Rows { values, count })
}

fn no_inputs(columns: &[String]) -> Error {
    Error::Invalid(format!(
        "the request has no inputs; send one tensor [N, {}] with the columns {}",
        columns.len(),
        columns.join(", ")
    ))
}

fn check_rows(tensor: &Tensor<'_>, count: usize) -> Result<(), Error> {
    let most = tensor.limits.rows_max;
    match count <= most {
        true => Ok(()),
        false => Err(Error::TooLarge(format!(
            "input {}: {count} rows are too many for one request; send at most {most}",
            quote(tensor.name)
        ))),
    }
}

/// The column of each tensor; every column has one.
fn places(tensors: &[Tensor<'_>], columns: &[String]) -> Result<Vec<usize>, Error> {
    let mut taken = vec![false; columns.len()];
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let place = columns.iter().position(|column| column == tensor.name);
        let place = place.ok_or_else(|| unknown(tensor, tensors.len(), columns))?;
        if std::mem::replace(&mut taken[place], true) {
            return Err(tensor.wrong("is there twice; send each input once"));
        }
        places.push(place);
    }
    let lacking = columns.iter().zip(&taken).filter(|(_, taken)| !**taken);
    let lacking: Vec<&str> = lacking.map(|(column, _)| column.as_str()).collect();
    match lacking.first() {
        None => Ok(places),
        Some(first) => Err(wrong(
            first,
            format!(
                "is missing; send it ({} of {} inputs are missing: {})",
                lacking.len(),
                columns.len(),
                lacking.join(", ")
            ),
        )),
    }
}

fn unknown(tensor: &Tensor<'_>, tensors: usize, columns: &[String]) -> Error {
    let (width, names) = (columns.len(), columns.join(", "));
    let shape = shown(tensor.shape);
    match tensors {
        1 => tensor.wrong(format!(
            "has shape {shape}; send [N, {width}] with the columns {names}, a single row as [1, {width}]"
        )),
        _ => tensor.wrong(format!("the model has no such input; its inputs are {names}")),
    }
}

/// How many rows all tensors have: [N] or [N, 1], of a vector [N, its length].
fn common_length<'t, 'a: 't>(
    tensors: impl Iterator<Item = (&'t Tensor<'a>, usize)>,
) -> Result<usize, Error> {
    let mut common: Option<(usize, &str)> = None;
    for (tensor, wide) in tensors {
        let length = tensor.count()? / wide.max(1);
        let shape = tensor.shape;
        match shape {
            [_] if wide == 1 => {}
            [_, rest @ ..] if !rest.is_empty() && width(rest) == Some(wide) => {}
            _ if wide == 1 => {
                let shape = shown(shape);
                return Err(tensor.wrong(format!("has shape {shape}; send [N] or [N, 1]")));
            }
            _ => {
                let shape = shown(shape);
                return Err(tensor.wrong(format!("has shape {shape}; send [N, {wide}]")));
            }
        }
        check_rows(tensor, length)?;
        match common {
            Some((before, name)) if before != length => {
                return Err(tensor.wrong(format!(
                    "has {length} rows where {} has {before}; send as many of each",
                    quote(name)
                )));
            }
            _ => common = Some((length, tensor.name)),
        }
    }
    Ok(common.map_or(0, |(length, _)| length))
}

/// Records, field by field.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    fields: Vec<Field<'a>>,
    columns: Vec<Column<'a>>,
    pub count: usize,
}

/// Where a field's values are: those of a vector's elements take turns.
#[derive(Debug)]
struct Field<'a> {
    name: Cow<'a, str>,
    column: usize,
    first: usize,
    step: usize,
}

/// Reads records: a tensor [N] or [N, 1] for each field, [N, its length] for a vector; `elements` are what a record calls a
/// vector's single values.
///
/// # Errors
/// What does not fit, by the input's name.
pub(crate) fn records<'a>(
    tensors: &'a [Tensor<'_>],
    elements: impl Fn(&str) -> Option<Vec<String>>,
) -> Result<Records<'a>, Error> {
    let Some(first) = tensors.first() else {
        return Err(Error::Invalid(
            "the request has no inputs; send the record's fields, a tensor [N] each".to_owned(),
        ));
    };
    check_distinct(tensors)?;
    let vectors: Vec<Option<Vec<String>>> = tensors.iter().map(|it| elements(it.name)).collect();
    let wide = |vector: &Option<Vec<String>>| vector.as_ref().map_or(1, Vec::len);
    let count = common_length(tensors.iter().zip(vectors.iter().map(wide)))?;
    let values: usize = vectors.iter().map(wide).sum();
    let values_max = first.limits.values_max;
    if count.saturating_mul(values) > values_max {
        let most = values_max / values.max(1);
        return Err(Error::TooLarge(format!(
            "{count} records of {values} values are too much for one request; send at most {most}"
        )));
    }
    let mut fields = Vec::with_capacity(values);
    for (column, (tensor, vector)) in tensors.iter().zip(vectors).enumerate() {
        let names = match vector {
            None => vec![Cow::Borrowed(tensor.name)],
            Some(names) => names.into_iter().map(Cow::Owned).collect(),
        };
        let step = names.len();
        let field = |(first, name)| Field {
            name,
            column,
            first,
            step,
        };
        fields.extend(names.into_iter().enumerate().map(field));
    }
    let columns = tensors.iter().map(Tensor::column);
    Ok(Records {
        fields,
        columns: columns.collect::<Result<_, Error>>()?,
        count,
    })
}

/// Refuses a name that is there twice, before anything is made of a field's name.
fn check_distinct(tensors: &[Tensor<'_>]) -> Result<(), Error> {
    /// So few are compared without asking for memory.
    const FEW: usize = 16;
    let names = || tensors.iter().map(|tensor| tensor.name);
    let twice = match tensors.len() {
        ..=FEW => {
            let mut tensors = tensors.iter().enumerate();
            tensors.find(|(at, it)| names().take(*at).any(|before| before == it.name))
        }
        _ => {
            let mut seen = HashSet::with_capacity(tensors.len());
            let mut tensors = tensors.iter().enumerate();
            tensors.find(|(_, it)| !seen.insert(it.name))
        }
    };
    match twice {
        None => Ok(()),
        Some((_, tensor)) => Err(tensor.wrong("is there twice; send each field once")),
    }
}

impl Records<'_> {
    /// The fields of a record; NaN is what tensors have for a null.
    pub(crate) fn record(&self, at: usize) -> impl Iterator<Item = (&str, Scalar<'_>)> {
        self.fields.iter().filter_map(move |field| {
            let at = field.first + at * field.step;
            let scalar = match self.columns.get(field.column)? {
                Column::Numbers(numbers) => match numbers.get(at) {
                    Some(number) if !number.is_nan() => Scalar::Number(*number),
                    _ => Scalar::Null,
                },
                Column::Bools(bools) => {
                    let truth = bools.get(at).copied().flatten();
                    truth.map_or(Scalar::Null, Scalar::Bool)
                }
                Column::Texts(texts) => texts.get(at).map_or(Scalar::Null, |it| Scalar::Text(it)),
            };
            Some((&*field.name, scalar))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{Cells, Data, Datatype, Limits};

    const ROWS_MAX: usize = 65_536;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("c{at}")).collect()
    }

    fn tensor<'a>(name: &'a str, shape: &'a [i64], numbers: Vec<f64>) -> Tensor<'a> {
        Tensor {
            name,
            datatype: Datatype::Fp64,
            shape,
            data: Data::Json(Cells::Numbers(numbers)),
            limits: Limits::default(),
        }
    }

    proptest! {
        #[test]
        fn a_matrix_and_a_tensor_for_each_column_in_any_order_give_the_same_rows(
            width in 1..7_usize,
            count in 1..9_usize,
            seed in any::<u32>(),
        ) {
            let columns = names(width);
            let number = |row: usize, column: usize| f64::from(seed % 97) + (row * 10 + column) as f64;
            let all = (0..count).flat_map(|row| (0..width).map(move |column| number(row, column)));
            let all: Vec<f64> = all.collect();
            let (n, f) = (count as i64, width as i64);
            let flat = [n, f];
            let image = [n, 1, f, 1];
            let matrix = [tensor("anything", &flat, all.clone())];
            let images = [tensor("anything", &image, all.clone())];
            let column = [n, 1];
            let mut apart: Vec<_> = columns.iter().enumerate().map(|(at, name)| {
                tensor(name, &column, (0..count).map(|row| number(row, at)).collect())
            }).collect();
            apart.rotate_left(seed as usize % width);
            let expected = Rows { values: all, count };
            prop_assert_eq!(rows(&matrix, &columns), Ok(expected.clone()));
            prop_assert_eq!(rows(&images, &columns), Ok(expected.clone()));
            prop_assert_eq!(rows(&apart, &columns), Ok(expected));
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let columns = names(3);
        let said = |tensors: &[Tensor<'_>]| rows(tensors, &columns).unwrap_err().to_string();
        assert!(said(&[]).contains("[N, 3] with the columns c0, c1, c2"));
        assert!(said(&[tensor("x", &[4], vec![0.0; 4])]).contains("send [N, 3]"));
        // No rows have no answers, which is no mistake.
        let none = rows(&[tensor("x", &[0, 3], vec![])], &columns);
        assert_eq!(none.map(|rows| rows.count), Ok(0));
        let two = |other: &'static str, shape: &'static [i64], count: usize| {
            [
                tensor("c0", &[2], vec![0.0; 2]),
                tensor(other, shape, vec![0.0; count]),
            ]
        };
        assert!(said(&two("c9", &[2], 2)).contains("input \"c9\": the model has no such input"));
        assert!(said(&two("c0", &[2], 2)).contains("twice"));
        assert!(said(&two("c1", &[2], 2)).contains("input \"c2\": is missing"));
        let columns = names(2);
        let said = |tensors: &[Tensor<'_>]| rows(tensors, &columns).unwrap_err().to_string();
        assert!(said(&two("c1", &[3], 3)).contains("has 3 rows where \"c0\" has 2"));
        assert!(said(&two("c1", &[1, 2], 2)).contains("send [N] or [N, 1]"));
    }

    #[test]
    fn too_many_rows_are_too_large() {
        let many = ROWS_MAX as i64 + 1;
        let shape = [many, 1];
        let tensors = [tensor("x", &shape, vec![0.0; ROWS_MAX + 1])];
        assert!(matches!(rows(&tensors, &names(1)), Err(Error::TooLarge(_))));
    }

    #[test]
    fn one_short_column_for_a_wide_model_is_refused_before_rows_are_made() {
        let columns = names(64);
        let shape = [ROWS_MAX as i64];
        let tensors: Vec<_> = columns
            .iter()
            .map(|name| Tensor {
                name,
                datatype: Datatype::Uint8,
                shape: &shape,
                data: Data::Raw(&[0; ROWS_MAX]),
                limits: Limits::default(),
            })
            .collect();
        assert!(matches!(rows(&tensors, &columns), Err(Error::TooLarge(_))));
    }

    #[test]
    fn a_repeated_name_is_refused_before_its_elements_are_asked_for() {
        for count in [2, 17, 5_000] {
            let mut names = names(count);
            names[count - 1] = "c0".to_owned();
            let tensors: Vec<_> = names.iter().map(|it| tensor(it, &[0], vec![])).collect();
            let elements = |_: &str| -> Option<Vec<String>> { panic!("not asked") };
            let refused = records(&tensors, elements).unwrap_err().to_string();
            assert!(
                refused.contains("input \"c0\": is there twice"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_missing_number_is_a_null_of_the_record() {
        let tensors = [tensor("a", &[2], vec![1.0, f64::NAN])];
        let records = records(&tensors, |_| None).unwrap();
        let of = |at| records.record(at).collect::<Vec<_>>();
        assert_eq!(of(0), [("a", Scalar::Number(1.0))]);
        assert_eq!(of(1), [("a", Scalar::Null)]);
    }

    #[test]
    fn a_vector_is_one_tensor_and_its_values_are_the_records_elements() {
        let numbers = (1..=6).map(f64::from).collect();
        let tensors = [
            tensor("v", &[2, 3], numbers),
            tensor("a", &[2, 1], vec![7.0, 8.0]),
        ];
        let elements = |name: &str| (name == "v").then(|| names(3));
        let found = records(&tensors, elements).unwrap();
        assert_eq!(found.count, 2);
        let of = |at| found.record(at).collect::<Vec<_>>();
        let number = |name, number| (name, Scalar::Number(number));
        assert_eq!(
            of(1),
            [
                number("c0", 4.0),
                number("c1", 5.0),
                number("c2", 6.0),
                number("a", 8.0)
            ]
        );
        let flat = [tensor("v", &[6], vec![0.0; 6])];
        let refused = records(&flat, elements).unwrap_err().to_string();
        assert!(refused.contains("send [N, 3]"), "{refused}");
    }
}
