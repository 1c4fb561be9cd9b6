//! Lines of CSV files as editors count them.

use std::collections::VecDeque;
use std::io::{self, Read};

/// Ends of lines that are remembered: those of what the CSV reader has fetched ahead (8 KiB) and of one row. A row with more
/// line breaks in its quoted cells is told a later line than its first; those after it are right again.
const ENDS_MAX: usize = 1 << 16;

/// Counts lines as editors do, from 1, the header's included. The CSV reader's own count is one short in files whose lines
/// end with CR LF (it takes the LF for a part of the next row), and stands at the first of the blank lines before a row.
#[derive(Debug)]
pub struct CsvLines<R> {
    inner: R,
    /// Bytes that were read.
    bytes: u64,
    after_cr: bool,
    /// Where the LF of lines is that are not counted yet, and whether a CR is before it.
    ends: VecDeque<(u64, bool)>,
    /// Lines that are counted.
    ended: u64,
}

impl<R: Read> CsvLines<R> {
    pub fn new(inner: R) -> Self {
        CsvLines {
            inner,
            bytes: 0,
            after_cr: false,
            ends: VecDeque::new(),
            ended: 0,
        }
    }

    /// The line of a row by the reader's position of it, rows in order. The first line of a file, its header, is 1.
    pub fn of(csv: &mut csv::Reader<Self>, position: Option<&csv::Position>) -> u64 {
        csv.get_mut().line(position.map_or(0, csv::Position::byte))
    }

    fn line(&mut self, mut at: u64) -> u64 {
        while let Some((end, cr)) = self.ends.front().copied() {
            let blank = end == at || (cr && end == at + 1);
            if end >= at && !blank {
                break;
            }
            at = at.max(end + 1);
            self.ends.pop_front();
            self.ended += 1;
        }
        self.ended + 1
    }
}

impl<R: Read> Read for CsvLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                if self.ends.len() == ENDS_MAX {
                    self.ends.pop_front();
                    self.ended += 1;
                }
                self.ends.push_back((self.bytes, self.after_cr));
            }
            self.after_cr = *byte == b'\r';
            self.bytes += 1;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use csv::{ByteRecord, ReaderBuilder};

    use super::*;

    /// The line of each row after the header.
    fn lines(text: &str) -> Vec<u64> {
        let reader = CsvLines::new(text.as_bytes());
        let mut csv = ReaderBuilder::new()
            .flexible(true)
            .buffer_capacity(3)
            .from_reader(reader);
        csv.byte_headers().unwrap();
        let (mut row, mut found) = (ByteRecord::new(), Vec::new());
        while csv.read_byte_record(&mut row).unwrap() {
            found.push(CsvLines::of(&mut csv, row.position()));
        }
        found
    }

    #[test]
    fn a_row_is_on_its_line_however_lines_end() {
        for end in ["\n", "\r\n"] {
            let lines = |text: &str| lines(&text.replace('\n', end));
            assert_eq!(lines("h,i\n1,2\n3,4\n"), [2, 3]);
            assert_eq!(lines("h,i\n1,2\n3,4"), [2, 3]);
            assert_eq!(lines("h\n1\n\n2\n"), [2, 4]);
            assert_eq!(lines("\n\nh,i\n\n\n1,2\n\n3,4\n\n"), [6, 8]);
            assert_eq!(lines("h,i\n\"a\n\nb\",2\n3,4\n"), [2, 5]);
            assert_eq!(lines("h,i\n1,\"\n\"\n\n3,4\n"), [2, 5]);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let text = format!("h,i\n\"{}\",2\n3,4\n", "\n".repeat(2 * ENDS_MAX));
        let found = lines(&text);
        assert_eq!(found[1], 2 * ENDS_MAX as u64 + 3);
    }
}
