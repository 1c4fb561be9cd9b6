//! The head of a gRPC message: whether it is compressed, and how long it is.

use axum::body::Bytes;

const HEAD_BYTES: usize = 5;

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head([u8; HEAD_BYTES]);

impl Head {
    /// None if a message cannot be that long.
    pub fn new(packed: bool, length: usize) -> Option<Self> {
        let [a, b, c, d] = u32::try_from(length).ok()?.to_be_bytes();
        Some(Head([u8::from(packed), a, b, c, d]))
    }

    pub fn is_packed(self) -> bool {
        self.0[0] == 1
    }

    /// Neither compressed nor with an unknown flag.
    pub fn is_plain(self) -> bool {
        self.0[0] == 0
    }

    pub fn length(self) -> usize {
        let [_, length @ ..] = self.0;
        u32::from_be_bytes(length) as usize
    }

    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

/// A head that is arriving, in any number of pieces.
#[derive(Debug, Default)]
pub(super) struct Coming {
    bytes: [u8; HEAD_BYTES],
    len: usize,
}

impl Coming {
    /// Takes its bytes from `input`; returns the head once it is complete.
    pub fn take(&mut self, input: &mut Bytes) -> Option<Head> {
        let part = input.split_to(input.len().min(HEAD_BYTES - self.len));
        self.bytes[self.len..][..part.len()].copy_from_slice(&part);
        self.len += part.len();
        if self.len < HEAD_BYTES {
            return None;
        }
        self.len = 0;
        Some(Head(self.bytes))
    }

    pub fn has_begun(&self) -> bool {
        self.len > 0
    }
}
