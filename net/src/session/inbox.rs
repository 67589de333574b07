//! A receive buffer for a stream of small records.

use kontiki_mem::PoolBuf;

/// One pooled buffer: unread bytes stand at `start..end`. While a receive is outstanding the kernel has it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buf: Option<PoolBuf>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new(buf: PoolBuf) -> Self {
        Inbox { buf: Some(buf), start: 0, end: 0 }
    }

    /// Unread bytes; none while the buffer is lent.
    pub(crate) fn unread(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], |buf| &buf.bytes()[self.start..self.end])
    }

    /// Whether all that was received was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Offset of the first unread byte.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// A part of the buffer that was read; `None` while it is lent.
    pub(crate) fn part(&self, from: usize, to: usize) -> Option<&[u8]> {
        self.buf.as_ref()?.bytes().get(from..to)
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end, "only received bytes are read");
    }

    /// Lends the buffer for a receive: (buffer, offset, room). Unread bytes move to the front only if
    /// less than `want` would fit from the first of them to the buffer's end. `None` if it is lent, or full.
    pub(crate) fn lend(&mut self, want: usize) -> Option<(PoolBuf, usize, usize)> {
        let buf = self.buf.as_mut()?;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if buf.len() - self.start < want {
            buf.bytes_mut().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = buf.len() - self.end;
        if room == 0 {
            return None;
        }
        self.buf.take().map(|buf| (buf, self.end, room))
    }

    /// Takes the buffer back with `received` more bytes in it.
    pub(crate) fn restore(&mut self, buf: PoolBuf, received: usize) {
        assert!(self.buf.is_none() && self.end + received <= buf.len(), "the lent buffer comes back");
        self.end += received;
        self.buf = Some(buf);
    }
}
