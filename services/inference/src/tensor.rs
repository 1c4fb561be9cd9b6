//! A tensor of a request: its datatype, its shape, and its elements as numbers or texts, whatever form they came in.
//! Nothing here is trusted, and nothing is allocated before shape and data agree. Pure; it knows no protocol.

mod datatype;
mod error;
pub(crate) mod json;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use quadrille_pipeline::quote::quote;

use self::datatype::WHOLE_MAX;
pub(crate) use self::{
    datatype::Datatype,
    error::{Error, SHOWN_MAX, shown, wrong},
};

/// What a request may bring, at most. A request that brings more is refused before anything is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message or a body as it comes.
    pub bytes_max: usize,
    pub rows_max: usize,
    /// Elements of all inputs together: 8 bytes each once they are numbers.
    pub values_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // Room for the most values as FP64, or as text.
            bytes_max: 20 << 20,
            // Far beyond what batching gains, and a bound on what one request keeps busy.
            rows_max: 65_536,
            // 16 MiB.
            values_max: 1 << 21,
        }
    }
}

/// Inputs of a request, and outputs that it asks for, at most: twice the columns of the widest model, as a record may have
/// fields that no feature is made of.
pub(crate) const INPUTS_MAX: usize = 2 * quadrille_model::INPUTS_MAX;

/// Elements that came as JSON, in row-major order. A null is a missing one: NaN among numbers, none among truths.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cells {
    Numbers(Vec<f64>),
    Bools(Vec<Option<bool>>),
    Texts(Vec<String>),
}

impl Cells {
    pub(crate) fn len(&self) -> usize {
        match self {
            Cells::Numbers(numbers) => numbers.len(),
            Cells::Bools(bools) => bools.len(),
            Cells::Texts(texts) => texts.len(),
        }
    }
}

/// Elements that came as a list of numbers, truths or texts of one type, which may be wider than the datatype.
#[derive(Debug)]
pub(crate) enum List<'a> {
    Bools(&'a [bool]),
    Int32s(&'a [i32]),
    Int64s(&'a [i64]),
    Uint32s(&'a [u32]),
    Uint64s(&'a [u64]),
    Fp32s(&'a [f32]),
    Fp64s(&'a [f64]),
    Bytes(&'a [Vec<u8>]),
    /// The list is not where the protocol has one of this datatype, and why.
    Misplaced(String),
}

#[derive(Debug)]
pub(crate) enum Data<'a> {
    /// Little endian; BYTES with a length of four bytes before each.
    Raw(&'a [u8]),
    List(List<'a>),
    Json(Cells),
}

#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub shape: &'a [i64],
    pub data: Data<'a>,
    pub limits: Limits,
}

/// A tensor's elements as a record's fields take them.
#[derive(Debug, PartialEq)]
pub(crate) enum Column<'a> {
    Numbers(Vec<f64>),
    /// None is missing.
    Bools(Vec<Option<bool>>),
    Texts(Vec<&'a str>),
}

impl<'a> Tensor<'a> {
    /// How many elements the shape says there are; the data has as many.
    ///
    /// # Errors
    /// The shape cannot be, is too large, or is not that of the data.
    pub(crate) fn count(&self) -> Result<usize, Error> {
        let mut count = 1_usize;
        for side in self.shape {
            let side = usize::try_from(*side).map_err(|_| {
                self.wrong(format!(
                    "shape {} has a negative side; send the sides of the data",
                    shown(self.shape)
                ))
            })?;
            count = count.saturating_mul(side);
        }
        let most = self.limits.values_max;
        if count > most {
            return Err(Error::TooLarge(format!(
                "input {}: shape {} has more than {most} elements; send fewer rows at once",
                quote(self.name),
                shown(self.shape)
            )));
        }
        self.check_length(count)?;
        Ok(count)
    }

    fn check_length(&self, count: usize) -> Result<(), Error> {
        let (name, size) = (self.datatype.name(), self.datatype.size());
        let (found, wanted, unit) = match &self.data {
            // How many there are is found when they are read.
            Data::Raw(_) if self.datatype == Datatype::Bytes => return Ok(()),
            Data::Raw(raw) => (raw.len(), count * size, "bytes of raw contents"),
            Data::List(list) => (self.list_len(list)?, count, "elements"),
            Data::Json(cells) => (cells.len(), count, "elements"),
        };
        if found == wanted {
            return Ok(());
        }
        let shape = shown(self.shape);
        Err(self.wrong(format!(
            "{name} of shape {shape} has {wanted} {unit}, not {found}; let shape and data agree"
        )))
    }

    fn list_len(&self, list: &List<'_>) -> Result<usize, Error> {
        Ok(match list {
            List::Bools(list) => list.len(),
            List::Int32s(list) => list.len(),
            List::Int64s(list) => list.len(),
            List::Uint32s(list) => list.len(),
            List::Uint64s(list) => list.len(),
            List::Fp32s(list) => list.len(),
            List::Fp64s(list) => list.len(),
            List::Bytes(list) => list.len(),
            List::Misplaced(why) => return Err(self.wrong(why)),
        })
    }

    /// Writes the elements as numbers to `out[first]`, `out[first + step]` and so on.
    ///
    /// # Errors
    /// An element is no number that its datatype has; [`Tensor::count`] has been asked.
    pub(crate) fn write(&self, out: &mut [f64], first: usize, step: usize) -> Result<(), Error> {
        let slots = out.iter_mut().skip(first).step_by(step.max(1));
        match &self.data {
            Data::Raw(raw) => self.write_raw(raw, slots),
            Data::List(list) => self.write_list(list, slots),
            Data::Json(Cells::Bools(bools)) => {
                put(slots, bools.iter().map(|it| it.map_or(f64::NAN, f64::from)));
                Ok(())
            }
            Data::Json(Cells::Texts(texts)) => {
                self.write_texts(texts.iter().map(String::as_str), slots)
            }
            Data::Json(Cells::Numbers(numbers)) => {
                let (name, whole) = (self.datatype.name(), self.datatype.whole());
                let fits = |number: &f64| {
                    whole.is_none_or(|(min, max)| {
                        number.is_nan() || (number.fract() == 0.0 && (min..=max).contains(number))
                    }) && (self.datatype != Datatype::Fp32 || !is_beyond_single(*number))
                };
                if let Some(beyond) = numbers.iter().find(|number| !fits(number)) {
                    let is_large = beyond.abs() >= WHOLE_MAX as f64;
                    if matches!(self.datatype, Datatype::Int64 | Datatype::Uint64) && is_large {
                        return Err(self.inexact(beyond));
                    }
                    return Err(self.wrong(format!("{beyond} is no {name}; send one")));
                }
                put(slots, numbers.iter().copied());
                Ok(())
            }
        }
    }

    fn write_raw<'s>(
        &self,
        raw: &'a [u8],
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        match self.datatype {
            Datatype::Fp64 => put(slots, elements(raw).map(f64::from_le_bytes)),
            Datatype::Fp32 => put(slots, elements(raw).map(|it| f32::from_le_bytes(it).into())),
            Datatype::Fp16 => put(slots, elements(raw).map(|it| half(u16::from_le_bytes(it)))),
            Datatype::Bf16 => put(slots, elements(raw).map(|it| brain(u16::from_le_bytes(it)))),
            Datatype::Bool => put(slots, raw.iter().map(|byte| f64::from(*byte != 0))),
            Datatype::Uint8 => put(slots, raw.iter().map(|byte| f64::from(*byte))),
            Datatype::Uint16 => put(slots, elements(raw).map(|it| u16::from_le_bytes(it).into())),
            Datatype::Uint32 => put(slots, elements(raw).map(|it| u32::from_le_bytes(it).into())),
            Datatype::Uint64 => {
                self.put_exact(elements(raw).map(|it| u64::from_le_bytes(it).into()), slots)?;
            }
            Datatype::Int8 => put(slots, elements(raw).map(|it| i8::from_le_bytes(it).into())),
            Datatype::Int16 => put(slots, elements(raw).map(|it| i16::from_le_bytes(it).into())),
            Datatype::Int32 => put(slots, elements(raw).map(|it| i32::from_le_bytes(it).into())),
            Datatype::Int64 => {
                self.put_exact(elements(raw).map(|it| i64::from_le_bytes(it).into()), slots)?;
            }
            Datatype::Bytes => return self.write_texts(self.raw_texts(raw)?.into_iter(), slots),
        }
        Ok(())
    }

    fn write_list<'s>(
        &self,
        list: &List<'_>,
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        match list {
            List::Fp64s(list) => put(slots, list.iter().copied()),
            List::Fp32s(list) => put(slots, list.iter().map(|it| (*it).into())),
            List::Bools(list) => put(slots, list.iter().map(|it| (*it).into())),
            List::Int64s(list) => self.put_exact(list.iter().map(|it| (*it).into()), slots)?,
            List::Uint64s(list) => self.put_exact(list.iter().map(|it| (*it).into()), slots)?,
            List::Int32s(list) => self.put_fitting(list.iter().map(|it| (*it).into()), slots)?,
            List::Uint32s(list) => self.put_fitting(list.iter().map(|it| (*it).into()), slots)?,
            List::Bytes(list) => {
                let texts = list.iter().map(|it| self.text(it));
                let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
                self.write_texts(texts.into_iter(), slots)?;
            }
            List::Misplaced(why) => return Err(self.wrong(why)),
        }
        Ok(())
    }

    /// Integers of 64 bits, as far as a double holds them.
    fn put_exact<'s>(
        &self,
        numbers: impl Iterator<Item = i128> + Clone,
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        let beyond = |it: &i128| it.unsigned_abs() > WHOLE_MAX.into();
        match numbers.clone().find(beyond) {
            Some(beyond) => Err(self.inexact(beyond)),
            None => {
                put(slots, numbers.map(|it| it as f64));
                Ok(())
            }
        }
    }

    fn inexact(&self, number: impl Display) -> Error {
        self.wrong(format!(
            "{number} is beyond 2^53, where numbers (doubles) do not hold every integer; send smaller ones, or text where it is a name"
        ))
    }

    /// Small integers travel as larger ones.
    fn put_fitting<'s>(
        &self,
        numbers: impl Iterator<Item = f64> + Clone,
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        let (min, max) = self.datatype.whole().unwrap_or((f64::MIN, f64::MAX));
        if let Some(beyond) = numbers.clone().find(|it| !(min..=max).contains(it)) {
            let name = self.datatype.name();
            return Err(self.wrong(format!("{beyond} is no {name}; send {min} to {max}")));
        }
        put(slots, numbers);
        Ok(())
    }

    fn write_texts<'s, 't>(
        &self,
        texts: impl Iterator<Item = &'t str>,
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        for (slot, text) in slots.zip(texts) {
            // Rust reads "inf" and "nan" as numbers, and 1e400 as infinity.
            let number = text.trim().parse().ok().filter(|it: &f64| it.is_finite());
            *slot = number.ok_or_else(|| {
                let shown: String = text.chars().take(SHOWN_MAX).collect();
                self.wrong(format!(
                    "{shown:?} is no finite number, and this input is one; send numbers"
                ))
            })?;
        }
        Ok(())
    }

    fn raw_texts(&self, mut raw: &'a [u8]) -> Result<Vec<&'a str>, Error> {
        let mut texts = Vec::new();
        while !raw.is_empty() {
            let cut = || {
                self.wrong("raw BYTES end inside an element; each is a length of four bytes, little endian, and as many bytes")
            };
            let (len, rest) = raw.split_first_chunk::<4>().ok_or_else(cut)?;
            let len = u32::from_le_bytes(*len) as usize;
            let (bytes, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
            texts.push(self.text(bytes)?);
            raw = rest;
        }
        let (found, wanted) = (texts.len(), self.count()?);
        if found != wanted {
            let shape = shown(self.shape);
            return Err(self.wrong(format!(
                "BYTES of shape {shape} has {wanted} elements, not {found}; let shape and data agree"
            )));
        }
        Ok(texts)
    }

    fn text<'t>(&self, bytes: &'t [u8]) -> Result<&'t str, Error> {
        std::str::from_utf8(bytes)
            .map_err(|_| self.wrong("BYTES here are text in UTF-8; these are not"))
    }

    /// The elements as a record's fields take them.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub(crate) fn column(&self) -> Result<Column<'_>, Error> {
        let count = self.count()?;
        let texts = match (self.datatype, &self.data) {
            (Datatype::Bytes, Data::Raw(raw)) => Some(self.raw_texts(raw)?),
            (_, Data::List(List::Bytes(list))) => {
                let texts = list.iter().map(|it| self.text(it));
                Some(texts.collect::<Result<_, _>>()?)
            }
            (_, Data::Json(Cells::Texts(texts))) => {
                Some(texts.iter().map(String::as_str).collect())
            }
            _ => None,
        };
        if let Some(texts) = texts {
            return Ok(Column::Texts(texts));
        }
        let mut numbers = vec![0.0; count];
        self.write(&mut numbers, 0, 1)?;
        if self.datatype == Datatype::Bool {
            // NaN is what came as a null.
            let truth = |it: &f64| (!it.is_nan()).then_some(*it != 0.0);
            return Ok(Column::Bools(numbers.iter().map(truth).collect()));
        }
        Ok(Column::Numbers(numbers))
    }

    pub(crate) fn wrong(&self, what: impl Display) -> Error {
        wrong(self.name, what)
    }
}

/// Whether single precision makes an infinity of a number that is none.
pub(crate) fn is_beyond_single(number: f64) -> bool {
    number.is_finite() && (number as f32).is_infinite()
}

fn put<'s>(slots: impl Iterator<Item = &'s mut f64>, numbers: impl Iterator<Item = f64>) {
    for (slot, number) in slots.zip(numbers) {
        *slot = number;
    }
}

fn elements<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> + Clone {
    let (elements, _) = raw.as_chunks::<N>();
    elements.iter().copied()
}

/// An IEEE 754 half: 1 bit sign, 5 exponent, 10 fraction.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff);
    let size = match i32::from(bits >> 10 & 0x1f) {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    sign * size
}

/// The upper half of a single.
fn brain(bits: u16) -> f64 {
    f32::from_bits(u32::from(bits) << 16).into()
}
