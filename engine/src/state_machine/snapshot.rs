//! What a state machine gives and takes of a snapshot: its state, as one stream of bytes.

use std::io::{ErrorKind, Read};

use kontiki_core::{LogIndex, Term};

/// A consistent view of a state, as of the moment it was asked for, read piece by piece while the machine goes on.
///
/// Everything that implements [`Read`] is one: a [`Cursor`](std::io::Cursor) over bytes, a file. It is read, and
/// dropped, by the thread that the machine runs on, and may wait for nothing of its node
/// (see [`StateMachine`](crate::StateMachine)).
///
/// Source: the thesis, section 5.1.
///
/// ```
/// use std::io::Cursor;
///
/// use kontiki::{SnapshotError, SnapshotSource};
///
/// /// So many zeros: nothing that would have to be held in memory.
/// struct Zeros(usize);
///
/// impl SnapshotSource for Zeros {
///     fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
///         let count = into.len().min(self.0);
///         into[..count].fill(0);
///         self.0 -= count;
///         Ok(count)
///     }
/// }
///
/// let mut place = [1; 8];
/// let mut sources: Vec<Box<dyn SnapshotSource>> = vec![Box::new(Zeros(6)), Box::new(Cursor::new(vec![0; 6]))];
/// for source in &mut sources {
///     assert_eq!(source.read(&mut place)?, 6);
///     assert_eq!(source.read(&mut place)?, 0, "the end");
/// }
/// # Ok::<(), SnapshotError>(())
/// ```
pub trait SnapshotSource: Send {
    /// Puts the next bytes of the stream at the beginning of `into`, and says how many: as many as it likes, at least
    /// one. Zero: that was all.
    ///
    /// # Errors
    /// This snapshot is given up, and nothing else: the node goes on, and asks for another in time.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError>;
}

impl<R: Read + Send> SnapshotSource for R {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        loop {
            match Read::read(self, into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome.map_err(|error| SnapshotError::Failed(error.to_string())),
            }
        }
    }
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The machine makes none. Its log forgets only what it says is durable in its own state
    /// ([`StateMachine::durable`](crate::StateMachine::durable)), and it is not asked again.
    #[error("the state machine makes no snapshots")]
    NotSupported,
    /// This one could not be made: in the words of whatever failed.
    #[error("the snapshot could not be made: {0}")]
    Failed(String),
    /// The node has stopped, or is about to.
    #[error("the node has stopped")]
    Stopped,
}

/// A snapshot on its way into a state machine, piece by piece: one `Begin`, `Chunk`s, one `End`. A `Begin` where no
/// `End` came before it begins anew: what came since the last `Begin` is of no use.
///
/// Source: the paper, figure 13, whose `data` and `done` are `Chunk` and `End`.
///
/// ```
/// use kontiki::Restore;
///
/// /// How far along a restore is.
/// fn tell(part: &Restore<'_>, before: u64) -> u64 {
///     match part {
///         Restore::Begin { index, bytes, .. } => {
///             println!("as of entry {index}: {bytes} bytes");
///             0
///         }
///         Restore::Chunk(bytes) => before + bytes.len() as u64,
///         Restore::End => before,
///     }
/// }
/// assert_eq!(tell(&Restore::Chunk(b"state"), 10), 15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore<'a> {
    /// It begins.
    Begin {
        /// The last entry whose effects it holds: what [`StateMachine::applied`](crate::StateMachine::applied) names
        /// afterwards.
        index: LogIndex,
        /// The term of that entry.
        term: Term,
        /// How long the stream is, in bytes.
        bytes: u64,
    },
    /// The next bytes, as the source gave them, though cut elsewhere.
    Chunk(&'a [u8]),
    /// That was all: the new state takes the place of the old one, at once and whole.
    End,
}
