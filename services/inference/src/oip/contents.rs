//! The fields in which typed contents have the elements of each datatype. Pure.

use quadrille_proto::oip::InferTensorContents;

use crate::tensor::{Datatype, List};

/// The elements in the field of the datatype; no other field may have any.
pub(super) fn list(datatype: Datatype, contents: &InferTensorContents) -> List<'_> {
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
    let (own, list) = match datatype {
        Datatype::Bool => (0, List::Bools(&contents.bool_contents)),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => {
            (1, List::Int32s(&contents.int_contents))
        }
        Datatype::Int64 => (2, List::Int64s(&contents.int64_contents)),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => {
            (3, List::Uint32s(&contents.uint_contents))
        }
        Datatype::Uint64 => (4, List::Uint64s(&contents.uint64_contents)),
        Datatype::Fp32 => (5, List::Fp32s(&contents.fp32_contents)),
        Datatype::Fp64 => (6, List::Fp64s(&contents.fp64_contents)),
        Datatype::Bytes => (7, List::Bytes(&contents.bytes_contents)),
        Datatype::Fp16 | Datatype::Bf16 => {
            let name = datatype.name();
            return List::Misplaced(format!(
                "{name} travels in raw_input_contents only; send it there"
            ));
        }
    };
    let mut others = fields.iter().enumerate();
    match others.find(|(at, (_, len))| *at != own && *len > 0) {
        None => list,
        Some((_, (other, _))) => {
            let (name, own) = (datatype.name(), fields[own].0);
            List::Misplaced(format!("{name} travels in {own}, not in {other}; use it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> InferTensorContents {
        InferTensorContents {
            bool_contents: vec![true],
            int_contents: vec![1],
            int64_contents: vec![2],
            uint_contents: vec![3],
            uint64_contents: vec![4],
            fp32_contents: vec![5.0],
            fp64_contents: vec![6.0],
            bytes_contents: vec![b"7".to_vec()],
        }
    }

    #[test]
    fn each_datatype_has_a_field_of_its_own_and_elements_in_another_are_refused() {
        let alone = |datatype: Datatype, contents: InferTensorContents| {
            assert!(
                !matches!(list(datatype, &contents), List::Misplaced(_)),
                "{datatype:?}"
            );
            let List::Misplaced(why) = list(datatype, &all()) else {
                panic!("{datatype:?} beside others")
            };
            assert!(why.starts_with(datatype.name()), "{why}");
        };
        let none = InferTensorContents::default;
        let ints = || InferTensorContents {
            int_contents: vec![1],
            ..none()
        };
        let uints = || InferTensorContents {
            uint_contents: vec![1],
            ..none()
        };
        for (datatype, contents) in [
            (Datatype::Int8, ints()),
            (Datatype::Int16, ints()),
            (Datatype::Int32, ints()),
            (Datatype::Uint8, uints()),
            (Datatype::Uint16, uints()),
            (Datatype::Uint32, uints()),
        ] {
            alone(datatype, contents);
        }
        let one = |fill: fn(&mut InferTensorContents, InferTensorContents)| {
            let mut contents = none();
            fill(&mut contents, all());
            contents
        };
        alone(
            Datatype::Bool,
            one(|own, all| own.bool_contents = all.bool_contents),
        );
        alone(
            Datatype::Int64,
            one(|own, all| own.int64_contents = all.int64_contents),
        );
        alone(
            Datatype::Uint64,
            one(|own, all| own.uint64_contents = all.uint64_contents),
        );
        alone(
            Datatype::Fp32,
            one(|own, all| own.fp32_contents = all.fp32_contents),
        );
        alone(
            Datatype::Fp64,
            one(|own, all| own.fp64_contents = all.fp64_contents),
        );
        alone(
            Datatype::Bytes,
            one(|own, all| own.bytes_contents = all.bytes_contents),
        );
    }

    #[test]
    fn the_field_of_the_datatype_is_named_and_halves_travel_raw() {
        let contents = InferTensorContents {
            fp32_contents: vec![1.0; 3],
            ..InferTensorContents::default()
        };
        let said = |datatype| match list(datatype, &contents) {
            List::Misplaced(why) => why,
            list => panic!("{list:?}"),
        };
        assert_eq!(
            said(Datatype::Fp64),
            "FP64 travels in fp64_contents, not in fp32_contents; use it"
        );
        assert!(said(Datatype::Fp16).contains("raw_input_contents"));
    }
}
