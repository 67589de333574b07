//! The source's side: chunks on their way to whoever pulls a snapshot.

use heapless::Deque;
use kontiki_core::{ClusterId, NodeId, SessionId, Time};
use kontiki_io::{Gather, Io, Piece, tell};
use kontiki_mem::{Block, PoolBuf};

use crate::conns::{Purpose, Slot};
use crate::event::{DownReason, NetEvent};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloKind};
use crate::handshake::listen::process;
use crate::handshake::refusal::Refusal;
use crate::limits::{CHUNKS_PER_SEND, MAX_WANTS, SERVE_CHUNKS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use crate::log_gate::Topic;
use crate::net::Net;
use crate::session::SendError;
use crate::snapshots::ends::{Due, RecordIn};
use crate::snapshots::offer::SnapshotId;
use crate::snapshots::record::{SnapshotRecord, SnapshotRefusal, SnapshotSays, SnapshotWant, SnapshotWireError};

/// Who pulls a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Puller {
    /// A peer, to install it.
    Peer(NodeId),
    /// A program, to keep it: at most one at a time.
    Program,
}

/// One connection over which somebody pulls a snapshot of this node. The next one of the same puller is another `Pull`:
/// what is meant for a connection that is gone goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pull {
    /// Who pulls.
    pub puller: Puller,
    pub(crate) number: u64,
}

#[derive(Debug)]
struct Outgoing {
    id: SnapshotId,
    offset: u64,
    block: Block,
    at: u32,
}

/// One connection that a snapshot is pulled over.
#[derive(Debug)]
pub(crate) struct Serve {
    number: u64,
    slot: Slot,
    session: SessionId,
    record: RecordIn,
    next_out: u64,
    /// A program asked which snapshot there is, and was not told yet. One may have to be made first: until then nothing
    /// moves here, and that is no silence.
    asked: bool,
    /// What was asked for, in the order in which it is to be sent.
    owed: Deque<Due, MAX_WANTS>,
    queue: Deque<Outgoing, SERVE_CHUNKS>,
    /// A word to be sent behind the chunks.
    word: Option<SnapshotSays>,
    /// The word was the last one.
    last_word: bool,
    sending_since: Option<Time>,
    /// When something last came or went.
    moved: Time,
}

/// What a puller says.
enum Asked {
    Want(SnapshotWant),
    Which { now: bool },
}

impl Net {
    /// How many chunks [`send_chunk`](Net::send_chunk) would take for a connection now; zero if that is gone. To be asked
    /// before chunks are read.
    pub fn snapshot_room(&self, pull: Pull) -> usize {
        let serve = self.serve_index(pull.puller).and_then(|k| self.serves.get(k)?.as_deref());
        serve.filter(|serve| serve.takes(pull)).map_or(0, |serve| SERVE_CHUNKS - serve.queue.len())
    }

    /// Queues the next chunk of what was asked for over a connection ([`NetEvent::SnapshotWanted`], in that order): the
    /// [`SNAPSHOT_CHUNK_BYTES`] bytes of `block` from `at` on. It goes out with the next [`Net::tick`], from where it
    /// lies.
    ///
    /// ```
    /// use kontiki_mem::Block;
    /// use kontiki_net::limits::SNAPSHOT_CHUNK_BYTES;
    /// use kontiki_net::{Net, Pull, SendError, SnapshotWant};
    ///
    /// /// Sends what was wanted, once it was read into one block. It is no more than there is room for.
    /// fn answer(net: &mut Net, pull: Pull, want: SnapshotWant, read: &Block) -> Result<(), SendError> {
    ///     for at in (0..read.len()).step_by(SNAPSHOT_CHUNK_BYTES) {
    ///         net.send_chunk(pull, want.id, want.offset + at as u64, read.clone(), at)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`SendError::NoSession`] if the connection is gone, [`SendError::Full`] if too many wait, [`SendError::NotWanted`]
    /// if another chunk is due, or none.
    ///
    /// # Panics
    /// If there is no whole chunk.
    pub fn send_chunk(&mut self, pull: Pull, id: SnapshotId, offset: u64, block: Block, at: usize) -> Result<(), SendError> {
        assert!(block.len() >= SNAPSHOT_CHUNK_BYTES && at <= block.len() - SNAPSHOT_CHUNK_BYTES, "a whole chunk stands at {at}");
        let serve = self.serve_mut(pull).ok_or(SendError::NoSession)?;
        let due = serve.owed.front_mut().filter(|due| due.is_next(id, offset)).ok_or(SendError::NotWanted)?;
        if serve.queue.is_full() {
            return Err(SendError::Full);
        }
        if due.took() {
            serve.owed.pop_front();
        }
        // There is room for it.
        let _ = serve.queue.push_back(Outgoing { id, offset, block, at: at as u32 });
        self.counters.chunks_out += 1;
        Ok(())
    }

    /// Tells a program which snapshot there is ([`NetEvent::SnapshotAsked`]), and how long its file is, in bytes. Nothing
    /// happens if the connection is gone.
    pub fn tell_snapshot(&mut self, pull: Pull, id: SnapshotId, bytes: u64) {
        if let Some(serve) = self.serve_mut(pull) {
            serve.asked = false;
            serve.word = Some(SnapshotSays::This { id, bytes });
        }
    }

    /// Refuses to send (more) over a connection, and closes it: the chunks that are queued go out first, then the reason.
    /// What else was asked for is forgotten. Nothing happens if the connection is gone.
    pub fn refuse_snapshot(&mut self, pull: Pull, refusal: SnapshotRefusal) {
        if let Some(serve) = self.serve_mut(pull) {
            serve.asked = false;
            serve.owed.clear();
            serve.word = Some(SnapshotSays::Refused(refusal));
            serve.last_word = true;
        }
    }

    fn serve_index(&self, puller: Puller) -> Option<usize> {
        match puller {
            Puller::Peer(peer) => self.peer_index(peer),
            Puller::Program => self.serves.len().checked_sub(1),
        }
    }

    fn puller(&self, k: usize) -> Puller {
        // Behind the peers' slots, each of which has its place.
        if k + 1 == self.serves.len() { Puller::Program } else { Puller::Peer(self.peers.get(k).map_or(NodeId(0), |peer| peer.id)) }
    }

    fn serve_mut(&mut self, pull: Pull) -> Option<&mut Serve> {
        let k = self.serve_index(pull.puller)?;
        self.serves.get_mut(k)?.as_deref_mut().filter(|serve| serve.takes(pull))
    }

    /// Somebody opens a connection to pull a snapshot over: a peer in the session that is open with it, or a program.
    pub(crate) fn puller_greeted(&mut self, slot: Slot, hello: &Hello, now: Time, io: &mut dyn Io) -> Result<(), HandshakeRefusal> {
        let k = if hello.from == NodeId(0) { self.judge_program(slot, hello)? } else { self.judge_puller(hello, now)? };
        self.serve_down(k, DownReason::Replaced, io);
        if self.events.room() < 2 {
            return Err(HandshakeRefusal::Busy);
        }
        let small = self.pools.small.take().ok_or(HandshakeRefusal::Busy)?;
        let welcome = self.hello(HelloKind::Welcome, Channel::Snapshot, hello.from, hello.session, hello.nonce);
        if !self.greet(slot, &welcome, now, io) {
            return Ok(());
        }
        let (Some(conn), Some(place)) = (self.conns.get_mut(slot), self.serves.get_mut(k)) else { return Ok(()) };
        conn.purpose = Purpose::Serve(k);
        let remote = conn.remote;
        self.conns.set_deadline(slot, None);
        self.counters.snapshot_channels += 1;
        self.serving += 1;
        *place = Some(Box::new(Serve {
            number: self.counters.snapshot_channels,
            slot,
            session: hello.session,
            record: RecordIn::new(hello.session, Some(small)),
            next_out: 1,
            asked: false,
            owed: Deque::new(),
            queue: Deque::new(),
            word: None,
            last_word: false,
            sending_since: None,
            moved: now,
        }));
        self.events.owe();
        if k + 1 == self.serves.len() && self.log.admits(Topic { peer: None, what: "a program takes a snapshot" }, Some(remote), now) {
            tell!(info, %remote, "a program takes a snapshot of this node");
        }
        Ok(())
    }

    /// Which peer greets, if it is the one that a session is open with.
    fn judge_puller(&self, hello: &Hello, now: Time) -> Result<usize, HandshakeRefusal> {
        let p = self.admitted(self.known(hello)?, hello, now)?;
        let open = self.peers.get(p).and_then(|peer| peer.up()).ok_or(HandshakeRefusal::NotOpen)?;
        let same = open.id == hello.session && open.nonce == hello.nonce && open.process == process(hello);
        if same { Ok(p) } else { Err(HandshakeRefusal::NotOpen) }
    }

    fn judge_program(&self, slot: Slot, hello: &Hello) -> Result<usize, HandshakeRefusal> {
        if hello.cluster != self.options.cluster && hello.cluster != ClusterId(0) {
            return Err(HandshakeRefusal::Cluster);
        }
        if hello.to != self.options.node && hello.to != NodeId(0) {
            return Err(HandshakeRefusal::Target { to: hello.to });
        }
        if !self.is_admin(slot) {
            return Err(HandshakeRefusal::NotAdmin);
        }
        let k = self.serves.len() - 1;
        // One that is served is not pushed out by another.
        match self.serves.get(k) {
            Some(None) => Ok(k),
            _ => Err(HandshakeRefusal::Busy),
        }
    }

    /// Whether administrative requests are taken over this connection.
    pub(crate) fn is_admin(&self, slot: Slot) -> bool {
        let local = |conn: &crate::conns::Conn| conn.remote.ip().to_canonical().is_loopback();
        self.options.admin_any || self.conns.get(slot).is_some_and(local)
    }

    /// Ends a connection that a snapshot is pulled over, if there is one.
    pub(crate) fn serve_down(&mut self, k: usize, reason: DownReason, io: &mut dyn Io) {
        let Some(serve) = self.serves.get_mut(k).and_then(Option::take) else { return };
        self.serving -= 1;
        self.conns.doom(serve.slot, io);
        let pull = Pull { puller: self.puller(k), number: serve.number };
        self.events.push_end(NetEvent::SnapshotServeDown { pull, reason });
    }

    fn refuse_puller(&mut self, k: usize, error: SnapshotWireError, now: Time, io: &mut dyn Io) {
        let Some(slot) = self.serves.get(k).and_then(Option::as_ref).map(|serve| serve.slot) else { return };
        let refusal = Refusal::Snapshot(error);
        self.report(self.peers.get(k).map(|_| k), slot, refusal, now);
        self.serve_down(k, DownReason::Refused(refusal), io);
    }

    pub(crate) fn serve_received(&mut self, k: usize, buf: PoolBuf, bytes: usize, now: Time) {
        if let Some(serve) = self.serves.get_mut(k).and_then(Option::as_mut) {
            serve.record.received(buf, bytes);
            serve.moved = now;
        }
    }

    pub(crate) fn serve_sent(&mut self, k: usize, now: Time, io: &mut dyn Io) {
        let Some(serve) = self.serves.get_mut(k).and_then(Option::as_mut) else { return };
        serve.sending_since = None;
        serve.moved = now;
        if serve.last_word && serve.word.is_none() {
            self.serve_down(k, DownReason::Closed, io);
        }
    }

    pub(crate) fn serve_deadline(&self, k: usize) -> Option<Time> {
        let serve = self.serves.get(k)?.as_ref()?;
        let waits_since = serve.sending_since.or(serve.waits().then_some(serve.moved))?;
        Some(waits_since.plus_ns(self.options.snapshot_timeout_ns))
    }

    pub(crate) fn tick_serve(&mut self, k: usize, now: Time, io: &mut dyn Io) {
        let Some(serve) = self.serves.get(k).and_then(Option::as_ref) else { return };
        let timeout_ns = self.options.snapshot_timeout_ns;
        if serve.sending_since.is_some_and(|since| now.since(since) >= timeout_ns) {
            return self.serve_down(k, DownReason::Stalled, io);
        }
        if serve.waits() && now.since(serve.moved) >= timeout_ns {
            return self.serve_down(k, DownReason::Unused, io);
        }
        self.digest_wants(k, now, io);
        let Some(serve) = self.serves.get_mut(k).and_then(Option::as_mut) else { return };
        if self.conns.may_send(serve.slot)
            && let Some(head) = if serve.has_to_say() { self.pools.stamps.take() } else { None }
        {
            let gather = serve.gather(head);
            serve.sending_since = Some(now);
            self.counters.bytes_out += self.conns.send(serve.slot, gather, io);
        }
        if self.conns.may_receive(serve.slot) {
            serve.record.receive(serve.slot, &mut self.conns, io);
        }
    }

    /// Hands a want over, if one is there, and the node is not owing too much already.
    fn digest_wants(&mut self, k: usize, now: Time, io: &mut dyn Io) {
        let puller = self.puller(k);
        let Some(serve) = self.serves.get_mut(k).and_then(Option::as_mut) else { return };
        if serve.owed.is_full() || serve.last_word || self.events.room() == 0 {
            return;
        }
        let Some(says) = serve.record.says() else { return };
        let pull = Pull { puller, number: serve.number };
        let judged = says.and_then(|says| match says {
            SnapshotSays::Want(want) if want.id.source != self.options.node => Err(SnapshotWireError::Field),
            SnapshotSays::Want(want) => Ok(Asked::Want(want)),
            SnapshotSays::Which { now } if puller == Puller::Program && !serve.asked => Ok(Asked::Which { now }),
            _ => Err(SnapshotWireError::Order { kind: says.kind() }),
        });
        let event = match judged {
            Err(error) => return self.refuse_puller(k, error, now, io),
            Ok(Asked::Want(want)) => {
                // There is room for it.
                let _ = serve.owed.push_back(Due::of(&want));
                NetEvent::SnapshotWanted { pull, want }
            }
            Ok(Asked::Which { now }) => {
                serve.asked = true;
                NetEvent::SnapshotAsked { pull, now }
            }
        };
        serve.record.took();
        self.events.push(event);
    }
}

impl Serve {
    /// Whether it is this connection, and takes chunks and words.
    fn takes(&self, pull: Pull) -> bool {
        self.number == pull.number && !self.last_word
    }

    /// Whether it is the puller's turn to say something.
    fn waits(&self) -> bool {
        self.sending_since.is_none() && !self.asked && !self.has_to_say()
    }

    fn has_to_say(&self) -> bool {
        !self.queue.is_empty() || self.word.is_some()
    }

    /// The next chunks as one send, each behind its record; and the word behind the last.
    fn gather(&mut self, mut head: PoolBuf) -> Gather {
        let mut pieces = heapless::Vec::new();
        let mut push = |piece| assert!(pieces.push(piece).is_ok(), "CHUNKS_PER_SEND chunks and a word fit MAX_PIECES");
        let (session, mut sequence) = (self.session, self.next_out);
        let mut records = head.bytes_mut().as_chunks_mut::<SNAPSHOT_RECORD_BYTES>().0.iter_mut();
        let mut from = 0;
        let mut say = |says| {
            let Some(out) = records.next() else { panic!("a head holds CHUNKS_PER_SEND records, and one") };
            SnapshotRecord { session, sequence, says }.encode(out);
            sequence += 1;
            from += SNAPSHOT_RECORD_BYTES as u32;
            Piece::Head(from - SNAPSHOT_RECORD_BYTES as u32, from)
        };
        for _ in 0..CHUNKS_PER_SEND {
            let Some(Outgoing { id, offset, block, at }) = self.queue.pop_front() else { break };
            push(say(SnapshotSays::Chunk { id, offset }));
            push(Piece::Block(block, at, at + SNAPSHOT_CHUNK_BYTES as u32));
        }
        if self.queue.is_empty()
            && let Some(word) = self.word.take()
        {
            push(say(word));
        }
        self.next_out = sequence;
        Gather { head, pieces }
    }
}
