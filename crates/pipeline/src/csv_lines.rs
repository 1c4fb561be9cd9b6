//! Lines of CSV files as editors count them.
//!
//! The csv crate ends a record at the first byte of `\r\n` and counts lines at the second, so of a file with such line ends
//! it says for each record the line before.

use std::io::{self, Read};

use csv::{ByteRecord, Position, Reader};

/// Looks at how a file's lines end while it is read.
#[derive(Debug)]
pub struct CsvLines<R> {
    reader: R,
    last: u8,
    /// None: no line has ended yet.
    is_crlf: Option<bool>,
}

impl<R: Read> CsvLines<R> {
    pub fn new(reader: R) -> Self {
        CsvLines {
            reader,
            last: 0,
            is_crlf: None,
        }
    }

    /// The line on which a record begins; the first line of a file, its header, is 1.
    pub fn of(csv: &Reader<Self>, record: &ByteRecord) -> u64 {
        let line = record.position().map_or(0, Position::line);
        line + u64::from(csv.get_ref().is_crlf == Some(true))
    }
}

impl<R: Read> Read for CsvLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if self.is_crlf.is_none() {
            let read = &buffer[..count];
            if let Some(at) = read.iter().position(|byte| *byte == b'\n') {
                let before = at.checked_sub(1).map_or(self.last, |at| read[at]);
                self.is_crlf = Some(before == b'\r');
            }
            self.last = read.last().copied().unwrap_or(self.last);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<u64> {
        let mut csv = Reader::from_reader(CsvLines::new(text.as_bytes()));
        let mut record = ByteRecord::new();
        let mut lines = Vec::new();
        while csv.read_byte_record(&mut record).unwrap() {
            lines.push(CsvLines::of(&csv, &record));
        }
        lines
    }

    #[test]
    fn the_first_row_is_on_line_2_however_lines_end() {
        for end in ["\n", "\r\n"] {
            let text = ["a,b", "1,2", "\"x\ny\",3", "4,5", ""].join(end);
            assert_eq!(lines(&text), [2, 3, 5], "{end:?}");
        }
    }

    #[test]
    fn a_line_end_that_comes_in_two_reads_is_known() {
        let parts = b"a,b\r".chain(&b"\n1,2\r\n3,4"[..]);
        let mut csv = Reader::from_reader(CsvLines::new(parts));
        let mut record = ByteRecord::new();
        assert!(csv.read_byte_record(&mut record).unwrap());
        assert_eq!(CsvLines::of(&csv, &record), 2);
    }
}
