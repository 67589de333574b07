//! The leader of the floor: makes batches of the entries that wait, writes and sends each from one place, and commits
//! what a majority has.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use kontiki_core::Time;
use kontiki_io::{Gather, Handle, Io, IoBuf, MAX_PIECES, Op, Output, Piece, Token};
use kontiki_mem::{Block, Pool, PoolBuf};
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::{Options, RECEIVE, SEND, WRITE, frame, split};
use crate::world::{Failed, PATIENCE_NS, World, failed};

/// Bytes of a position.
const POSITION: usize = 8;

/// Some entries that were committed together, and had become ready together.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// How many.
    pub entries: u64,
    /// When, since the start.
    pub at: Duration,
    /// From the moment they were there to be batched until they were committed.
    pub latency: Duration,
}

/// What the leader counted over its whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Entries committed.
    pub entries: u64,
    /// Batches they went in.
    pub batches: u64,
    /// Durable writes and flushes of the leader.
    pub flushes: u64,
    /// Bytes the leader wrote.
    pub bytes_written: u64,
    /// The backend, in its own words.
    pub backend: String,
}

/// Leads for so long, and then until all that is in flight is committed and on every follower.
///
/// # Errors
/// What went wrong: a setting, the system, or a follower that is gone.
pub fn lead(
    options: &Options,
    followers: &[SocketAddr],
    length: Duration,
    committed: &mut dyn FnMut(Committed),
) -> Result<Counted, Failed> {
    options.check()?;
    let mut world = World::open(options.ring_bytes, kontiki_io::Backend::Auto)?;
    let (_, segments) = world.written_files(&options.dir, options.segments, options.segment_bytes)?;
    let before = world.io.stats();
    let connect = |&addr: &SocketAddr| Ok(Follower::new(world.open_one("connect", Op::Connect { addr })?));
    let followers = followers.iter().map(connect).collect::<Result<Vec<_>, Failed>>()?;
    let start = world.io.now();
    let mut leader = Leader {
        log: Log::new(segments, options),
        heads: Pool::new(followers.len().max(1), 64),
        answers: Pool::new(followers.len().max(1), 512),
        positions: Vec::with_capacity(followers.len() + 1),
        followers,
        entry: (0..options.entry_bytes).map(|n| n as u8).collect(),
        most: ((options.max_batch_bytes - frame::HEADER_BYTES) / options.entry_bytes) as u64,
        filled: 0,
        sealed: 0,
        batches: 0,
        ready: VecDeque::from([(start, options.in_flight)]),
        waiting: options.in_flight,
        open: VecDeque::with_capacity(2048),
        committed: 0,
        world,
    };
    leader.run(start, start.plus_ns(length.as_nanos() as u64), committed)?;
    let after = leader.world.io.stats();
    Ok(Counted {
        entries: leader.committed,
        batches: leader.batches,
        flushes: after.flushes - before.flushes,
        bytes_written: after.bytes_written - before.bytes_written,
        backend: leader.world.io.describe(),
    })
}

/// A follower, as the leader sees it.
struct Follower {
    socket: Handle,
    /// Batches not sent yet.
    queue: VecDeque<Block>,
    sending: bool,
    receiving: bool,
    /// Durable there up to this position.
    durable: u64,
    /// Bytes of a position that is not whole yet.
    carried: usize,
}

impl Follower {
    fn new(socket: Handle) -> Follower {
        Follower { socket, queue: VecDeque::with_capacity(2048), sending: false, receiving: false, durable: 0, carried: 0 }
    }

    /// Takes the positions that came in, the newest of which counts; what is left of a next one moves to the front.
    fn heard(&mut self, buffer: &mut PoolBuf, bytes: usize) {
        let end = self.carried + bytes;
        let whole = end - end % POSITION;
        if let Some(position) = buffer.bytes()[..whole].last_chunk::<POSITION>() {
            self.durable = u64::from_le_bytes(*position);
        }
        buffer.bytes_mut().copy_within(whole..end, 0);
        self.carried = end - whole;
    }
}

struct Leader {
    log: Log,
    followers: Vec<Follower>,
    heads: Pool,
    answers: Pool,
    positions: Vec<u64>,
    entry: Vec<u8>,
    /// Entries that fit in a batch.
    most: u64,
    /// Position in the stream behind the last batch.
    filled: u64,
    /// Entries sealed so far.
    sealed: u64,
    batches: u64,
    /// Entries not committed, by the time they became ready: (since, how many).
    ready: VecDeque<(Time, u64)>,
    /// Entries not sealed.
    waiting: u64,
    /// Batches not committed: (position behind, entries).
    open: VecDeque<(u64, u64)>,
    committed: u64,
    // Last, since blocks of its ring are held above.
    world: World,
}

impl Leader {
    fn run(&mut self, start: Time, end: Time, committed: &mut dyn FnMut(Committed)) -> Result<(), Failed> {
        let mut done = Vec::with_capacity(64);
        let mut running = true;
        let mut buffers: Vec<Option<PoolBuf>> = self.followers.iter().map(|_| self.answers.take()).collect();
        while running || !self.is_done() {
            if running {
                self.seal();
            }
            self.send(&mut buffers);
            self.log.pump(&mut self.world.io);
            let until = self.world.io.now().plus_ns(PATIENCE_NS);
            self.world.io.turn(Some(until), &mut done).map_err(|e| failed("backend", e))?;
            for completion in done.drain(..) {
                let (kind, rest) = split(completion.token);
                if kind == WRITE {
                    completion.result.map_err(|e| failed("write", e))?;
                    self.log.written(rest);
                    continue;
                }
                let output = completion.result.map_err(|e| failed("follower", e))?;
                let place = rest as usize;
                let (Some(follower), Some(buffer)) = (self.followers.get_mut(place), buffers.get_mut(place)) else { continue };
                if kind == SEND {
                    follower.sending = false;
                } else {
                    let Some(IoBuf::Pool(mut received)) = completion.buf else {
                        return Err(failed("follower", "the memory did not come back"));
                    };
                    let bytes = if let Output::Bytes(bytes) = output { bytes } else { 0 };
                    if bytes == 0 {
                        return Err(failed("follower", "it is gone"));
                    }
                    follower.receiving = false;
                    follower.heard(&mut received, bytes);
                    *buffer = Some(received);
                }
            }
            let now = self.world.io.now();
            running &= now < end;
            self.commit(start, now, running, committed);
        }
        Ok(())
    }

    /// Makes batches of what waits, as long as a write slot is free.
    fn seal(&mut self) {
        while self.waiting > 0 && self.log.is_ready() {
            // All that waits at once, in as many batches as that takes: they go out in one write.
            while self.waiting > 0 {
                let count = self.waiting.min(self.most);
                let Some(mut block) = self.world.ring.reserve(frame::bytes(count as usize, self.entry.len())) else { return };
                frame::seal(block.bytes_mut(), self.filled, self.sealed, count as u32, &self.entry);
                self.filled += block.len() as u64;
                self.sealed += count;
                self.waiting -= count;
                self.batches += 1;
                self.open.push_back((self.filled, count));
                let batch = block.freeze();
                self.followers.iter_mut().for_each(|follower| follower.queue.push_back(batch.clone()));
                self.log.append(batch);
            }
        }
    }

    /// Keeps a send and a receive under way with each follower.
    fn send(&mut self, buffers: &mut [Option<PoolBuf>]) {
        let io = &mut self.world.io;
        for (place, (follower, buffer)) in self.followers.iter_mut().zip(buffers).enumerate() {
            let place = place as u64;
            if !follower.sending
                && !follower.queue.is_empty()
                && let Some(head) = self.heads.take()
            {
                let take = follower.queue.len().min(MAX_PIECES);
                let piece = |batch: Block| {
                    let length = batch.len() as u32;
                    Piece::Block(batch, 0, length)
                };
                let pieces = follower.queue.drain(..take).map(piece).collect();
                follower.sending = true;
                io.submit(Token(SEND | place), Op::Send { socket: follower.socket, gather: Gather { head, pieces } });
            }
            if !follower.receiving
                && let Some(buffer) = buffer.take()
            {
                follower.receiving = true;
                let (at, len) = (follower.carried, buffer.len() - follower.carried);
                io.submit(Token(RECEIVE | place), Op::Recv { socket: follower.socket, buf: IoBuf::Pool(buffer), at, len });
            }
        }
    }

    /// Commits what a majority has, this process included; if `running`, each entry makes way for a new one.
    fn commit(&mut self, start: Time, now: Time, running: bool, committed: &mut dyn FnMut(Committed)) {
        self.positions.clear();
        self.positions.push(self.log.durable());
        self.positions.extend(self.followers.iter().map(|follower| follower.durable));
        self.positions.sort_unstable();
        // Of n positions, the one that more than half have reached.
        let majority = self.positions[(self.positions.len() - 1) / 2];
        let mut entries = 0;
        while let Some((_, count)) = self.open.front().filter(|(end, _)| *end <= majority) {
            entries += count;
            self.open.pop_front();
        }
        self.committed += entries;
        let mut left = entries;
        while left > 0
            && let Some((since, count)) = self.ready.front_mut()
        {
            let these = left.min(*count);
            let (at, latency) = (Duration::from_nanos(now.since(start)), Duration::from_nanos(now.since(*since)));
            committed(Committed { entries: these, at, latency });
            *count -= these;
            left -= these;
            if *count == 0 {
                self.ready.pop_front();
            }
        }
        if running && entries > 0 {
            self.waiting += entries;
            self.ready.push_back((now, entries));
        }
    }

    /// Everything sealed is durable everywhere.
    fn is_done(&self) -> bool {
        self.log.is_idle() && self.followers.iter().all(|follower| follower.durable == self.filled)
    }
}
