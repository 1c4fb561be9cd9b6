//! Tensors written as JSON: lists in lists to elements and a shape. Numbers are read to the last bit. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Cells, Error, SHOWN_MAX};

/// Lists in lists, at most.
const DEPTH_MAX: usize = 32;

/// Elements and the shape they came in: empty for a scalar.
#[derive(Debug, PartialEq)]
pub(crate) struct Flat {
    pub shape: Vec<i64>,
    pub cells: Cells,
}

/// Reads lists in lists of numbers, texts or truths, at most so many; a null is a missing number.
///
/// # Errors
/// They are ragged, mixed, too many, or hold objects; the message does not say where.
pub(crate) fn flatten(data: &RawValue, values_max: usize) -> Result<Flat, Error> {
    read(data, values_max, None)
}

/// What a dialect says in JSON that JSON has no words for.
pub(crate) struct Dialect {
    /// The text that an object without objects in it stands for, or why it is none.
    pub text: fn(&str) -> Result<String, Error>,
    /// The one spelling of a number that stands for infinity, without a sign. Others that are too large are refused.
    pub infinity: &'static str,
}

/// As [`flatten`], in a dialect.
///
/// # Errors
/// As [`flatten`]; the dialect says why an object is no text.
pub(crate) fn flatten_in(
    data: &RawValue,
    values_max: usize,
    dialect: &'static Dialect,
) -> Result<Flat, Error> {
    read(data, values_max, Some(dialect))
}

fn read(
    data: &RawValue,
    values_max: usize,
    dialect: Option<&'static Dialect>,
) -> Result<Flat, Error> {
    let mut reading = Reading {
        values_max,
        dialect,
        ..Reading::default()
    };
    let mut rest = data.get();
    while let Some(next) = rest.bytes().next() {
        rest = match next {
            b'[' => reading.open(&rest[1..])?,
            b']' => reading.close(&rest[1..])?,
            b'{' => match dialect {
                Some(dialect) => reading.object(rest, dialect)?,
                None => {
                    return Err(invalid(
                        "holds an object; send numbers, texts, true or false",
                    ));
                }
            },
            b'"' => reading.text(rest)?,
            b',' | b' ' | b'\t' | b'\n' | b'\r' => &rest[1..],
            _ => reading.word(rest)?,
        };
    }
    reading.finish()
}

fn invalid(what: &str) -> Error {
    Error::Invalid(format!("the data {what}"))
}

#[derive(Default)]
struct Reading {
    /// Elements so far of each list that is open.
    open: Vec<i64>,
    /// The length of the lists at each depth, once one is closed.
    sides: Vec<Option<i64>>,
    /// The depth of the elements, once there is one.
    leaves: Option<usize>,
    cells: Option<Cells>,
    values_max: usize,
    dialect: Option<&'static Dialect>,
}

impl Reading {
    fn open<'a>(&mut self, rest: &'a str) -> Result<&'a str, Error> {
        self.count();
        if self.open.len() == DEPTH_MAX || self.leaves == Some(self.open.len()) {
            return Err(ragged());
        }
        self.open.push(0);
        if self.sides.len() < self.open.len() {
            self.sides.push(None);
        }
        Ok(rest)
    }

    fn close<'a>(&mut self, rest: &'a str) -> Result<&'a str, Error> {
        let length = self.open.pop().unwrap_or_default();
        let side = &mut self.sides[self.open.len()];
        match side {
            Some(before) if *before != length => Err(ragged()),
            _ => {
                *side = Some(length);
                Ok(rest)
            }
        }
    }

    /// One more in the list that is open.
    fn count(&mut self) {
        if let Some(length) = self.open.last_mut() {
            *length += 1;
        }
    }

    fn leaf(&mut self) -> Result<(), Error> {
        self.count();
        if *self.leaves.get_or_insert(self.open.len()) != self.open.len() {
            return Err(ragged());
        }
        let before = self.cells.as_ref().map_or(0, Cells::len);
        if before >= self.values_max {
            return Err(Error::TooLarge(format!(
                "the data has more than {} elements; send fewer rows at once",
                self.values_max
            )));
        }
        Ok(())
    }

    fn text<'a>(&mut self, rest: &'a str) -> Result<&'a str, Error> {
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        // Serde has seen that it ends.
        let (text, rest) = rest.split_at(end.map_or(rest.len(), |end| end + 2));
        let text: Cow<'_, str> =
            serde_json::from_str(text).map_err(|error| invalid(&error.to_string()))?;
        self.texts(text.into_owned())?;
        Ok(rest)
    }

    fn object<'a>(&mut self, rest: &'a str, dialect: &Dialect) -> Result<&'a str, Error> {
        // One with objects in it ends early here, and is refused where it is read.
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        let (object, rest) = rest.split_at(end);
        self.texts((dialect.text)(object)?)?;
        Ok(rest)
    }

    fn texts(&mut self, text: String) -> Result<(), Error> {
        self.leaf()?;
        match self.cells.get_or_insert_with(|| Cells::Texts(Vec::new())) {
            Cells::Texts(texts) => texts.push(text),
            _ => return Err(mixed()),
        }
        Ok(())
    }

    fn word<'a>(&mut self, rest: &'a str) -> Result<&'a str, Error> {
        let end = rest.find([',', ']', ' ', '\t', '\n', '\r']);
        let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.leaf()?;
        match word {
            "true" | "false" => self.truth(word == "true")?,
            "null" => self.null()?,
            _ => {
                let number: f64 = word.parse().map_err(|_| invalid("is no JSON"))?;
                let spelt = |dialect: &Dialect| word.trim_start_matches('-') == dialect.infinity;
                if number.is_infinite() && !self.dialect.is_some_and(spelt) {
                    let shown: String = word.chars().take(SHOWN_MAX).collect();
                    return Err(invalid(&format!(
                        "has {shown}, which is too large for a double; send finite numbers"
                    )));
                }
                self.number(number)?;
            }
        }
        Ok(rest)
    }

    fn truth(&mut self, truth: bool) -> Result<(), Error> {
        match self.cells.get_or_insert_with(|| Cells::Bools(Vec::new())) {
            Cells::Bools(bools) => bools.push(Some(truth)),
            // Nulls alone do not say of what kind they are.
            Cells::Numbers(numbers) if numbers.iter().all(|it| it.is_nan()) => {
                let nulls = vec![None; numbers.len()].into_iter();
                self.cells = Some(Cells::Bools(nulls.chain([Some(truth)]).collect()));
            }
            _ => return Err(mixed()),
        }
        Ok(())
    }

    fn null(&mut self) -> Result<(), Error> {
        match &mut self.cells {
            Some(Cells::Bools(bools)) => {
                bools.push(None);
                Ok(())
            }
            _ => self.number(f64::NAN),
        }
    }

    fn number(&mut self, number: f64) -> Result<(), Error> {
        match self.cells.get_or_insert_with(|| Cells::Numbers(Vec::new())) {
            Cells::Numbers(numbers) => numbers.push(number),
            _ => return Err(mixed()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Flat, Error> {
        let sides = self.sides.into_iter();
        let depth = self.leaves.unwrap_or(usize::MAX);
        Ok(Flat {
            shape: sides.take(depth).map(Option::unwrap_or_default).collect(),
            cells: self.cells.unwrap_or(Cells::Numbers(Vec::new())),
        })
    }
}

fn ragged() -> Error {
    invalid("is ragged; let the lists of one depth have one length")
}

fn mixed() -> Error {
    invalid("mixes numbers, texts and truths; send one kind (null is a missing number or truth)")
}

/// Checks that data came in the shape that is given for it, or flat.
pub(crate) fn fits(flat: &Flat, shape: &[i64]) -> bool {
    flat.shape == shape || flat.shape.len() == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat(text: &str) -> Result<Flat, Error> {
        flatten(&RawValue::from_string(text.to_owned()).unwrap(), 1_000)
    }

    proptest! {
        #[test]
        fn any_number_comes_back_to_the_last_bit(
            numbers in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 1..20),
        ) {
            let text = serde_json::to_string(&numbers).unwrap();
            let read = flat(&text).unwrap();
            let bits = |numbers: &[f64]| numbers.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
            let Cells::Numbers(back) = read.cells else { panic!("numbers") };
            prop_assert_eq!(bits(&back), bits(&numbers));
        }

        #[test]
        fn any_texts_come_back(texts in prop::collection::vec(any::<String>(), 1..8)) {
            let text = serde_json::to_string(&texts).unwrap();
            prop_assert_eq!(flat(&text).unwrap().cells, Cells::Texts(texts));
        }

        #[test]
        fn no_json_can_do_more_than_be_refused(text in "[\\[\\],0-9eE.\"a\\\\ntrue{}: -]{0,40}") {
            if let Ok(value) = serde_json::from_str::<&RawValue>(&text) {
                let _ = flatten(value, 10);
            }
        }
    }

    #[test]
    fn lists_in_lists_have_a_shape_and_row_major_elements() {
        let read = flat("[[[1, 2],[3,4]],[[5,6],[7,8e0]]] ").unwrap();
        assert_eq!(read.shape, [2, 2, 2]);
        let numbers = (1..=8).map(f64::from).collect();
        assert_eq!(read.cells, Cells::Numbers(numbers));
        assert_eq!(flat("3").unwrap().shape, [0_i64; 0]);
        assert_eq!(flat("[]").unwrap().shape, [0]);
        assert_eq!(
            flat("[true,false]").unwrap().cells,
            Cells::Bools(vec![Some(true), Some(false)])
        );
        assert_eq!(
            flat("[null,true,null]").unwrap().cells,
            Cells::Bools(vec![None, Some(true), None])
        );
        let Cells::Numbers(numbers) = flat("[null, 1]").unwrap().cells else {
            panic!("numbers")
        };
        assert!(numbers[0].is_nan() && numbers[1] == 1.0);
    }

    #[test]
    fn ragged_and_mixed_lists_and_objects_are_refused() {
        for (text, part) in [
            ("[[1,2],[3]]", "ragged"),
            ("[1,[2]]", "ragged"),
            ("[[1],2]", "ragged"),
            ("[[],[1]]", "ragged"),
            ("[1,\"a\"]", "mixes"),
            ("[null,\"a\"]", "mixes"),
            ("[true,1]", "mixes"),
            ("[null,1,true]", "mixes"),
            ("[null,true,1]", "mixes"),
            ("[{}]", "object"),
            ("[1, 1e999]", "1e999, which is too large"),
            ("[[-1e400]]", "-1e400, which is too large"),
        ] {
            let refused = flat(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(flat(&deep).is_err());
    }
}
