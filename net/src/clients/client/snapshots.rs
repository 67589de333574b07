//! A blocking client that takes a copy of a node's snapshot: it asks which there is, and pulls it, part by part.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use kontiki_core::{NodeId, SessionId};

use super::stream::Stream;
use super::{ClientError, ClientOptions};
use crate::handshake::hello::{Channel, Hello};
use crate::limits::{MAX_WANTS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use crate::snapshots::ends::Due;
use crate::snapshots::offer::SnapshotId;
use crate::snapshots::record::{SnapshotRecord, SnapshotSays, SnapshotWant, SnapshotWireError};

/// A connection over which a program pulls a snapshot of one node, at most one program at a time. Nodes take such from
/// their own machine alone, unless they are told otherwise.
///
/// Nothing is said of what is in the chunks: each has a checksum of its own, and so has the whole.
///
/// ```no_run
/// use std::time::Duration;
///
/// use kontiki_net::client::{ClientOptions, SnapshotClient};
/// use kontiki_net::limits::SNAPSHOT_CHUNK_BYTES;
///
/// let mut node = SnapshotClient::connect(([127, 0, 0, 1], 7000).into(), ClientOptions::default())?;
/// node.set_timeout(Duration::from_secs(600));
/// let (id, bytes) = node.which(true)?; // made now, which takes as long as it takes
/// let mut file = Vec::new();
/// while (file.len() as u64) < bytes {
///     node.want(id, file.len() as u64, 1)?; // several may be asked for before they have come
///     file.extend(node.chunk()?);
/// }
/// # Ok::<(), kontiki_net::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct SnapshotClient {
    stream: Stream,
    node: NodeId,
    session: SessionId,
    timeout: Duration,
    next_in: u64,
    next_out: u64,
    due: VecDeque<Due>,
}

impl SnapshotClient {
    /// Connects and greets.
    ///
    /// # Errors
    /// If nobody listens, the other side is no node of this protocol, or it refuses: also if another program pulls from
    /// it ([`HandshakeRefusal::Busy`](crate::HandshakeRefusal::Busy)).
    pub fn connect(addr: SocketAddr, options: ClientOptions) -> Result<SnapshotClient, ClientError> {
        let client = Hello::of_client(options.cluster.unwrap_or_default(), options.node.unwrap_or_default());
        let hello = Hello { channel: Channel::Snapshot, ..client };
        let (stream, welcome) = Stream::connect(addr, &hello, options.timeout)?;
        let (node, session, timeout) = (welcome.from, hello.session, options.timeout);
        Ok(SnapshotClient { stream, node, session, timeout, next_in: 1, next_out: 1, due: VecDeque::with_capacity(MAX_WANTS) })
    }

    /// The node that answered.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.stream.addr()
    }

    /// Changes how long each answer is waited for.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.stream.set_timeout(timeout);
    }

    /// Asks which snapshot the node has: which, and how long its file is, in bytes. With `now` it makes one first, of
    /// what it has applied by the time it hears of it.
    ///
    /// # Errors
    /// [`ClientError::NoSnapshot`] if there is none, or none can be made; or no answer.
    pub fn which(&mut self, now: bool) -> Result<(SnapshotId, u64), ClientError> {
        self.say(SnapshotSays::Which { now })?;
        match self.hear()? {
            SnapshotSays::This { id, bytes } => Ok((id, bytes)),
            other => Err(unexpected(other)),
        }
    }

    /// How many parts may still be asked for before a chunk was taken.
    pub fn room(&self) -> usize {
        MAX_WANTS - self.due.len()
    }

    /// Asks for `chunks` chunks of a snapshot, from `offset` on, in bytes; they come in the order in which they were
    /// asked for.
    ///
    /// # Errors
    /// If it cannot be sent.
    ///
    /// # Panics
    /// If there is no [`room`](SnapshotClient::room), or nobody can mean that: see [`SnapshotWant`].
    pub fn want(&mut self, id: SnapshotId, offset: u64, chunks: u32) -> Result<(), ClientError> {
        let want = SnapshotWant { id, offset, chunks, held: offset };
        assert!(self.room() > 0 && want.is_sound(), "a part that can be asked for: {want:?}");
        self.say(SnapshotSays::Want(want))?;
        self.due.push_back(Due::of(&want));
        Ok(())
    }

    /// Waits for the next chunk that was asked for.
    ///
    /// # Errors
    /// [`ClientError::NoSnapshot`] if the node does not have it any more, or cannot read it; or none comes.
    pub fn chunk(&mut self) -> Result<Bytes, ClientError> {
        let not_wanted = ClientError::SnapshotWire(SnapshotWireError::NotWanted);
        match self.hear()? {
            SnapshotSays::Chunk { id, offset } => {
                let Some(due) = self.due.front_mut().filter(|due| due.is_next(id, offset)) else { return Err(not_wanted) };
                if due.took() {
                    self.due.pop_front();
                }
            }
            other => return Err(unexpected(other)),
        }
        let deadline = Instant::now() + self.timeout;
        while self.stream.inbox.len() < SNAPSHOT_CHUNK_BYTES {
            self.stream.fill(SNAPSHOT_CHUNK_BYTES, deadline)?;
        }
        Ok(self.stream.inbox.split_to(SNAPSHOT_CHUNK_BYTES).freeze())
    }

    fn say(&mut self, says: SnapshotSays) -> Result<(), ClientError> {
        let mut bytes = [0; SNAPSHOT_RECORD_BYTES];
        SnapshotRecord { session: self.session, sequence: self.next_out, says }.encode(&mut bytes);
        self.next_out += 1;
        self.stream.write(&bytes, Instant::now() + self.timeout)
    }

    fn hear(&mut self) -> Result<SnapshotSays, ClientError> {
        let deadline = Instant::now() + self.timeout;
        while self.stream.inbox.len() < SNAPSHOT_RECORD_BYTES {
            self.stream.fill(SNAPSHOT_RECORD_BYTES, deadline)?;
        }
        let Some(bytes) = self.stream.inbox.first_chunk::<SNAPSHOT_RECORD_BYTES>() else { return Err(ClientError::Unexpected) };
        let says = SnapshotRecord::decode_next(bytes, self.session, self.next_in).map_err(ClientError::SnapshotWire)?;
        self.next_in += 1;
        self.stream.inbox.advance(SNAPSHOT_RECORD_BYTES);
        Ok(says)
    }
}

fn unexpected(says: SnapshotSays) -> ClientError {
    match says {
        SnapshotSays::Refused(refusal) => ClientError::NoSnapshot(refusal),
        other => ClientError::SnapshotWire(SnapshotWireError::Order { kind: other.kind() }),
    }
}
