//! Every datatype in every form; shapes and data that do not agree; numbers that a datatype does not have.

use proptest::prelude::*;

use super::{
    datatype::{
        DATATYPES,
        Datatype::{
            Bf16, Bool, Bytes, Fp16, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32,
            Uint64,
        },
    },
    *,
};

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

fn listed<'a>(datatype: Datatype, shape: &'a [i64], list: List<'a>) -> Tensor<'a> {
    Tensor {
        name: "x",
        datatype,
        shape,
        data: Data::List(list),
        limits: Limits::default(),
    }
}

/// Lists of each type.
#[derive(Default)]
struct Lists {
    bools: Vec<bool>,
    int32s: Vec<i32>,
    int64s: Vec<i64>,
    uint32s: Vec<u32>,
    uint64s: Vec<u64>,
    fp32s: Vec<f32>,
    fp64s: Vec<f64>,
    bytes: Vec<Vec<u8>>,
}

impl Lists {
    /// The one that elements of a datatype come in.
    fn of(&self, datatype: Datatype) -> List<'_> {
        match datatype {
            Bool => List::Bools(&self.bools),
            Int8 | Int16 | Int32 => List::Int32s(&self.int32s),
            Int64 => List::Int64s(&self.int64s),
            Uint8 | Uint16 | Uint32 => List::Uint32s(&self.uint32s),
            Uint64 => List::Uint64s(&self.uint64s),
            Fp32 => List::Fp32s(&self.fp32s),
            Fp64 => List::Fp64s(&self.fp64s),
            Bytes => List::Bytes(&self.bytes),
            Fp16 | Bf16 => List::Misplaced("is raw".to_owned()),
        }
    }
}

/// Numbers of a datatype, in raw contents and (but for FP16) in a list.
fn written(datatype: Datatype, numbers: &[i8]) -> (Vec<u8>, Lists) {
    let mut lists = Lists::default();
    let mut raw = Vec::new();
    for number in numbers {
        // Every datatype has the numbers of 0 to 127, BOOL 0 and 1.
        let small = number.unsigned_abs() & 127;
        match datatype {
            Bool => {
                raw.push(small & 1);
                lists.bools.push(small & 1 == 1);
            }
            Uint8 => raw.push(small),
            Uint16 => raw.extend(u16::from(small).to_le_bytes()),
            Uint32 => raw.extend(u32::from(small).to_le_bytes()),
            Uint64 => {
                raw.extend(u64::from(small).to_le_bytes());
                lists.uint64s.push(small.into());
            }
            Int8 => raw.extend(number.to_le_bytes()),
            Int16 => raw.extend(i16::from(*number).to_le_bytes()),
            Int32 => raw.extend(i32::from(*number).to_le_bytes()),
            Int64 => {
                raw.extend(i64::from(*number).to_le_bytes());
                lists.int64s.push((*number).into());
            }
            Fp16 => raw.extend(half_of(*number).to_le_bytes()),
            Bf16 => {
                let bits = f32::from(*number).to_bits() >> 16;
                raw.extend((bits as u16).to_le_bytes());
            }
            Fp32 => {
                raw.extend(f32::from(*number).to_le_bytes());
                lists.fp32s.push((*number).into());
            }
            Fp64 => {
                raw.extend(f64::from(*number).to_le_bytes());
                lists.fp64s.push((*number).into());
            }
            Bytes => {
                let text = number.to_string();
                raw.extend((text.len() as u32).to_le_bytes());
                raw.extend(text.as_bytes());
                lists.bytes.push(text.into_bytes());
            }
        }
        match datatype {
            Uint8 | Uint16 | Uint32 => lists.uint32s.push(small.into()),
            Int8 | Int16 | Int32 => lists.int32s.push((*number).into()),
            _ => {}
        }
    }
    (raw, lists)
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
    fn every_datatype_is_read_alike_from_raw_contents_and_from_lists(
        at in 0..DATATYPES.len(),
        numbers in prop::collection::vec(any::<i8>(), 1..40),
    ) {
        let datatype = DATATYPES[at].0;
        let (bytes, lists) = written(datatype, &numbers);
        let expected: Vec<f64> = numbers.iter().map(|it| expected(datatype, *it)).collect();
        let shape = [numbers.len() as i64, 1];
        prop_assert_eq!(read(&raw(datatype, &shape, &bytes)), Ok(expected.clone()));
        if !matches!(datatype, Fp16 | Bf16) {
            prop_assert_eq!(read(&listed(datatype, &shape, lists.of(datatype))), Ok(expected));
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
    let lists = Lists {
        fp32s: vec![1.0; 3],
        ..Default::default()
    };
    let refused = listed(Fp32, &[2, 2], lists.of(Fp32)).count();
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("4 elements, not 3")
    );
    let misplaced = List::Misplaced("is somewhere else".to_owned());
    let refused = listed(Fp64, &[3], misplaced).count().unwrap_err();
    assert_eq!(refused.to_string(), "input \"x\": is somewhere else");
}

#[test]
fn a_small_integer_that_travels_as_a_larger_one_must_fit() {
    let lists = Lists {
        int32s: vec![1, 200],
        uint32s: vec![],
        ..Default::default()
    };
    let refused = read(&listed(Int8, &[2], lists.of(Int8))).unwrap_err();
    assert!(refused.to_string().contains("200 is no INT8"), "{refused}");
    assert_eq!(
        read(&listed(Int16, &[2], lists.of(Int16))),
        Ok(vec![1.0, 200.0])
    );
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
        let lists = Lists {
            int64s: vec![beyond],
            ..Default::default()
        };
        assert_eq!(said(read(&listed(Int64, &[1], lists.of(Int64)))), refused);
        assert!(raw(Int64, &[1], &beyond.to_le_bytes()).column().is_err());
    }
    for beyond in [MOST as u64 + 1, u64::MAX] {
        let refused = said(read(&raw(Uint64, &[1], &beyond.to_le_bytes())));
        let lists = Lists {
            uint64s: vec![beyond],
            ..Default::default()
        };
        assert_eq!(said(read(&listed(Uint64, &[1], lists.of(Uint64)))), refused);
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
        let lists = Lists {
            bytes: vec![text.as_bytes().to_vec()],
            ..Default::default()
        };
        let refused = read(&listed(Bytes, &[1], lists.of(Bytes)));
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
    let lists = Lists {
        bytes: vec![b"red".to_vec()],
        ..Default::default()
    };
    let refused = read(&listed(Bytes, &[1], lists.of(Bytes))).unwrap_err();
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
