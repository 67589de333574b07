//! A send buffer for small records: one is under way, the next gathers what comes meanwhile.

use kontiki_io::{Gather, Piece};
use kontiki_mem::{Pool, PoolBuf};

/// What gathers for the next send. The buffer under way belongs to the operation and returns to its pool.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    filling: Option<PoolBuf>,
    len: usize,
}

impl Outbox {
    /// Room for the next record, from `pool` if no buffer is being filled. Empty if there is none.
    pub(crate) fn room(&mut self, pool: &Pool) -> &mut [u8] {
        if self.filling.is_none() {
            self.filling = pool.take();
            self.len = 0;
        }
        match &mut self.filling {
            Some(buf) => &mut buf.bytes_mut()[self.len..],
            None => &mut [],
        }
    }

    /// `bytes` of the room were written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.len += bytes;
    }

    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What waits, to be sent; `None` if nothing does.
    pub(crate) fn take(&mut self) -> Option<Gather> {
        if self.len == 0 {
            return None;
        }
        let head = self.filling.take()?;
        let mut pieces = heapless::Vec::new();
        // One piece always fits an empty list.
        let _ = pieces.push(Piece::Head(0, self.len as u32));
        self.len = 0;
        Some(Gather { head, pieces })
    }
}
