//! Operations, completions, and the one trait between Kontiki and the world.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kontiki_core::Time;
use kontiki_mem::{Block, BlockMut, PoolBuf, Span};

use crate::{HostName, Identity, IoError, IoStats, Name};

/// The submitter's tag of an operation, given back with its completion. The top byte says whose it is
/// (see `kontiki`'s `reactor`), the rest is the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// An open directory, file, listener or connection of one `Io`. Never reused while its close is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u32);

/// Memory the world writes into. Unique while the operation is outstanding, given back with the completion.
#[derive(Debug)]
pub enum IoBuf {
    /// Ring memory (registered where allowed).
    Block(BlockMut),
    /// Pool memory.
    Pool(PoolBuf),
}

impl IoBuf {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            IoBuf::Block(block) => block.len(),
            IoBuf::Pool(buf) => buf.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        match self {
            IoBuf::Block(block) => block.bytes(),
            IoBuf::Pool(buf) => buf.bytes(),
        }
    }

    /// The contents, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            IoBuf::Block(block) => block.bytes_mut(),
            IoBuf::Pool(buf) => buf.bytes_mut(),
        }
    }
}

/// Memory the world reads from. Frozen or unique, held until the completion.
#[derive(Debug)]
pub enum IoData {
    /// One or more neighbouring frozen blocks.
    Span(Span),
    /// The first `len` bytes of a pool buffer.
    Pool(PoolBuf, usize),
}

impl IoData {
    /// What is to be written.
    pub fn bytes(&self) -> &[u8] {
        match self {
            IoData::Span(span) => span.bytes(),
            IoData::Pool(buf, len) => &buf.bytes()[..*len],
        }
    }
}

/// Most pieces in one gathering send.
pub const MAX_PIECES: usize = 32;

/// One piece of a gathering send.
#[derive(Debug)]
pub enum Piece {
    /// Bytes `from..to` of [`Gather::head`].
    Head(u32, u32),
    /// Bytes `from..to` of a frozen block.
    Block(Block, u32, u32),
}

/// What a send takes: pieces in order, out of a small private buffer (stamps, control messages) and of shared blocks.
#[derive(Debug)]
pub struct Gather {
    /// The private buffer.
    pub head: PoolBuf,
    /// What to send, in order; not empty.
    pub pieces: heapless::Vec<Piece, MAX_PIECES>,
}

impl Gather {
    /// The bytes of each piece, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Head(from, to) => &self.head.bytes()[*from as usize..*to as usize],
            Piece::Block(block, from, to) => &block.bytes()[*from as usize..*to as usize],
        })
    }

    /// Bytes in all pieces together.
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Whether there is nothing to send, which no operation allows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One operation.
///
/// Reads and receives may come back short (a read only at the end of the file, a receive at any length; zero is
/// the end of the stream). Writes and sends are whole or failed: the backend continues short ones itself, and
/// retries EINTR and EAGAIN itself. After a failed send the connection's state is undefined: close it.
/// A [`Shortage`](crate::IoErrorKind::Shortage) says that nothing broke and that the same operation may be submitted
/// again: it was not begun, or doing it again from its beginning makes it whole (the same bytes are written anew, and
/// then flushed). What a flush lacked on its way is none: the kernel may have dropped what was to be flushed, so that a
/// second flush says nothing. Memory that was lent comes back with the completion, failed or not. Lengths and offsets
/// of reads and writes are multiples of the block size in every backend ([`Op::assert_valid`]). Operations on one file
/// are not ordered among each other: what must come after waits for the completion of what must come before. A handle
/// that was closed fails whatever is submitted on it.
#[derive(Debug)]
pub enum Op {
    /// Opens a directory; with `create`, makes it and its parents first, and makes their entries durable.
    OpenDir {
        /// Where.
        path: PathBuf,
        /// Make it if it is missing.
        create: bool,
    },
    /// Asks which boot of the machine this is, and which directory on which medium ([`Output::Identity`]). What cannot
    /// be known is zero, and no failure; see [`Identity`]. At start only: it may wait for the file system.
    Identify {
        /// The directory.
        dir: Handle,
    },
    /// Takes the exclusive lock of a directory, and of the lock file in it, which is made if it is missing. It is held
    /// until its handle is closed, to be done after everything else in the directory has ended; or, if the process
    /// is killed or the `Io` dropped, until nothing is under way any more. One that is held is waited for for a
    /// short while ([`LOCK_PATIENCE_MS`](crate::limits::LOCK_PATIENCE_MS)), since its holder may be going; then it
    /// fails with `Locked`. Removing or replacing the lock file gives nobody else the lock.
    Lock {
        /// The directory.
        dir: Handle,
        /// The lock file.
        name: Name,
    },
    /// Lists a directory's plain files with their lengths ([`Output::Listing`]). At start only: allocates.
    List {
        /// The directory.
        dir: Handle,
    },
    /// Opens a file for reading and writing, past the page cache where the file system allows.
    Open {
        /// The directory.
        dir: Handle,
        /// The file.
        name: Name,
        /// Make it, failing with `Exists` if it is there.
        create: bool,
    },
    /// Reserves space for a file's first `len` bytes and sets its length.
    Allocate {
        /// The file.
        file: Handle,
        /// Its length in bytes.
        len: u64,
    },
    /// Reads up to `len` bytes at `offset` into the start of `buf` (all three multiples of the block size).
    Read {
        /// The file.
        file: Handle,
        /// Where in the file, in bytes.
        offset: u64,
        /// Into what.
        buf: IoBuf,
        /// How much.
        len: usize,
    },
    /// Writes all of `data` at `offset`; `durable`: complete only when it would survive a power cut.
    Write {
        /// The file.
        file: Handle,
        /// Where in the file, in bytes.
        offset: u64,
        /// What.
        data: IoData,
        /// Whether completion means durability.
        durable: bool,
    },
    /// Makes all earlier completed writes and the length of a file durable.
    Sync {
        /// The file.
        file: Handle,
    },
    /// Renames a file within its directory, replacing `to`.
    Rename {
        /// The directory.
        dir: Handle,
        /// The name now.
        from: Name,
        /// The name then.
        to: Name,
    },
    /// Removes a file.
    Unlink {
        /// The directory.
        dir: Handle,
        /// The file.
        name: Name,
    },
    /// Makes the directory's entries durable.
    SyncDir {
        /// The directory.
        dir: Handle,
    },
    /// Listens on an address ([`Output::Listening`]).
    Listen {
        /// The address; port zero asks for any.
        addr: SocketAddr,
    },
    /// Looks a host's name up ([`Output::Addresses`]). An address as text is its own answer. Fails with `NotFound` if
    /// there is no answer, which may be otherwise the next time. It takes as long as the system's resolver does,
    /// minutes if the name servers are silent; the operation holds nothing, so nobody need wait for it.
    Resolve {
        /// Whose addresses.
        host: HostName,
        /// The port of the addresses.
        port: u16,
    },
    /// Waits for one connection ([`Output::Accepted`]). One outstanding per listener. Connections that are gone
    /// before they are accepted are passed over; without a free descriptor it fails with `Shortage`, and
    /// the connection waits on.
    Accept {
        /// The listener.
        listener: Handle,
    },
    /// Connects ([`Output::Opened`]); nodelay is set on every connection.
    Connect {
        /// Where to.
        addr: SocketAddr,
    },
    /// Receives up to `len` bytes into `buf` at `at`. One outstanding per connection.
    Recv {
        /// The connection.
        socket: Handle,
        /// Into what.
        buf: IoBuf,
        /// Offset into `buf`, in bytes.
        at: usize,
        /// At most this many bytes.
        len: usize,
    },
    /// Sends all pieces. One outstanding per connection.
    Send {
        /// The connection.
        socket: Handle,
        /// What.
        gather: Gather,
    },
    /// Shuts a connection down both ways or cancels a listener's accept: outstanding operations on it complete soon
    /// with `Canceled` (or with what they had done by then), later ones at once. The peer finds the end of the stream.
    Shutdown {
        /// The connection or listener.
        socket: Handle,
    },
    /// Closes a handle. Submit only when nothing else is outstanding on it.
    Close {
        /// The handle.
        handle: Handle,
    },
}

impl Op {
    /// What the operation is outstanding on, if it is on anything that is open.
    pub fn handle(&self) -> Option<Handle> {
        match self {
            Op::OpenDir { .. } | Op::Listen { .. } | Op::Resolve { .. } | Op::Connect { .. } => None,
            Op::Identify { dir: handle }
            | Op::Lock { dir: handle, .. }
            | Op::List { dir: handle }
            | Op::Open { dir: handle, .. }
            | Op::Rename { dir: handle, .. }
            | Op::Unlink { dir: handle, .. }
            | Op::SyncDir { dir: handle }
            | Op::Allocate { file: handle, .. }
            | Op::Read { file: handle, .. }
            | Op::Write { file: handle, .. }
            | Op::Sync { file: handle }
            | Op::Accept { listener: handle }
            | Op::Recv { socket: handle, .. }
            | Op::Send { socket: handle, .. }
            | Op::Shutdown { socket: handle }
            | Op::Close { handle } => Some(*handle),
        }
    }

    /// Holds the submitter to the contract, in every backend alike: what one file system or kernel lets pass,
    /// another refuses.
    ///
    /// # Panics
    /// If lengths or offsets are not what the operation's documentation asks for.
    pub fn assert_valid(&self) {
        let aligned = |len: usize, offset: u64| {
            let block = kontiki_mem::BLOCK_BYTES;
            assert!(
                len > 0 && len.is_multiple_of(block) && offset.is_multiple_of(block as u64),
                "{len} bytes at {offset}: both must be multiples of {block}, and not nothing"
            );
        };
        match self {
            Op::Read { offset, buf, len, .. } => {
                aligned(*len, *offset);
                assert!(*len <= buf.len(), "read of {len} bytes into a buffer of {}", buf.len());
            }
            Op::Write { offset, data, .. } => aligned(data.bytes().len(), *offset),
            Op::Recv { buf, at, len, .. } => {
                let fits = *len > 0 && at.checked_add(*len).is_some_and(|end| end <= buf.len());
                assert!(fits, "receive of {len} bytes at {at} into a buffer of {}", buf.len());
            }
            Op::Send { gather, .. } => assert!(!gather.is_empty(), "a send of nothing"),
            _ => {}
        }
    }
}

/// What a completed operation yields.
#[derive(Debug)]
pub enum Output {
    /// Done.
    Done,
    /// Bytes read or received.
    Bytes(usize),
    /// A directory, a lock or a connection.
    Opened(Handle),
    /// A file and its length in bytes.
    File(Handle, u64),
    /// Which boot and which directory.
    Identity(Identity),
    /// A directory's files and their lengths.
    Listing(Vec<(Name, u64)>),
    /// A host's addresses, the preferred one first: at least one, at most [`limits::MAX_ADDRESSES`](crate::limits).
    Addresses(Vec<SocketAddr>),
    /// A listener and the address it is bound to.
    Listening(Handle, SocketAddr),
    /// A connection and its peer.
    Accepted(Handle, SocketAddr),
}

/// One finished operation. Memory lent to `Read` and `Recv` comes back in `buf`; `Send`'s head buffer and
/// written pool buffers go back to their pools, frozen blocks are released.
#[derive(Debug)]
pub struct Completion {
    /// The submitter's tag.
    pub token: Token,
    /// What came of it.
    pub result: Result<Output, IoError>,
    /// The memory of a read or receive.
    pub buf: Option<IoBuf>,
}

/// Rings the reactor's bell from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or next [`Io::turn`] return. Cheap when the reactor is awake.
    fn wake(&self);
}

/// The world, as one reactor sees it. Implemented by the io_uring backend, the portable backend and the simulator.
pub trait Io {
    /// Monotonic time.
    fn now(&self) -> Time;

    /// Nanoseconds since the Unix epoch by the wall clock: for stamps that people read, never for decisions.
    fn wall_ns(&self) -> u64;

    /// How much of the file system of this open directory is free for this process, in bytes: of now, and others take of it.
    /// `None`: nobody knows.
    fn free_bytes(&mut self, dir: Handle) -> Option<u64>;

    /// Queues an operation. At most [`Io::capacity`] may be outstanding: one more is a bug of the caller and panics.
    fn submit(&mut self, token: Token, op: Op);

    /// Operations that may be outstanding at once.
    fn capacity(&self) -> usize;

    /// Hands everything queued to the world, waits until something completes, the bell rings or `until`
    /// comes (`None`: does not wait at all), and appends what completed to `done`.
    ///
    /// # Errors
    /// Only if the backend itself is broken (the ring cannot be entered); nothing of an operation.
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError>;

    /// A bell for other threads.
    fn bell(&self) -> Arc<dyn Wake>;

    /// A descriptor that is readable when `turn` would find something, for a foreign event loop: it sleeps on the
    /// descriptor, then turns without waiting; and it turns once after it has submitted, since only a turn hands
    /// operations over. From the first call on, the bell makes the descriptor readable too. To be called on the
    /// thread that turns.
    fn poll_fd(&self) -> Option<std::os::fd::RawFd>;

    /// Which backend this is and what its probe found, in one line.
    fn describe(&self) -> String;

    /// What was done so far; all zeros where nobody counts.
    fn stats(&self) -> IoStats {
        IoStats::default()
    }
}

/// A world behind a pointer is a world.
impl<T: Io + ?Sized> Io for Box<T> {
    fn now(&self) -> Time {
        (**self).now()
    }
    fn wall_ns(&self) -> u64 {
        (**self).wall_ns()
    }
    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        (**self).free_bytes(dir)
    }
    fn submit(&mut self, token: Token, op: Op) {
        (**self).submit(token, op);
    }
    fn capacity(&self) -> usize {
        (**self).capacity()
    }
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        (**self).turn(until, done)
    }
    fn bell(&self) -> Arc<dyn Wake> {
        (**self).bell()
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        (**self).poll_fd()
    }
    fn describe(&self) -> String {
        (**self).describe()
    }
    fn stats(&self) -> crate::IoStats {
        (**self).stats()
    }
}
