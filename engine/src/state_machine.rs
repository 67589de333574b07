//! The one trait a product implements: what happens to committed entries.

mod snapshot;

use kontiki_core::{EntryId, LogIndex, Term};
use kontiki_frame as frame;
use kontiki_mem::{Batch, Outcome, Resolver};

pub use snapshot::{Restore, SnapshotError, SnapshotSource};

/// One committed entry, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its position in the replicated log. Grows by at least one from entry to entry: the engine's own
    /// entries (a leader's no-op) take positions too, and are not shown.
    pub index: LogIndex,
    /// The term in which it was proposed.
    pub term: Term,
    /// Exactly the bytes proposed.
    pub payload: &'a [u8],
}

impl Entry<'_> {
    /// What it is known by: index and term.
    pub fn id(&self) -> EntryId {
        EntryId { index: self.index, term: self.term }
    }
}

/// A run of committed entries: an iterator that borrows the frame they arrived in. Nothing is copied.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    pub(crate) inner: frame::Entries<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        self.inner.next().map(|e| Entry { index: e.index, term: e.term, payload: e.payload })
    }
}

/// Where the replies go: one per entry, in the order of the entries.
///
/// An entry that got no reply resolves with an empty one. On a replica that did not take the
/// proposal itself a reply goes nowhere.
#[derive(Debug)]
pub struct Replies<'a> {
    pub(crate) resolver: &'a mut Resolver,
    pub(crate) callers: Option<Callers<'a>>,
    pub(crate) given: usize,
    pub(crate) limit: usize,
    /// Entries there are: a reply beyond goes nowhere.
    pub(crate) most: usize,
    /// Replies that were over the limit.
    pub(crate) too_long: u64,
}

/// Those on this node whose entries are being applied.
#[derive(Debug)]
pub(crate) struct Callers<'a> {
    pub(crate) batch: &'a mut Batch,
    /// The first entry that is applied now, by its place in the batch, and its index.
    pub(crate) skip: usize,
    pub(crate) first: LogIndex,
    /// All of the batch is applied now, and resolved at once when that is done.
    pub(crate) whole: bool,
}

impl Replies<'_> {
    /// The reply to the next entry; one beyond the last goes nowhere. At most `reply_bytes` of the configuration: of a
    /// longer one nothing is kept, its proposer is told so ([`Lost::ReplyTooLong`](crate::Lost::ReplyTooLong)), and
    /// it is counted.
    pub fn push(&mut self, reply: &[u8]) {
        if let Some(callers) = &mut self.callers
            && self.given < self.most
        {
            let (entry, index) = (callers.skip + self.given, callers.first.0 + self.given as u64);
            if reply.len() > self.limit {
                self.too_long += 1;
                self.resolver.resolve_one(callers.batch, entry, Outcome::Unanswered { index }, &[]);
            } else if !(callers.whole && callers.batch.reply(entry, reply)) {
                self.resolver.resolve_one(callers.batch, entry, Outcome::Applied { index }, reply);
            }
        }
        self.given += 1;
    }
}

/// Why a state machine cannot go on. The node stops: a replica that skipped an entry is no replica.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the state machine failed: {0}")]
pub struct ApplyError(pub String);

/// A deterministic state machine, replicated by the log (paper, section 2).
///
/// `apply` is called with every committed entry exactly once per life of the state, in log order, on
/// each replica. By configuration it runs on the reactor's thread or on one of its own.
///
/// # Within the node's own threads
///
/// Nothing of the same node may be waited for within these methods, and within those of a [`SnapshotSource`]: a ticket, a leader, an event, its end. The
/// node goes on only after they have returned. Who would have to wait, or awaits what is not there yet, is told so by a
/// panic, which ends the node ([`Failure::ApplyPanic`](crate::Failure::ApplyPanic)). The same holds for wakers of
/// tickets and events, which the node calls; there the panic ends that call and nothing else. To look
/// ([`Ticket::poll`](crate::Ticket::poll), [`Events::poll`](crate::Events::poll)), to propose, and to ask for
/// the status (the last one that somebody was told) is fine; to drop the [`Node`](crate::Node) asks it to stop, and
/// waits for nothing. What cannot be seen is a wait for another thread that itself waits for this node: lock nothing in
/// `apply` that is held while a ticket is waited for.
///
/// # A machine in memory, with snapshots
///
/// The state is copied where it stands (or shared, copy on write), so that what is read later is of one moment.
///
/// ```
/// use std::io::Cursor;
///
/// use kontiki::{ApplyError, Entries, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};
///
/// #[derive(Default)]
/// struct Sum {
///     sum: u64,
///     coming: Vec<u8>,
/// }
///
/// impl StateMachine for Sum {
///     fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
///         for entry in entries {
///             self.sum += entry.payload.len() as u64;
///             replies.push(&self.sum.to_le_bytes());
///         }
///         Ok(())
///     }
///
///     fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
///         Ok(Box::new(Cursor::new(self.sum.to_le_bytes())))
///     }
///
///     fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
///         match part {
///             Restore::Begin { .. } => self.coming.clear(),
///             Restore::Chunk(bytes) => self.coming.extend(bytes),
///             Restore::End => {
///                 let sum = self.coming.as_slice().try_into().map_err(|_| ApplyError("a sum has eight bytes".into()))?;
///                 self.sum = u64::from_le_bytes(sum);
///             }
///         }
///         Ok(())
///     }
/// }
///
/// let (mut old, mut new, mut piece) = (Sum { sum: 7, ..Sum::default() }, Sum::default(), [0; 64]);
/// let mut source = old.snapshot()?;
/// let count = source.read(&mut piece)?;
/// new.restore(Restore::Chunk(&piece[..count]))?;
/// new.restore(Restore::End)?;
/// assert_eq!(new.sum, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # A machine with a durable state of its own
///
/// It keeps index and term of the last entry beside the state, in one file that changes whole or not at all. So `applied` after a start is
/// what the state really includes, and `durable` is said of what was flushed, not of what was applied.
///
/// ```
/// use std::fs::File;
/// use std::io::Write;
/// use std::path::PathBuf;
///
/// use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, StateMachine, Term};
///
/// struct Total {
///     sum: u64,
///     applied: EntryId,
///     durable: LogIndex,
///     file: PathBuf,
/// }
///
/// impl Total {
///     fn open(file: PathBuf) -> std::io::Result<Total> {
///         let (sum, index, term) = match std::fs::read(&file) {
///             Ok(bytes) => {
///                 let part = |at| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
///                 (|| Some((part(0)?, part(8)?, part(16)?)))().ok_or(std::io::ErrorKind::InvalidData)?
///             }
///             Err(error) if error.kind() == std::io::ErrorKind::NotFound => (0, 0, 0),
///             Err(error) => return Err(error),
///         };
///         let applied = EntryId { index: LogIndex(index), term: Term(term) };
///         Ok(Total { sum, applied, durable: applied.index, file })
///     }
///
///     /// Another file, flushed, takes the name of the old one; then the directory is flushed.
///     fn save(&mut self) -> std::io::Result<()> {
///         let fresh = self.file.with_extension("new");
///         let mut file = File::create(&fresh)?;
///         file.write_all(&self.sum.to_le_bytes())?;
///         file.write_all(&self.applied.index.0.to_le_bytes())?;
///         file.write_all(&self.applied.term.0.to_le_bytes())?;
///         file.sync_all()?;
///         std::fs::rename(&fresh, &self.file)?;
///         File::open(self.file.parent().unwrap_or(".".as_ref()))?.sync_all()?;
///         self.durable = self.applied.index;
///         Ok(())
///     }
/// }
///
/// impl StateMachine for Total {
///     fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
///         for entry in entries {
///             self.sum += entry.payload.len() as u64;
///             self.applied = entry.id();
///             replies.push(&self.sum.to_le_bytes());
///         }
///         // Now and then: until then the log keeps what is not durable here.
///         if self.applied.index.0 >= self.durable.0 + 10_000 {
///             self.save().map_err(|error| ApplyError(error.to_string()))?;
///         }
///         Ok(())
///     }
///
///     fn applied(&self) -> EntryId {
///         self.applied
///     }
///
///     fn durable(&self) -> LogIndex {
///         self.durable
///     }
/// }
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let mut total = Total::open(dir.path().join("total")).unwrap();
/// # let third = EntryId { index: LogIndex(3), term: Term(1) };
/// # (total.sum, total.applied) = (7, third);
/// # total.save().unwrap();
/// # let again = Total::open(dir.path().join("total")).unwrap();
/// # assert_eq!((again.sum, again.applied(), again.durable()), (7, third, LogIndex(3)));
/// ```
pub trait StateMachine: Send + 'static {
    /// Applies a run of entries and replies to each, in order.
    ///
    /// # Errors
    /// An error stops this node; the entries after the failed one are applied by nobody here.
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError>;

    /// The last entry already in the state when the node starts; [`EntryId::default`] for a state that starts empty.
    ///
    /// A state machine that persists itself names the entry its state includes, by index and term ([`Entry::id`]). It may lie beyond the
    /// log of this node (a leader may apply on a majority of its followers before its own disk): the
    /// node refetches and does not apply those entries again.
    fn applied(&self) -> EntryId {
        EntryId::default()
    }

    /// The index to which the state itself is durable, so that entries up to it need not be kept for a restart.
    ///
    /// A state machine in memory answers zero, the default: the whole log is kept, and is applied again
    /// after a restart. A log holds at most 512 segments (`segment_bytes`); one that may forget nothing is full
    /// then, and `propose` answers [`LogFull`](crate::ProposeError::LogFull). Asked after each run of entries, and now
    /// and then while the log or a small snapshot waits for that. The log forgets what is durable once two small snapshots are as of it,
    /// or there is no room.
    fn durable(&self) -> LogIndex {
        LogIndex(0)
    }

    /// A view of the state as it is now: the snapshot of all that was applied. Cheap, for nothing is applied before it
    /// returns; what it gives is read later, in pieces, while `apply` goes on, and must not change with it.
    ///
    /// A machine in memory is asked for one whenever its log has grown by `snapshot_log_bytes`: what two of them hold
    /// the log forgets, and a start begins with the newest. Any machine is asked for one where another node lacks what
    /// the log no longer holds.
    ///
    /// # Errors
    /// [`SnapshotError`]: there is none now, or never; nothing else changes. The default: never.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        Err(SnapshotError::NotSupported)
    }

    /// Takes the next piece of a snapshot that [`snapshot`](StateMachine::snapshot) made, here or on another node.
    ///
    /// The state it has stays as it is until [`Restore::End`], and is the snapshot's when that returns; a machine that is
    /// durable by itself has made it durable by then. If the node ends in between, the same snapshot comes again, from its
    /// beginning. Nothing is applied meanwhile.
    ///
    /// # Errors
    /// An error stops this node: it cannot go on without that state. The default.
    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        let _ = part;
        Err(ApplyError("it takes no snapshots (`StateMachine::restore`)".into()))
    }

    /// How long the stream of a snapshot would be about now, in bytes: so much space is set aside before it is needed.
    /// Zero, the default: unknown; then it goes by the last one. Asked before each. It counts up to a quarter of what is free on
    /// the disk, or as much as the last one had.
    fn snapshot_bytes(&self) -> u64 {
        0
    }
}
