//! How bytes, ends and resets travel along a connection.

use kontiki_io::{Gather, IoErrorKind, Op, Output};

use crate::conditions::SECOND;
use crate::network::{Chunk, Connection};
use crate::world::{Happening, World};

type Ended = Result<Output, IoErrorKind>;

fn copy_part(gather: &Gather, mut skip: usize, count: usize) -> Vec<u8> {
    let mut part = Vec::with_capacity(count);
    for bytes in gather.slices() {
        if skip < bytes.len() && part.len() < count {
            let take = (bytes.len() - skip).min(count - part.len());
            part.extend_from_slice(&bytes[skip..skip + take]);
        }
        skip = skip.saturating_sub(bytes.len());
    }
    part
}

impl World {
    pub(crate) fn blocked(&self, from: usize, to: usize) -> bool {
        self.network.link(from, to).blocked
    }

    /// How long a packet takes from one host to another, this time.
    pub(crate) fn latency_ns(&mut self, from: usize, to: usize) -> u64 {
        let delay = if from == to { &self.conditions.processor.wake_up } else { &self.conditions.network.latency };
        delay.draw(&mut self.network.random) + self.network.link(from, to).extra_ns
    }

    fn connection(&mut self, connection: u64) -> Option<&mut Connection> {
        self.network.connections.get_mut(&connection)
    }

    /// Ends the receive of a side if there is something for it.
    pub(crate) fn serve_recv(&mut self, connection: u64, side: usize) {
        let Some(found) = self.connection(connection) else { return };
        let state = &found.sides[side];
        let due = !state.arrived.is_empty() || state.ended || state.broken || state.shut;
        if let (Some(operation), true) = (state.recv, due) {
            let host = state.host;
            self.end_soon(host, operation);
        }
    }

    pub(crate) fn end_recv(&mut self, connection: u64, side: usize, into: &mut [u8], injected: Option<IoErrorKind>) -> Ended {
        let random = &mut self.network.random;
        let short = if random.happens(self.conditions.network.short_receive) { random.bits() } else { 0 };
        let Some(found) = self.connection(connection) else { return Err(IoErrorKind::Disconnected) };
        let state = &mut found.sides[side];
        state.recv = None;
        if let Some(kind) = injected {
            self.break_side(connection, side);
            return Err(kind);
        }
        if state.shut {
            return Err(IoErrorKind::Canceled);
        }
        if state.broken {
            return Err(IoErrorKind::Disconnected);
        }
        let mut take = into.len().min(state.arrived.len());
        assert!(take > 0 || state.ended, "a receive ends with nothing before the end of the stream");
        if short > 0 && take > 1 {
            take = 1 + (short % take as u64) as usize;
        }
        for (to, from) in into.iter_mut().zip(state.arrived.drain(..take)) {
            *to = from;
        }
        // The other side hears that there is room.
        self.serve_send(connection, 1 - side);
        Ok(Output::Bytes(take))
    }

    /// Takes as much of a side's send as there is room for.
    pub(crate) fn serve_send(&mut self, connection: u64, side: usize) {
        let buffer_bytes = self.conditions.network.buffer_bytes as usize;
        loop {
            let Some(found) = self.network.connections.get(&connection) else { return };
            let state = &found.sides[side];
            let Some(operation) = state.send else { return };
            let (host, failed) = (state.host, state.broken || state.shut);
            let queued = found.pipes[side].flight_bytes + found.sides[1 - side].arrived.len();
            let Some(pending) = self.hosts[host].process.operations.get_mut(&operation) else { return };
            let Op::Send { gather, .. } = &pending.op else { return };
            let left = gather.len() - pending.sent;
            let room = buffer_bytes.saturating_sub(queued).min(left);
            if left == 0 || failed {
                self.end_soon(host, operation);
                return;
            }
            if room == 0 {
                return;
            }
            let network = &self.conditions.network;
            let random = &mut self.network.random;
            let most = if random.happens(network.small_chunk) { random.between(1, 64) } else { network.chunk_bytes };
            let count = room.min(most.max(1) as usize);
            let bytes = copy_part(gather, pending.sent, count);
            pending.sent += count;
            self.put(connection, side, bytes, false);
        }
    }

    pub(crate) fn end_send(&mut self, connection: u64, side: usize, whole: bool, injected: Option<IoErrorKind>) -> Ended {
        let Some(found) = self.connection(connection) else { return Err(IoErrorKind::Disconnected) };
        let state = &mut found.sides[side];
        state.send = None;
        let shut = state.shut;
        if let Some(kind) = injected {
            self.break_side(connection, side);
            return Err(kind);
        }
        match (whole, shut) {
            (true, _) => Ok(Output::Done),
            (false, true) => Err(IoErrorKind::Canceled),
            (false, false) => Err(IoErrorKind::Disconnected),
        }
    }

    /// Puts a chunk, or the end of the stream, into the pipe of a side.
    fn put(&mut self, connection: u64, side: usize, bytes: Vec<u8>, last: bool) {
        let Some(found) = self.network.connections.get(&connection) else { return };
        let (from, to) = (found.sides[side].host, found.sides[1 - side].host);
        let latency_ns = self.latency_ns(from, to);
        let rate = self.conditions.network.bytes_per_s.max(1);
        let now_ns = self.now_ns;
        let Some(found) = self.connection(connection) else { return };
        let pipe = &mut found.pipes[side];
        pipe.free_ns = pipe.free_ns.max(now_ns) + (bytes.len() as u64).saturating_mul(SECOND) / rate;
        pipe.last_ns = pipe.last_ns.max(pipe.free_ns + latency_ns);
        pipe.flight_bytes += bytes.len();
        pipe.finished |= last;
        pipe.flight.push_back(Chunk { at_ns: pipe.last_ns, bytes, last });
        self.schedule_arrival(connection, side);
    }

    /// Puts the arrival of a pipe's next chunk on the agenda.
    fn schedule_arrival(&mut self, connection: u64, side: usize) {
        let now_ns = self.now_ns;
        let Some(found) = self.connection(connection) else { return };
        let pipe = &mut found.pipes[side];
        let Some(head) = pipe.flight.front() else { return };
        if pipe.scheduled || pipe.stalled_since_ns.is_some() {
            return;
        }
        pipe.scheduled = true;
        let after_ns = head.at_ns.saturating_sub(now_ns);
        self.schedule(after_ns, Happening::Arrive { connection, to: 1 - side });
    }

    /// The next chunk of a pipe arrives, or cannot.
    pub(crate) fn arrive(&mut self, connection: u64, to: usize) {
        let from = 1 - to;
        let now_ns = self.now_ns;
        let Some(found) = self.network.connections.get_mut(&connection) else { return };
        found.pipes[from].scheduled = false;
        let (from_host, to_host) = (found.sides[from].host, found.sides[to].host);
        if found.pipes[from].flight.is_empty() {
            return;
        }
        if self.network.links[from_host][to_host].blocked || !self.hosts[to_host].powered {
            found.pipes[from].stalled_since_ns = Some(now_ns);
            let after_ns = self.conditions.network.give_up.draw(&mut self.network.random);
            self.schedule(after_ns, Happening::GiveUp { connection, from, since_ns: now_ns });
            return;
        }
        let pipe = &mut found.pipes[from];
        let Some(mut chunk) = pipe.flight.pop_front() else { return };
        pipe.flight_bytes -= chunk.bytes.len();
        let side = &mut found.sides[to];
        if !side.alive || side.broken {
            // Nobody is there: the answer is a reset, but to an end of the stream there is none.
            pipe.clear();
            if !chunk.last {
                self.send_reset(connection, from);
            }
            return;
        }
        if chunk.last {
            side.ended = true;
            self.record(to_host, "end", connection, to as u64, 0);
        } else {
            let network = &self.conditions.network;
            if self.network.random.happens(network.reset) {
                self.counts.add("reset in mid-stream");
                self.break_side(connection, to);
                return;
            }
            if self.network.random.happens(network.flip) {
                let at = self.network.random.below(chunk.bytes.len() as u64) as usize;
                chunk.bytes[at] ^= 1 << self.network.random.below(8);
                self.counts.add("flip on the wire");
            }
            side.arrived.extend(&chunk.bytes);
        }
        self.serve_recv(connection, to);
        self.schedule_arrival(connection, from);
    }

    /// A side breaks: its process finds out at once, the other as soon as the news arrives.
    pub(crate) fn break_side(&mut self, connection: u64, side: usize) {
        self.mark_broken(connection, side);
        self.send_reset(connection, 1 - side);
    }

    fn mark_broken(&mut self, connection: u64, side: usize) {
        let Some(found) = self.connection(connection) else { return };
        found.pipes[side].clear();
        let state = &mut found.sides[side];
        state.broken = true;
        state.arrived.clear();
        let host = state.host;
        self.record(host, "broken", connection, side as u64, 0);
        self.serve_recv(connection, side);
        self.serve_send(connection, side);
    }

    fn send_reset(&mut self, connection: u64, to: usize) {
        let Some(found) = self.connection(connection) else { return };
        let (from_host, to_host) = (found.sides[1 - to].host, found.sides[to].host);
        let after_ns = self.latency_ns(from_host, to_host);
        self.schedule(after_ns, Happening::Reset { connection, to });
    }

    /// A reset arrives, unless the link loses it: then this side stays half open.
    pub(crate) fn hear_reset(&mut self, connection: u64, to: usize) {
        let Some(found) = self.connection(connection) else { return };
        let (from_host, to_host) = (found.sides[1 - to].host, found.sides[to].host);
        let deaf = !found.sides[to].alive || found.sides[to].broken;
        if deaf || self.blocked(from_host, to_host) || !self.hosts[to_host].powered {
            return;
        }
        self.mark_broken(connection, to);
    }

    pub(crate) fn give_up(&mut self, connection: u64, from: usize, since_ns: u64) {
        let Some(found) = self.connection(connection) else { return };
        if found.pipes[from].stalled_since_ns == Some(since_ns) {
            self.counts.add("connection timed out");
            self.mark_broken(connection, from);
        }
    }

    /// Connections over links that work again move on.
    pub(crate) fn unstall(&mut self) {
        let mut moving = Vec::new();
        for (&connection, found) in &mut self.network.connections {
            for from in 0..2 {
                let (from_host, to_host) = (found.sides[from].host, found.sides[1 - from].host);
                let open = !self.network.links[from_host][to_host].blocked && self.hosts[to_host].powered;
                let pipe = &mut found.pipes[from];
                if open && pipe.stalled_since_ns.take().is_some() {
                    pipe.scheduled = true;
                    moving.push((connection, 1 - from));
                }
            }
        }
        for (connection, to) in moving {
            let after_ns = self.conditions.network.recover.draw(&mut self.network.random);
            self.schedule(after_ns, Happening::Arrive { connection, to });
        }
    }

    /// Nothing more goes out of a side; what waits on it ends.
    pub(crate) fn shut_side(&mut self, connection: u64, side: usize) {
        let Some(found) = self.connection(connection) else { return };
        found.sides[side].shut = true;
        if !found.pipes[side].finished && !found.sides[side].broken {
            self.put(connection, side, Vec::new(), true);
        }
        self.serve_recv(connection, side);
        self.serve_send(connection, side);
    }

    /// The socket goes; with `abort`, or with bytes unread, the other side is reset, else it finds the end of the stream
    /// after what was sent.
    pub(crate) fn close_side(&mut self, connection: u64, side: usize, abort: bool) {
        let Some(found) = self.connection(connection) else { return };
        let state = &mut found.sides[side];
        let unread = !state.arrived.is_empty();
        let broken = state.broken;
        state.alive = false;
        state.arrived.clear();
        (state.recv, state.send) = (None, None);
        if broken {
            found.pipes[side].clear();
        } else if abort || unread {
            found.pipes[side].clear();
            self.send_reset(connection, 1 - side);
        } else if !found.pipes[side].finished {
            self.put(connection, side, Vec::new(), true);
        }
        self.network.forget_if_dead(connection);
    }

    /// The host lost its power: its socket is gone, and nobody is told.
    pub(crate) fn lose_side(&mut self, connection: u64, side: usize) {
        let Some(found) = self.connection(connection) else { return };
        found.sides[side].alive = false;
        found.sides[side].arrived.clear();
        found.pipes[side].clear();
        self.network.forget_if_dead(connection);
    }
}
