//! Kontiki's consensus core: Raft as a pure state machine.
//!
//! The core does no I/O, reads no clock, draws no randomness beyond the seed it
//! is handed, and never touches a payload. It is stepped by [`Event`]s and
//! answers with [`Effect`]s; [`Raft::deadline`] says when it wants the next
//! [`Event::Tick`].
//!
//! Sources: "the paper" is Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (extended
//! version, 2014); "the thesis" is Ongaro, *Consensus: Bridging Theory and Practice* (2014). After construction
//! nothing here allocates: every table is bounded, in [`limits`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod append;
mod commit;
mod config;
mod effect;
mod election;
mod event;
mod follower;
mod hard_state;
mod leader;
pub mod limits;
mod log;
mod lookup;
mod membership;
mod message;
mod pace;
mod peer;
mod progress;
mod quorum;
mod raft;
mod recovering;
mod replicate;
mod restored;
mod rng;
mod round;
mod runs;
mod snapshot;
mod terms;
mod timers;
mod types;

pub use config::{Config, ConfigError};
pub use effect::{Effect, Effects};
pub use event::{Append, Event};
pub use message::Message;
pub use raft::{PeerProgress, Raft, Role};
pub use restored::{Restored, RestoredError};
pub use snapshot::Verdict;
pub use types::{
    Base, ClusterId, EntryId, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, NodeId, SessionId, Subterm, Term, Time, WriteId,
};
