//! Kontiki's snapshots: the state as of one entry, in one file. Sans-I/O.
//!
//! A snapshot is `snapshot-<index>.ksn` in the data directory of a node: sections (configuration, sessions, the
//! machine's own stream) in chunks of 64 KiB, each with a checksum under which the snapshot's identity and the chunk's
//! number lie, and at the end a foot with length and digest of all. Without an intact foot it is none. The format is in
//! `docs/format.md`.
//!
//! [`Opening`] finds the snapshots in a directory that is locked already, and yields a [`Store`]. Neither does any I/O:
//! both submit operations to the [`Io`](kontiki_io::Io) they are handed, under tokens with [`OWNER`] in the top byte,
//! and are given the completions of those tokens.
//!
//! ```
//! use kontiki_io::{Completion, Io};
//! use kontiki_snapshot::{Making, OWNER, Opening, Options, Part, Store, StoreError, StoreEvent};
//!
//! fn open(options: Options, io: &mut dyn Io) -> Result<Store, StoreError> {
//!     let mut opening = Opening::start(options, io);
//!     let mut done = Vec::new();
//!     loop {
//!         if let Some(store) = opening.poll()? {
//!             return Ok(store);
//!         }
//!         io.turn(None, &mut done).expect("the backend works");
//!         for completion in done.drain(..) {
//!             opening.on_completion(completion, io);
//!         }
//!     }
//! }
//!
//! /// Writes one of what is in memory, and waits for it.
//! fn write(store: &mut Store, making: Making, mut state: &[u8], io: &mut dyn Io) {
//!     store.begin(making, io).expect("nothing else is being made");
//!     let (mut done, mut ended) = (Vec::new(), false);
//!     loop {
//!         state = &state[store.push(Part::Machine, state)..];
//!         ended = ended || state.is_empty() && store.finish();
//!         store.pump(io, false);
//!         io.turn(store.deadline(), &mut done).expect("the backend works");
//!         for completion in done.drain(..).filter(|completion| completion.token.0 >> 56 == u64::from(OWNER)) {
//!             store.on_completion(completion, io);
//!         }
//!         match store.next_event() {
//!             Some(StoreEvent::Written(info)) => return println!("{info}"),
//!             Some(StoreEvent::NotWritten { error, .. }) => return println!("{error}"),
//!             _ => {}
//!         }
//!     }
//! }
//! ```
//!
//! **What is kept.** The newest two; [`Store::release_upto`] says up to where the log may go. Space for the next one is
//! set aside before ([`Store::expect`]), in `snapshot.new`: little for a small one, which has no machine's part. Where it was too little the older one is given up
//! ([`StoreEvent::GaveUp`]); a disk that is too full even so ends the attempt, and nothing else.
//!
//! **Order.** A file gets its name once its content is durable, and counts once the name is: [`StoreEvent::Written`],
//! [`StoreEvent::Fetched`]. What is superseded goes after that.
//!
//! **Fetching.** The receiver pulls: [`Store::want`] says what to ask the source for, [`Store::accept`] takes a chunk.
//! After a broken connection it goes on as if nothing had been, after a restart behind the chunks that are durable, for
//! the very same [`Offer`] only. The whole is read back and checked before it gets a name.
//!
//! **Memory.** Two runs of 512 KiB while a snapshot is written, five and two chunks while one is fetched; nothing
//! otherwise.
#![forbid(unsafe_code)]

mod backoff;
mod check;
mod chunk;
mod digest;
mod encode;
mod error;
mod flaw;
mod head;
pub mod limits;
pub mod names;
mod offer;
pub mod offline;
mod opening;
mod options;
mod pace;
mod reads;
mod receive;
mod reserve;
mod retire;
mod store;
mod token;
mod work;
mod write;

pub use check::Check;
pub use chunk::{Chunk, Part};
pub use digest::Digest;
pub use encode::encode;
pub use error::{ReadError, Refused, StoreError};
pub use flaw::Flaw;
pub use head::{Head, Info, Made, Sections};
pub use offer::Offer;
pub use opening::Opening;
pub use options::{Making, Options};
pub use reads::chunks;
pub use receive::{Progress, Want};
pub use reserve::Expected;
pub use store::{Store, StoreEvent};
pub use token::OWNER;

/// Version of the format of a snapshot's file.
pub const VERSION: u16 = 1;
