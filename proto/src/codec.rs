//! Messages as tonic reads and writes them, and no request that would become many times its size: two bytes are an
//! `InferInputTensor`, which is 200 in memory. So what a request holds is counted before anything is made of it.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicUsize, Ordering},
};

use prost::{
    Message,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Messages inside one request, at most: a record's fields and their values, or inputs, outputs and parameters.
const MESSAGES_MAX: usize = 65_536;
/// Texts and whole numbers in lists of one request, at most: as many as the largest request of tensors may have.
static ELEMENTS_MAX: AtomicUsize = AtomicUsize::new(1 << 21);

/// A request may have so many texts or whole numbers in lists, for this whole process: a setting says so.
pub fn allow_elements(count: usize) {
    ELEMENTS_MAX.fetch_max(count, Ordering::Relaxed);
}
/// Messages in messages; prost refuses deeper ones.
const DEPTH_MAX: usize = 100;

/// The fields of a message whose values are larger in memory than on the wire.
pub(crate) struct Shape(&'static [(u32, Inner)]);

enum Inner {
    Message(&'static Shape),
    Text,
    Varints,
}

/// A message that is read, and what is counted in it.
pub(crate) trait Counted {
    const SHAPE: Option<&'static Shape>;
}

mod shapes {
    #![allow(dead_code, reason = "not all messages are in a request")]
    use super::{Counted, Inner, Shape};
    include!("generated/shapes.rs");
}

struct Count {
    messages: usize,
    elements: usize,
    elements_max: usize,
}

impl Count {
    fn is_over(&self) -> bool {
        self.messages > MESSAGES_MAX || self.elements > self.elements_max
    }
}

impl Shape {
    /// # Errors
    /// The message holds more than a request may.
    #[allow(clippy::result_large_err, reason = "tonic's own")]
    fn check(&self, bytes: &[u8]) -> Result<(), Status> {
        let elements_max = ELEMENTS_MAX.load(Ordering::Relaxed);
        let mut count = Count {
            messages: 0,
            elements: 0,
            elements_max,
        };
        // What is no message is for prost to refuse: it says where.
        let _ = self.walk(bytes, DEPTH_MAX, &mut count);
        match count.is_over() {
            false => Ok(()),
            true => Err(Status::resource_exhausted(format!(
                "the request holds more than {MESSAGES_MAX} messages, or {elements_max} texts and whole numbers; send less at once"
            ))),
        }
    }

    /// Counts until the end, or until it is enough.
    fn walk(&self, mut bytes: &[u8], depth: usize, count: &mut Count) -> Option<()> {
        while bytes.has_remaining() && !count.is_over() {
            let (number, wire) = decode_key(&mut bytes).ok()?;
            let inner = self.0.iter().find(|(known, _)| *known == number);
            let inner = inner.map(|(_, inner)| inner);
            match wire {
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes).ok()?;
                    let (inside, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                    bytes = rest;
                    match inner {
                        Some(Inner::Message(shape)) => {
                            count.messages += 1;
                            shape.walk(inside, depth.checked_sub(1)?, count)?;
                        }
                        Some(Inner::Text) => count.elements += 1,
                        // Its last byte says that a number ends.
                        Some(Inner::Varints) => {
                            count.elements += inside.iter().filter(|byte| **byte < 0x80).count();
                        }
                        None => {}
                    }
                }
                wire => {
                    count.elements += usize::from(matches!(inner, Some(Inner::Varints)));
                    skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
                }
            }
        }
        Some(())
    }
}

/// tonic's codec with that check before it.
pub(crate) struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Bounded(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Counted + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader(ProstCodec::<T, U>::default().decoder())
    }
}

/// Counts, then reads.
pub(crate) struct Reader<U>(ProstDecoder<U>);

impl<U: Message + Default + Counted> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(shape) = U::SHAPE {
            // A message lies in one piece.
            shape.check(bytes.chunk())?;
        }
        self.0.decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::{oip::ModelInferRequest, v1::PredictRequest};

    fn check<M: Counted>(bytes: &[u8]) -> Result<(), Code> {
        let shape = M::SHAPE.expect("it is a request");
        shape.check(bytes).map_err(|status| status.code())
    }

    #[test]
    fn a_message_of_nothing_but_messages_is_refused_before_it_is_built() {
        // Field 5, an InferInputTensor of nothing.
        let inputs = |count: usize| [0x2a, 0].repeat(count);
        assert_eq!(check::<ModelInferRequest>(&inputs(65_536)), Ok(()));
        let refused = check::<ModelInferRequest>(&inputs(65_537));
        assert_eq!(refused, Err(Code::ResourceExhausted));
    }

    #[test]
    fn values_of_a_record_are_counted_at_every_depth() {
        let field = |number: u8, inside: &[u8]| {
            let mut bytes = vec![number << 3 | 2];
            prost::encoding::encode_varint(inside.len() as u64, &mut bytes);
            [&bytes, inside].concat()
        };
        let of = |values: usize| {
            // A list (6) of values (1) that are lists of one.
            let one = field(1, &field(6, &field(1, &[])));
            let list = field(6, &one.repeat(values));
            let entry = [field(1, b"x"), field(2, &list)].concat();
            field(2, &field(1, &entry))
        };
        assert!(PredictRequest::decode(&of(10)[..]).is_ok());
        assert_eq!(check::<PredictRequest>(&of(10_000)), Ok(()));
        let refused = check::<PredictRequest>(&of(65_536 / 2));
        assert_eq!(refused, Err(Code::ResourceExhausted));
    }

    #[test]
    fn texts_and_numbers_of_a_tensor_are_counted_packed_or_not() {
        // bytes_contents (8) of an input's contents (5); int64_contents (3), packed and by itself.
        let text = [0x42, 0];
        let number = [0x18, 1];
        let of = |inside: Vec<u8>| {
            let mut contents = vec![0x2a];
            prost::encoding::encode_varint(inside.len() as u64, &mut contents);
            contents.extend(inside);
            let mut input = vec![0x2a];
            prost::encoding::encode_varint(contents.len() as u64, &mut input);
            input.extend(contents);
            input
        };
        for (most, more) in [
            (text.repeat(1 << 21), text.repeat((1 << 21) + 1)),
            (number.repeat(1 << 21), number.repeat((1 << 21) + 1)),
        ] {
            assert_eq!(check::<ModelInferRequest>(&of(most)), Ok(()));
            let refused = check::<ModelInferRequest>(&of(more));
            assert_eq!(refused, Err(Code::ResourceExhausted));
        }
        let mut packed = vec![0x1a];
        prost::encoding::encode_varint((1 << 21) + 1, &mut packed);
        packed.resize(packed.len() + (1 << 21) + 1, 1);
        let refused = check::<ModelInferRequest>(&of(packed));
        assert_eq!(refused, Err(Code::ResourceExhausted));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_counted_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(check::<ModelInferRequest>(&bytes), Ok(()));
            prop_assert_eq!(check::<PredictRequest>(&bytes), Ok(()));
        }
    }
}
