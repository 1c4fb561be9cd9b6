//! The datatypes of tensors, by the names that all protocols here have for them.

use quadrille_pipeline::quote::quote;

use super::error::{Error, wrong};

/// Up to here a double holds every integer; beyond, two that differ may become one.
pub(super) const WHOLE_MAX: u64 = 1 << 53;

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
pub(super) const DATATYPES: [(Datatype, &str, usize); 14] = [
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

    /// Bytes of an element; 0 where they vary.
    pub(super) fn size(self) -> usize {
        self.row().2
    }

    fn row(self) -> (Datatype, &'static str, usize) {
        let row = DATATYPES.into_iter().find(|(it, ..)| *it == self);
        row.unwrap_or((self, "", 0))
    }

    /// The whole numbers it holds, where it holds no others; of those of 64 bits, the ones that are surely what was sent: once it is a double,
    /// 2^53 may have been another.
    pub(super) fn whole(self) -> Option<(f64, f64)> {
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
