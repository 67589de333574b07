//! Kontiki's consensus core: Raft as a pure state machine.
//!
//! The core does no I/O, reads no clock, draws no randomness beyond the seed it
//! is handed, and never touches a payload. It is stepped by [`Event`]s and
//! answers with [`Effect`]s; [`Raft::deadline`] says when it wants the next
//! [`Event::Tick`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod effect;
mod event;
mod message;
mod raft;
mod types;

pub use effect::{Effect, Effects};
pub use event::{Append, Event};
pub use message::Message;
pub use raft::{Config, PeerProgress, Raft, Restored, Role};
pub use types::{ClusterId, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, NodeId, SessionId, Term, Time, WriteId};
