//! The rows that a package records: read from a CSV file, with the answers there must be or without.

use std::path::Path;

use quadrille_model::{
    WARM_UP_ROWS_MAX,
    import::ImportOptions,
    package::{WarmUp, WarmUpRow},
};
use quadrille_service::Error;

use crate::{files, output};

/// Room for 32 rows of 4,096 inputs, and for other columns.
const WARM_UP_BYTES_MAX: u64 = 16 << 20;

/// Rows of a CSV file.
#[derive(Debug, PartialEq)]
pub struct Rows {
    /// NaN is missing.
    inputs: Vec<Vec<f64>>,
    /// None: the file has no columns of outputs.
    answers: Option<Vec<Vec<f64>>>,
    /// Whether the file goes on.
    more: bool,
}

impl Rows {
    /// Says what of the file is used.
    pub fn report(&self, path: &Path, options: &ImportOptions) {
        let path = path.display();
        if self.more {
            output::note(format_args!(
                "{path}: the first {WARM_UP_ROWS_MAX} rows are taken"
            ));
        }
        if self.answers.is_none() {
            output::note(format_args!(
                "{path} has no answers (no column {}): what the model answers now is recorded",
                options.outputs.names().join(", ")
            ));
        }
    }

    pub fn put(self, options: &mut ImportOptions, tolerance: f64) {
        let Some(answers) = self.answers else {
            options.recorded = self.inputs.concat();
            return;
        };
        let row = |(inputs, outputs): (Vec<f64>, Vec<f64>)| WarmUpRow {
            inputs: inputs
                .into_iter()
                .map(|it| Some(it).filter(|it| !it.is_nan()))
                .collect(),
            outputs,
        };
        options.warm_up = Some(WarmUp {
            tolerance,
            rows: self.inputs.into_iter().zip(answers).map(row).collect(),
        });
    }
}

/// # Errors
/// The file cannot be read, or a row cannot be used.
pub fn warm_up(path: &Path, options: &ImportOptions) -> Result<Rows, Error> {
    let bytes = files::bounded(path, WARM_UP_BYTES_MAX)
        .map_err(|error| Error::Config(format!("--warm-up: {}: {error}", path.display())))?;
    rows(&bytes, &options.inputs, options.outputs.names())
        .map_err(|reason| Error::Config(format!("--warm-up: {}: {reason}", path.display())))
}

fn rows(bytes: &[u8], inputs: &[String], outputs: &[String]) -> Result<Rows, String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut csv = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let header = csv.headers().map_err(|error| error.to_string())?.clone();
    let inputs = columns(&header, inputs)?;
    let (there, missing): (Vec<&String>, Vec<&String>) = outputs
        .iter()
        .partition(|name| header.iter().any(|it| it == *name));
    let answers = match (there.is_empty(), missing.is_empty()) {
        (true, _) => None,
        (false, true) => Some(columns(&header, outputs)?),
        (false, false) => {
            return Err(format!(
                "there is column {:?} and no column {:?}; give all outputs or none",
                there[0], missing[0]
            ));
        }
    };
    let mut rows = Rows {
        inputs: Vec::new(),
        answers: answers.is_some().then(Vec::new),
        more: false,
    };
    for record in csv.records() {
        let record = record.map_err(|error| error.to_string())?;
        if rows.inputs.len() == WARM_UP_ROWS_MAX {
            rows.more = true;
            break;
        }
        rows.inputs.push(cells(&header, &record, &inputs)?);
        if let (Some(columns), Some(answers)) = (&answers, &mut rows.answers) {
            let row = cells(&header, &record, columns)?;
            if let Some(at) = row.iter().position(|it| !it.is_finite()) {
                let (line, name) = (line(&record), &header[columns[at]]);
                return Err(format!(
                    "line {line}, column {name:?}: an answer must be a finite number"
                ));
            }
            answers.push(row);
        }
    }
    match rows.inputs.is_empty() {
        true => Err("it has no rows".to_owned()),
        false => Ok(rows),
    }
}

/// Where each name's column is.
fn columns(header: &csv::StringRecord, names: &[String]) -> Result<Vec<usize>, String> {
    let column = |name: &String| {
        let mut found = (header.iter().enumerate()).filter(|(_, it)| it == name);
        match (found.next(), found.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => Err(format!("column {name:?} is there twice")),
            (None, _) => {
                let there: Vec<&str> = header.iter().collect();
                Err(format!(
                    "there is no column {name:?}; the columns are {}",
                    there.join(", ")
                ))
            }
        }
    };
    names.iter().map(column).collect()
}

fn line(record: &csv::StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn cells(
    header: &csv::StringRecord,
    record: &csv::StringRecord,
    columns: &[usize],
) -> Result<Vec<f64>, String> {
    let cell = |&at: &usize| match record.get(at).unwrap_or_default() {
        "" => Ok(f64::NAN),
        text => match text.parse::<f64>() {
            // What is too large for a number would be recorded as missing.
            Ok(number) if !number.is_infinite() => Ok(number),
            read => {
                let (line, name) = (line(record), &header[at]);
                let finite = if read.is_ok() { "finite " } else { "" };
                Err(format!(
                    "line {line}, column {name:?}: {text:?} is not a {finite}number"
                ))
            }
        },
    };
    columns.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn rows_are_found_by_their_columns_names_in_any_order() {
        let csv = b"id,y,b,a\nr1,0.5,2,1\nr2,1e-3,,3\n";
        let (inputs, outputs) = (names(&["a", "b"]), names(&["y"]));
        let found = rows(csv, &inputs, &outputs).unwrap();
        assert_eq!(found.inputs[0], [1.0, 2.0]);
        assert!(found.inputs[1][0] == 3.0 && found.inputs[1][1].is_nan());
        assert_eq!(found.answers, Some(vec![vec![0.5], vec![0.001]]));
        assert_eq!(rows(csv, &inputs, &names(&["z"])).unwrap().answers, None);

        for (cell, wrong) in [("1e999", "not a finite number"), ("x", "not a number")] {
            let csv = format!("a,b\n1,2\n{cell},2\n");
            let error = rows(csv.as_bytes(), &inputs, &outputs).unwrap_err();
            assert!(
                error.contains("line 3, column \"a\"") && error.contains(wrong),
                "{error}"
            );
        }

        let many = format!("a,b\n{}", "1,2\n".repeat(WARM_UP_ROWS_MAX + 1));
        let found = rows(many.as_bytes(), &inputs, &outputs).unwrap();
        assert!(found.inputs.len() == WARM_UP_ROWS_MAX && found.more);
    }

    #[test]
    fn a_file_of_rows_that_cannot_be_used_says_where() {
        let refused = |csv: &str| {
            let outputs = names(&["y", "z"]);
            rows(csv.as_bytes(), &names(&["a", "b"]), &outputs).unwrap_err()
        };
        assert!(refused("a\n1\n").contains("no column \"b\"; the columns are a"));
        assert!(refused("a,b,a\n1,2,3\n").contains("twice"));
        assert!(refused("a,b\n").contains("no rows"));
        assert!(refused("a,b\n1,x\n").contains("line 2, column \"b\": \"x\" is not a number"));
        assert!(refused("a,b,y\n1,2,3\n").contains("give all outputs or none"));
        assert!(refused("a,b,y,z\n1,2,3,\n").contains("line 2, column \"z\""));
        assert!(refused("a,b\n1,2,3\n").contains("line"));
    }
}
