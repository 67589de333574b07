//! The table of connections: what is outstanding on each, and how one is wound down.
//!
//! A connection that is given up is *doomed*: nothing more is asked of it, whatever is outstanding is
//! shut down, and once the last completion is in, the handle is closed and its slot free. So memory
//! lent to the kernel is never touched before the kernel gave it back.

use std::net::SocketAddr;

use kontiki_core::Time;
use kontiki_io::{Gather, Handle, Io, IoBuf, Op, Piece};
use kontiki_mem::{Pool, PoolBuf};

use crate::handshake::hello::Hello;
use crate::limits::HELLO_BYTES;
use crate::token::{Action, token};

/// Index into the table.
pub(crate) type Slot = u16;

/// What a connection is, to the layer above. Indexes are into the tables of peers and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Accepted, has not said who it is.
    Greeting,
    /// Gets a refusal, then is closed.
    Refusing,
    /// Ours, to a peer's control channel.
    DialControl(usize),
    /// Ours, to a peer's bulk channel.
    DialBulk(usize),
    /// A control channel whose session is not complete.
    HalfControl(usize),
    /// A session's control channel.
    Control(usize),
    /// A session's bulk channel.
    Bulk(usize),
    /// A client.
    Client(usize),
    /// Ours, to a peer's snapshots.
    DialSnapshot(usize),
    /// Over which a snapshot is pulled from a peer.
    Fetch(usize),
    /// Over which somebody pulls a snapshot of ours: a peer, or behind all of them a program.
    Serve(usize),
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) purpose: Purpose,
    /// The other side.
    pub(crate) remote: SocketAddr,
    /// When the layer above wants to look at this connection.
    pub(crate) deadline: Option<Time>,
    /// The greeting as it comes in: the small buffer while it is not lent, and how much of it is there.
    pub(crate) small: Option<PoolBuf>,
    pub(crate) small_len: usize,
    handle: Option<Handle>,
    generation: u32,
    connecting: bool,
    receiving: bool,
    sending: bool,
    shutting: bool,
    closing: bool,
    shut: bool,
    doomed: bool,
}

#[derive(Debug)]
pub(crate) struct Conns {
    table: Vec<Option<Conn>>,
    free: Vec<Slot>,
    generation: u32,
    /// Not later than the earliest deadline in the table.
    earliest: Option<Time>,
}

impl Conns {
    pub(crate) fn new(slots: usize) -> Self {
        assert!(slots < usize::from(u16::MAX), "slots are named by 16 bits");
        Conns { table: (0..slots).map(|_| None).collect(), free: (0..slots as u16).rev().collect(), generation: 0, earliest: None }
    }

    /// How many connections there can be.
    pub(crate) fn slots(&self) -> usize {
        self.table.len()
    }

    /// Connections of nobody known, those being closed among them.
    pub(crate) fn strangers(&self) -> usize {
        self.table.iter().flatten().filter(|conn| matches!(conn.purpose, Purpose::Greeting | Purpose::Refusing)).count()
    }

    pub(crate) fn all_free(&self) -> bool {
        self.free.len() == self.table.len()
    }

    /// A connection that is not doomed.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Conn> {
        self.table.get(usize::from(slot))?.as_ref().filter(|conn| !conn.doomed)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Conn> {
        self.table.get_mut(usize::from(slot))?.as_mut().filter(|conn| !conn.doomed)
    }

    /// All that are not doomed.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Slot, &Conn)> {
        (0..).zip(&self.table).filter_map(|(slot, conn)| Some((slot, conn.as_ref().filter(|conn| !conn.doomed)?)))
    }

    /// Attempts to reach the peer of that slot that were given up and have not ended: where they go to.
    pub(crate) fn abandoned(&self, peer: usize) -> impl Iterator<Item = SocketAddr> {
        let dialled = move |purpose| matches!(purpose, Purpose::DialControl(p) | Purpose::DialBulk(p) if p == peer);
        self.table.iter().flatten().filter(move |conn| conn.doomed && conn.connecting && dialled(conn.purpose)).map(|conn| conn.remote)
    }

    /// Takes a slot for a connection; `None` if all are taken.
    pub(crate) fn open(&mut self, purpose: Purpose, remote: SocketAddr, handle: Option<Handle>) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.generation = self.generation.wrapping_add(1);
        self.table[usize::from(slot)] = Some(Conn {
            purpose,
            remote,
            deadline: None,
            small: None,
            small_len: 0,
            handle,
            generation: self.generation,
            connecting: false,
            receiving: false,
            sending: false,
            shutting: false,
            closing: false,
            shut: false,
            doomed: false,
        });
        Some(slot)
    }

    /// Sets when [`Conns::overdue`] names the connection.
    pub(crate) fn set_deadline(&mut self, slot: Slot, deadline: Option<Time>) {
        if let Some(conn) = self.get_mut(slot) {
            conn.deadline = deadline;
            self.earliest = [self.earliest, deadline].into_iter().flatten().min();
        }
    }

    /// When `overdue` is worth a call.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.earliest
    }

    /// A connection whose deadline is past; its deadline is taken off. `None` once there is no more.
    pub(crate) fn overdue(&mut self, now: Time) -> Option<Slot> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return None;
        }
        self.earliest = None;
        let mut found = None;
        for (slot, conn) in (0..).zip(&mut self.table) {
            let Some(conn) = conn.as_mut().filter(|conn| !conn.doomed) else { continue };
            let Some(deadline) = conn.deadline else { continue };
            if found.is_none() && deadline <= now {
                conn.deadline = None;
                found = Some(slot);
            } else {
                self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
            }
        }
        found
    }

    pub(crate) fn connect(&mut self, slot: Slot, io: &mut dyn Io) {
        let Some(conn) = self.get_mut(slot) else { return };
        assert!(conn.handle.is_none() && !conn.connecting, "a connection is made once");
        conn.connecting = true;
        io.submit(token(Action::Connect, slot, conn.generation), Op::Connect { addr: conn.remote });
    }

    /// Whether a receive may be posted.
    pub(crate) fn may_receive(&self, slot: Slot) -> bool {
        self.get(slot).is_some_and(|conn| conn.handle.is_some() && !conn.receiving)
    }

    /// Whether a send may be posted.
    pub(crate) fn may_send(&self, slot: Slot) -> bool {
        self.get(slot).is_some_and(|conn| conn.handle.is_some() && !conn.sending)
    }

    /// Posts a receive; the caller has seen that it may.
    pub(crate) fn recv(&mut self, slot: Slot, buf: IoBuf, at: usize, len: usize, io: &mut dyn Io) {
        let conn = self.get_mut(slot).filter(|conn| !conn.receiving);
        let Some((conn, socket)) = conn.and_then(|conn| conn.handle.map(|handle| (conn, handle))) else {
            panic!("a receive is posted on an open connection without one");
        };
        conn.receiving = true;
        let token = token(Action::Recv, slot, conn.generation);
        io.submit(token, Op::Recv { socket, buf, at, len });
    }

    /// Posts a send; the caller has seen that it may. Returns how many bytes it is.
    pub(crate) fn send(&mut self, slot: Slot, gather: Gather, io: &mut dyn Io) -> u64 {
        let conn = self.get_mut(slot).filter(|conn| !conn.sending);
        let Some((conn, socket)) = conn.and_then(|conn| conn.handle.map(|handle| (conn, handle))) else {
            panic!("a send is posted on an open connection without one");
        };
        conn.sending = true;
        let length = |piece: &Piece| match piece {
            Piece::Head(from, to) | Piece::Block(_, from, to) => u64::from(to - from),
        };
        let bytes = gather.pieces.iter().map(length).sum();
        let token = token(Action::Send, slot, conn.generation);
        io.submit(token, Op::Send { socket, gather });
        bytes
    }

    /// Sends a greeting out of the connection's small buffer, or one of `pool`. Returns its bytes, or
    /// `None` if the pool is empty.
    pub(crate) fn greet(&mut self, slot: Slot, hello: &Hello, pool: &Pool, io: &mut dyn Io) -> Option<u64> {
        let mut head = self.get_mut(slot)?.small.take().or_else(|| pool.take())?;
        hello.encode(head.bytes_mut().first_chunk_mut::<HELLO_BYTES>()?);
        let mut pieces = heapless::Vec::new();
        let _ = pieces.push(Piece::Head(0, HELLO_BYTES as u32));
        Some(self.send(slot, Gather { head, pieces }, io))
    }

    /// Posts a receive for what is missing of a greeting, and never for more. False if the pool is empty.
    pub(crate) fn await_greeting(&mut self, slot: Slot, pool: &Pool, io: &mut dyn Io) -> bool {
        let Some(conn) = self.get_mut(slot) else { return false };
        let Some(small) = conn.small.take().or_else(|| pool.take()) else { return false };
        let at = conn.small_len;
        self.recv(slot, IoBuf::Pool(small), at, HELLO_BYTES - at, io);
        true
    }

    /// Notes that an operation completed; `opened` is the handle of a connect that worked. Returns
    /// whether the connection is still wanted: if not, it is wound down further.
    pub(crate) fn completed(&mut self, slot: Slot, action: Action, opened: Option<Handle>, io: &mut dyn Io) -> bool {
        let Some(conn) = self.table.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            panic!("a completion for a free slot");
        };
        match action {
            Action::Connect => {
                conn.connecting = false;
                conn.handle = opened;
            }
            Action::Recv => conn.receiving = false,
            Action::Send => conn.sending = false,
            Action::Shutdown => (conn.shutting, conn.shut) = (false, true),
            Action::Close => (conn.closing, conn.handle) = (false, None),
            Action::Listen | Action::Accept | Action::StopListening | Action::CloseListener | Action::CloseStray | Action::Resolve => {
                panic!("{action:?} is no action of a connection")
            }
        }
        if conn.doomed {
            self.wind_down(slot, io);
            return false;
        }
        true
    }

    /// Gives the connection up. Harmless if it is given up already.
    pub(crate) fn doom(&mut self, slot: Slot, io: &mut dyn Io) {
        if let Some(conn) = self.get_mut(slot) {
            conn.doomed = true;
            conn.small = None;
            self.wind_down(slot, io);
        }
    }

    fn wind_down(&mut self, slot: Slot, io: &mut dyn Io) {
        let Some(entry) = self.table.get_mut(usize::from(slot)) else { return };
        let Some(conn) = entry.as_mut() else { return };
        if conn.connecting || conn.shutting || conn.closing {
            return;
        }
        match conn.handle {
            Some(socket) if conn.receiving || conn.sending => {
                if !conn.shut {
                    conn.shutting = true;
                    io.submit(token(Action::Shutdown, slot, conn.generation), Op::Shutdown { socket });
                }
            }
            Some(handle) => {
                conn.closing = true;
                io.submit(token(Action::Close, slot, conn.generation), Op::Close { handle });
            }
            None => {
                *entry = None;
                self.free.push(slot);
            }
        }
    }
}
