//! Kontiki: an embeddable, durable, replicated log with your state machine on top.
//!
//! A product links this crate, implements [`StateMachine`], and starts a [`Node`] on each of one,
//! three, five or more machines. What [`Node::propose`] takes is written and flushed on a majority of them before its
//! [`Ticket`] resolves, and is applied by each of them in the same order.
//!
//! What an operator should hear of goes to the product's [`tracing`](https://docs.rs/tracing) subscriber, on the thread that has it to tell. What
//! that throws loses the event and nothing else. The time that it takes is the node's: a writer that may block (a pipe,
//! a console, a full disk) belongs behind a thread and a bounded queue of its own.
#![forbid(unsafe_code)]

mod apply;
mod cache;
mod catchup;
mod clients;
mod config;
mod error;
mod events;
mod foreign;
mod handle;
mod lack;
mod launch;
pub mod limits;
mod node;
mod opening;
mod pending;
mod reactor;
mod saves;
mod shared;
mod state_machine;
mod status;
mod tag;
mod ticket;

pub use config::{Admin, ApplyOn, Backend, Config, ConfigError, Medium, Member};
pub use error::{Failure, LeaderHint, Lost, ProposeError, StartError};
pub use events::{Event, Events};
pub use handle::{Node, Proposer};
pub use kontiki_core::{ClusterId, EntryId, Incarnation, LogIndex, NodeId, Role, Term};
pub use kontiki_io::{IoError, IoErrorKind};
pub use kontiki_net::{Address, AddressError, Unreached};
pub use launch::{AnyIo, Builder};
pub use reactor::{Reactor, State, TurnError};
pub use state_machine::{ApplyError, Entries, Entry, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};
pub use status::{Counters, Fetching, Latency, PeerStatus, Refused, Sent, SnapshotTrouble, Status};
pub use tag::{Tag, TagError};
pub use ticket::{Applied, Ticket};

pub use kontiki_net::{client, codes};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
