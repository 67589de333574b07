//! Kontiki's write-ahead log: segmented, checksummed, sans-I/O.
//!
//! A log lives in a directory: segment files that are only ever appended to, and a hard state (term, vote, boot
//! number) in two copies. The format, the rules of recovery and what is assumed of the medium are in `docs/format.md`.
//!
//! [`Opening`] finds the log and yields a [`Wal`]. Neither does any I/O: both submit operations to the
//! [`Io`](kontiki_io::Io) they are handed, under tokens with [`OWNER`] in the top byte, and are given the completions
//! of those tokens. A turn of the node goes like this:
//!
//! ```
//! use kontiki_io::{Completion, Io};
//! use kontiki_wal::{OWNER, Opening, Options, Wal, WalError, WalEvent};
//!
//! fn open(options: Options, io: &mut dyn Io) -> Result<Wal, WalError> {
//!     let mut opening = Opening::start(options, io)?;
//!     let mut done = Vec::new();
//!     loop {
//!         if let Some(opened) = opening.poll()? {
//!             // hard_state, incarnation and restored go to the core, report to the operator.
//!             return Ok(opened.wal);
//!         }
//!         if opening.wants_bases() {
//!             // Directory and lock are ours: here the intact snapshots are looked for. There are none.
//!             opening.set_bases(&[], io);
//!         }
//!         io.turn(None, &mut done).expect("the backend works");
//!         for completion in done.drain(..) {
//!             opening.on_completion(completion, io);
//!         }
//!     }
//! }
//!
//! fn turn(wal: &mut Wal, done: &mut Vec<Completion>, io: &mut dyn Io) {
//!     for completion in done.drain(..) {
//!         if completion.token.0 >> 56 == u64::from(OWNER) {
//!             wal.on_completion(completion, io);
//!         }
//!     }
//!     while let Some(event) = wal.next_event() {
//!         match event {
//!             WalEvent::LogDurable { write } => println!("log writes up to {write} are durable"),
//!             WalEvent::HardStateDurable { write } => println!("hard-state write {write} is durable"),
//!             WalEvent::Read { .. } | WalEvent::Term { .. } => {}
//!         }
//!     }
//!     // Now `append`, where `can_append` says so, and `save_hard_state`; then all of it is submitted at once:
//!     wal.pump(io);
//!     if let Some(error) = wal.poisoned() {
//!         println!("stop: {error}");
//!     }
//! }
//! ```
//!
//! **Order.** Writes are submitted in the order of the log, several at a time; [`WalEvent::LogDurable`] covers a
//! contiguous prefix. Hard state and log are independent of each other: who needs one before the other waits for its
//! event.
//!
//! **Memory.** Everything is set aside when the log opens; appending, writing and reading do not allocate. Recovery's
//! memory (two reads of 1 MiB and one longest frame) is given back.
//!
//! **Failure.** After a failed write or flush the log is poisoned ([`Wal::poisoned`]): no event of durability comes any
//! more. A full disk while a spare segment is prepared is waited out ([`Space::Full`]). So is a shortage of anything
//! else, whatever is under way: it says that nothing broke ([`kontiki_io::Op`]), so the same operation is tried again,
//! after a pause that doubles up to a bound, and nothing counts as durable before it has succeeded ([`Space::Short`],
//! [`Wal::lacking`]).
#![forbid(unsafe_code)]

mod append;
mod backoff;
mod closing;
mod error;
mod hard_state;
mod index;
mod layout;
pub mod limits;
mod margin;
pub mod names;
pub mod offline;
mod opening;
mod options;
mod prepare;
mod reach;
mod read;
mod recovery;
mod report;
mod saver;
mod segment_header;
mod segments;
mod stream;
mod terms;
mod token;
mod wal;

pub use error::{Cause, Damage, WalError};
pub use hard_state::HardState;
pub use opening::{Opened, Opening};
pub use options::{Medium, Options};
pub use reach::Reach;
pub use read::{FrameAt, Frames, ReadError};
pub use report::{Chain, RecoveryReport};
pub use token::OWNER;
pub use wal::{Growth, Space, Wal, WalEvent};
