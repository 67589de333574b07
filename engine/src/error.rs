//! What can go wrong, as a user of the library meets it.

use std::net::SocketAddr;
use std::path::PathBuf;

use kontiki_core::{LogIndex, NodeId};
use kontiki_net::Address;

use crate::tag::Tag;

/// Where the leader is, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its id.
    pub id: NodeId,
    /// Its address in the configuration.
    pub addr: Address,
    /// What this node's configuration says of it for the product's own use ([`Member::tag`](crate::Member::tag)); empty
    /// if nothing.
    pub tag: Tag,
}

impl From<&crate::Member> for LeaderHint {
    fn from(member: &crate::Member) -> LeaderHint {
        LeaderHint { id: NodeId(member.id), addr: member.addr, tag: member.tag }
    }
}

/// Why a proposal was not taken. Nothing was written: it is safe to propose again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead. Propose to `leader`, if it is known.
    #[error("this node does not lead{}", hint(.leader))]
    NotLeader {
        /// The leader, once this node knows it.
        leader: Option<LeaderHint>,
    },
    /// A bound is reached: proposals in flight (`max_in_flight`) or memory. Wait for a ticket and try again.
    #[error("too much in flight: wait for a ticket to resolve, then propose again")]
    Busy,
    /// The disk has no space for the log's next segment. The node goes on by itself once there is space again.
    #[error("the disk is full: nothing is written until there is space for the log's next segment")]
    DiskFull,
    /// The log has as many segments as it can keep track of, and may forget none, whatever space the disk has. It goes
    /// on once the state machine says that more of it is durable
    /// ([`StateMachine::durable`](crate::StateMachine::durable)).
    #[error(
        "the log is full: it holds all that the state machine has not made durable itself, and may not grow. Make the state durable, or raise segment_bytes for a new cluster"
    )]
    LogFull,
    /// The system lacks something else that the log's next segment takes, file descriptors or memory: status and log
    /// say what. The node goes on by itself once it is there again.
    #[error("the system lacks file descriptors or memory: nothing is written until there are enough for the log's next segment")]
    Shortage,
    /// The payload is over the configured limit.
    #[error("entry of {bytes} bytes is over the limit of {limit} (max_entry_bytes)")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// `max_entry_bytes` of the configuration.
        limit: usize,
    },
    /// The node has stopped: see [`Node::failure`](crate::Node::failure) for why.
    #[error("the node has stopped")]
    Stopped,
}

/// How a proposal that was taken ended, when it was not applied as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It is in no log and never will be: safe to propose again.
    #[error("not applied, and never will be{}", hint(.leader))]
    NotApplied {
        /// Who leads now, if known.
        leader: Option<LeaderHint>,
    },
    /// This node lost leadership (or stopped) before the outcome was known. It may be applied, or not.
    #[error("the outcome is unknown: leadership was lost before the entry was known to be committed")]
    Unknown,
    /// The entry is applied, at `index`; what the state machine replied is over the configured limit and was not kept.
    #[error("applied at {index}, but the state machine's reply is longer than {limit} bytes (reply_bytes) and was not kept")]
    ReplyTooLong {
        /// Where the entry stands in the log.
        index: LogIndex,
        /// `reply_bytes` of the configuration.
        limit: usize,
    },
}

/// How a sole replica is brought back whose snapshots are gone, where its log begins at `first`.
fn put_in(first: u64) -> String {
    format!(
        "Put a backup of this replica, as of entry {} or a later one, into its data directory, under the name that `kontiki snapshot verify FILE` says, \
         and start it again; or, where the state machine keeps its state itself, give it back a state that new. Leave all else in the directory as it is",
        first.saturating_sub(1)
    )
}

fn hint(leader: &Option<LeaderHint>) -> String {
    leader.map_or(String::new(), |l| {
        let tag = if l.tag.is_empty() { String::new() } else { format!(" ({})", l.tag) };
        format!("; node {} at {}{tag} does", l.id, l.addr)
    })
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configuration value is out of range; the message names it.
    #[error(transparent)]
    Config(#[from] crate::ConfigError),
    /// Memory for the frame ring could not be set aside.
    #[error("memory: {0}")]
    Memory(#[from] kontiki_mem::RingError),
    /// No backend works here, or the system has too little of something: file descriptors (the message says how many
    /// are needed), memory, threads.
    #[error("no input/output backend: {0}")]
    Io(#[from] kontiki_io::OpenError),
    /// The log could not be opened; nothing was changed that an operator would miss.
    #[error(transparent)]
    Log(#[from] kontiki_wal::WalError),
    /// The address could not be listened on.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// `listen` of the configuration.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The node stopped before it was up.
    #[error("the node stopped before it was up: {0}")]
    Stopped(String),
    /// The state machine's state ends before the log begins, and no intact snapshot holds what is between; nor is there
    /// another member that could send one.
    #[error(
        "the state machine has applied {applied}, but the log begins at {first}, and no intact snapshot here holds what is between: those that did are \
         lost or damaged. {}", put_in(*.first)
    )]
    StateBehindLog {
        /// What the machine said.
        applied: u64,
        /// First index of the log.
        first: u64,
    },
    /// What the log and the state machine say of themselves cannot be true, as nothing that Kontiki wrote would say it.
    #[error("log and state machine contradict each other or themselves: {0}")]
    Restored(kontiki_core::RestoredError),
    /// The state machine cannot be: what it says it has applied is no index, or it panicked when it was asked.
    #[error("the state machine: {0}")]
    StateMachine(String),
    /// The snapshots in the data directory could not be looked at, or are another cluster's.
    #[error("snapshots in {}: {source}", .dir.display())]
    Snapshots {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong, and with which file.
        source: kontiki_snapshot::StoreError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a running node stopped. It acknowledged nothing that is not durable, and acknowledges nothing more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// A write, flush or read of the log failed: what the disk holds is uncertain until it is read again. Replace or
    /// repair the medium, then restart the node.
    #[error("the log cannot be relied on any more: {0}")]
    Log(String),
    /// The state machine refused an entry.
    #[error(transparent)]
    Apply(#[from] crate::ApplyError),
    /// The state machine panicked.
    #[error("the state machine panicked: {0}")]
    ApplyPanic(String),
    /// The snapshots are damaged, and the log no longer holds what they held.
    #[error(
        "every snapshot of this node is damaged, and its log begins at {first}: what is before is nowhere here. {}", put_in(*.first)
    )]
    Restore {
        /// First index of the log.
        first: u64,
    },
    /// The disk has failed in a way after which no snapshot can be written or fetched before the next start, and one is needed:
    /// this node needs another's, a follower needs one of its own, or its log has no room before one lets it forget.
    #[error("a snapshot is needed, and none can be written before the next start: {0}. Start the node again, once the disk is well")]
    Snapshots(String),
    /// The state machine had applied another entry than the one that counts at its index: damage, or a state or a log put
    /// back from elsewhere, took away on more nodes than a cluster can bear what was committed. Nothing further was
    /// applied. Compare the nodes' state machines, and put one state everywhere before they are started again.
    #[error(
        "the state machine has applied entry {index} of term {applied}, and the log that counts has one of term {counts} there: they are not of \
         one history. Nothing further was applied; compare the state machines of all members before any of them goes on"
    )]
    Diverged {
        /// The last entry that the state machine had applied.
        index: u64,
        /// Its term.
        applied: u64,
        /// The term of the entry that counts at that index.
        counts: u64,
    },
    /// The backend itself broke.
    #[error("input/output backend: {0}")]
    Io(String),
    /// The node never came up; `start` said why.
    #[error("{0}")]
    Start(String),
    /// A broken invariant of Kontiki itself: please report it, with the log around it.
    #[error("internal error: {0}")]
    Panic(String),
    /// The transport cannot go on.
    #[error("transport: {0}")]
    Net(String),
}

impl Failure {
    /// Whether the log can still be relied on, and be closed in order.
    pub(crate) fn leaves_the_log(&self) -> bool {
        match self {
            Failure::Apply(_)
            | Failure::ApplyPanic(_)
            | Failure::Restore { .. }
            | Failure::Snapshots(_)
            | Failure::Diverged { .. }
            | Failure::Net(_) => true,
            Failure::Log(_) | Failure::Io(_) | Failure::Start(_) | Failure::Panic(_) => false,
        }
    }
}
