//! Kontiki's seam to the world: submit operations, take completions, tell the time.

mod error;
mod name;
mod op;

pub use error::{IoError, IoErrorKind};
pub use name::Name;
pub use op::{Completion, Gather, Handle, Io, IoBuf, IoData, Op, Output, Piece, Token, Wake, MAX_PIECES};
