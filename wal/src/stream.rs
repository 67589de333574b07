//! Recovery's reads: one file after the other in large pieces, two in flight, delivered in order.

use std::collections::VecDeque;

use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Handle, Io, IoBuf, IoError, IoErrorKind, Op, Output};
use kontiki_mem::{Pool, PoolBuf};

use crate::limits::{READ_ATTEMPTS, RECOVERY_READ_BYTES, RECOVERY_READS};
use crate::token::Purpose;

const BLOCK: u64 = BLOCK_BYTES as u64;

#[derive(Debug)]
struct Piece {
    number: u64,
    offset: u64,
    bytes: usize,
    /// Its file was left meanwhile.
    stale: bool,
    done: Option<(Option<PoolBuf>, Result<usize, IoError>)>,
}

/// What comes next from the file.
#[derive(Debug)]
pub(crate) enum Next {
    /// These bytes of it, whole blocks.
    Bytes(PoolBuf, usize),
    /// One block that the device cannot read.
    Unreadable,
    /// One block that could not be read because the system lacks something.
    Short(IoError),
    /// The end of what is asked for.
    End,
    /// Wait for a completion.
    Wait,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pool: Pool,
    pieces: VecDeque<Piece>,
    next_number: u64,
    file: Option<Handle>,
    /// Offset of the next read, and of the end.
    next: u64,
    end: u64,
    /// Up to here it is read block by block, since a larger read failed.
    careful: u64,
    /// A block that failed to be read, and how often.
    failed: (u64, usize),
}

impl Stream {
    pub(crate) fn new() -> Stream {
        let pool = Pool::new(RECOVERY_READS, RECOVERY_READ_BYTES);
        Stream {
            pool,
            pieces: VecDeque::with_capacity(RECOVERY_READS),
            next_number: 0,
            file: None,
            next: 0,
            end: 0,
            careful: 0,
            failed: (0, 0),
        }
    }

    /// Goes to `file`, from `offset` to `end`.
    pub(crate) fn seek(&mut self, file: Handle, offset: u64, end: u64) {
        self.drop_pieces();
        (self.file, self.next, self.end, self.careful) = (Some(file), offset, end, 0);
        self.failed = (0, 0);
    }

    fn drop_pieces(&mut self) {
        for piece in &mut self.pieces {
            piece.stale = true;
        }
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.done.is_none()).count()
    }

    pub(crate) fn pump(&mut self, io: &mut dyn Io) {
        let Some(file) = self.file else { return };
        while self.next < self.end && self.pieces.len() < RECOVERY_READS {
            let Some(buf) = self.pool.take() else { return };
            let most = if self.next < self.careful { BLOCK } else { RECOVERY_READ_BYTES as u64 };
            let bytes = (self.end - self.next).min(most) as usize;
            let op = Op::Read { file, offset: self.next, buf: IoBuf::Pool(buf), len: bytes };
            io.submit(Purpose::Recover(self.next_number).token(), op);
            self.pieces.push_back(Piece { number: self.next_number, offset: self.next, bytes, stale: false, done: None });
            self.next_number += 1;
            self.next += bytes as u64;
        }
    }

    pub(crate) fn done(&mut self, number: u64, result: Result<Output, IoError>, buf: Option<IoBuf>) {
        let Some(piece) = self.pieces.iter_mut().find(|piece| piece.number == number) else {
            panic!("a completion for a read that is not under way")
        };
        let buf = match buf {
            Some(IoBuf::Pool(buf)) => Some(buf),
            _ => None,
        };
        let read = result.map(|output| match output {
            Output::Bytes(bytes) => bytes.min(piece.bytes),
            _ => 0,
        });
        piece.done = Some((buf, read));
    }

    pub(crate) fn next(&mut self) -> Next {
        loop {
            let Some(front) = self.pieces.front() else {
                return if self.next >= self.end { Next::End } else { Next::Wait };
            };
            if front.done.is_none() {
                return Next::Wait;
            }
            let Some(Piece { offset, bytes, stale, done: Some((buf, read)), .. }) = self.pieces.pop_front() else { return Next::Wait };
            if stale {
                continue;
            }
            match (buf, read) {
                (Some(buf), Ok(read)) => {
                    if read < bytes {
                        // The file is shorter than it was listed: this is all there is.
                        self.drop_pieces();
                        (self.next, self.end) = (offset, offset);
                    }
                    let whole = crate::layout::whole_blocks(read as u64) as usize;
                    if whole > 0 {
                        return Next::Bytes(buf, whole);
                    }
                }
                // One bad sector must not hide the good ones around it.
                _ if bytes > BLOCK_BYTES => {
                    self.drop_pieces();
                    (self.next, self.careful) = (offset, offset + bytes as u64);
                    return Next::Wait;
                }
                (_, read) => {
                    let times = if self.failed.0 == offset { self.failed.1 + 1 } else { 1 };
                    self.failed = (offset, times);
                    if times == READ_ATTEMPTS {
                        return match read {
                            Err(error) if error.kind == IoErrorKind::Shortage => Next::Short(error),
                            _ => Next::Unreadable,
                        };
                    }
                    self.drop_pieces();
                    self.next = offset;
                    return Next::Wait;
                }
            }
        }
    }
}
