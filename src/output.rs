//! What a command says, and how: results to standard output, notes to standard error. Nobody reading is no failure.

use std::{
    fmt,
    io::{self, Write},
    ops::ControlFlow,
};

use quadrille_service::Error;

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For scripts.
    Json,
}

/// The flag of every command that prints data.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct OutputArg {
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    output: Output,
}

impl OutputArg {
    pub fn get(self) -> Output {
        self.output
    }
}

/// As [`OutputArg`], for commands whose scripts say `--json`, which was there first.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputOrJson {
    #[command(flatten)]
    output: OutputArg,

    /// As --output json.
    #[arg(long, hide = true, conflicts_with = "output")]
    json: bool,
}

impl OutputOrJson {
    pub fn get(self) -> Output {
        match self.json {
            true => Output::Json,
            false => self.output.get(),
        }
    }
}

/// Prints a text and a line end. `Break`: the reader closed the pipe (`| head`), further text is of no use.
///
/// # Errors
/// Standard output cannot be written, for instance because a disk is full.
pub fn print(text: impl fmt::Display) -> Result<ControlFlow<()>, Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::Failed(format!("standard output: {error}"))),
    }
}

/// Says something to the person that is not part of the answer.
pub fn note(text: impl fmt::Display) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Cells in columns, as wide as their widest; the last one runs free.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Table { rows: vec![header] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            let end = if at + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of things.
pub fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_nothing_trails() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(vec!["äöü".into(), "x".into()]);
        table.row(vec!["y".into(), String::new()]);
        assert_eq!(table.to_string(), "A    LONG\näöü  x\ny");
    }

    #[test]
    fn bytes_become_two_digits_each() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
