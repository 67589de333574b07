//! Kontiki's fixed memory: what reactor, callers, apply and kernel share.
//!
//! Everything is set aside at start. `unsafe` lives here (and in `kontiki-io`), behind types whose
//! safe use cannot alias: a block of memory is either unique and writable or shared and frozen.
//!
//! # Proofs
//!
//! - `cargo test -p kontiki-mem`: units, a model of the ring, stress of what threads share, and a counting allocator.
//! - `RUSTFLAGS="--cfg loom" cargo test -p kontiki-mem --release --lib loom`: every interleaving of small cases of the
//!   same, orderings included.
//! - `cargo +nightly miri test -p kontiki-mem`: the aliasing rules. There is no `mmap` under Miri; rings then stand on
//!   plain memory.
//! - `RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test -p kontiki-mem --lib --tests --target
//!   x86_64-unknown-linux-gnu`: the bounds, and use after free. Likewise `thread` (with
//!   `-Cunsafe-allow-abi-mismatch=sanitizer` where the standard library cannot be rebuilt: it then reports that
//!   library's own locks and channels, and what they guard).

mod batch;
mod block;
mod copy;
mod foreign;
mod free_list;
mod hold;
pub mod limits;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod park;
mod pool;
mod reap;
mod records;
mod references;
mod ring;
mod span;
mod sync;
mod ticket;
mod tickets;

pub use batch::{OpenBatch, Sealed, Slot};
pub use block::{Block, BlockMut};
pub use copy::{copied_bytes, copy_payload};
pub use foreign::quietly;
pub use hold::Hold;
pub use pool::{Pool, PoolBuf};
pub use records::{Batch, Records};
pub use ring::{Ring, RingError};
pub use span::Span;
pub use ticket::Ticket;
pub use tickets::{Outcome, Resolver, TicketId, Tickets};

/// Every block of memory and every write starts and ends on this boundary, in bytes: a constant of the format.
pub const BLOCK_BYTES: usize = 4096;
