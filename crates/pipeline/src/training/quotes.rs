//! Where a CSV file's quotes open. The CSV reader takes a file that ends inside a quote as if the quote ended there, and one
//! forgotten quote in a column that does not matter would take all rows after it out of the training.

use std::cell::Cell;
use std::io::{self, Read};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How far a file has been read, as the CSV reader understands it: commas, and `"` which is doubled in quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quotes {
    place: Place,
    /// Bytes that were read.
    bytes: usize,
    /// The line that is read, as editors count.
    line: u64,
    /// The line of the quote that opened last.
    opened: u64,
    is_ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A quote would open here.
    Start,
    Unquoted,
    Quoted,
    /// After a quote in quotes: it closes, unless another follows.
    AfterQuote,
}

impl Quotes {
    pub fn new() -> Cell<Self> {
        Cell::new(Quotes {
            place: Place::Start,
            bytes: 0,
            line: 1,
            opened: 0,
            is_ended: false,
        })
    }

    /// The line of the quote that is open at the end of the file, once that is reached.
    pub fn unclosed(&self) -> Option<u64> {
        (self.is_ended && self.place == Place::Quoted).then_some(self.opened)
    }

    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().copied() {
            let is_mark = BYTE_ORDER_MARK.get(self.bytes) == Some(&byte);
            self.bytes += 1;
            if is_mark {
                continue;
            }
            self.place = match (self.place, byte) {
                (Place::Start, b'"') => {
                    self.opened = self.line;
                    Place::Quoted
                }
                (Place::AfterQuote, b'"') => Place::Quoted,
                (Place::Quoted, b'"') => Place::AfterQuote,
                (Place::Quoted, _) => Place::Quoted,
                (_, b',' | b'\r' | b'\n') => Place::Start,
                _ => Place::Unquoted,
            };
            self.line += u64::from(byte == b'\n');
        }
    }
}

/// Passes bytes on, and follows their quotes.
pub(super) struct Watched<'a, R> {
    pub inner: R,
    pub quotes: &'a Cell<Quotes>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut quotes = self.quotes.get();
        quotes.is_ended = read == 0 && !buffer.is_empty();
        quotes.read(buffer.get(..read).unwrap_or_default());
        self.quotes.set(quotes);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unclosed(text: &str) -> Option<u64> {
        let mut quotes = Quotes::new().get();
        quotes.read(text.as_bytes());
        assert_eq!(quotes.unclosed(), None, "there may be more");
        quotes.is_ended = true;
        quotes.unclosed()
    }

    #[test]
    fn an_open_quote_at_the_end_is_told_with_the_line_where_it_opens() {
        for (text, expected) in [
            ("a,b\n1,2\n", None),
            ("a,b\n1,\"2\"\n", None),
            ("a,b\n1,\"2\"", None),
            ("a,b\n1,\"2\n3\"\r\n", None),
            ("a,b\n1,\"say \"\"2\"\"\"\n", None),
            ("a,b\n1,5\" tall\n", None),
            ("a,b\n1,\"2\"3\"\n", None),
            ("a,b\r\n1,\"2\r\n3,4\r\n", Some(2)),
            ("a,b\n\"1\n\",\"\"\"2\n3,4\n", Some(3)),
            ("\u{feff}\"a,b\n1,2\n", Some(1)),
            ("a,\"", Some(1)),
        ] {
            assert_eq!(unclosed(text), expected, "{text:?}");
        }
    }
}
