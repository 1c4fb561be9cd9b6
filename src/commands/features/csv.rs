//! Features as CSV: a header, and a line for each row.

use std::{
    fmt::Write,
    fs::File,
    io::{self, BufWriter},
};

use jiff::Timestamp;
use quadrille_pipeline::training::Row;

/// A file that is being written.
pub(super) struct Csv<'a> {
    file: csv::Writer<BufWriter<&'a File>>,
    /// Strings that are used again for every row.
    cells: Vec<String>,
}

impl<'a> Csv<'a> {
    pub fn new(file: &'a File, header: &[&str]) -> io::Result<Self> {
        let mut file = csv::Writer::from_writer(BufWriter::new(file));
        file.write_record(header)?;
        Ok(Csv {
            file,
            cells: vec![String::new(); header.len()],
        })
    }

    pub fn row(&mut self, row: &Row<'_>, features: &[f64]) -> io::Result<()> {
        self.fill(row, features);
        Ok(self.file.write_record(&self.cells)?)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn fill(&mut self, row: &Row<'_>, features: &[f64]) {
        let mut next = self.cells.iter_mut();
        let mut cell = |write: &dyn Fn(&mut String)| {
            if let Some(cell) = next.next() {
                cell.clear();
                write(cell);
            }
        };
        cell(&|it| it.push_str(row.id));
        cell(&|it| it.push_str(row.key));
        cell(&|it| {
            if let Some(ms) = row.time_ms {
                // A String takes everything.
                let _ = match Timestamp::from_millisecond(ms) {
                    Ok(time) => write!(it, "{time}"),
                    Err(_) => write!(it, "{ms}"),
                };
            }
        });
        for feature in features {
            cell(&|it| number(*feature, it));
        }
    }
}

/// The shortest text that reads back as the same number; nothing where it is missing.
fn number(value: f64, cell: &mut String) {
    let size = value.abs();
    let _ = match value {
        value if value.is_nan() => Ok(()),
        value if size != 0.0 && !(1e-5..1e16).contains(&size) => write!(cell, "{value:e}"),
        value => write!(cell, "{value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_bit_for_bit() {
        let third = 1.0 / 3.0;
        for value in [
            0.0,
            -0.0,
            0.1,
            third,
            1e-300,
            5e-324,
            f64::MAX,
            -1e16,
            123_456_789.25,
        ] {
            let mut cell = String::new();
            number(value, &mut cell);
            assert_eq!(
                cell.parse::<f64>().unwrap().to_bits(),
                value.to_bits(),
                "{cell}"
            );
            assert!(cell.len() < 25, "{cell}");
        }
        let mut cell = String::new();
        number(f64::NAN, &mut cell);
        assert_eq!(cell, "");
    }
}
