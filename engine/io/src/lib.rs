//! Kontiki's seam to the world: submit operations, take completions, tell the time.
//!
//! [`Io`] is the one trait between the engine and everything outside of it; [`open`] gives the real world by
//! io_uring, or by epoll and a file worker where io_uring is absent or forbidden. Both mean the same by every
//! [`Op`]: the conformance suite in `hw-tests` holds them, and the simulator, to it.

mod bell;
mod clock;
mod descriptors;
mod errno;
mod error;
mod files;
mod handles;
mod host;
mod identity;
pub mod limits;
mod lock;
mod name;
mod op;
mod portable;
mod select;
mod sockets;
mod stats;
#[doc(hidden)]
pub mod telling;
mod uring;
mod worker;

pub use error::{IoError, IoErrorKind};
pub use host::HostName;
pub use identity::Identity;
pub use name::{MAX_NAME_BYTES, Name};
pub use op::{Completion, Gather, Handle, Io, IoBuf, IoData, MAX_PIECES, Op, Output, Piece, Token, Wake};
pub use select::{Backend, OpenError, Options, Region, open};
pub use stats::IoStats;
pub use uring::Without;
