//! A request's tensors as a model's rows, or as a pipeline's records. Pure.

use quadrille_pipeline::Scalar;

use super::tensor::{Column, Error, ROWS_MAX, Tensor, VALUES_MAX, wrong};

/// Rows of a model's inputs, one after another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub values: Vec<f64>,
    pub count: usize,
}

/// How inputs hold the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The model's inputs.
    Features,
    /// The fields of the pipeline's record, one tensor each.
    Record,
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
    let count = common_length(tensors)?;
    if count.saturating_mul(columns.len()) > VALUES_MAX {
        let most = VALUES_MAX / columns.len().max(1);
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
    match count {
        0 => Err(tensor.wrong("has no rows; send at least one")),
        1..=ROWS_MAX => Ok(()),
        _ => Err(Error::TooLarge(format!(
            "input {:?}: {count} rows are too many for one request; send at most {ROWS_MAX}",
            tensor.name
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
    let shape = tensor.shape;
    match tensors {
        1 => tensor.wrong(format!(
            "has shape {shape:?}; send [N, {width}] with the columns {names}, a single row as [1, {width}]"
        )),
        _ => tensor.wrong(format!("the model has no such input; its inputs are {names}")),
    }
}

/// The length of all tensors, each [N] or [N, 1].
fn common_length(tensors: &[Tensor<'_>]) -> Result<usize, Error> {
    let mut common: Option<(usize, &str)> = None;
    for tensor in tensors {
        let length = tensor.count()?;
        if !matches!(tensor.shape, [_] | [_, 1]) {
            let shape = tensor.shape;
            return Err(tensor.wrong(format!("has shape {shape:?}; send [N] or [N, 1]")));
        }
        check_rows(tensor, length)?;
        match common {
            Some((before, name)) if before != length => {
                return Err(tensor.wrong(format!(
                    "has {length} rows where {name:?} has {before}; send as many of each"
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
    fields: Vec<(&'a str, Column<'a>)>,
    pub count: usize,
}

/// Reads records: a tensor [N] or [N, 1] for each field.
///
/// # Errors
/// What does not fit, by the input's name.
pub(crate) fn records<'a>(tensors: &'a [Tensor<'_>]) -> Result<Records<'a>, Error> {
    let count = common_length(tensors)?;
    if count == 0 {
        return Err(Error::Invalid(
            "the request has no inputs; send the record's fields, a tensor [N] each".to_owned(),
        ));
    }
    if count.saturating_mul(tensors.len()) > VALUES_MAX {
        let most = VALUES_MAX / tensors.len();
        return Err(Error::TooLarge(format!(
            "{count} records of {} fields are too much for one request; send at most {most}",
            tensors.len()
        )));
    }
    let columns = tensors.iter().map(|it| Ok((it.name, it.column()?)));
    let fields = columns.collect::<Result<_, Error>>()?;
    Ok(Records { fields, count })
}

impl Records<'_> {
    /// The fields of a record; NaN is what tensors have for a null.
    pub(crate) fn record(&self, at: usize) -> impl Iterator<Item = (&str, Scalar<'_>)> {
        self.fields.iter().map(move |(name, column)| {
            let scalar = match column {
                Column::Numbers(numbers) => match numbers.get(at) {
                    Some(number) if !number.is_nan() => Scalar::Number(*number),
                    _ => Scalar::Null,
                },
                Column::Bools(bools) => bools.get(at).map_or(Scalar::Null, |it| Scalar::Bool(*it)),
                Column::Texts(texts) => texts.get(at).map_or(Scalar::Null, |it| Scalar::Text(it)),
            };
            (*name, scalar)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oip::tensor::{Cells, Data, Datatype};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("c{at}")).collect()
    }

    fn tensor<'a>(name: &'a str, shape: &'a [i64], numbers: Vec<f64>) -> Tensor<'a> {
        Tensor {
            name,
            datatype: Datatype::Fp64,
            shape,
            data: Data::Json(Cells::Numbers(numbers)),
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
        assert!(said(&[tensor("x", &[0, 3], vec![])]).contains("has no rows"));
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
            })
            .collect();
        assert!(matches!(rows(&tensors, &columns), Err(Error::TooLarge(_))));
    }

    #[test]
    fn a_missing_number_is_a_null_of_the_record() {
        let tensors = [tensor("a", &[2], vec![1.0, f64::NAN])];
        let records = records(&tensors).unwrap();
        let of = |at| records.record(at).collect::<Vec<_>>();
        assert_eq!(of(0), [("a", Scalar::Number(1.0))]);
        assert_eq!(of(1), [("a", Scalar::Null)]);
    }
}
