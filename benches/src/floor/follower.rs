//! A follower of the floor: receives into the ring, checks each batch, writes it from where it lies, and says how far
//! it is durable.

use std::net::{Ipv4Addr, SocketAddr};

use kontiki_io::{Gather, Handle, Io, IoBuf, Op, Output, Piece, Token};
use kontiki_mem::{BLOCK_BYTES, BlockMut, Pool};

use super::log::Log;
use super::{Options, RECEIVE, SEND, WRITE, frame, split};
use crate::world::{Failed, PATIENCE_NS, World, failed};

/// Most bytes received at once.
const RECEIVE_BYTES: usize = 1 << 20;

/// Follows one leader until that ends the stream. `listening` is told where the leader must connect to.
///
/// # Errors
/// What went wrong: a setting, the system, or a damaged batch.
pub fn follow(options: &Options, listening: &mut dyn FnMut(SocketAddr)) -> Result<(), Failed> {
    options.check()?;
    let mut world = World::open(options.ring_bytes, kontiki_io::Backend::Auto)?;
    let (_, segments) = world.written_files(&options.dir, options.segments, options.segment_bytes)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let Output::Listening(listener, addr) = world.call("listen", Op::Listen { addr: any })? else {
        return Err(failed("listen", "no address"));
    };
    listening(addr);
    let socket = world.open_one("accept", Op::Accept { listener })?;
    Follower {
        world,
        log: Log::new(segments, options),
        socket,
        block: None,
        filled: 0,
        checked: 0,
        told: 0,
        telling: false,
        open: true,
        answers: Pool::new(2, 64),
    }
    .run()
}

struct Follower {
    world: World,
    log: Log,
    socket: Handle,
    /// The ring's tail, `filled` bytes of which were received and are not a whole batch yet; `None` while a receive has
    /// it.
    block: Option<BlockMut>,
    filled: usize,
    /// Position in the stream behind the last whole batch.
    checked: u64,
    /// The position last told to the leader.
    told: u64,
    telling: bool,
    open: bool,
    answers: Pool,
}

impl Follower {
    fn run(mut self) -> Result<(), Failed> {
        let mut done = Vec::with_capacity(64);
        self.receive(None);
        while self.open || !self.log.is_idle() {
            self.log.pump(&mut self.world.io);
            self.tell();
            let until = self.world.io.now().plus_ns(PATIENCE_NS);
            self.world.io.turn(Some(until), &mut done).map_err(|e| failed("backend", e))?;
            for completion in done.drain(..) {
                let (kind, rest) = split(completion.token);
                match (kind, completion.result) {
                    (WRITE, Ok(_)) => self.log.written(rest),
                    (WRITE, Err(error)) => return Err(failed("write", error)),
                    (SEND, outcome) => {
                        self.telling = false;
                        self.open &= outcome.is_ok();
                    }
                    (_, outcome) => {
                        let bytes = if let Ok(Output::Bytes(bytes)) = outcome { bytes } else { 0 };
                        self.open &= bytes > 0;
                        let Some(IoBuf::Block(block)) = completion.buf else {
                            return Err(failed("receive", "the memory did not come back"));
                        };
                        self.filled += bytes;
                        let block = self.take_batches(block)?;
                        self.receive(Some(block));
                    }
                }
            }
            // The ring was full: there may be room now.
            if let Some(block) = self.block.take() {
                self.receive(Some(block));
            }
        }
        Ok(())
    }

    /// Hands every whole batch at the front of the block to the log.
    fn take_batches(&mut self, mut block: BlockMut) -> Result<BlockMut, Failed> {
        while let Some(length) = block.bytes().get(..self.filled).and_then(frame::whole).filter(|length| *length <= self.filled) {
            let Some(batch) = block.split_to(length) else { break };
            if !frame::is_intact(batch.bytes(), self.checked) {
                return Err(failed("receive", format_args!("damaged at {}", self.checked)));
            }
            self.filled -= length;
            self.checked += length as u64;
            self.log.append(batch.freeze());
        }
        Ok(block)
    }

    /// Receives on, if the ring has room.
    fn receive(&mut self, block: Option<BlockMut>) {
        if !self.open {
            return;
        }
        let ring = &mut self.world.ring;
        let mut block = match block.or_else(|| ring.reserve(BLOCK_BYTES)) {
            Some(block) => block,
            None => return,
        };
        let wanted = RECEIVE_BYTES.saturating_sub(block.len() - self.filled).next_multiple_of(BLOCK_BYTES);
        let more = wanted.min(ring.free());
        if (more == 0 || !ring.extend(&mut block, more)) && block.len() == self.filled {
            self.block = Some(block);
            return;
        }
        let (at, len) = (self.filled, block.len() - self.filled);
        self.world.io.submit(Token(RECEIVE), Op::Recv { socket: self.socket, buf: IoBuf::Block(block), at, len });
    }

    /// Tells the leader how far this log is durable, if it does not know yet.
    fn tell(&mut self) {
        let durable = self.log.durable();
        if self.telling || !self.open || durable == self.told {
            return;
        }
        let Some(mut head) = self.answers.take() else { return };
        head.bytes_mut()[..8].copy_from_slice(&durable.to_le_bytes());
        let pieces = [Piece::Head(0, 8)].into_iter().collect();
        (self.told, self.telling) = (durable, true);
        self.world.io.submit(Token(SEND), Op::Send { socket: self.socket, gather: Gather { head, pieces } });
    }
}
