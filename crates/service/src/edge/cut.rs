//! Why reading a request's body was given up, and the error for its sender.

use std::borrow::Cow;

use tonic::Status;

use crate::MessageMax;

/// Why reading a body was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Request bodies hold as much memory as they may.
    Memory,
    /// It arrived too slowly.
    Slow,
    /// It cannot be decompressed: damaged, incomplete, or in another coding than its header says.
    Corrupt,
    /// A message is larger than this once decompressed.
    TooLarge(MessageMax),
}

impl Cut {
    pub fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Cut::Memory => {
                "the memory for request bodies is exhausted (QUADRILLE_BODY_MEMORY); send it again later"
            }
            Cut::Slow => {
                "the body arrived too slowly (QUADRILLE_BODY_TIMEOUT); send less at once, or over a faster connection"
            }
            Cut::Corrupt => {
                "the body cannot be decompressed: it is corrupt, truncated, or not in the coding that its header names (deflate is the zlib format); send it again"
            }
            Cut::TooLarge(max) => {
                return format!(
                    "the message is larger than {} bytes once it is decompressed; {}",
                    max.bytes,
                    max.fix()
                )
                .into();
            }
        })
    }

    pub fn status(self) -> Status {
        let message = self.message();
        match self {
            Cut::Memory | Cut::TooLarge(_) => Status::resource_exhausted(message),
            Cut::Slow => Status::deadline_exceeded(message),
            // gRPC's code for data that does not decompress by a supported coding.
            Cut::Corrupt => Status::internal(message),
        }
    }
}
