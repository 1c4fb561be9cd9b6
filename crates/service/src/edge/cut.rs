//! Why a request's body is not read to its end, and what its sender is told.

use std::borrow::Cow;

use tonic::Status;

use crate::MessageMax;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// More bytes are held than may be.
    Memory,
    /// It came too slowly.
    Slow,
    /// It is compressed otherwise than it says, damaged, or not whole.
    Corrupt,
    /// A message is larger than that once it is decompressed.
    TooLarge(MessageMax),
}

impl Cut {
    pub fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Cut::Memory => {
                "the service holds as many bytes of requests as it may (QUADRILLE_BODY_MEMORY); send it again a little later"
            }
            Cut::Slow => {
                "the body came too slowly (QUADRILLE_BODY_TIMEOUT); send less at once, or over a faster connection"
            }
            Cut::Corrupt => {
                "the body cannot be decompressed: it is damaged, ends too early, or is compressed otherwise than it says (deflate is the zlib format); send it again, whole"
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
            // As gRPC has it for what was sent in a coding that is known.
            Cut::Corrupt => Status::internal(message),
        }
    }
}
