//! A tensor of a request: its datatype, its shape, and its elements as numbers or texts, whatever form they came in.
//! Pure: nothing here is trusted, and nothing is allocated before shape and data agree.

use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::InferTensorContents;

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

/// Up to here a double holds every integer; beyond, two that differ may become one.
const WHOLE_MAX: u64 = 1 << 53;

/// So much of a value that is refused is shown.
pub(crate) const SHOWN_MAX: usize = 40;

/// What is wrong with the tensors of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    TooLarge(String),
}

/// An error of one input, by its name.
pub(crate) fn wrong(input: &str, what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("input {}: {what}", quote(input)))
}

/// A shape, as far as it is worth showing.
pub(crate) fn shown(shape: &[i64]) -> String {
    const SIDES_MAX: usize = 8;
    match shape.get(..SIDES_MAX) {
        Some(first) if shape.len() > SIDES_MAX => {
            let first: Vec<String> = first.iter().map(i64::to_string).collect();
            format!("[{}, … {} sides]", first.join(", "), shape.len())
        }
        _ => format!("{shape:?}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

use Datatype::{
    Bf16, Bool, Bytes, Fp16, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64,
};

/// Each datatype, its name, and the bytes of an element (0 where they vary).
const DATATYPES: [(Datatype, &str, usize); 14] = [
    (Fp64, "FP64", 8),
    (Fp32, "FP32", 4),
    (Bool, "BOOL", 1),
    (Uint8, "UINT8", 1),
    (Uint16, "UINT16", 2),
    (Uint32, "UINT32", 4),
    (Uint64, "UINT64", 8),
    (Int8, "INT8", 1),
    (Int16, "INT16", 2),
    (Int32, "INT32", 4),
    (Int64, "INT64", 8),
    (Fp16, "FP16", 2),
    (Bf16, "BF16", 2),
    (Bytes, "BYTES", 0),
];

impl Datatype {
    /// # Errors
    /// There is no such datatype; those there are, are listed.
    pub(crate) fn parse(input: &str, name: &str) -> Result<Self, Error> {
        let found = DATATYPES.iter().find(|(_, known, _)| *known == name);
        found.map(|(datatype, ..)| *datatype).ok_or_else(|| {
            let known: Vec<&str> = DATATYPES.iter().map(|(_, known, _)| *known).collect();
            let known = known.join(", ");
            wrong(
                input,
                format!("no datatype {}; send one of {known}", quote(name)),
            )
        })
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (Datatype, &'static str, usize) {
        let row = DATATYPES.into_iter().find(|(it, ..)| *it == self);
        row.unwrap_or((self, "", 0))
    }

    /// The whole numbers it holds, where it holds no others; of those of 64 bits, the ones that are surely what was sent: once it is a double,
    /// 2^53 may have been another.
    fn whole(self) -> Option<(f64, f64)> {
        let most = (WHOLE_MAX - 1) as f64;
        Some(match self {
            Bool => (0.0, 1.0),
            Uint8 => (0.0, f64::from(u8::MAX)),
            Uint16 => (0.0, f64::from(u16::MAX)),
            Uint32 => (0.0, f64::from(u32::MAX)),
            Uint64 => (0.0, most),
            Int8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
            Int16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
            Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Int64 => (-most, most),
            Fp16 | Bf16 | Fp32 | Fp64 | Bytes => return None,
        })
    }
}

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

#[derive(Debug)]
pub(crate) enum Data<'a> {
    /// Little endian; BYTES with a length of four bytes before each.
    Raw(&'a [u8]),
    Typed(&'a InferTensorContents),
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
        let (_, name, size) = self.datatype.row();
        let (found, wanted, unit) = match &self.data {
            // How many there are is found when they are read.
            Data::Raw(_) if self.datatype == Bytes => return Ok(()),
            Data::Raw(raw) => (raw.len(), count * size, "bytes of raw contents"),
            Data::Typed(contents) => (self.typed_len(contents)?, count, "elements"),
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

    /// Elements in the field of the datatype; no other field may have any.
    fn typed_len(&self, contents: &InferTensorContents) -> Result<usize, Error> {
        let fields = [
            ("bool_contents", contents.bool_contents.len()),
            ("int_contents", contents.int_contents.len()),
            ("int64_contents", contents.int64_contents.len()),
            ("uint_contents", contents.uint_contents.len()),
            ("uint64_contents", contents.uint64_contents.len()),
            ("fp32_contents", contents.fp32_contents.len()),
            ("fp64_contents", contents.fp64_contents.len()),
            ("bytes_contents", contents.bytes_contents.len()),
        ];
        let own = match self.datatype {
            Bool => 0,
            Int8 | Int16 | Int32 => 1,
            Int64 => 2,
            Uint8 | Uint16 | Uint32 => 3,
            Uint64 => 4,
            Fp32 => 5,
            Fp64 => 6,
            Bytes => 7,
            Fp16 | Bf16 => return Err(self.raw_only()),
        };
        let mut others = fields.iter().enumerate();
        match others.find(|(at, (_, len))| *at != own && *len > 0) {
            None => Ok(fields[own].1),
            Some((_, (other, _))) => {
                let (name, own) = (self.datatype.name(), fields[own].0);
                Err(self.wrong(format!("{name} travels in {own}, not in {other}; use it")))
            }
        }
    }

    fn raw_only(&self) -> Error {
        let name = self.datatype.name();
        self.wrong(format!(
            "{name} travels in raw_input_contents only; send it there"
        ))
    }

    /// Writes the elements as numbers to `out[first]`, `out[first + step]` and so on.
    ///
    /// # Errors
    /// An element is no number that its datatype has; [`Tensor::count`] has been asked.
    pub(crate) fn write(&self, out: &mut [f64], first: usize, step: usize) -> Result<(), Error> {
        let slots = out.iter_mut().skip(first).step_by(step.max(1));
        match &self.data {
            Data::Raw(raw) => self.write_raw(raw, slots),
            Data::Typed(contents) => self.write_typed(contents, slots),
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
                    }) && (self.datatype != Fp32 || !is_beyond_single(*number))
                };
                if let Some(beyond) = numbers.iter().find(|number| !fits(number)) {
                    let is_large = beyond.abs() >= WHOLE_MAX as f64;
                    if matches!(self.datatype, Int64 | Uint64) && is_large {
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
            Fp64 => put(slots, elements(raw).map(f64::from_le_bytes)),
            Fp32 => put(slots, elements(raw).map(|it| f32::from_le_bytes(it).into())),
            Fp16 => put(slots, elements(raw).map(|it| half(u16::from_le_bytes(it)))),
            Bf16 => put(slots, elements(raw).map(|it| brain(u16::from_le_bytes(it)))),
            Bool => put(slots, raw.iter().map(|byte| f64::from(*byte != 0))),
            Uint8 => put(slots, raw.iter().map(|byte| f64::from(*byte))),
            Uint16 => put(slots, elements(raw).map(|it| u16::from_le_bytes(it).into())),
            Uint32 => put(slots, elements(raw).map(|it| u32::from_le_bytes(it).into())),
            Uint64 => {
                self.put_exact(elements(raw).map(|it| u64::from_le_bytes(it).into()), slots)?;
            }
            Int8 => put(slots, elements(raw).map(|it| i8::from_le_bytes(it).into())),
            Int16 => put(slots, elements(raw).map(|it| i16::from_le_bytes(it).into())),
            Int32 => put(slots, elements(raw).map(|it| i32::from_le_bytes(it).into())),
            Int64 => {
                self.put_exact(elements(raw).map(|it| i64::from_le_bytes(it).into()), slots)?;
            }
            Bytes => return self.write_texts(self.raw_texts(raw)?.into_iter(), slots),
        }
        Ok(())
    }

    fn write_typed<'s>(
        &self,
        contents: &InferTensorContents,
        slots: impl Iterator<Item = &'s mut f64>,
    ) -> Result<(), Error> {
        match self.datatype {
            Fp64 => put(slots, contents.fp64_contents.iter().copied()),
            Fp32 => put(slots, contents.fp32_contents.iter().map(|it| (*it).into())),
            Bool => put(slots, contents.bool_contents.iter().map(|it| (*it).into())),
            Int64 => {
                self.put_exact(contents.int64_contents.iter().map(|it| (*it).into()), slots)?;
            }
            Uint64 => {
                self.put_exact(
                    contents.uint64_contents.iter().map(|it| (*it).into()),
                    slots,
                )?;
            }
            Int8 | Int16 | Int32 => {
                let numbers = contents.int_contents.iter().map(|it| f64::from(*it));
                self.put_fitting(numbers, slots)?;
            }
            Uint8 | Uint16 | Uint32 => {
                let numbers = contents.uint_contents.iter().map(|it| f64::from(*it));
                self.put_fitting(numbers, slots)?;
            }
            Bytes => {
                let texts = contents.bytes_contents.iter().map(|it| self.text(it));
                let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
                self.write_texts(texts.into_iter(), slots)?;
            }
            Fp16 | Bf16 => return Err(self.raw_only()),
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

    fn inexact(&self, number: impl std::fmt::Display) -> Error {
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
            (Bytes, Data::Raw(raw)) => Some(self.raw_texts(raw)?),
            (Bytes, Data::Typed(contents)) => {
                let texts = contents.bytes_contents.iter().map(|it| self.text(it));
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
        if self.datatype == Bool {
            // NaN is what came as a null.
            let truth = |it: &f64| (!it.is_nan()).then_some(*it != 0.0);
            return Ok(Column::Bools(numbers.iter().map(truth).collect()));
        }
        Ok(Column::Numbers(numbers))
    }

    pub(crate) fn wrong(&self, what: impl std::fmt::Display) -> Error {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(tensor: &Tensor<'_>) -> Result<Vec<f64>, Error> {
        let mut numbers = vec![0.0; tensor.count()?];
        tensor.write(&mut numbers, 0, 1)?;
        Ok(numbers)
    }

    fn raw<'a>(datatype: Datatype, shape: &'a [i64], raw: &'a [u8]) -> Tensor<'a> {
        Tensor {
            name: "x",
            datatype,
            shape,
            data: Data::Raw(raw),
            limits: Limits::default(),
        }
    }

    fn typed<'a>(
        datatype: Datatype,
        shape: &'a [i64],
        contents: &'a InferTensorContents,
    ) -> Tensor<'a> {
        Tensor {
            name: "x",
            datatype,
            shape,
            data: Data::Typed(contents),
            limits: Limits::default(),
        }
    }

    /// A number of a datatype, in raw and (but for FP16) typed contents.
    fn written(datatype: Datatype, numbers: &[i8]) -> (Vec<u8>, InferTensorContents) {
        let mut contents = InferTensorContents::default();
        let mut raw = Vec::new();
        for number in numbers {
            // Every datatype has the numbers of 0 to 127, BOOL 0 and 1.
            let small = number.unsigned_abs() & 127;
            match datatype {
                Bool => {
                    raw.push(small & 1);
                    contents.bool_contents.push(small & 1 == 1);
                }
                Uint8 => raw.push(small),
                Uint16 => raw.extend(u16::from(small).to_le_bytes()),
                Uint32 => raw.extend(u32::from(small).to_le_bytes()),
                Uint64 => {
                    raw.extend(u64::from(small).to_le_bytes());
                    contents.uint64_contents.push(small.into());
                }
                Int8 => raw.extend(number.to_le_bytes()),
                Int16 => raw.extend(i16::from(*number).to_le_bytes()),
                Int32 => raw.extend(i32::from(*number).to_le_bytes()),
                Int64 => {
                    raw.extend(i64::from(*number).to_le_bytes());
                    contents.int64_contents.push((*number).into());
                }
                Fp16 => raw.extend(half_of(*number).to_le_bytes()),
                Bf16 => {
                    let bits = f32::from(*number).to_bits() >> 16;
                    raw.extend((bits as u16).to_le_bytes());
                }
                Fp32 => {
                    raw.extend(f32::from(*number).to_le_bytes());
                    contents.fp32_contents.push((*number).into());
                }
                Fp64 => {
                    raw.extend(f64::from(*number).to_le_bytes());
                    contents.fp64_contents.push((*number).into());
                }
                Bytes => {
                    let text = number.to_string();
                    raw.extend((text.len() as u32).to_le_bytes());
                    raw.extend(text.as_bytes());
                    contents.bytes_contents.push(text.into_bytes());
                }
            }
            match datatype {
                Uint8 | Uint16 | Uint32 => contents.uint_contents.push(small.into()),
                Int8 | Int16 | Int32 => contents.int_contents.push((*number).into()),
                _ => {}
            }
        }
        (raw, contents)
    }

    fn half_of(number: i8) -> u16 {
        if number == 0 {
            return 0;
        }
        let sign = if number < 0 { 0x8000 } else { 0 };
        let size = u16::from(number.unsigned_abs());
        let exponent = size.ilog2() as u16;
        sign | (exponent + 15) << 10 | (size << (10 - exponent)) & 0x3ff
    }

    fn expected(datatype: Datatype, number: i8) -> f64 {
        match datatype {
            Bool => f64::from(number.unsigned_abs() & 1),
            Uint8 | Uint16 | Uint32 | Uint64 => f64::from(number.unsigned_abs() & 127),
            _ => f64::from(number),
        }
    }

    proptest! {
        #[test]
        fn every_datatype_is_read_alike_from_raw_and_typed_contents(
            at in 0..DATATYPES.len(),
            numbers in prop::collection::vec(any::<i8>(), 1..40),
        ) {
            let datatype = DATATYPES[at].0;
            let (bytes, contents) = written(datatype, &numbers);
            let expected: Vec<f64> = numbers.iter().map(|it| expected(datatype, *it)).collect();
            let shape = [numbers.len() as i64, 1];
            prop_assert_eq!(read(&raw(datatype, &shape, &bytes)), Ok(expected.clone()));
            if !matches!(datatype, Fp16 | Bf16) {
                prop_assert_eq!(read(&typed(datatype, &shape, &contents)), Ok(expected));
            }
        }

        #[test]
        fn no_bytes_and_no_shape_can_do_more_than_be_refused(
            at in 0..DATATYPES.len(),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            shape in prop::collection::vec(prop_oneof![0..4_i64, any::<i64>()], 0..5),
        ) {
            let tensor = raw(DATATYPES[at].0, &shape, &bytes);
            let elements = read(&tensor).map(|numbers| numbers.len() as i64);
            if let Ok(elements) = elements {
                // Sides beyond all bounds are none beside one of 0.
                let product = |product: i64, side: &i64| product.saturating_mul(*side);
                prop_assert_eq!(elements, shape.iter().fold(1, product));
            }
            let _ = tensor.column();
        }
    }

    #[test]
    fn halves_are_read_to_the_last_bit() {
        for (bits, number) in [
            (0x3c00, 1.0),
            (0x3555, 0.333_251_953_125),
            (0xc000, -2.0),
            (0x7bff, 65_504.0),
            (0x0400, 2_f64.powi(-14)),
            (0x0001, 2_f64.powi(-24)),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), number, "{bits:#x}");
        }
        assert!(half(0x7e00).is_nan());
        assert!(half(0x8000).is_sign_negative());
        assert_eq!(brain(0x3fc0), 1.5);
        assert_eq!(brain(0xc2f7), -123.5);
        assert!(brain(0x7fc0).is_nan());
    }

    #[test]
    fn a_shape_beyond_all_bounds_is_too_large_before_anything_is_allocated() {
        for shape in [[i64::MAX, i64::MAX], [1 << 32, 1 << 32], [1 << 22, 1]] {
            let refused = raw(Fp64, &shape, &[]).count();
            assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
        }
        let refused = raw(Fp64, &[-1, 8], &[]).count();
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }

    #[test]
    fn a_side_of_zero_leaves_no_elements_however_large_the_others_are() {
        for datatype in [Fp64, Bytes] {
            let tensor = raw(datatype, &[2, 1 << 62, 0], &[]);
            assert_eq!(tensor.count(), Ok(0));
            assert!(tensor.column().is_ok());
        }
    }

    #[test]
    fn shape_and_data_that_disagree_are_refused_with_both_lengths() {
        let refused = raw(Fp32, &[2, 2], &[0; 15]).count();
        assert_eq!(
            refused.unwrap_err().to_string(),
            "input \"x\": FP32 of shape [2, 2] has 16 bytes of raw contents, not 15; let shape and data agree"
        );
        let contents = InferTensorContents {
            fp32_contents: vec![1.0; 3],
            ..Default::default()
        };
        let refused = typed(Fp32, &[2, 2], &contents).count();
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("4 elements, not 3")
        );
        let refused = typed(Fp64, &[3], &contents).count();
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("FP64 travels in fp64_contents, not in fp32_contents")
        );
        let refused = typed(Fp16, &[3], &contents).count();
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("raw_input_contents")
        );
    }

    #[test]
    fn a_small_integer_that_travels_as_a_larger_one_must_fit() {
        let contents = InferTensorContents {
            int_contents: vec![1, 200],
            uint_contents: vec![],
            ..Default::default()
        };
        let refused = read(&typed(Int8, &[2], &contents)).unwrap_err();
        assert!(refused.to_string().contains("200 is no INT8"), "{refused}");
        assert_eq!(read(&typed(Int16, &[2], &contents)), Ok(vec![1.0, 200.0]));
        let json = Tensor {
            name: "x",
            datatype: Uint8,
            shape: &[1],
            data: Data::Json(Cells::Numbers(vec![1.5])),
            limits: Limits::default(),
        };
        assert!(read(&json).is_err());
    }

    #[test]
    fn a_number_that_single_precision_does_not_have_is_refused_as_such() {
        let json = |datatype, number| Tensor {
            name: "x",
            datatype,
            shape: &[1],
            data: Data::Json(Cells::Numbers(vec![number])),
            limits: Limits::default(),
        };
        let refused = read(&json(Fp32, -1e39)).unwrap_err().to_string();
        assert!(refused.contains("is no FP32; send one"), "{refused}");
        for (datatype, number) in [(Fp64, 1e39), (Fp32, 3e38), (Fp32, f64::INFINITY)] {
            assert_eq!(read(&json(datatype, number)), Ok(vec![number]));
        }
        assert!(read(&json(Fp32, f64::NAN)).is_ok_and(|it| it[0].is_nan()));
    }

    #[test]
    fn an_integer_that_a_double_does_not_hold_is_refused_in_every_form() {
        const MOST: i64 = 1 << 53;
        let said = |read: Result<Vec<f64>, Error>| read.expect_err("refused").to_string();
        for beyond in [MOST + 1, -MOST - 1, i64::MAX, i64::MIN] {
            let refused = said(read(&raw(Int64, &[1], &beyond.to_le_bytes())));
            assert!(
                refused.contains(&format!("{beyond} is beyond 2^53")),
                "{refused}"
            );
            let contents = InferTensorContents {
                int64_contents: vec![beyond],
                ..Default::default()
            };
            assert_eq!(said(read(&typed(Int64, &[1], &contents))), refused);
            assert!(raw(Int64, &[1], &beyond.to_le_bytes()).column().is_err());
        }
        for beyond in [MOST as u64 + 1, u64::MAX] {
            let refused = said(read(&raw(Uint64, &[1], &beyond.to_le_bytes())));
            let contents = InferTensorContents {
                uint64_contents: vec![beyond],
                ..Default::default()
            };
            assert_eq!(said(read(&typed(Uint64, &[1], &contents))), refused);
        }
        for whole in [MOST, -MOST] {
            let found = read(&raw(Int64, &[1], &whole.to_le_bytes()));
            assert_eq!(found, Ok(vec![whole as f64]));
        }
        // JSON has them as doubles already: 2^53 may have been 2^53 + 1.
        let json = |datatype, number: i64| Tensor {
            name: "x",
            datatype,
            shape: &[1],
            data: Data::Json(Cells::Numbers(vec![number as f64])),
            limits: Limits::default(),
        };
        for datatype in [Int64, Uint64] {
            let refused = said(read(&json(datatype, MOST + 1)));
            assert!(refused.contains("is beyond 2^53"), "{refused}");
            assert!(read(&json(datatype, MOST - 1)).is_ok());
        }
        assert!(read(&json(Fp64, MOST + 1)).is_ok());
    }

    #[test]
    fn texts_are_finite_numbers_or_refused() {
        for text in [
            "inf",
            "-inf",
            "Infinity",
            "+infinity",
            "nan",
            "NaN",
            "1e400",
            "-1e400",
            "",
        ] {
            let contents = InferTensorContents {
                bytes_contents: vec![text.as_bytes().to_vec()],
                ..Default::default()
            };
            let refused = read(&typed(Bytes, &[1], &contents));
            let refused = refused.expect_err(text).to_string();
            assert!(refused.contains("is no finite number"), "{refused}");
        }
    }

    #[test]
    fn a_null_among_truths_is_missing() {
        let json = |cells| Tensor {
            name: "x",
            datatype: Bool,
            shape: &[2],
            data: Data::Json(cells),
            limits: Limits::default(),
        };
        let numbers = json(Cells::Numbers(vec![1.0, f64::NAN]));
        let column = |truths: [Option<bool>; 2]| Ok(Column::Bools(truths.to_vec()));
        assert_eq!(numbers.column(), column([Some(true), None]));
        let truths = json(Cells::Bools(vec![None, Some(false)]));
        assert_eq!(truths.column(), column([None, Some(false)]));
        assert!(read(&truths).is_ok_and(|it| it[0].is_nan() && it[1] == 0.0));
    }

    #[test]
    fn texts_that_are_no_numbers_are_refused_by_name_and_kept_for_records() {
        let (bytes, _) = written(Bytes, &[7, -3]);
        assert_eq!(read(&raw(Bytes, &[2], &bytes)), Ok(vec![7.0, -3.0]));
        let column = raw(Bytes, &[2], &bytes);
        assert_eq!(column.column(), Ok(Column::Texts(vec!["7", "-3"])));
        let contents = InferTensorContents {
            bytes_contents: vec![b"red".to_vec()],
            ..Default::default()
        };
        let refused = read(&typed(Bytes, &[1], &contents)).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("input \"x\": \"red\" is no finite number"),
            "{refused}"
        );
        let broken = raw(Bytes, &[1], &[9, 0, 0, 0, b'a']);
        assert!(
            read(&broken)
                .unwrap_err()
                .to_string()
                .contains("end inside an element")
        );
    }
}
